//! Beginning, handles, and their end.

use super::fids::{Fid, Open};
use super::wire::{DIALECT, Fields, MOST_NAMES, NO_DIALECT, NO_FID, Qid};
use super::{LEAST_MESSAGE, MOST_MESSAGE, Server};
use crate::{Errno, Name, NodeId, Result};

impl Server {
    /// Begins anew: `msize[4] version[s]`, answered by `msize[4] version[s]`.
    pub(super) fn version(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (wanted, dialect) = (fields.u32()?, fields.string()?);
        self.reset();
        if wanted < LEAST_MESSAGE {
            return Err(Errno::MSGSIZE);
        }
        let largest = wanted.min(MOST_MESSAGE);
        let is_ours = dialect == DIALECT;
        self.largest = is_ours.then_some(largest);
        self.answer.u32(largest);
        self.answer.string(if is_ours { DIALECT } else { NO_DIALECT });
        Ok(())
    }

    /// Gives a user the root: `fid[4] afid[4] uname[s] aname[s] n_uname[4]`, answered by its qid. There is one tree, whatever
    /// the client calls it.
    pub(super) fn attach(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, auth) = (fields.u32()?, fields.u32()?);
        let (_name, _tree) = (fields.string()?, fields.string()?);
        let user = fields.u32()?;
        if auth != NO_FID {
            return Err(Errno::BADF);
        }
        self.fids.check_new(number)?;
        let attributes = self.tree.attributes(NodeId::ROOT)?;
        self.fids.add(number, Fid { node: NodeId::ROOT, user, open: None });
        self.answer.qid(Qid::of(&attributes));
        Ok(())
    }

    /// Goes from one handle to another by names: `fid[4] newfid[4] nwname[2] nwname*(wname[s])`, answered by
    /// `nwqid[2] nwqid*(qid[13])`. Where a name is not found, the answer tells how far it went, and there is no new handle.
    pub(super) fn walk(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, new_number, count) = (fields.u32()?, fields.u32()?, fields.u16()?);
        if count > MOST_NAMES {
            return Err(Errno::PROTO);
        }
        let fid = self.fids.get(number)?;
        let (start, user) = (fid.node, fid.user);
        if new_number == number {
            self.fids.closed(number)?;
        } else {
            self.fids.check_new(new_number)?;
        }
        self.tree.remember(start)?;
        self.answer.u16(count);
        let mut node = start;
        for done in 0..count {
            let next = fields.string().and_then(|name| self.step(node, name));
            self.tree.forget(node, 1);
            node = match next {
                Ok(next) => next,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => {
                    self.answer.set_count(done.to_le_bytes());
                    return Ok(());
                }
            };
        }
        if new_number == number {
            let old = self.fids.replace(number, node, None)?;
            self.tree.forget(old, 1);
        } else {
            self.fids.add(new_number, Fid { node, user, open: None });
        }
        Ok(())
    }

    /// One name further, with a reference; adds the qid to the answer.
    fn step(&mut self, node: NodeId, name: &[u8]) -> Result<NodeId> {
        let (next, attributes) = if name == b".." {
            let parent = self.tree.parent(node)?;
            let attributes = self.tree.attributes(parent)?;
            self.tree.remember(parent)?;
            (parent, attributes)
        } else {
            let entry = self.tree.lookup(node, Name::new(name)?)?;
            (entry.node, entry.attributes)
        };
        self.answer.qid(Qid::of(&attributes));
        Ok(next)
    }

    /// Gives up a handle: `fid[4]`. An attribute that was written by it is set.
    pub(super) fn clunk(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let number = fields.u32()?;
        let Fid { node, open, .. } = self.fids.remove(number)?;
        let outcome = match open.map(|open| *open) {
            Some(Open::NewXattr(new)) => self.set_xattr(node, &new),
            Some(Open::File(_, lockers)) => {
                // Whoever locked through an open file has closed it (close(2)).
                lockers.into_iter().for_each(|owner| self.tree.release_locks(node, owner));
                Ok(())
            }
            Some(Open::Folder(_) | Open::Xattr(_)) | None => Ok(()),
        };
        self.tree.forget(node, 1);
        outcome
    }
}
