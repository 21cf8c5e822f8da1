//! Reading folders.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Dir, DirEntry, FileType, Mode, OFlags};

use super::place::open_beneath;
use super::{Tree, stat_in};
use crate::{Entry, Errno, Name, NodeId, Result};

/// A folder that is being read.
pub struct FolderReader {
    node: NodeId,
    /// The place that its names are found in.
    folder: Arc<OwnedFd>,
    dir: Dir,
    /// Where `dir` is, in the file system's own terms.
    position: u64,
    /// Where it was before the last entry.
    before: u64,
    /// Read, but taken back.
    next: Option<DirEntry>,
    _permit: Arc<()>,
}

impl fmt::Debug for FolderReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderReader").field("node", &self.node).finish_non_exhaustive()
    }
}

/// One thing in a folder, `.` and `..` among them.
#[derive(Debug)]
pub struct FolderEntry(DirEntry);

impl FolderEntry {
    /// Its name. [`Name::new`] tells `.` and `..`.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.0.file_name().to_bytes()
    }

    /// Its inode's number as the file system has it; that of a mount point is hidden under what is mounted there.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.0.ino()
    }

    /// Its type, where the file system tells.
    #[must_use]
    pub fn kind(&self) -> FileType {
        self.0.file_type()
    }

    /// Where to go on behind it.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.0.offset().cast_unsigned()
    }
}

impl FolderReader {
    /// The folder's node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Goes to a position that an entry named, or to the beginning (0).
    ///
    /// # Errors
    /// `EINVAL` when it cannot be one.
    pub fn seek(&mut self, position: u64) -> Result<()> {
        if position != self.position {
            let position = i64::try_from(position).map_err(|_| Errno::INVAL)?;
            self.next = None;
            self.dir.seek(position)?;
            self.position = position.cast_unsigned();
        }
        Ok(())
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&mut self) -> Result<Option<FolderEntry>> {
        let entry = match self.next.take() {
            Some(entry) => Some(entry),
            None => self.dir.read().transpose()?,
        };
        let entry = entry.map(FolderEntry);
        if let Some(entry) = &entry {
            self.before = self.position;
            self.position = entry.next();
        }
        Ok(entry)
    }

    /// Takes back the entry that was read last, which there was no room for.
    pub fn put_back(&mut self, entry: FolderEntry) {
        self.next = Some(entry.0);
        self.position = self.before;
    }
}

impl Tree {
    /// Opens a folder for reading its entries.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENFILE` when too much is open; else the host's.
    pub fn open_folder(&mut self, node: NodeId) -> Result<FolderReader> {
        let permit = self.permit()?;
        let folder = self.folder(node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = Dir::new(open_beneath(&folder, b".", flags, Mode::empty())?)?;
        Ok(FolderReader { node, folder, dir, position: 0, before: 0, next: None, _permit: permit })
    }

    /// Finds what an entry of a folder names, as [`Tree::lookup`] does, with a reference.
    ///
    /// # Errors
    /// `EINVAL` for `.` and `..`; else the host's.
    pub fn lookup_in(&mut self, reader: &FolderReader, entry: &FolderEntry) -> Result<Entry> {
        let name = Name::new(entry.name())?;
        let stat = stat_in(&reader.folder, name)?;
        self.enter(&stat, Some((reader.node, name)))
    }

    /// Makes what a folder holds last.
    ///
    /// # Errors
    /// The host's.
    pub fn sync_folder(&mut self, node: NodeId) -> Result<()> {
        let folder = self.folder(node)?;
        rustix::fs::fsync(open_beneath(&folder, b".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)
    }
}
