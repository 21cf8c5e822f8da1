//! Opening files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, ftruncate};

use super::Tree;
use crate::{Errno, NodeId, Result};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// Its content will be read.
    pub read: bool,
    /// Its content will be written.
    pub write: bool,
    /// Writes go to the end, wherever that is by then.
    pub append: bool,
    /// The content is removed.
    pub truncate: bool,
    /// Each write lasts before it is answered.
    pub sync: bool,
}

impl OpenHow {
    /// For reading alone.
    pub const READ: Self = Self { read: true, write: false, append: false, truncate: false, sync: false };

    /// What a program on Linux said (open(2)), in the numbers of x86-64. Flags that are of no concern to the host are left
    /// out: direct access, which guest memory need not be aligned for, and what is about paths and descriptors.
    #[must_use]
    pub fn from_flags(flags: u32) -> Self {
        let flags = OFlags::from_bits_retain(flags);
        let mode = flags.intersection(OFlags::RWMODE);
        Self {
            read: mode != OFlags::WRONLY,
            write: mode == OFlags::WRONLY || mode == OFlags::RDWR,
            append: flags.contains(OFlags::APPEND),
            truncate: flags.contains(OFlags::TRUNC),
            sync: flags.intersects(OFlags::SYNC | OFlags::DSYNC),
        }
    }

    pub(super) fn changes(self) -> bool {
        self.write || self.truncate
    }

    /// Without `O_TRUNC`, which would change a file before it is known to be the right one. Without waiting for anybody,
    /// should it have become a pipe.
    pub(super) fn flags(self) -> OFlags {
        let mode = match (self.read, self.write) {
            (_, false) => OFlags::RDONLY,
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
        };
        let mut flags = mode | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        flags.set(OFlags::APPEND, self.append);
        flags.set(OFlags::SYNC, self.sync);
        flags
    }
}

/// An open file.
#[derive(Debug)]
pub struct OpenFile {
    file: OwnedFd,
    node: NodeId,
    how: OpenHow,
    _permit: Arc<()>,
}

impl OpenFile {
    /// The node that was opened.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What it was opened for.
    #[must_use]
    pub fn how(&self) -> OpenHow {
        self.how
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Tree {
    /// Opens a file. Only regular files have content that is the host's; for all others the guest has its own drivers.
    ///
    /// # Errors
    /// `EISDIR`, `ELOOP` or `ENXIO` for what is no regular file, `EROFS`, `ENFILE` when too many are open; else the
    /// host's.
    pub fn open_file(&mut self, node: NodeId, how: OpenHow) -> Result<Arc<OpenFile>> {
        match self.nodes.get(node)?.identity.kind() {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        if how.changes() {
            self.check_writable()?;
        }
        let permit = self.permit()?;
        let file = self.open_in_place(node, how.flags())?;
        if how.truncate {
            if how.write {
                ftruncate(&file, 0)?;
            } else {
                let write = OpenHow { write: true, ..how };
                ftruncate(self.open_again(&file, write.flags())?, 0)?;
            }
        }
        self.opened(node, file, how, permit)
    }

    /// Room for one more open file.
    pub(super) fn permit(&self) -> Result<Arc<()>> {
        // One is the tree's own.
        if Arc::strong_count(&self.permits) > self.most_open {
            return Err(Errno::NFILE);
        }
        Ok(Arc::clone(&self.permits))
    }

    pub(super) fn opened(
        &mut self,
        node: NodeId,
        file: OwnedFd,
        how: OpenHow,
        permit: Arc<()>,
    ) -> Result<Arc<OpenFile>> {
        let open = Arc::new(OpenFile { file, node, how, _permit: permit });
        self.nodes.get_mut(node)?.open = Arc::downgrade(&open);
        Ok(open)
    }
}
