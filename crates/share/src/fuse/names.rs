//! Requests that make, remove and rename.

use rustix::fs::FileType;

use super::Server;
use super::wire::{Fields, Header, Opcode, Put, device_of};
use crate::{Creation, Errno, Exchange, Name, NodeId, OpenHow, Result};

/// `O_EXCL` on x86-64.
const EXCLUSIVE: u32 = 0o200;
/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE` (linux/fs.h).
const NO_REPLACE: u32 = 1;
const SWAP: u32 = 2;

impl Server {
    pub(super) fn make(&mut self, header: Header, opcode: Opcode, mut fields: Fields<'_>) -> Result<()> {
        let parent = NodeId::from_raw(header.node);
        let entry = match opcode {
            Opcode::SymLink => {
                let name = fields.name()?;
                self.tree.make_link(parent, name, fields.text()?, creation(header, 0))?
            }
            Opcode::Link => {
                let node = NodeId::from_raw(fields.u64()?);
                self.tree.link(node, parent, fields.name()?)?
            }
            Opcode::MkDir => {
                let mode = fields.u32()?;
                fields.skip(4)?; // the umask, which was applied
                self.tree.make_folder(parent, fields.name()?, creation(header, mode))?
            }
            _ => {
                let (mode, device) = (fields.u32()?, device_of(fields.u32()?));
                fields.skip(8)?;
                let kind = FileType::from_raw_mode(mode);
                self.tree.make_node(parent, fields.name()?, kind, device, creation(header, mode))?
            }
        };
        self.put_entry(&entry);
        Ok(())
    }

    pub(super) fn remove(&mut self, parent: NodeId, opcode: Opcode, mut fields: Fields<'_>) -> Result<()> {
        let name = fields.name()?;
        match opcode {
            Opcode::RmDir => self.tree.remove_folder(parent, name),
            _ => self.tree.unlink(parent, name),
        }
    }

    pub(super) fn rename(&mut self, parent: NodeId, opcode: Opcode, mut fields: Fields<'_>) -> Result<()> {
        let new_parent = NodeId::from_raw(fields.u64()?);
        let flags = if opcode == Opcode::Rename2 { fields.u32()? } else { 0 };
        if opcode == Opcode::Rename2 {
            fields.skip(4)?;
        }
        let exchange = match flags {
            0 => Exchange::Replace,
            NO_REPLACE => Exchange::Refuse,
            SWAP => Exchange::Swap,
            _ => return Err(Errno::INVAL),
        };
        let (name, new_name): (Name<'_>, Name<'_>) = (fields.name()?, fields.name()?);
        self.tree.rename((parent, name), (new_parent, new_name), exchange)
    }

    pub(super) fn create(&mut self, header: Header, opcode: Opcode, mut fields: Fields<'_>) -> Result<()> {
        let parent = NodeId::from_raw(header.node);
        let (flags, mode) = (fields.u32()?, fields.u32()?);
        fields.skip(8)?; // the umask, and what only concerns a file that is there
        let creation = creation(header, mode);
        let how = self.how(flags);
        let (entry, file) = match opcode {
            Opcode::Create => {
                self.tree.create(parent, fields.name()?, creation, how, flags & EXCLUSIVE != 0)?
            }
            _ => self.tree.create_nameless(parent, creation, how)?,
        };
        self.put_entry(&entry);
        let handle = self.new_handle();
        self.files.insert(handle, file);
        self.output.u64(handle);
        self.output.u32(self.open_flags());
        self.output.u32(0);
        Ok(())
    }

    /// A guest that collects writes reads what it writes a part of, and appends by itself.
    pub(super) fn how(&self, flags: u32) -> OpenHow {
        let how = OpenHow::from_flags(flags);
        if self.writes_back() { OpenHow { read: true, append: false, ..how } } else { how }
    }
}

fn creation(header: Header, mode: u32) -> Creation {
    Creation { mode, uid: header.uid, gid: header.gid }
}
