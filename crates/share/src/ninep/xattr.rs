//! Extended attributes, which have handles of their own.

use super::Server;
use super::fids::{Fid, NewXattr, Open};
use super::wire::Fields;
use crate::{Errno, NodeId, Result};

/// The largest value (`XATTR_SIZE_MAX`, limits.h).
const LARGEST: usize = 64 << 10;
/// The longest name (`XATTR_NAME_MAX`).
const LONGEST_NAME: usize = 255;
/// `XATTR_REPLACE` (xattr.h).
const REPLACE: u32 = 2;

impl Server {
    /// Gives a handle of an attribute's value, or of the list of attributes: `fid[4] newfid[4] name[s]`, answered by
    /// `size[8]`.
    pub(super) fn xattrwalk(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, new_number, name) = (fields.u32()?, fields.u32()?, fields.string()?);
        let fid = self.fids.get(number)?;
        let (node, user) = (fid.node, fid.user);
        self.fids.check_new(new_number)?;
        self.fids.check_new_xattr()?;
        let value = if name.is_empty() { self.tree.xattrs(node)? } else { self.tree.xattr(node, name)? };
        self.tree.remember(node)?;
        self.answer.u64(u64::try_from(value.len()).unwrap_or(u64::MAX));
        self.fids.add(new_number, Fid { node, user, open: Some(Box::new(Open::Xattr(value))) });
        Ok(())
    }

    /// Makes a handle one that an attribute is written by: `fid[4] name[s] attr_size[8] flags[4]`.
    pub(super) fn xattrcreate(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, name) = (fields.u32()?, fields.string()?);
        let (size, flags) = (fields.u64()?, fields.u32()?);
        if !self.tree.is_writable() {
            return Err(Errno::ROFS);
        }
        if name.len() > LONGEST_NAME {
            return Err(Errno::RANGE);
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= LARGEST).ok_or(Errno::TOOBIG)?;
        let node = self.fids.closed(number)?;
        self.fids.check_new_xattr()?;
        let new = NewXattr { name: name.into(), value: Vec::new(), size, flags };
        self.fids.replace(number, node, Some(Open::NewXattr(new))).map(drop)
    }

    /// Sets what was written. Linux says by an empty value that replaces one that the attribute is to be removed.
    pub(super) fn set_xattr(&mut self, node: NodeId, new: &NewXattr) -> Result<()> {
        if new.value.len() != new.size {
            return Err(Errno::INVAL);
        }
        if new.size == 0 && new.flags == REPLACE {
            return self.tree.remove_xattr(node, &new.name);
        }
        self.tree.set_xattr(node, &new.name, &new.value, new.flags)
    }
}
