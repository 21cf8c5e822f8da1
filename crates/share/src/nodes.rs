//! The table of nodes: which file on the host each number stands for, and where it was seen last.
//!
//! A node holds no descriptor, so that a guest may know a million files. It has the folder and the name that it was last
//! found by, and is found again by these; its [`Identity`] tells whether what is there is still the same file. A node whose
//! name the guest has removed has a descriptor instead.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use ahash::AHashMap;

use crate::attributes::Identity;
use crate::tree::OpenFile;
use crate::{Errno, Name, Result};

/// The most nodes of a tree. Each takes some 250 bytes, so that a guest that looks at everything costs half a GiB.
const MOST_NODES: usize = 2 << 20;

/// A node's number, never used twice by a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u64);

impl NodeId {
    /// The shared folder itself.
    pub const ROOT: Self = Self(1);

    /// The node with this number, if there is one.
    #[must_use]
    pub fn from_raw(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn raw(self) -> u64 {
        self.0
    }
}

/// Where a node was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) parent: NodeId,
    pub(crate) name: Box<[u8]>,
}

impl Place {
    pub(crate) fn is(&self, parent: NodeId, name: Name<'_>) -> bool {
        self.parent == parent && &*self.name == name.bytes()
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    /// None for the root and for files that never had a name.
    pub(crate) place: Option<Place>,
    /// How often the guest was given it and has not forgotten it.
    references: u64,
    /// Nodes that were seen in it last, and are found through it.
    children: u64,
    /// An `O_PATH` descriptor of what has no name any more.
    pub(crate) pinned: Option<Arc<OwnedFd>>,
    /// The file that was opened last, while it is open.
    pub(crate) open: Weak<OpenFile>,
}

#[derive(Debug)]
pub(crate) struct Nodes {
    by_id: AHashMap<NodeId, Node>,
    by_identity: AHashMap<Identity, NodeId>,
    next: u64,
}

impl Nodes {
    pub(crate) fn new(root: Identity) -> Self {
        let node =
            Node { identity: root, place: None, references: 1, children: 0, pinned: None, open: Weak::new() };
        Self {
            by_id: AHashMap::from([(NodeId::ROOT, node)]),
            by_identity: AHashMap::from([(root, NodeId::ROOT)]),
            next: NodeId::ROOT.0 + 1,
        }
    }

    pub(crate) fn get(&self, id: NodeId) -> Result<&Node> {
        self.by_id.get(&id).ok_or(Errno::STALE)
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Result<&mut Node> {
        self.by_id.get_mut(&id).ok_or(Errno::STALE)
    }

    pub(crate) fn find(&self, identity: Identity) -> Option<NodeId> {
        self.by_identity.get(&identity).copied()
    }

    /// Counts a reference to the file that was seen at `place`, which is a new node if it is not known.
    pub(crate) fn enter(&mut self, identity: Identity, place: Option<(NodeId, Name<'_>)>) -> Result<NodeId> {
        let id = match self.find(identity) {
            Some(id) => id,
            None => self.add(identity)?,
        };
        if let Some((parent, name)) = place {
            self.move_to(id, parent, name);
        }
        let node = self.get_mut(id)?;
        node.references = node.references.saturating_add(1);
        Ok(id)
    }

    fn add(&mut self, identity: Identity) -> Result<NodeId> {
        if self.by_id.len() >= MOST_NODES {
            return Err(Errno::NOMEM);
        }
        let id = NodeId(self.next);
        self.next = self.next.saturating_add(1);
        let node =
            Node { identity, place: None, references: 0, children: 0, pinned: None, open: Weak::new() };
        self.by_id.insert(id, node);
        self.by_identity.insert(identity, id);
        Ok(id)
    }

    /// Notes where a node is now. One that had lost its name needs no descriptor any more.
    pub(crate) fn move_to(&mut self, id: NodeId, parent: NodeId, name: Name<'_>) {
        let Some(node) = self.by_id.get_mut(&id) else { return };
        node.pinned = None;
        if id == NodeId::ROOT || node.place.as_ref().is_some_and(|place| place.is(parent, name)) {
            return;
        }
        let old = node.place.replace(Place { parent, name: name.bytes().into() });
        if let Some(parent) = self.by_id.get_mut(&parent) {
            parent.children = parent.children.saturating_add(1);
        }
        if let Some(old) = old {
            self.leave(old.parent);
        }
    }

    /// Takes back `count` references; a node without any, and without nodes that are found through it, is gone. The root
    /// stays. Returns whether the node is gone.
    pub(crate) fn forget(&mut self, id: NodeId, count: u64) {
        if let Some(node) = self.by_id.get_mut(&id).filter(|_| id != NodeId::ROOT) {
            node.references = node.references.saturating_sub(count);
            self.drop_unused(id);
        }
    }

    fn leave(&mut self, parent: NodeId) {
        if let Some(node) = self.by_id.get_mut(&parent) {
            node.children = node.children.saturating_sub(1);
            self.drop_unused(parent);
        }
    }

    /// Removes a node that nothing needs, and what only it needed.
    fn drop_unused(&mut self, id: NodeId) {
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| *id != NodeId::ROOT) {
            next = None;
            if self.by_id.get(&id).is_none_or(|node| node.references > 0 || node.children > 0) {
                return;
            }
            let Some(node) = self.by_id.remove(&id) else { return };
            if self.by_identity.get(&node.identity) == Some(&id) {
                self.by_identity.remove(&node.identity);
            }
            if let Some(place) = node.place
                && let Some(parent) = self.by_id.get_mut(&place.parent)
            {
                parent.children = parent.children.saturating_sub(1);
                next = Some(place.parent);
            }
        }
    }

    /// Forgets everything but the root.
    pub(crate) fn clear(&mut self) {
        self.by_id.retain(|id, _| *id == NodeId::ROOT);
        self.by_identity.retain(|_, id| *id == NodeId::ROOT);
        if let Some(root) = self.by_id.get_mut(&NodeId::ROOT) {
            root.children = 0;
            root.open = Weak::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}
