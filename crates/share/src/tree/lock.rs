//! Locks on files.

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{OpenFile, Tree};
use crate::{Errno, Lock, LockKind, NodeId, Result};

impl Tree {
    /// Sets or removes a record lock (fcntl(2)) of the guest's owner `owner`, and never waits.
    ///
    /// # Errors
    /// `EAGAIN` when another lock is in the way; `EBADF` when the file cannot be opened for what the lock is for; else the
    /// host's.
    pub fn set_lock(&mut self, node: NodeId, owner: u64, lock: Lock) -> Result<()> {
        if lock.start > lock.last {
            return Err(Errno::INVAL);
        }
        if !self.locks.has(node, owner) {
            if lock.kind == LockKind::None {
                return Ok(());
            }
            self.add_owner(node, owner)?;
        }
        self.locks.set(node, owner, lock)
    }

    /// The record lock that would be in the way of one, if there is any.
    ///
    /// # Errors
    /// The host's.
    pub fn find_lock(&mut self, node: NodeId, owner: u64, lock: Lock) -> Result<Option<Lock>> {
        let is_new = !self.locks.has(node, owner);
        if is_new {
            self.add_owner(node, owner)?;
        }
        let found = self.locks.get(node, owner, lock);
        if is_new {
            self.locks.release(node, owner);
        }
        found
    }

    /// Takes back all record locks of an owner on a file, as when a process closes it.
    pub fn release_locks(&mut self, node: NodeId, owner: u64) {
        self.locks.release(node, owner);
    }

    fn add_owner(&mut self, node: NodeId, owner: u64) -> Result<()> {
        let access = if self.options.writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = |access| access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match self.open_in_place(node, flags(access)) {
            // Good for shared locks at least.
            Err(Errno::ACCESS | Errno::ROFS | Errno::TXTBSY | Errno::PERM) => {
                self.open_in_place(node, flags(OFlags::RDONLY))?
            }
            outcome => outcome?,
        };
        self.locks.add(node, owner, file)
    }
}

impl OpenFile {
    /// Sets or removes the lock on the whole file (flock(2)), and never waits.
    ///
    /// # Errors
    /// `EAGAIN` when another lock is in the way; else the host's.
    pub fn lock_whole(&self, kind: LockKind) -> Result<()> {
        flock(
            self,
            match kind {
                LockKind::Shared => FlockOperation::NonBlockingLockShared,
                LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
                LockKind::None => FlockOperation::NonBlockingUnlock,
            },
        )
    }
}
