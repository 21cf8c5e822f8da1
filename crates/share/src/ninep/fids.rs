//! The client's handles.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::{Errno, FolderReader, NodeId, OpenFile, Result};

/// The most handles. Linux has one for each name that it remembers, so a guest that looks at everything has a million.
const MOST_FIDS: usize = 2 << 20;
/// The most handles of extended attributes, each of which may hold a value of 64 KiB. Linux has one for each call that is
/// under way.
const MOST_XATTRS: usize = 256;

/// What a number that the client has chosen stands for.
#[derive(Debug)]
pub(super) struct Fid {
    /// A file, with a reference to it.
    pub(super) node: NodeId,
    /// The user who attached, in the guest's terms; new files are this one's.
    pub(super) user: u32,
    /// What it was opened as.
    pub(super) open: Option<Box<Open>>,
}

/// What a handle can be opened as.
#[derive(Debug)]
pub(super) enum Open {
    /// A file, and the owners of locks who have locked through it.
    File(Arc<OpenFile>, Vec<u64>),
    Folder(FolderReader),
    /// An attribute's value, or a list of attributes.
    Xattr(Vec<u8>),
    NewXattr(NewXattr),
}

impl Open {
    fn is_xattr(&self) -> bool {
        matches!(self, Self::Xattr(_) | Self::NewXattr(_))
    }
}

/// An attribute that is being written, and is set when its handle is given up.
#[derive(Debug)]
pub(super) struct NewXattr {
    pub(super) name: Box<[u8]>,
    pub(super) value: Vec<u8>,
    /// Bytes that the value is to have.
    pub(super) size: usize,
    pub(super) flags: u32,
}

#[derive(Debug, Default)]
pub(super) struct Fids {
    by_number: HashMap<u32, Fid>,
    xattrs: usize,
}

impl Fids {
    /// # Errors
    /// `EBADF` when the client has no such handle.
    pub(super) fn get(&self, number: u32) -> Result<&Fid> {
        self.by_number.get(&number).ok_or(Errno::BADF)
    }

    /// What a handle was opened as.
    ///
    /// # Errors
    /// `EBADF` when it is not open.
    pub(super) fn open_mut(&mut self, number: u32) -> Result<&mut Open> {
        self.by_number.get_mut(&number).and_then(|fid| fid.open.as_deref_mut()).ok_or(Errno::BADF)
    }

    /// The file that a handle was opened as, if it was.
    pub(super) fn file(&self, number: u32) -> Option<Arc<OpenFile>> {
        match self.by_number.get(&number)?.open.as_deref()? {
            Open::File(file, _) => Some(Arc::clone(file)),
            _ => None,
        }
    }

    /// The node of a handle that is not open.
    ///
    /// # Errors
    /// `EBADF` when it is, or is not there.
    pub(super) fn closed(&self, number: u32) -> Result<NodeId> {
        let fid = self.get(number)?;
        if fid.open.is_some() { Err(Errno::BADF) } else { Ok(fid.node) }
    }

    /// Whether a new handle can have this number.
    ///
    /// # Errors
    /// `EBADF` when another has it, `ENFILE` when there are too many.
    pub(super) fn check_new(&self, number: u32) -> Result<()> {
        if self.by_number.contains_key(&number) {
            return Err(Errno::BADF);
        }
        if self.by_number.len() >= MOST_FIDS { Err(Errno::NFILE) } else { Ok(()) }
    }

    /// Whether there may be one more handle of an attribute.
    ///
    /// # Errors
    /// `ENFILE` when there are too many.
    pub(super) fn check_new_xattr(&self) -> Result<()> {
        if self.xattrs >= MOST_XATTRS { Err(Errno::NFILE) } else { Ok(()) }
    }

    /// Adds a handle, whose number was [found free](Self::check_new).
    pub(super) fn add(&mut self, number: u32, fid: Fid) {
        if let Entry::Vacant(place) = self.by_number.entry(number) {
            self.xattrs =
                self.xattrs.saturating_add(fid.open.as_ref().is_some_and(|open| open.is_xattr()).into());
            place.insert(fid);
        }
    }

    /// Makes a handle that was [not open](Self::closed) stand for `node`, and returns what it stood for.
    pub(super) fn replace(&mut self, number: u32, node: NodeId, open: Option<Open>) -> Result<NodeId> {
        let fid = self.by_number.get_mut(&number).ok_or(Errno::BADF)?;
        self.xattrs = self.xattrs.saturating_add(open.as_ref().is_some_and(Open::is_xattr).into());
        fid.open = open.map(Box::new);
        Ok(std::mem::replace(&mut fid.node, node))
    }

    /// Takes a handle from the client.
    ///
    /// # Errors
    /// `EBADF` when it has no such handle.
    pub(super) fn remove(&mut self, number: u32) -> Result<Fid> {
        let fid = self.by_number.remove(&number).ok_or(Errno::BADF)?;
        self.xattrs =
            self.xattrs.saturating_sub(fid.open.as_ref().is_some_and(|open| open.is_xattr()).into());
        Ok(fid)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
