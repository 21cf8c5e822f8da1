//! A folder of the host and all that is below it, as nodes.
//!
//! ```text
//!  guest ── NodeId, Name ──► Tree ──► table of nodes ──► (folder's descriptor, name) ──► host
//!                             │                                  ▲
//!                             └── descriptors of folders, the last used ones
//! ```
//!
//! Every operation on a node finds its folder first: a descriptor that is cached, or else one that is opened from its own
//! folder by one name, and so on up to the root. What is found must be what the node stands for. So a folder that the host
//! swaps for a symbolic link, or moves away, is not followed; it is `ESTALE`.
//!
//! Mounts below the root are crossed: whoever mounts there means them to be seen. They look as one file system, with inode
//! numbers that are kept apart. A folder that the host moves out of the root stays reachable, for itself, while a guest holds
//! it open or its descriptor is cached; nothing around it does.

mod change;
mod create;
mod folder;
mod lock;
mod open;
mod place;
mod remove;
#[cfg(test)]
mod tests;
mod xattr;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatFs, Statx, fstatfs, openat, readlinkat, statx};

use crate::attributes::{Attributes, Identity, WANTED};
use crate::locks::Locks;
use crate::nodes::Nodes;
use crate::owners::Owners;
use crate::recent::Recent;
use crate::{Errno, Name, NodeId, Result};

pub use self::change::{Changes, SetTime};
pub use self::create::Creation;
pub use self::folder::{FolderEntry, FolderReader};
pub use self::open::{OpenFile, OpenHow};
pub use self::remove::Exchange;

/// Descriptors of folders that are kept open.
const MOST_FOLDERS: usize = 512;
/// The least files that a guest can have open, however few descriptors this process may have.
const LEAST_OPEN: usize = 64;
/// The share of this process's descriptors that the open files of one tree may take.
const OPEN_SHARE: u64 = 8;
/// The most files that a guest can have open, however many descriptors this process may have: each takes memory, too.
const MOST_OPEN: usize = 65_536;
/// Bits of an inode's number that stay when the device's place in a list is put above them, as nearly all file systems
/// have shorter ones.
const INODE_BITS: u32 = 48;
/// The most devices below a root that are told apart.
const MOST_DEVICES: usize = 255;
/// The most levels that are climbed to find a folder again. Linux has no limit, but each level costs a system call.
const MOST_LEVELS: usize = 2048;

/// A folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It cannot be opened.
    #[error("Cannot share the folder {path}; check that it is there and that its permissions allow reading it", path = path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no folder.
    #[error("Cannot share {path}, for it is not a folder; give the path of a folder", path = path.display())]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// Opened files cannot be found again.
    #[error("Cannot share folders without /proc/self/fd; mount proc on /proc")]
    NoProc(#[source] io::Error),
}

/// How a folder is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeOptions {
    /// Whether guests can change anything; if not, every change is refused with `EROFS`.
    pub writable: bool,
}

/// A file that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its node, with one more reference to [forget](Tree::forget).
    pub node: NodeId,
    /// What it is like.
    pub attributes: Attributes,
}

/// A shared folder.
#[derive(Debug)]
pub struct Tree {
    root: Arc<OwnedFd>,
    /// `/proc/self/fd`, through which a descriptor's file is opened again, whatever its name is by now.
    descriptors: OwnedFd,
    options: TreeOptions,
    owners: Owners,
    nodes: Nodes,
    folders: Recent<NodeId, Arc<OwnedFd>>,
    locks: Locks,
    /// Each open file has a clone.
    permits: Arc<()>,
    most_open: usize,
    /// The devices that were met, the root's first.
    devices: Vec<(u32, u32)>,
}

impl Tree {
    /// Opens the folder at `path`; symbolic links in it are followed, this once.
    ///
    /// # Errors
    /// When it is not there, no folder, or not readable.
    pub fn open(path: &Path, options: TreeOptions) -> Result<Self, ShareError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let refused = |errno| match errno {
            Errno::NOTDIR => ShareError::NotAFolder { path: path.to_owned() },
            errno => ShareError::Open { path: path.to_owned(), source: io::Error::from(errno) },
        };
        let root = openat(rustix::fs::CWD, path, flags, Mode::empty()).map_err(refused)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = openat(rustix::fs::CWD, "/proc/self/fd", flags, Mode::empty())
            .map_err(|errno| ShareError::NoProc(errno.into()))?;
        let identity = Identity::of(&stat_of(&root).map_err(refused)?);
        Ok(Self {
            root: Arc::new(root),
            descriptors,
            options,
            owners: Owners::of_process(),
            nodes: Nodes::new(identity),
            folders: Recent::new(MOST_FOLDERS),
            locks: Locks::default(),
            permits: Arc::new(()),
            most_open: most_open(),
            devices: vec![identity.device],
        })
    }

    /// Whether guests can change anything.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.options.writable
    }

    /// Whether the host has removed the folder itself.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        rustix::fs::fstat(&*self.root).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Forgets all nodes and locks, as for a new guest. Files that are still open stay so until they are dropped.
    pub fn reset(&mut self) {
        self.nodes.clear();
        self.folders.clear();
        self.locks.clear();
    }

    /// Finds `name` in the folder `parent`. Symbolic links are found themselves.
    ///
    /// # Errors
    /// The host's.
    pub fn lookup(&mut self, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        let folder = self.folder(parent)?;
        let stat = stat_in(&folder, name)?;
        self.enter(&stat, Some((parent, name)))
    }

    /// What `name` in `parent` is like, without a node for it.
    ///
    /// # Errors
    /// The host's.
    pub fn peek(&mut self, parent: NodeId, name: Name<'_>) -> Result<Attributes> {
        let stat = stat_in(&*self.folder(parent)?, name)?;
        Ok(self.describe(&stat))
    }

    /// One more reference to a node that the guest has.
    ///
    /// # Errors
    /// `ESTALE` when there is no such node.
    pub fn remember(&mut self, node: NodeId) -> Result<()> {
        let identity = self.nodes.get(node)?.identity;
        self.nodes.enter(identity, None).map(drop)
    }

    /// Takes back `count` references to a node. Without any, it is gone.
    pub fn forget(&mut self, node: NodeId, count: u64) {
        self.nodes.forget(node, count);
        if self.nodes.get(node).is_err() {
            self.folders.remove(node);
            self.locks.forget(node);
        }
    }

    /// The folder that a node was found in; the root's is the root.
    ///
    /// # Errors
    /// `ESTALE` when the node is not there, or has no folder.
    pub fn parent(&self, node: NodeId) -> Result<NodeId> {
        if node == NodeId::ROOT {
            return Ok(NodeId::ROOT);
        }
        self.nodes.get(node)?.place.as_ref().map(|place| place.parent).ok_or(Errno::STALE)
    }

    /// The folder and the name that a node was found by last.
    ///
    /// # Errors
    /// `ESTALE` when the node is not there or has lost its name, `EBUSY` when it is the root.
    pub fn place(&self, node: NodeId) -> Result<(NodeId, Box<[u8]>)> {
        if node == NodeId::ROOT {
            return Err(Errno::BUSY);
        }
        let known = self.nodes.get(node)?;
        let place = known.place.as_ref().filter(|_| known.pinned.is_none()).ok_or(Errno::STALE)?;
        Ok((place.parent, place.name.clone()))
    }

    /// Whether new files can be another user's than this process's.
    #[must_use]
    pub fn can_give_away(&self) -> bool {
        self.owners.can_give_away()
    }

    /// What a node is like now.
    ///
    /// # Errors
    /// `ESTALE` when its file is not where it was; else the host's.
    pub fn attributes(&mut self, node: NodeId) -> Result<Attributes> {
        let stat = self.stat(node)?;
        Ok(self.describe(&stat))
    }

    /// What an open file is like now.
    ///
    /// # Errors
    /// The host's.
    pub fn attributes_of_open(&mut self, file: &OpenFile) -> Result<Attributes> {
        let stat = stat_of(file)?;
        Ok(self.describe(&stat))
    }

    /// The target of a symbolic link, as it stands there.
    ///
    /// # Errors
    /// `EINVAL` when it is none; else the host's.
    pub fn read_link(&mut self, node: NodeId) -> Result<Vec<u8>> {
        let node_ref = self.nodes.get(node)?;
        let target = match (&node_ref.pinned, node_ref.place.clone()) {
            (Some(pinned), _) => readlinkat(pinned, "", Vec::new())?,
            (None, Some(place)) => readlinkat(self.folder(place.parent)?, &*place.name, Vec::new())?,
            (None, None) => return Err(Errno::INVAL),
        };
        Ok(target.into_bytes())
    }

    /// The state of the file system that a node is on (statfs(2)).
    ///
    /// # Errors
    /// The host's.
    pub fn file_system(&mut self, node: NodeId) -> Result<StatFs> {
        let anchor = self.anchor(node)?;
        fstatfs(anchor)
    }

    /// Makes all that was changed on a node's file system last.
    ///
    /// # Errors
    /// The host's.
    pub fn sync_file_system(&mut self, node: NodeId) -> Result<()> {
        let anchor = self.anchor(node)?;
        rustix::fs::syncfs(self.open_again(&*anchor, OFlags::RDONLY | OFlags::NONBLOCK)?)
    }

    /// The table's node for a file that was seen.
    fn enter(&mut self, stat: &Statx, place: Option<(NodeId, Name<'_>)>) -> Result<Entry> {
        let node = self.nodes.enter(Identity::of(stat), place)?;
        Ok(Entry { node, attributes: self.describe(stat) })
    }

    fn describe(&mut self, stat: &Statx) -> Attributes {
        let inode = self.inode(stat);
        Attributes::new(stat, inode, self.owners)
    }

    /// The number that the guest sees: all is one file system to it.
    fn inode(&mut self, stat: &Statx) -> u64 {
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let index = match self.devices.iter().position(|known| *known == device) {
            Some(0) => return stat.stx_ino,
            Some(index) => index,
            None if self.devices.len() > MOST_DEVICES => MOST_DEVICES,
            None => {
                self.devices.push(device);
                self.devices.len().saturating_sub(1)
            }
        };
        let index = u64::try_from(index).unwrap_or_default();
        stat.stx_ino & ((1 << INODE_BITS) - 1) | index << INODE_BITS
    }

    fn check_writable(&self) -> Result<()> {
        if self.options.writable { Ok(()) } else { Err(Errno::ROFS) }
    }
}

/// How many files a guest may have open: neither it nor all guests of a test may use up this process's descriptors.
fn most_open() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.map_or(usize::MAX, |limit| usize::try_from(limit / OPEN_SHARE).unwrap_or(usize::MAX));
    share.clamp(LEAST_OPEN, MOST_OPEN)
}

/// What is known of an open file, also of one that is only a path.
fn stat_of(file: impl AsFd) -> Result<Statx> {
    statx(file, "", AtFlags::EMPTY_PATH, WANTED)
}

/// What is known of `name` in an open folder.
fn stat_in(folder: impl AsFd, name: Name<'_>) -> Result<Statx> {
    statx(folder, name.bytes(), AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED)
}

/// The name of a descriptor in `/proc/self/fd`.
fn number_of(file: BorrowedFd<'_>) -> rustix::path::DecInt {
    rustix::path::DecInt::from_fd(file)
}
