//! What a virtio device is: an identity, a session that it may or may not be holding, and work to do when told.
//!
//! ```text
//!           start(session)                     stop() -> session
//!  idle ───────────────────────► running ─────────────────────────► idle
//!    ▲  save(), restore() here       │ queue_ready(), source_ready()
//!    └───────────────────────────────┘
//! ```
//!
//! *Reset* = stop, drop the session, `reset`, clear the registers. *Pause* = stop, keep it. *Snapshot* = stop, queue states from
//! the session, `save`. *Resume* and *restore* = start. *Unplug* = stop, drop the device. The session is always in
//! exactly one place, so "is it active?" is not a flag.

use std::os::fd::BorrowedFd;

pub use snowboot_bus::{NotSaveable, RestoreError, Saved};

use crate::{Interrupt, Queue, QueueFault};

/// Device types (virtio 1.2, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DeviceId {
    /// Network card (5.1).
    Net = 1,
    /// Block device (5.2).
    Block = 2,
    /// Console (5.3).
    Console = 3,
    /// Entropy device (5.4).
    Entropy = 4,
    /// 9P transport (section 5 has the number alone).
    NineP = 9,
    /// File system device (5.11).
    FileSystem = 26,
    /// Persistent memory (5.19).
    Pmem = 27,
}

/// What never changes about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device type.
    pub id: DeviceId,
    /// Feature bits 0 to 23 and 50 on, of this device type. The transport adds the bits of the ring and of virtio
    /// itself (24 to 41): `VERSION_1`, `INDIRECT_DESC`, `EVENT_IDX`.
    pub features: u64,
    /// Maximum size of each queue, a power of two, at most 32768; the length is the number of queues.
    pub queue_sizes: Vec<u16>,
}

/// Everything that exists only between `DRIVER_OK` and the next stop.
#[derive(Debug)]
pub struct Session {
    /// The feature bits that driver and device agreed on.
    pub features: u64,
    /// One live queue per queue of the identity, in order; `None` where the driver left the queue disabled.
    pub queues: Vec<Option<Queue>>,
    /// How the device interrupts its driver.
    pub interrupt: Interrupt,
}

/// Names one of a device's own event sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u32);

/// The device could not start; the transport sets `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
#[error("Cannot start the {device} device: {reason}")]
pub struct StartError {
    /// Device type in words.
    pub device: &'static str,
    /// Why.
    pub reason: String,
}

/// A virtio device, independent of its transport and of threads: a synchronous state machine.
///
/// One lock per device is held by the caller for one call.
pub trait Device: Send {
    /// The identity; the same value every time.
    fn identity(&self) -> Identity;

    /// Reads the device-specific configuration space; `data` arrives zeroed, and bytes past the end stay so.
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let _ = (offset, data);
    }

    /// Writes the device-specific configuration space; ignored unless the device has writable fields.
    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Begins work with the driver's queues. Requests that are already in the rings are served at once, without
    /// waiting for a notification.
    ///
    /// # Errors
    /// When the session cannot be served; the driver is told to reset the device.
    fn start(&mut self, session: Session) -> Result<(), StartError>;

    /// Ends work and hands the session back; requests in flight are finished first. Idempotent: `None` when idle.
    fn stop(&mut self) -> Option<Session>;

    /// The driver reset the device (2.4): whatever a driver has set or sent is forgotten, so that the next one, of another
    /// kernel maybe, finds the device as it was first. Only called while idle.
    fn reset(&mut self) {}

    /// Whether somebody is to watch the doorbells and call [`Device::queue_ready`]; the same for the device's whole life. A
    /// device whose queues another process serves has that one watch them.
    fn watches_doorbells(&self) -> bool {
        true
    }

    /// The driver notified queue `queue`. Does nothing when idle.
    ///
    /// # Errors
    /// When the ring itself is corrupt; the transport then stops the device, drops the session and sets
    /// `DEVICE_NEEDS_RESET`.
    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault>;

    /// The descriptors to watch for reading, the same for the device's whole life; asked once, when it is attached.
    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        Vec::new()
    }

    /// A source became readable. Called also while idle, so the source is drained first.
    ///
    /// # Errors
    /// As [`Device::queue_ready`].
    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        let _ = token;
        Ok(())
    }

    /// The state beyond the session; only called while idle.
    ///
    /// # Errors
    /// When this device, as it is configured, cannot be saved.
    fn save(&self) -> Result<Saved, NotSaveable>;

    /// Takes a saved state; only called while idle. The state is untrusted input.
    ///
    /// # Errors
    /// When the state is not this device's, or not valid.
    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError>;
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn identity(&self) -> Identity {
        (**self).identity()
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        (**self).read_config(offset, data);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        (**self).write_config(offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        (**self).start(session)
    }

    fn stop(&mut self) -> Option<Session> {
        (**self).stop()
    }

    fn reset(&mut self) {
        (**self).reset();
    }

    fn watches_doorbells(&self) -> bool {
        (**self).watches_doorbells()
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        (**self).queue_ready(queue)
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        (**self).sources()
    }

    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        (**self).source_ready(token)
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        (**self).save()
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        (**self).restore(saved)
    }
}
