//! The virtio 1.2 protocol, host side: queues, what a device is, and the PCI transport.
//!
//! # Invariants
//! * Nothing here opens a file (doorbells are event descriptors), spawns a thread, reads a clock or names KVM.
//! * Every value in guest memory and every register write is untrusted; so is a saved state.
//! * A descriptor chain that was popped goes back to the driver exactly once.
//! * No call does more work than the driver's rings have room for, whatever they hold.
//! * A session is in exactly one place: the device, or the transport that paused it.
#![forbid(unsafe_code)]

pub mod device;
pub mod features;
pub mod interrupt;
pub mod queue;
pub mod testing;
pub mod transport;

pub use device::{Device, DeviceId, Identity, NotSaveable, RestoreError, Saved, Session, StartError, Token};
pub use interrupt::Interrupt;
pub use queue::{
    DescriptorChain, GuestSlice, Queue, QueueConfig, QueueFault, QueueState, Reader, Served, Writer,
};
pub use transport::{Doorbell, PciTransport, TransportError, TransportState};
