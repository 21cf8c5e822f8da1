//! Record locks.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Server;
use super::fids::Open;
use super::wire::Fields;
use crate::{Errno, Lock, LockKind, NodeId, Result};

/// Types of locks (`P9_LOCK_TYPE_*`).
const SHARED: u8 = 0;
const EXCLUSIVE: u8 = 1;
const NONE: u8 = 2;

/// What became of a lock (`P9_LOCK_*`). A client that wants to wait asks again.
const SUCCESS: u8 = 0;
const BLOCKED: u8 = 1;

/// A lock of some process of some client.
struct Wanted<'a> {
    lock: Lock,
    /// 0 for all that is behind the start.
    length: u64,
    client: &'a [u8],
}

impl<'a> Wanted<'a> {
    /// `start[8] length[8] proc_id[4] client_id[s]`.
    fn parse(kind: u8, fields: &mut Fields<'a>) -> Result<Self> {
        let kind = match kind {
            SHARED => LockKind::Shared,
            EXCLUSIVE => LockKind::Exclusive,
            NONE => LockKind::None,
            _ => return Err(Errno::INVAL),
        };
        let (start, length) = (fields.u64()?, fields.u64()?);
        let last = match length.checked_sub(1) {
            Some(before) => start.checked_add(before).ok_or(Errno::INVAL)?,
            None => u64::MAX,
        };
        let process = fields.u32()?;
        Ok(Self { lock: Lock { kind, start, last, process }, length, client: fields.string()? })
    }

    fn owner(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.client, self.lock.process).hash(&mut hasher);
        hasher.finish()
    }
}

impl Server {
    /// `fid[4] type[1] flags[4] start[8] length[8] proc_id[4] client_id[s]`, answered by `status[1]`.
    pub(super) fn lock(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, kind, _flags) = (fields.u32()?, fields.u8()?, fields.u32()?);
        let wanted = Wanted::parse(kind, fields)?;
        let node = self.file_node(number)?;
        let owner = wanted.owner();
        if wanted.lock.kind == LockKind::None && wanted.lock.start == 0 && wanted.length == 0 {
            self.tree.release_locks(node, owner);
            self.answer.u8(SUCCESS);
            return Ok(());
        }
        match self.tree.set_lock(node, owner, wanted.lock) {
            Ok(()) => self.answer.u8(SUCCESS),
            Err(Errno::AGAIN) => self.answer.u8(BLOCKED),
            Err(errno) => return Err(errno),
        }
        if let Open::File(_, lockers) = self.fids.open_mut(number)?
            && !lockers.contains(&owner)
        {
            lockers.push(owner);
        }
        Ok(())
    }

    /// `fid[4] type[1] start[8] length[8] proc_id[4] client_id[s]`, answered by the same of a lock that is in the way, or with
    /// the type of none.
    pub(super) fn getlock(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, kind) = (fields.u32()?, fields.u8()?);
        let wanted = Wanted::parse(kind, fields)?;
        let node = self.file_node(number)?;
        let found = match wanted.lock.kind {
            LockKind::None => None,
            _ => self.tree.find_lock(node, wanted.owner(), wanted.lock)?,
        };
        let answer = &mut self.answer;
        match found {
            Some(lock) => {
                answer.u8(if lock.kind == LockKind::Shared { SHARED } else { EXCLUSIVE });
                answer.u64(lock.start);
                let to_end = lock.last >= i64::MAX.cast_unsigned();
                let length = lock.last.saturating_sub(lock.start).saturating_add(1);
                answer.u64(if to_end { 0 } else { length });
                answer.u32(lock.process);
            }
            None => {
                answer.u8(NONE);
                answer.u64(wanted.lock.start);
                answer.u64(wanted.length);
                answer.u32(wanted.lock.process);
            }
        }
        answer.string(wanted.client);
        Ok(())
    }

    /// The node of a handle that is an open file.
    fn file_node(&mut self, number: u32) -> Result<NodeId> {
        match self.fids.open_mut(number)? {
            Open::File(file, _) => Ok(file.node()),
            _ => Err(Errno::BADF),
        }
    }
}
