//! virtio-blk (virtio 1.2, 5.2) over a disk image.
//!
//! Requests of a queue are served in order, in the call that brings them, and data moves between the image and guest memory
//! in place. What of a raw image is not in the host's memory is read aside, many reads at once, and so it is flushed; the
//! driver has to wait for an answer before it may rely on an order (5.2.6). Other calls may wait for the host's storage, so a
//! disk wants a thread of its own. It has a queue per vCPU, so that no vCPU waits for another one's lock and each is
//! interrupted itself; one thread serves all of them.
//! The device owns the image and whether its cache is write-back. A guest can only ever hurt its own image: every range
//! is checked against the capacity, and every request is answered with a status if there is a byte for it.

mod aside;
mod content;
mod disk;
mod draft;
mod error;
mod file;
mod format;
mod overlay;
mod qcow2;
mod request;
mod task;
pub mod testing;
#[cfg(test)]
mod tests;
mod transfer;
mod trouble;
mod wire;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
    Token,
};

use self::aside::Aside;
pub use self::aside::{Chore, Helpers, Ring};
pub use self::disk::{Disk, SECTOR};
pub use self::error::DiskError;
pub use self::format::Format;
pub use self::overlay::Changes;
use self::request::Backend;
use self::task::Finished;
pub use self::task::{Operation, Task};
use self::transfer::{Answer, answer};
use self::trouble::Troubles;
use self::wire::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_TOPOLOGY, F_WRITE_ZEROES, ID,
    Space, WRITEBACK,
};
use crate::warnings::Warnings;

const QUEUE_SIZE: u16 = 256;
/// The most queues of a disk: one thread serves them, and each takes a doorbell and an interrupt of the host's limited ones.
const MOST_QUEUES: u16 = 8;
/// Header and status take a descriptor each.
const MOST_SEGMENTS: u32 = 254;
/// The most data of one request. Descriptors may overlap, so a chain's length says nothing about the memory it needs;
/// drivers stay below 2 MiB.
const MOST_DATA: u64 = 64 << 20;
/// Bytes after which a turn ends, so that a machine can be stopped or paused in between: some milliseconds of copying.
/// A turn also ends with what makes the host's storage wait.
const TURN_DATA: usize = 8 << 20;
/// The most ranges of a discard or write-zeroes request.
const MOST_RANGES: u32 = 16;
/// The most sectors of such a range (64 MiB): zeroes may have to be written.
const MOST_RANGE_SECTORS: u32 = 131_072;

const KIND: &str = "virtio-blk";
const VERSION: u16 = 1;

/// How a disk shows itself to its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The guest cannot write, even if the image was opened for writing.
    pub read_only: bool,
    /// Flushes end in the host's memory: what was written outlives the guest and this process, but not the host.
    pub volatile: bool,
    /// How many queues there are, at least 1 and at most 8: as many as the machine has vCPUs.
    pub queues: u16,
    /// Shown as `/dev/disk/by-id/virtio-SERIAL` in Linux.
    pub serial: SerialNumber,
    /// Alignment hints.
    pub topology: Topology,
}

/// A disk's serial number, up to 20 bytes (virtio 1.2, 5.2.6: `VIRTIO_BLK_T_GET_ID`); empty is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SerialNumber([u8; ID]);

/// A serial number does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("Disk serial number {0:?} is longer than 20 bytes or holds a zero byte; shorten it")]
pub struct BadSerialNumber(pub String);

impl TryFrom<&str> for SerialNumber {
    type Error = BadSerialNumber;

    fn try_from(text: &str) -> Result<Self, BadSerialNumber> {
        let mut bytes = [0; ID];
        let room = bytes.get_mut(..text.len()).filter(|_| !text.contains('\0'));
        room.ok_or_else(|| BadSerialNumber(text.to_owned()))?.copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }
}

/// Alignment hints (virtio 1.2, 5.2.4, `topology`), in logical blocks of 512 bytes. The default says nothing beyond 512.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Logical blocks per physical block, as a power of two.
    pub physical_block_exponent: u8,
    /// Offset of the first aligned logical block.
    pub alignment_offset: u8,
    /// Suggested minimum of a request, in logical blocks.
    pub minimum_io: u16,
    /// Optimal size of a request, in logical blocks.
    pub optimal_io: u32,
}

/// The block device.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    options: Options,
    /// What the driver last chose: whether written data may wait in the host's cache for a flush.
    writeback: bool,
    troubles: Troubles,
    aside: Option<Aside>,
    session: Option<Session>,
}

/// Requests that were done aside.
const ASIDE: Token = Token(0);

impl Block {
    /// A device for `disk`. It is read-only if the options say so or the image was opened that way.
    #[must_use]
    pub fn new(disk: Disk, options: Options) -> Self {
        let read_only = options.read_only || disk.is_read_only();
        let options = Options { read_only, queues: options.queues.clamp(1, MOST_QUEUES), ..options };
        let troubles = Troubles::default();
        Self { disk, options, writeback: true, troubles, aside: None, session: None }
    }

    /// Who serves what has to wait for the host's storage, where that need not keep others waiting. Without, all is served
    /// in the call that brings it.
    ///
    /// # Errors
    /// When the host has no event descriptor left.
    pub fn help(mut self, helpers: Arc<dyn Helpers>) -> io::Result<Self> {
        self.aside = Some(Aside::new(helpers)?);
        Ok(self)
    }

    /// Where it tells of failures of the host's storage.
    #[must_use]
    pub fn warn(mut self, warnings: Warnings) -> Self {
        self.troubles.warnings = warnings;
        self
    }

    /// The image.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn serve(&mut self, index: u16) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.get_mut(usize::from(index)) else { return Ok(()) };
        // Without a way to flush, everything written must last (5.2.5.2).
        let switchable = session.features & F_CONFIG_WCE != 0;
        let writeback = session.features & F_FLUSH != 0 && (self.writeback || !switchable);
        let mut backend = Backend {
            disk: &mut self.disk,
            options: &self.options,
            troubles: &mut self.troubles,
            writeback,
            has_helpers: self.aside.is_some(),
        };
        let mut left = TURN_DATA;
        let outcome = queue.serve(&session.interrupt, |chain| {
            // Whatever it is, it waits until there is room for it.
            if self.aside.as_ref().is_some_and(Aside::is_full) {
                return Served::PutBack(chain);
            }
            let cost = chain.reader.remaining().saturating_add(chain.writer.remaining());
            left = left.saturating_sub(cost);
            let mut is_slow = false;
            match answer(chain, |payload| backend.handle(payload, &mut is_slow)) {
                Answer::Later(pending, work) => {
                    if let Some(aside) = &mut self.aside {
                        let task = Task { queue: index, pending, work, bytes: cost };
                        aside.hand_out(Box::new(task));
                    }
                    Served::Later
                }
                Answer::Done(chain) if is_slow || left == 0 => Served::Last(chain),
                Answer::Done(chain) => Served::Done(chain),
            }
        });
        self.aside.iter_mut().for_each(Aside::go);
        outcome
    }

    /// Gives a request that was served aside back to the driver, which is to be [told](tell).
    fn finish(&mut self, finished: Finished, session: &mut Session) -> Result<(), QueueFault> {
        let Finished { queue, chain, operation, outcome, .. } = finished;
        if let Err(error) = outcome {
            self.troubles.note(self.disk.path(), operation.name(), &error);
        }
        match session.queues.get_mut(usize::from(queue)) {
            Some(Some(queue)) => queue.add_used(chain),
            _ => Ok(()),
        }
    }
}

/// Tells the driver of all requests that were given back: one interrupt for a queue, however many they are.
fn tell(session: &mut Session) -> Result<(), QueueFault> {
    session.queues.iter_mut().flatten().try_for_each(|queue| queue.signal(&session.interrupt))
}

impl Device for Block {
    fn identity(&self) -> Identity {
        let mut features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
        features |= if self.options.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        let queues = self.options.queues;
        if queues > 1 {
            features |= F_MQ;
        }
        Identity { id: DeviceId::Block, features, queue_sizes: vec![QUEUE_SIZE; queues.into()] }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let topology = self.options.topology;
        let space = Space {
            capacity: self.disk.sectors(),
            seg_max: MOST_SEGMENTS,
            blk_size: 512,
            physical_block_exp: topology.physical_block_exponent,
            alignment_offset: topology.alignment_offset,
            min_io_size: topology.minimum_io,
            opt_io_size: topology.optimal_io,
            writeback: self.writeback.into(),
            num_queues: self.options.queues,
            max_range_sectors: MOST_RANGE_SECTORS,
            max_ranges: MOST_RANGES,
            discard_sector_alignment: 8, // file systems punch whole pages
        };
        crate::config::read(&space.bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let negotiated = self.session.as_ref().is_some_and(|session| session.features & F_CONFIG_WCE != 0);
        if let (WRITEBACK, [value @ (0 | 1)], true) = (offset, data, negotiated) {
            self.writeback = *value == 1;
            if !self.writeback
                && let Err(error) = self.disk.flush(!self.options.volatile)
            {
                self.troubles.note(self.disk.path(), "flushing", &error);
            }
        }
    }

    fn start(&mut self, mut session: Session) -> Result<(), StartError> {
        session.queues.iter_mut().flatten().for_each(|queue| queue.refuse_with(wire::Status::IoError as u8));
        self.session = Some(session);
        let mut served = (0..self.options.queues).map(|queue| self.serve(queue));
        served
            .try_for_each(|outcome| outcome)
            .map_err(|fault| StartError { device: "block", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        let mut session = self.session.take()?;
        while let Some(finished) = self.aside.as_mut().and_then(Aside::wait) {
            // A ring that is corrupt stays so, and is found to be when it is used again.
            let _ = self.finish(finished, &mut session);
        }
        let _ = tell(&mut session);
        Some(session)
    }

    fn reset(&mut self) {
        self.writeback = true;
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        self.serve(queue)
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        self.aside.iter().map(|aside| (ASIDE, aside.news())).collect()
    }

    fn source_ready(&mut self, _token: Token) -> Result<(), QueueFault> {
        self.aside.iter().for_each(Aside::drain);
        // None is in flight without a session.
        let Some(mut session) = self.session.take() else { return Ok(()) };
        let was_full = self.aside.as_ref().is_some_and(Aside::is_full);
        let mut outcome = Ok(());
        while let Some(finished) = self.aside.as_mut().and_then(Aside::next) {
            outcome = outcome.and(self.finish(finished, &mut session));
        }
        outcome = outcome.and(tell(&mut session));
        self.session = Some(session);
        outcome?;
        // What was put back meanwhile.
        let queues = if was_full { self.options.queues } else { 0 };
        (0..queues).try_for_each(|queue| self.serve(queue))
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        // Whoever restores opens the image anew, maybe after this host went down.
        self.disk.flush(true).map_err(|error| NotSaveable {
            reason: format!("the disk image {} cannot be flushed: {error}", self.disk.path().display()),
        })?;
        Saved::new(KIND, VERSION, &State { sectors: self.disk.sectors(), writeback: self.writeback })
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        if state.sectors != self.disk.sectors() {
            return Err(RestoreError(format!(
                "the disk had {} sectors, image {} has {}",
                state.sectors,
                self.disk.path().display(),
                self.disk.sectors()
            )));
        }
        self.writeback = state.writeback;
        Ok(())
    }
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    sectors: u64,
    writeback: bool,
}
