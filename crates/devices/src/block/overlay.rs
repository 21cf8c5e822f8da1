//! Changes to an image that is never written: a sparse file of the disk's size, and which blocks of it count.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::io_buffers::{IoVector, IoVectorMut};

use super::content::Content;
use super::error::DiskError;
use super::file::ImageFile;

/// What is changed at once: a page, and a block of most file systems.
const BLOCK: u64 = 4096;
/// Blocks of one part of the map, 16 MiB of the disk: parts without a change take no memory.
const PART: u64 = 4096;
const WORDS: usize = 64;

/// The changes. They can outlive the disk: the next one of the same machine goes on with them.
#[derive(Debug)]
pub struct Changes {
    file: ImageFile,
    map: Mutex<BlockMap>,
}

impl Changes {
    /// No changes yet; they will be in `file`, which is empty and nobody else's. `name` stands for it in messages.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn new(file: File, name: &Path) -> Result<Arc<Self>, DiskError> {
        let file = ImageFile::of(file, name, false)?;
        Ok(Arc::new(Self { file, map: Mutex::default() }))
    }

    fn map(&self) -> MutexGuard<'_, BlockMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A base with changes.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) base: Content,
    changes: Arc<Changes>,
}

impl Overlay {
    pub(super) fn new(base: Content, changes: Arc<Changes>) -> Self {
        Self { base, changes }
    }

    pub(super) fn read(&self, mut buffers: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        let map = self.changes.map();
        while !buffers.is_empty() {
            let (is_changed, length) = map.run(offset, buffers.len());
            let (part, rest) = buffers.split_at(length);
            if is_changed {
                self.changes.file.read(part, offset)?
            } else {
                self.base.read(part, offset)?
            }
            buffers = rest;
            offset = offset.saturating_add(length);
        }
        Ok(())
    }

    pub(super) fn write(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        let mut map = self.changes.map();
        let end = offset.saturating_add(buffers.len());
        self.prepare(&map, offset, end)?;
        self.changes.file.write(buffers, offset)?;
        // Only now: after a failure, all is as it was.
        map.mark(offset, end);
        Ok(())
    }

    pub(super) fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let Some((start, end)) = whole_blocks(offset, offset.saturating_add(length)) else { return Ok(()) };
        // It may read as anything: as zeroes then, so that no space is needed for it.
        self.zero_blocks(start, end, true)
    }

    pub(super) fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let end = offset.saturating_add(length);
        let Some((first, last)) = whole_blocks(offset, end) else {
            return self.write_zeroes(offset, end);
        };
        self.write_zeroes(offset, first)?;
        self.zero_blocks(first, last, unmap)?;
        self.write_zeroes(last, end)
    }

    pub(super) fn check_length(&self) -> io::Result<()> {
        self.base.check_length()
    }

    fn zero_blocks(&self, start: u64, end: u64, unmap: bool) -> io::Result<()> {
        let mut map = self.changes.map();
        self.changes.file.zero(start, end.saturating_sub(start), unmap)?;
        map.mark(start, end);
        Ok(())
    }

    /// Less than two blocks.
    fn write_zeroes(&self, start: u64, end: u64) -> io::Result<()> {
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let zeroes = vec![0; length];
        if zeroes.is_empty() { Ok(()) } else { self.write((&zeroes).into(), start) }
    }

    /// Copies what is not to be written of the first and the last block, where those are not changed yet.
    fn prepare(&self, map: &BlockMap, offset: u64, end: u64) -> io::Result<()> {
        let first = offset / BLOCK;
        let last = end.saturating_sub(1) / BLOCK;
        if !offset.is_multiple_of(BLOCK) {
            self.copy(map, first)?;
        }
        if !end.is_multiple_of(BLOCK) && (last != first || offset.is_multiple_of(BLOCK)) {
            self.copy(map, last)?;
        }
        Ok(())
    }

    fn copy(&self, map: &BlockMap, block: u64) -> io::Result<()> {
        if map.is_changed(block) {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
        let offset = block.saturating_mul(BLOCK);
        self.base.read((&mut bytes).into(), offset)?;
        self.changes.file.write((&bytes).into(), offset)
    }
}

/// The borders of the whole blocks between two bytes.
fn whole_blocks(start: u64, end: u64) -> Option<(u64, u64)> {
    let start = start.checked_next_multiple_of(BLOCK)?;
    let end = end / BLOCK * BLOCK;
    (start < end).then_some((start, end))
}

/// Which blocks are changed.
#[derive(Debug, Default)]
struct BlockMap {
    parts: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl BlockMap {
    fn is_changed(&self, block: u64) -> bool {
        let (word, bit) = place(block);
        let part = self.parts.get(&(block / PART));
        part.and_then(|part| part.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Whether the bytes from `offset` on are changed, and for how many of `length` bytes the answer is the same.
    fn run(&self, offset: u64, length: u64) -> (bool, u64) {
        let is_changed = self.is_changed(offset / BLOCK);
        let end = offset.saturating_add(length);
        let mut to = (offset / BLOCK).saturating_add(1).saturating_mul(BLOCK);
        while to < end && self.is_changed(to / BLOCK) == is_changed {
            to = to.saturating_add(BLOCK);
        }
        (is_changed, to.min(end).saturating_sub(offset))
    }

    /// Marks every block that a byte between these two is in.
    fn mark(&mut self, start: u64, end: u64) {
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            let (word, bit) = place(block);
            let part = self.parts.entry(block / PART).or_insert_with(|| Box::new([0; WORDS]));
            if let Some(word) = part.get_mut(word) {
                *word |= bit;
            }
        }
    }
}

/// Where a block is in its part.
fn place(block: u64) -> (usize, u64) {
    let within = block % PART;
    (usize::try_from(within / 64).unwrap_or(0), 1 << (within % 64))
}
