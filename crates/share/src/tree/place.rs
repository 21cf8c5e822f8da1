//! From a node to a descriptor of its file.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Statx, fcntl_setfl, openat, openat2};

use super::{MOST_LEVELS, Tree, number_of, stat_in, stat_of};
use crate::attributes::Identity;
use crate::nodes::Place;
use crate::{Errno, Name, NodeId, Result};

/// One step is one name, so that none of these ever comes to pass; they hold if a name should be wrong.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);
/// A descriptor that is good for a place, not for content. Nothing of the file is touched, whatever it is.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree {
    /// A descriptor of a folder.
    pub(super) fn folder(&mut self, node: NodeId) -> Result<Arc<OwnedFd>> {
        if let Some(folder) = self.folder_at_hand(node)? {
            return Ok(folder);
        }
        let mut missing = vec![node];
        let mut at = node;
        let mut folder = loop {
            at = self.parent(at)?;
            if let Some(folder) = self.folder_at_hand(at)? {
                break folder;
            }
            if missing.len() >= MOST_LEVELS {
                return Err(Errno::NAMETOOLONG);
            }
            missing.push(at);
        };
        for node in missing.into_iter().rev() {
            let known = self.nodes.get(node)?;
            let place = known.place.as_ref().ok_or(Errno::STALE)?;
            folder = Arc::new(step(&folder, place, known.identity, OFlags::DIRECTORY)?);
            self.folders.insert(node, Arc::clone(&folder));
        }
        Ok(folder)
    }

    /// The descriptor of a folder that is open already.
    fn folder_at_hand(&mut self, node: NodeId) -> Result<Option<Arc<OwnedFd>>> {
        if node == NodeId::ROOT {
            return Ok(Some(Arc::clone(&self.root)));
        }
        if let Some(folder) = self.folders.get(node) {
            return Ok(Some(Arc::clone(folder)));
        }
        let known = self.nodes.get(node)?;
        if known.identity.kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok(known.pinned.clone())
    }

    /// A descriptor that stands for a node of any type, good for what goes by the path `/proc/self/fd/N` or by no path.
    pub(super) fn anchor(&mut self, node: NodeId) -> Result<Arc<OwnedFd>> {
        if node == NodeId::ROOT {
            return Ok(Arc::clone(&self.root));
        }
        let known = self.nodes.get(node)?;
        if let Some(pinned) = &known.pinned {
            return Ok(Arc::clone(pinned));
        }
        if let Some(open) = known.open.upgrade() {
            return self.place_again(open.as_fd()).map(Arc::new);
        }
        if known.identity.kind() == FileType::Directory {
            return self.folder(node);
        }
        let (identity, place) = (known.identity, known.place.clone().ok_or(Errno::STALE)?);
        let folder = self.folder(place.parent)?;
        step(&folder, &place, identity, OFlags::empty()).map(Arc::new)
    }

    /// What is known of a node's file now.
    pub(super) fn stat(&mut self, node: NodeId) -> Result<Statx> {
        let known = self.nodes.get(node)?;
        if let Some(open) = known.open.upgrade() {
            return stat_of(&*open);
        }
        if let Some(pinned) = &known.pinned {
            return stat_of(pinned);
        }
        let (identity, place) = (known.identity, known.place.clone());
        let Some(place) = place.filter(|_| !self.folders.contains(node)) else {
            return stat_of(self.folder(node)?);
        };
        let folder = self.folder(place.parent)?;
        same(stat_in(&folder, Name::new(&place.name)?).map_err(gone)?, identity)
    }

    /// Opens what a node was found as, with `flags` that change nothing by themselves.
    pub(super) fn open_in_place(&mut self, node: NodeId, flags: OFlags) -> Result<OwnedFd> {
        let known = self.nodes.get(node)?;
        let identity = known.identity;
        if let Some(pinned) = known.pinned.clone() {
            return self.open_again(&pinned, flags);
        }
        if let Some(open) = known.open.upgrade() {
            return self.open_again(&*open, flags);
        }
        let place = known.place.clone().ok_or(Errno::STALE)?;
        let folder = self.folder(place.parent)?;
        let file =
            open_beneath(&folder, &place.name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(gone)?;
        same(stat_of(&file)?, identity)?;
        waiting(file, flags)
    }

    /// Opens the file of a descriptor once more, through its magic link: the one place where such a link is followed, and
    /// it is ours.
    pub(super) fn open_again(&self, file: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC;
        let file = openat(&self.descriptors, number_of(file.as_fd()), flags, Mode::empty())?;
        if flags.contains(OFlags::NONBLOCK) { waiting(file, flags) } else { Ok(file) }
    }

    fn place_again(&self, file: impl AsFd) -> Result<OwnedFd> {
        self.open_again(file, OFlags::PATH)
    }

    /// A place for what is at `name` now, if it is what `identity` says.
    pub(super) fn pin(&self, folder: impl AsFd, name: Name<'_>, identity: Identity) -> Result<OwnedFd> {
        let file = open_beneath(folder, name.bytes(), PLACE, Mode::empty())?;
        same(stat_of(&file)?, identity)?;
        Ok(file)
    }
}

/// Opens `name` in `folder`, and nothing that is elsewhere.
pub(super) fn open_beneath(folder: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    openat2(folder, name, flags | OFlags::CLOEXEC, mode, CONFINED)
}

/// A file that was opened without waiting, for reads and writes that do wait: 9P, for one, hands out less otherwise.
pub(super) fn waiting(file: OwnedFd, flags: OFlags) -> Result<OwnedFd> {
    fcntl_setfl(&file, flags.intersection(OFlags::APPEND))?;
    Ok(file)
}

fn step(folder: impl AsFd, place: &Place, identity: Identity, flags: OFlags) -> Result<OwnedFd> {
    let file = open_beneath(folder, &place.name, PLACE | flags, Mode::empty()).map_err(gone)?;
    same(stat_of(&file)?, identity)?;
    Ok(file)
}

fn same(stat: Statx, identity: Identity) -> Result<Statx> {
    if Identity::of(&stat) == identity { Ok(stat) } else { Err(Errno::STALE) }
}

/// Says of a node whose name is gone, or is a symbolic link or a file by now, what guests look for its name again after.
fn gone(errno: Errno) -> Errno {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
        other => other,
    }
}
