//! virtio-blk (virtio 1.2, 5.2) over a raw disk image.
//!
//! Requests are served in order, in the call that brings them, and data moves between the image and guest memory in place.
//! A call may wait for the host's storage, so a disk wants a thread of its own.
//! The device owns the image and whether its cache is write-back. A guest can only ever hurt its own image: every range
//! is checked against the capacity, and every request is answered with a status if there is a byte for it.

mod disk;
#[cfg(test)]
mod tests;
mod transfer;
mod wire;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
};

pub use self::disk::{Disk, DiskError, SECTOR};
use self::transfer::{Payload, answer};
use self::wire::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_RO, F_SEG_MAX, F_TOPOLOGY, F_WRITE_ZEROES, HEADER, ID,
    RANGE, Range, Request, Space, Status, WRITEBACK,
};

const QUEUE_SIZE: u16 = 256;
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
    session: Option<Session>,
}

impl Block {
    /// A device for `disk`. It is read-only if the options say so or the image was opened that way.
    #[must_use]
    pub fn new(disk: Disk, options: Options) -> Self {
        let options = Options { read_only: options.read_only || disk.is_read_only(), ..options };
        Self { disk, options, writeback: true, session: None }
    }

    /// The image.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn serve(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
        // Without a way to flush, everything written must last (5.2.5.2).
        let switchable = session.features & F_CONFIG_WCE != 0;
        let writeback = session.features & F_FLUSH != 0 && (self.writeback || !switchable);
        let backend = Backend { disk: &self.disk, options: &self.options, writeback };
        let mut left = TURN_DATA;
        queue.serve(&session.interrupt, |chain| {
            let cost = chain.reader.remaining().saturating_add(chain.writer.remaining());
            left = left.saturating_sub(cost);
            let mut is_slow = false;
            let chain = answer(chain, |payload| backend.handle(payload, &mut is_slow));
            if is_slow || left == 0 { Served::Last(chain) } else { Served::Done(chain) }
        })
    }
}

impl Device for Block {
    fn identity(&self) -> Identity {
        let mut features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
        features |= if self.options.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        Identity { id: DeviceId::Block, features, queue_sizes: vec![QUEUE_SIZE] }
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
                && let Err(error) = self.disk.flush()
            {
                tracing::debug!(path = %self.disk.path().display(), %error, "cannot flush the disk image");
            }
        }
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        self.serve().map_err(|fault| StartError { device: "block", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn reset(&mut self) {
        self.writeback = true;
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), QueueFault> {
        self.serve()
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        // Whoever restores opens the image anew, maybe after this host went down.
        self.disk.flush().map_err(|error| NotSaveable {
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

/// What serves one request.
struct Backend<'a> {
    disk: &'a Disk,
    options: &'a Options,
    writeback: bool,
}

impl Backend<'_> {
    /// Serves one request; `is_slow` is set when it made the host's storage wait.
    fn handle(&self, mut payload: Payload<'_>, is_slow: &mut bool) -> Status {
        let mut header = [0; HEADER];
        if payload.reader.read_exact(&mut header).is_err() {
            return Status::IoError;
        }
        let request = Request::parse(header);
        *is_slow = match request {
            Request::Flush | Request::Discard | Request::Zero => true,
            Request::Write { .. } => !self.writeback,
            Request::Read { .. } | Request::Id | Request::Unknown => false,
        };
        match request {
            Request::Read { sector } => self.read(&mut payload, sector),
            Request::Write { sector } => self.writing(|backend| backend.write(&mut payload, sector)),
            Request::Flush => status(self.disk.flush()),
            Request::Id => {
                let id = &self.options.serial.0;
                let length = payload.writer.remaining().min(id.len());
                status(payload.writer.write_all(id.get(..length).unwrap_or_default()))
            }
            Request::Discard => self.writing(|backend| backend.ranges(&mut payload, Kind::Discard)),
            Request::Zero => self.writing(|backend| backend.ranges(&mut payload, Kind::Zero)),
            Request::Unknown => Status::Unsupported,
        }
    }

    fn read(&self, payload: &mut Payload<'_>, sector: u64) -> Status {
        match self.range(sector, payload.writer.remaining()) {
            Some(offset) => status(payload.read_from(self.disk, offset)),
            None => Status::IoError,
        }
    }

    fn write(&self, payload: &mut Payload<'_>, sector: u64) -> Status {
        match self.range(sector, payload.reader.remaining()) {
            Some(offset) => status(payload.write_to(self.disk, offset)),
            None => Status::IoError,
        }
    }

    /// Does something that changes the disk, if it may be changed, and makes it last if it has to (5.2.6.2).
    fn writing(&self, change: impl FnOnce(&Self) -> Status) -> Status {
        if self.options.read_only {
            return Status::IoError;
        }
        match change(self) {
            Status::Ok if !self.writeback => status(self.disk.flush()),
            other => other,
        }
    }

    /// Discards or zeroes ranges, after all of them were found to be right.
    fn ranges(&self, payload: &mut Payload<'_>, kind: Kind) -> Status {
        let length = payload.reader.remaining();
        let count = length / RANGE;
        if count == 0
            || !length.is_multiple_of(RANGE)
            || u32::try_from(count).is_ok_and(|count| count > MOST_RANGES)
        {
            return Status::IoError;
        }
        let mut ranges = Vec::new();
        for _ in 0..count.min(usize::try_from(MOST_RANGES).unwrap_or(0)) {
            let mut bytes = [0; RANGE];
            if payload.reader.read_exact(&mut bytes).is_err() {
                return Status::IoError;
            }
            let range = Range::parse(bytes);
            // Unmap means nothing for a discard, which says so itself (5.2.6.2).
            if range.unknown_flags || (range.unmap && kind == Kind::Discard) {
                return Status::Unsupported;
            }
            let length = u64::from(range.sectors).saturating_mul(SECTOR);
            match self.within(range.sector, length) {
                Some(offset) if range.sectors <= MOST_RANGE_SECTORS => {
                    ranges.push((offset, length, range.unmap))
                }
                _ => return Status::IoError,
            }
        }
        let change = |&(offset, length, unmap): &(u64, u64, bool)| match kind {
            _ if length == 0 => Ok(()),
            Kind::Discard => self.disk.discard(offset, length),
            Kind::Zero => self.disk.zero(offset, length, unmap),
        };
        status(ranges.iter().try_for_each(change))
    }

    /// The byte offset of whole sectors, if they are there and not too many for one request.
    fn range(&self, sector: u64, bytes: usize) -> Option<u64> {
        let bytes = u64::try_from(bytes).ok()?;
        self.within(sector, bytes).filter(|_| bytes.is_multiple_of(SECTOR) && bytes <= MOST_DATA)
    }

    fn within(&self, sector: u64, bytes: u64) -> Option<u64> {
        let end = sector.checked_add(bytes.div_ceil(SECTOR))?;
        if end > self.disk.sectors() { None } else { sector.checked_mul(SECTOR) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Discard,
    Zero,
}

fn status(outcome: io::Result<()>) -> Status {
    match outcome {
        Ok(()) => Status::Ok,
        Err(error) => {
            // The guest can cause this at will only on a full or broken host disk.
            tracing::debug!(%error, "a disk request failed");
            Status::IoError
        }
    }
}
