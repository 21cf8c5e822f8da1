//! Extended attributes, of the user's name space alone: all others mean something to the host's kernel, and are of its users
//! and not of the guest's.

use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};

use super::{Tree, number_of};
use crate::{Errno, NodeId, Result};

const SPACE: &[u8] = b"user.";
/// The longest name (`XATTR_NAME_MAX`, limits.h).
const LONGEST_NAME: usize = 255;
/// The largest value (`XATTR_SIZE_MAX`), and the longest list of names (`XATTR_LIST_MAX`).
const LARGEST: usize = 64 << 10;

impl Tree {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none, `EOPNOTSUPP` for other name spaces than `user.`; else the host's.
    pub fn xattr(&mut self, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        check(name)?;
        self.with_path(node, |path| {
            let mut value = vec![0; LARGEST];
            let length = getxattr(path, name, value.as_mut_slice())?;
            value.truncate(length);
            Ok(value)
        })
    }

    /// The names of all attributes, each with a NUL behind it.
    ///
    /// # Errors
    /// The host's.
    pub fn xattrs(&mut self, node: NodeId) -> Result<Vec<u8>> {
        self.with_path(node, |path| {
            let mut names = vec![0; LARGEST];
            let length = listxattr(path, names.as_mut_slice())?;
            names.truncate(length);
            let ours = names.split_inclusive(|byte| *byte == 0).filter(|name| name.starts_with(SPACE));
            Ok(ours.flatten().copied().collect())
        })
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `EEXIST` and `ENODATA` as `flags` (setxattr(2)) have it, `EOPNOTSUPP` for other name spaces than `user.`, `EROFS`; else
    /// the host's.
    pub fn set_xattr(&mut self, node: NodeId, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.check_writable()?;
        check(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.with_path(node, |path| setxattr(path, name, value, flags))
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none, `EOPNOTSUPP` for other name spaces than `user.`, `EROFS`; else the host's.
    pub fn remove_xattr(&mut self, node: NodeId, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        check(name)?;
        self.with_path(node, |path| removexattr(path, name))
    }

    /// These calls want a path; a descriptor's own leads to its file whatever that is called now.
    fn with_path<T>(&mut self, node: NodeId, call: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        let anchor = self.anchor(node)?;
        let number = number_of(anchor.as_fd());
        call(&format!("/proc/self/fd/{}", number.as_str()))
    }
}

fn check(name: &[u8]) -> Result<()> {
    if name.len() > LONGEST_NAME {
        return Err(Errno::RANGE);
    }
    if name.contains(&0) {
        return Err(Errno::INVAL);
    }
    if name.starts_with(SPACE) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}
