//! Names: making, linking, renaming, removing.

use super::Server;
use super::fids::Open;
use super::wire::{Fields, Qid};
use crate::{Creation, Entry, Errno, Exchange, Kind, Name, NodeId, OpenHow, Result};

/// `O_EXCL` (`P9_DOTL_EXCL`).
const EXCLUSIVE: u32 = 0o200;
/// `AT_REMOVEDIR` (`P9_DOTL_AT_REMOVEDIR`).
const REMOVE_FOLDER: u32 = 0x200;
/// The largest target of a symbolic link (`PATH_MAX`, limits.h).
const LONGEST_TARGET: usize = 4096;

impl Server {
    /// `fid[4] name[s] flags[4] mode[4] gid[4]`, answered by `qid[13] iounit[4]`; the handle becomes the new file's.
    pub(super) fn lcreate(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, name) = (fields.u32()?, Name::new(fields.string()?)?);
        let (flags, mode, group) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let folder = self.fids.closed(number)?;
        let creation = self.creation(number, mode, group)?;
        let how = OpenHow::from_flags(flags);
        let (entry, file) = self.tree.create(folder, name, creation, how, flags & EXCLUSIVE != 0)?;
        self.fids.replace(number, entry.node, Some(Open::File(file, Vec::new())))?;
        self.tree.forget(folder, 1);
        self.answer.qid(Qid::of(&entry.attributes));
        self.answer.u32(0);
        Ok(())
    }

    /// `dfid[4] name[s] symtgt[s] gid[4]`, answered by the qid.
    pub(super) fn symlink(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, name) = (fields.u32()?, Name::new(fields.string()?)?);
        let (target, group) = (fields.string()?, fields.u32()?);
        if target.len() >= LONGEST_TARGET {
            return Err(Errno::NAMETOOLONG);
        }
        let creation = self.creation(number, 0o777, group)?;
        let folder = self.fids.get(number)?.node;
        let entry = self.tree.make_link(folder, name, target, creation)?;
        self.made(entry);
        Ok(())
    }

    /// `dfid[4] name[s] mode[4] major[4] minor[4] gid[4]`, answered by the qid.
    pub(super) fn mknod(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, name) = (fields.u32()?, Name::new(fields.string()?)?);
        let (mode, device) = (fields.u32()?, (fields.u32()?, fields.u32()?));
        let creation = self.creation(number, mode, fields.u32()?)?;
        let folder = self.fids.get(number)?.node;
        let entry = self.tree.make_node(folder, name, Kind::from_raw_mode(mode), device, creation)?;
        self.made(entry);
        Ok(())
    }

    /// `dfid[4] name[s] mode[4] gid[4]`, answered by the qid.
    pub(super) fn mkdir(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, name) = (fields.u32()?, Name::new(fields.string()?)?);
        let mode = fields.u32()?;
        let creation = self.creation(number, mode, fields.u32()?)?;
        let folder = self.fids.get(number)?.node;
        let entry = self.tree.make_folder(folder, name, creation)?;
        self.made(entry);
        Ok(())
    }

    /// Whose something new is. A process without privilege cannot give files to others: then they are its own, which the guest
    /// sees as root's.
    fn creation(&self, number: u32, mode: u32, group: u32) -> Result<Creation> {
        let user = self.fids.get(number)?.user;
        let (uid, gid) = if self.tree.can_give_away() { (user, group) } else { (0, 0) };
        Ok(Creation { mode, uid, gid })
    }

    /// The client walks to what it made, if it wants it.
    fn made(&mut self, entry: Entry) {
        self.answer.qid(Qid::of(&entry.attributes));
        self.tree.forget(entry.node, 1);
    }

    /// `dfid[4] fid[4] name[s]`.
    pub(super) fn link(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (folder, file) = (fields.u32()?, fields.u32()?);
        let name = Name::new(fields.string()?)?;
        let (folder, node) = (self.fids.get(folder)?.node, self.fids.get(file)?.node);
        let entry = self.tree.link(node, folder, name)?;
        self.tree.forget(entry.node, 1);
        Ok(())
    }

    /// `fid[4]`, answered by `target[s]`.
    pub(super) fn readlink(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let node = self.fids.get(fields.u32()?)?.node;
        let target = self.tree.read_link(node)?;
        self.answer.string(&target);
        Ok(())
    }

    /// `olddirfid[4] oldname[s] newdirfid[4] newname[s]`.
    pub(super) fn renameat(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (old_folder, old) = (fields.u32()?, Name::new(fields.string()?)?);
        let (new_folder, new) = (fields.u32()?, Name::new(fields.string()?)?);
        let (old_folder, new_folder) = (self.fids.get(old_folder)?.node, self.fids.get(new_folder)?.node);
        self.tree.rename((old_folder, old), (new_folder, new), Exchange::Replace)
    }

    /// The old form: `fid[4] dfid[4] name[s]`.
    pub(super) fn rename(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (file, new_folder) = (fields.u32()?, fields.u32()?);
        let new = Name::new(fields.string()?)?;
        let (node, new_folder) = (self.fids.get(file)?.node, self.fids.get(new_folder)?.node);
        let (folder, old) = self.tree.place(node)?;
        self.tree.rename((folder, Name::new(&old)?), (new_folder, new), Exchange::Replace)
    }

    /// `dirfd[4] name[s] flags[4]`.
    pub(super) fn unlinkat(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (folder, name) = (fields.u32()?, Name::new(fields.string()?)?);
        let flags = fields.u32()?;
        let folder = self.fids.get(folder)?.node;
        match flags {
            0 => self.tree.unlink(folder, name),
            REMOVE_FOLDER => self.tree.remove_folder(folder, name),
            _ => Err(Errno::INVAL),
        }
    }

    /// The old form: `fid[4]`, which is given up whatever comes of it.
    pub(super) fn remove(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let mut again = fields.clone();
        let node = self.fids.get(fields.u32()?)?.node;
        let outcome = self.remove_node(node);
        self.clunk(&mut again).and(outcome)
    }

    fn remove_node(&mut self, node: NodeId) -> Result<()> {
        let (folder, name) = self.tree.place(node)?;
        let name = Name::new(&name)?;
        match self.tree.unlink(folder, name) {
            Err(Errno::ISDIR) => self.tree.remove_folder(folder, name),
            outcome => outcome,
        }
    }
}
