//! The two ends of a request: bytes to read, room to write, both still in guest memory.
//!
//! Owns guest addresses that were checked when the chain was popped, and a handle on the memory that they were checked
//! against, so that a chain can be kept. Slices are made when needed. Guest memory can change under a reader at any time:
//! read what matters once.

use std::io::{self, Read};
use std::sync::Arc;

use smallvec::SmallVec;
use snowboot_bus::{GuestMemory, Tracker};
use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice, WriteVolatile};

/// A piece of guest memory. What is written through it is marked in the dirty bitmap.
pub type GuestSlice<'a> = VolatileSlice<'a, BS<'a, Tracker>>;

/// Ranges that a chain holds without allocating: most requests have at most a header, data and a status.
const INLINE: usize = 4;
/// Bytes that [`Writer::fill_from`] copies at once.
const STEP: usize = 4096;

/// One range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) address: u64,
    pub(super) length: u32,
}

/// Ranges one after the other, consumed from the front.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    memory: Arc<GuestMemory>,
    list: SmallVec<[Range; INLINE]>,
    /// The first range that is not used up, with what is left of it in place.
    first: usize,
    remaining: usize,
}

impl Ranges {
    pub(super) fn new(memory: &Arc<GuestMemory>) -> Self {
        Self { memory: Arc::clone(memory), list: SmallVec::new(), first: 0, remaining: 0 }
    }

    /// Appends a range that lies within the memory.
    pub(super) fn push(&mut self, range: Range) {
        self.remaining = self.remaining.saturating_add(size(range.length));
        self.list.push(range);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// The ranges of the next `length` bytes.
    fn ahead(&self, length: usize) -> impl Iterator<Item = Range> + '_ {
        let mut left = u32::try_from(length).unwrap_or(u32::MAX);
        self.list.get(self.first..).unwrap_or_default().iter().map_while(move |range| {
            let length = range.length.min(left);
            left = left.saturating_sub(length);
            (length > 0).then_some(Range { length, ..*range })
        })
    }

    fn slices(&self, length: usize) -> impl Iterator<Item = GuestSlice<'_>> {
        // They were checked when the chain was popped, so none is missing.
        self.ahead(length)
            .flat_map(|range| self.memory.get_slices(GuestAddress(range.address), size(range.length)))
            .filter_map(Result::ok)
    }

    fn advance(&mut self, length: usize) {
        let mut left = length.min(self.remaining);
        self.remaining -= left;
        while left > 0
            && let Some(range) = self.list.get_mut(self.first)
        {
            let taken = range.length.min(u32::try_from(left).unwrap_or(u32::MAX));
            range.address = range.address.saturating_add(taken.into());
            range.length -= taken;
            left = left.saturating_sub(size(taken));
            if range.length == 0 {
                self.first += 1;
            }
        }
    }

    /// Keeps the next `length` bytes and returns those after them.
    fn split_at(&mut self, length: usize) -> io::Result<Self> {
        if length > self.remaining {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = self.clone();
        rest.advance(length);
        self.list = self.ahead(length).collect();
        self.first = 0;
        self.remaining = length;
        Ok(rest)
    }

    /// Copies between the next bytes and a buffer of `length` bytes, piece by piece: `copy` gets where in the buffer, and
    /// the guest address with the number of bytes.
    fn copy(
        &mut self,
        length: usize,
        mut copy: impl FnMut(std::ops::Range<usize>, &GuestMemory, GuestAddress) -> io::Result<()>,
    ) -> io::Result<usize> {
        let total = length.min(self.remaining);
        let mut done = 0usize;
        for range in self.ahead(total) {
            let end = done.saturating_add(size(range.length));
            copy(done..end, &self.memory, GuestAddress(range.address))?;
            done = end;
        }
        self.advance(done);
        Ok(done)
    }
}

/// The device-readable part of a chain.
#[derive(Debug)]
pub struct Reader {
    ranges: Ranges,
}

impl Reader {
    pub(super) fn new(ranges: Ranges) -> Self {
        Self { ranges }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.ranges.remaining
    }

    /// Reads a value as it lies in memory; the type's fields are little-endian.
    ///
    /// # Errors
    /// When fewer bytes remain; nothing is consumed then.
    pub fn read_obj<T: ByteValued>(&mut self) -> io::Result<T> {
        let mut value = T::zeroed();
        if self.remaining() < size_of::<T>() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_exact(value.as_mut_slice())?;
        Ok(value)
    }

    /// Appends the next `count` bytes to `bytes`. Room for them is not cleared before they are copied there.
    ///
    /// # Errors
    /// When fewer remain, or memory is gone; some of them may have been appended then.
    pub fn append_to(&mut self, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
        if count > self.remaining() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = bytes.len();
        bytes.reserve(count);
        for slice in self.ranges.slices(count) {
            bytes.write_all_volatile(&slice).map_err(io::Error::other)?;
        }
        if bytes.len().saturating_sub(before) < count {
            return Err(io::Error::other("guest memory is gone"));
        }
        self.ranges.advance(count);
        Ok(())
    }

    /// Passes over up to `count` bytes and returns how many.
    pub fn skip(&mut self, count: usize) -> usize {
        let skipped = count.min(self.remaining());
        self.ranges.advance(skipped);
        skipped
    }

    /// Keeps the next `count` bytes and returns a reader of those after them.
    ///
    /// # Errors
    /// When fewer bytes remain; nothing changes then.
    pub fn split_at(&mut self, count: usize) -> io::Result<Self> {
        Ok(Self { ranges: self.ranges.split_at(count)? })
    }

    /// The next `length` bytes, or as many as remain, in place. They stay unread until [`Self::skip`].
    pub fn slices(&self, length: usize) -> impl Iterator<Item = GuestSlice<'_>> {
        self.ranges.slices(length)
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ranges.copy(buf.len(), |part, memory, address| {
            let part = buf.get_mut(part).unwrap_or_default();
            memory.read_slice(part, address).map_err(io::Error::other)
        })
    }
}

/// The device-writable part of a chain; counts what was written.
#[derive(Debug)]
pub struct Writer {
    ranges: Ranges,
    written: u32,
}

impl Writer {
    pub(super) fn new(ranges: Ranges) -> Self {
        Self { ranges, written: 0 }
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.ranges.remaining
    }

    /// Bytes written so far: the chain's used length.
    #[must_use]
    pub fn written(&self) -> usize {
        size(self.written)
    }

    pub(super) fn used_length(&self) -> u32 {
        self.written
    }

    /// Writes a value as it lies in memory; the type's fields are little-endian.
    ///
    /// # Errors
    /// When it does not fit; nothing is written then.
    pub fn write_obj<T: ByteValued>(&mut self, value: T) -> io::Result<()> {
        if self.remaining() < size_of::<T>() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        io::Write::write_all(self, value.as_slice())
    }

    /// Keeps room for the next `count` bytes and returns a writer of what is behind them, for example of a status byte at
    /// the end. What is written there counts once it is [joined](Self::join).
    ///
    /// # Errors
    /// When less room remains; nothing changes then.
    pub fn split_at(&mut self, count: usize) -> io::Result<Self> {
        Ok(Self { ranges: self.ranges.split_at(count)?, written: 0 })
    }

    /// Takes back what [`Self::split_at`] returned.
    ///
    /// The used length promises that so many bytes were written from the start (virtio 1.2, 2.7.8.2). What was written
    /// behind a gap therefore does not count, and the room that is left, in the gap or behind it, is given up.
    pub fn join(&mut self, tail: Self) {
        if self.ranges.is_empty() {
            self.written = self.written.saturating_add(tail.written);
            self.ranges = tail.ranges;
        } else {
            self.ranges = Ranges::new(&self.ranges.memory);
        }
    }

    /// The room for the next `length` bytes, or as much as remains, in place. What is put there counts after
    /// [`Self::advance`].
    pub fn slices(&self, length: usize) -> impl Iterator<Item = GuestSlice<'_>> {
        self.ranges.slices(length)
    }

    /// Counts up to `count` bytes as written, after they were written in place, and returns how many it counted. They are
    /// marked in the dirty bitmap, whatever they were written through.
    pub fn advance(&mut self, count: usize) -> usize {
        let counted = count.min(self.remaining());
        for slice in self.slices(counted) {
            slice.bitmap().mark_dirty(0, slice.len());
        }
        self.count(counted);
        counted
    }

    /// Writes what `source` yields until it ends or the room does, and returns how many bytes that were.
    ///
    /// # Errors
    /// When the source fails before it has yielded a byte; a later failure ends the transfer.
    pub fn fill_from(&mut self, source: &mut impl Read) -> io::Result<usize> {
        let mut bytes = [0; STEP];
        let mut total = 0usize;
        while self.remaining() > 0 {
            let room = self.remaining().min(STEP);
            let read = match source.read(bytes.get_mut(..room).unwrap_or_default()) {
                Ok(0) => break,
                Ok(read) => read.min(room),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            };
            io::Write::write_all(self, bytes.get(..read).unwrap_or_default())?;
            total = total.saturating_add(read);
        }
        Ok(total)
    }

    fn count(&mut self, length: usize) {
        self.ranges.advance(length);
        self.written = self.written.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
    }
}

impl io::Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let done = self.ranges.copy(buf.len(), |part, memory, address| {
            let part = buf.get(part).unwrap_or_default();
            memory.write_slice(part, address).map_err(io::Error::other)
        })?;
        self.written = self.written.saturating_add(u32::try_from(done).unwrap_or(u32::MAX));
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A length of guest memory as this host counts.
pub(super) fn size(length: u32) -> usize {
    // A usize has at least 32 bits on x86_64.
    usize::try_from(length).unwrap_or(usize::MAX)
}
