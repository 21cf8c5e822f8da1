//! Requests about one node: attributes, extended attributes, its file system.

use super::wire::{Fields, GETATTR_FH, Opcode, Put, fattr};
use super::{LONGEST_REQUEST, Server};
use crate::{Changes, Errno, NodeId, Result, SetTime, Time};

/// `W_OK` (unistd.h).
const WRITE_ACCESS: u32 = 2;
/// Length of a `fuse_forget_one`.
const FORGET_ONE: usize = 16;

impl Server {
    pub(super) fn lookup(&mut self, parent: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let entry = self.tree.lookup(parent, fields.name()?)?;
        self.put_entry(&entry);
        Ok(())
    }

    pub(super) fn forget(&mut self, node: NodeId, opcode: Opcode, mut fields: Fields<'_>) -> Result<()> {
        if opcode == Opcode::Forget {
            self.forget_one(node, fields.u64()?);
            return Ok(());
        }
        let count = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        fields.skip(4)?;
        for _ in 0..count.min(LONGEST_REQUEST / FORGET_ONE) {
            let node = NodeId::from_raw(fields.u64()?);
            self.forget_one(node, fields.u64()?);
        }
        Ok(())
    }

    fn forget_one(&mut self, node: NodeId, count: u64) {
        self.kept_files.remove(node);
        self.kept_folders.remove(node);
        self.tree.forget(node, count);
    }

    pub(super) fn get_attributes(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let flags = fields.u32()?;
        fields.skip(4)?;
        let file = if flags & GETATTR_FH != 0 { self.files.get(&fields.u64()?) } else { None };
        let attributes = match file.cloned() {
            Some(file) => self.tree.attributes_of_open(&file)?,
            None => self.tree.attributes(node)?,
        };
        self.put_attributes(&attributes);
        Ok(())
    }

    pub(super) fn set_attributes(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let valid = fields.u32()?;
        fields.skip(4)?;
        let (handle, size, _owner) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let seconds = [fields.u64()?, fields.u64()?, fields.u64()?];
        let nanoseconds = [fields.u32()?, fields.u32()?, fields.u32()?];
        let mode = fields.u32()?;
        fields.skip(4)?;
        let (uid, gid) = (fields.u32()?, fields.u32()?);
        let has = |flag| valid & flag != 0;
        let [access, modification, _] = seconds;
        let [access_part, modification_part, _] = nanoseconds;
        let time = |flag, now, seconds: u64, nanoseconds| match (has(flag), has(now)) {
            (_, true) => Some(SetTime::Now),
            (true, false) => Some(SetTime::At(Time { seconds: seconds.cast_signed(), nanoseconds })),
            (false, false) => None,
        };
        let changes = Changes {
            mode: has(fattr::MODE).then_some(mode),
            uid: has(fattr::UID).then_some(uid),
            gid: has(fattr::GID).then_some(gid),
            size: has(fattr::SIZE).then_some(size),
            accessed: time(fattr::ATIME, fattr::ATIME_NOW, access, access_part),
            modified: time(fattr::MTIME, fattr::MTIME_NOW, modification, modification_part),
            take_back_loans: has(fattr::KILL_SUIDGID),
        };
        let file = if has(fattr::FH) { self.files.get(&handle).cloned() } else { None };
        let attributes = self.tree.change(node, file.as_deref(), &changes)?;
        self.put_attributes(&attributes);
        Ok(())
    }

    pub(super) fn read_link(&mut self, node: NodeId) -> Result<()> {
        let target = self.tree.read_link(node)?;
        self.output.extend_from_slice(&target);
        Ok(())
    }

    /// The guest's kernel checks permissions by the attributes.
    pub(super) fn access(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let mask = fields.u32()?;
        self.tree.attributes(node)?;
        if mask & WRITE_ACCESS != 0 && !self.tree.is_writable() { Err(Errno::ROFS) } else { Ok(()) }
    }

    pub(super) fn file_system(&mut self, node: NodeId) -> Result<()> {
        let it = self.tree.file_system(node)?;
        let small = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        for field in [it.f_blocks, it.f_bfree, it.f_bavail, it.f_files, it.f_ffree] {
            self.output.u64(field);
        }
        for field in [small(it.f_bsize), small(it.f_namelen), small(it.f_frsize)] {
            self.output.u32(field);
        }
        self.output.extend_from_slice(&[0; 28]); // padding and spare
        Ok(())
    }

    pub(super) fn sync_file_system(&mut self, node: NodeId) -> Result<()> {
        self.tree.sync_file_system(node)
    }

    pub(super) fn set_xattr(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let name = fields.text()?;
        let value = fields.bytes(usize::try_from(size).map_err(|_| Errno::TOOBIG)?)?;
        self.tree.set_xattr(node, name, value, flags)
    }

    /// Values and lists alike: the guest says how much room it has, or asks how much it needs.
    pub(super) fn get_xattr(&mut self, node: NodeId, opcode: Opcode, mut fields: Fields<'_>) -> Result<()> {
        let size = fields.u32()?;
        fields.skip(4)?;
        let value = match opcode {
            Opcode::GetXattr => self.tree.xattr(node, fields.text()?)?,
            _ => self.tree.xattrs(node)?,
        };
        let length = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
        match size {
            0 => {
                self.output.u32(length);
                self.output.u32(0);
            }
            room if room < length => return Err(Errno::RANGE),
            _ => self.output.extend_from_slice(&value),
        }
        Ok(())
    }

    pub(super) fn remove_xattr(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        self.tree.remove_xattr(node, fields.text()?)
    }
}
