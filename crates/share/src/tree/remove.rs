//! Removing and renaming.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};

use super::{Tree, stat_in};
use crate::attributes::Identity;
use crate::{Name, NodeId, Result};

/// What a rename does about a target that is there (renameat2(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exchange {
    /// It is replaced.
    #[default]
    Replace,
    /// The rename fails.
    Refuse,
    /// The two change places.
    Swap,
}

/// A node that is about to lose its name, and what it can be reached by afterwards.
struct Leaving {
    node: NodeId,
    place: Arc<OwnedFd>,
}

impl Tree {
    /// Removes a name that is no folder's.
    ///
    /// # Errors
    /// The host's.
    pub fn unlink(&mut self, parent: NodeId, name: Name<'_>) -> Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// The host's.
    pub fn remove_folder(&mut self, parent: NodeId, name: Name<'_>) -> Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&mut self, parent: NodeId, name: Name<'_>, flags: AtFlags) -> Result<()> {
        self.check_writable()?;
        let folder = self.folder(parent)?;
        let leaving = self.leaving(&folder, parent, name);
        unlinkat(&folder, name.bytes(), flags)?;
        self.lose(leaving);
        Ok(())
    }

    /// Gives what is `name` in `parent` another name, maybe in another folder.
    ///
    /// # Errors
    /// The host's.
    pub fn rename(
        &mut self,
        (parent, name): (NodeId, Name<'_>),
        (new_parent, new_name): (NodeId, Name<'_>),
        exchange: Exchange,
    ) -> Result<()> {
        self.check_writable()?;
        let folder = self.folder(parent)?;
        let new_folder = self.folder(new_parent)?;
        let flags = match exchange {
            Exchange::Replace => RenameFlags::empty(),
            Exchange::Refuse => RenameFlags::NOREPLACE,
            Exchange::Swap => RenameFlags::EXCHANGE,
        };
        let moved = self.known(&folder, name);
        let other = self.known(&new_folder, new_name);
        let leaving = (exchange == Exchange::Replace && moved != other)
            .then(|| self.leaving(&new_folder, new_parent, new_name))
            .flatten();
        renameat_with(&folder, name.bytes(), &new_folder, new_name.bytes(), flags)?;
        self.lose(leaving);
        // Two names of one file stay as they are (rename(2)).
        if let Some(node) = moved.filter(|_| moved != other) {
            self.nodes.move_to(node, new_parent, new_name);
        }
        if let (Exchange::Swap, Some(node)) = (exchange, other) {
            self.nodes.move_to(node, parent, name);
        }
        Ok(())
    }

    /// The node that is at a name, if the guest knows it.
    fn known(&self, folder: &OwnedFd, name: Name<'_>) -> Option<NodeId> {
        self.nodes.find(Identity::of(&stat_in(folder, name).ok()?))
    }

    /// The guest may have what it removes open, or use it as a folder: it needs a descriptor, since its name will be gone.
    /// Without one to be had, such uses fail afterwards, as on NFS.
    fn leaving(&self, folder: &OwnedFd, parent: NodeId, name: Name<'_>) -> Option<Leaving> {
        let node = self.known(folder, name)?;
        let known = self.nodes.get(node).ok()?;
        if !known.place.as_ref().is_some_and(|place| place.is(parent, name)) {
            return None;
        }
        let place = Arc::new(self.pin(folder, name, known.identity).ok()?);
        Some(Leaving { node, place })
    }

    fn lose(&mut self, leaving: Option<Leaving>) {
        let Some(Leaving { node, place }) = leaving else { return };
        if let Ok(known) = self.nodes.get_mut(node) {
            known.pinned = Some(place);
        }
        self.folders.remove(node);
    }
}
