//! One request: what it asks of the disk, checked against the disk's capacity.

use std::io::{self, Read, Write};

use super::disk::{Disk, SECTOR};
use super::task::{Operation, Work};
use super::transfer::Payload;
use super::trouble::Troubles;
use super::wire::{HEADER, RANGE, Range, Request, Status};
use super::{MOST_DATA, MOST_RANGE_SECTORS, MOST_RANGES, Options};

/// What serves one request.
pub(super) struct Backend<'a> {
    pub(super) disk: &'a mut Disk,
    pub(super) options: &'a Options,
    pub(super) troubles: &'a mut Troubles,
    pub(super) writeback: bool,
    /// Whether anything can be done aside.
    pub(super) has_helpers: bool,
}

impl Backend<'_> {
    /// Serves one request, unless it is work to be done aside; `is_slow` is set when it made the host's storage wait.
    pub(super) fn handle(&mut self, mut payload: Payload<'_>, is_slow: &mut bool) -> Result<Status, Work> {
        let mut header = [0; HEADER];
        if payload.reader.read_exact(&mut header).is_err() {
            return Ok(Status::IoError);
        }
        let request = Request::parse(header);
        *is_slow = match request {
            Request::Discard | Request::Zero => true,
            Request::Flush => self.lasts(),
            Request::Write { .. } => !self.writeback && self.lasts(),
            Request::Read { .. } | Request::Id | Request::Unknown => false,
        };
        let status = match request {
            Request::Read { sector } => return self.read(&mut payload, sector),
            Request::Flush => match self.disk.to_sync().filter(|_| self.has_helpers && self.lasts()) {
                Some(file) => return Err(Work { file, operation: Operation::Flush }),
                None => self.flush(),
            },
            Request::Write { sector } => self.writing(|backend| backend.write(&mut payload, sector)),
            Request::Id => self.name(&mut payload),
            Request::Discard => self.writing(|backend| backend.ranges(&mut payload, Kind::Discard)),
            Request::Zero => self.writing(|backend| backend.ranges(&mut payload, Kind::Zero)),
            Request::Unknown => Status::Unsupported,
        };
        Ok(status)
    }

    fn read(&mut self, payload: &mut Payload<'_>, sector: u64) -> Result<Status, Work> {
        let Some(offset) = self.range(sector, payload.writer.remaining()) else { return Ok(Status::IoError) };
        match payload.read_from(self.disk, offset, self.has_helpers) {
            Ok(Some(file)) => Err(Work { file, operation: Operation::Read { offset } }),
            Ok(None) => Ok(Status::Ok),
            Err(error) => Ok(self.status("reading", Err(error))),
        }
    }

    fn name(&self, payload: &mut Payload<'_>) -> Status {
        let id = &self.options.serial.0;
        let length = payload.writer.remaining().min(id.len());
        match payload.writer.write_all(id.get(..length).unwrap_or_default()) {
            Ok(()) => Status::Ok,
            Err(_) => Status::IoError,
        }
    }

    /// Whether what is flushed is to outlive the host.
    fn lasts(&self) -> bool {
        !self.options.volatile
    }

    fn write(&mut self, payload: &mut Payload<'_>, sector: u64) -> Status {
        let Some(offset) = self.range(sector, payload.reader.remaining()) else { return Status::IoError };
        let outcome = payload.write_to(self.disk, offset);
        self.status("writing", outcome)
    }

    fn flush(&mut self) -> Status {
        let outcome = self.disk.flush(self.lasts());
        self.status("flushing", outcome)
    }

    /// Does something that changes the disk, if it may be changed, and makes it last if it has to (5.2.6.2).
    fn writing(&mut self, change: impl FnOnce(&mut Self) -> Status) -> Status {
        if self.options.read_only {
            return Status::IoError;
        }
        match change(self) {
            Status::Ok if !self.writeback => self.flush(),
            other => other,
        }
    }

    /// Discards or zeroes ranges, after all of them were found to be right.
    fn ranges(&mut self, payload: &mut Payload<'_>, kind: Kind) -> Status {
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
        let outcome = ranges.iter().try_for_each(change);
        self.status(kind.name(), outcome)
    }

    fn status(&mut self, what: &'static str, outcome: io::Result<()>) -> Status {
        match outcome {
            Ok(()) => Status::Ok,
            Err(error) => {
                self.troubles.note(self.disk.path(), what, &error);
                Status::IoError
            }
        }
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

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Discard => "discarding",
            Self::Zero => "zeroing",
        }
    }
}
