//! Record locks: those of a guest's processes, kept as locks of the host's, so that they hold against other machines and the
//! host's programs.
//!
//! Each owner has its own open file description of a file that it locks, as the host's locks belong to one of these
//! (fcntl(2), open file description locks): two owners in the guest keep each other out, and one owner never itself.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};

use crate::{Errno, NodeId, Result};

/// The most owners that hold locks in a tree at a time: each has a descriptor.
const MOST_OWNERS: usize = 4096;

/// What a lock is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Reading, together with others.
    Shared,
    /// Writing, alone.
    Exclusive,
    /// Nothing any more.
    None,
}

/// A lock on a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What for.
    pub kind: LockKind,
    /// The first byte.
    pub start: u64,
    /// The last byte; `u64::MAX` and what else is beyond the largest file is its end, wherever that will be.
    pub last: u64,
    /// The process that has it in the guest; 0 for all others.
    pub process: u32,
}

/// Who locks: a number that the guest gives all that is to be one owner.
pub(crate) type Owner = u64;

#[derive(Debug, Default)]
pub(crate) struct Locks {
    owners: HashMap<(NodeId, Owner), Holder>,
}

#[derive(Debug)]
struct Holder {
    file: OwnedFd,
    process: u32,
}

impl Locks {
    pub(crate) fn has(&self, node: NodeId, owner: Owner) -> bool {
        self.owners.contains_key(&(node, owner))
    }

    /// Gives an owner a description of the file of its own.
    pub(crate) fn add(&mut self, node: NodeId, owner: Owner, file: OwnedFd) -> Result<()> {
        if self.owners.len() >= MOST_OWNERS {
            return Err(Errno::NOLCK);
        }
        self.owners.insert((node, owner), Holder { file, process: 0 });
        Ok(())
    }

    /// Sets or removes a lock; `EAGAIN` when another has one that is in the way.
    pub(crate) fn set(&mut self, node: NodeId, owner: Owner, lock: Lock) -> Result<()> {
        let holder = self.owners.get_mut(&(node, owner)).ok_or(Errno::NOLCK)?;
        holder.process = lock.process;
        fcntl(&holder.file, FcntlArg::F_OFD_SETLK(&raw(lock))).map_err(errno)?;
        Ok(())
    }

    /// A lock that would be in the way.
    pub(crate) fn get(&self, node: NodeId, owner: Owner, lock: Lock) -> Result<Option<Lock>> {
        let holder = self.owners.get(&(node, owner)).ok_or(Errno::NOLCK)?;
        let mut found = raw(lock);
        fcntl(&holder.file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(errno)?;
        Ok(parsed(&found, self.other(node, owner)))
    }

    /// The process of the one other owner in the guest, where there is one; the host does not tell whose a lock is.
    fn other(&self, node: NodeId, owner: Owner) -> u32 {
        let mut others = self.owners.iter().filter(|((at, who), _)| *at == node && *who != owner);
        match (others.next(), others.next()) {
            (Some((_, holder)), None) => holder.process,
            _ => 0,
        }
    }

    /// Takes back all locks of an owner on a file.
    pub(crate) fn release(&mut self, node: NodeId, owner: Owner) {
        self.owners.remove(&(node, owner));
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        if !self.owners.is_empty() {
            self.owners.retain(|(at, _), _| *at != node);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.owners.clear();
    }
}

fn raw(lock: Lock) -> libc::flock {
    let (start, last) = (i64::try_from(lock.start), i64::try_from(lock.last));
    let start = start.unwrap_or(i64::MAX);
    // To the end is a length of 0.
    let length = match last {
        Ok(last) if last < i64::MAX => last.saturating_sub(start).saturating_add(1),
        _ => 0,
    };
    let kind = match lock.kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::None => libc::F_UNLCK,
    };
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn parsed(found: &libc::flock, process: u32) -> Option<Lock> {
    let kind = match i32::from(found.l_type) {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        _ => return None,
    };
    let start = found.l_start.max(0).cast_unsigned();
    let last = match found.l_len {
        0 => i64::MAX.cast_unsigned(),
        length => start.saturating_add(length.max(0).cast_unsigned()).saturating_sub(1),
    };
    // Locks of whole processes on the host name these, which mean nothing to the guest.
    let process = if found.l_pid < 0 { process } else { 0 };
    Some(Lock { kind, start, last, process })
}

fn errno(error: nix::errno::Errno) -> Errno {
    match Errno::from_raw_os_error(error as i32) {
        Errno::ACCESS => Errno::AGAIN,
        other => other,
    }
}
