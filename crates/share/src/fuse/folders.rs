//! Requests about the content of folders.

use super::wire::{Fields, Opcode, Put, fopen};
use super::{Cache, LARGEST_TRANSFER, Server};
use crate::{Entry, Errno, FolderEntry, FolderReader, Kind, Name, NodeId, Result};

/// Length of a `fuse_dirent` before its name, which is padded to 8 bytes.
const ENTRY: usize = 24;
/// Length of a `fuse_entry_out`, which comes first in answers to READDIRPLUS.
const PLUS: usize = 128;
const ALIGNMENT: usize = 8;

impl Server {
    pub(super) fn open_folder(&mut self, node: NodeId) -> Result<()> {
        if self.needs_no_open_of_folders() {
            return Err(Errno::NOSYS);
        }
        let folder = self.tree.open_folder(node)?;
        let handle = self.new_handle();
        self.folders.insert(handle, folder);
        self.output.u64(handle);
        self.output.u32(if self.cache == Cache::Always { fopen::KEEP_CACHE | fopen::CACHE_DIR } else { 0 });
        self.output.u32(0);
        Ok(())
    }

    pub(super) fn release_folder(&mut self, mut fields: Fields<'_>) -> Result<()> {
        self.folders.remove(&fields.u64()?);
        Ok(())
    }

    pub(super) fn read_folder(
        &mut self,
        node: NodeId,
        opcode: Opcode,
        mut fields: Fields<'_>,
        room: usize,
    ) -> Result<()> {
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let size = usize::try_from(size.min(LARGEST_TRANSFER)).map_err(|_| Errno::INVAL)?.min(room);
        let plus = opcode == Opcode::ReadDirPlus;
        if self.needs_no_open_of_folders() {
            let mut folder = match self.kept_folders.take(node) {
                Some(folder) => folder,
                None => self.tree.open_folder(node)?,
            };
            let outcome = self.fill(&mut folder, offset, size, plus);
            self.kept_folders.insert(node, folder);
            return outcome;
        }
        let mut folder = self.folders.remove(&handle).ok_or(Errno::BADF)?;
        let outcome = self.fill(&mut folder, offset, size, plus);
        self.folders.insert(handle, folder);
        outcome
    }

    /// Puts as many entries into the answer as fit.
    fn fill(&mut self, folder: &mut FolderReader, offset: u64, size: usize, plus: bool) -> Result<()> {
        folder.seek(offset)?;
        let start = self.output.len();
        while let Some(entry) = folder.read()? {
            let length = ENTRY.saturating_add(entry.name().len()).next_multiple_of(ALIGNMENT);
            let length = if plus { length.saturating_add(PLUS) } else { length };
            if self.output.len().saturating_sub(start).saturating_add(length) > size {
                folder.put_back(entry);
                break;
            }
            let kind = if plus { self.put_plus(folder, &entry) } else { entry.kind() };
            self.put_name(folder, &entry, kind);
        }
        Ok(())
    }

    /// What LOOKUP would say. `.` and `..` have no node here, and neither has what is gone by now.
    fn put_plus(&mut self, folder: &FolderReader, entry: &FolderEntry) -> Kind {
        match self.tree.lookup_in(folder, entry) {
            Ok(Entry { node, attributes }) => {
                self.put_entry(&Entry { node, attributes });
                attributes.kind()
            }
            Err(_) => {
                let length = self.output.len().saturating_add(PLUS);
                self.output.resize(length, 0);
                entry.kind()
            }
        }
    }

    /// `fuse_dirent`.
    fn put_name(&mut self, folder: &FolderReader, entry: &FolderEntry, kind: Kind) {
        let name = entry.name();
        // The number of what is above the root is nobody's business.
        let inode = if Name::new(name).is_err() { folder.node().raw() } else { entry.inode() };
        self.output.u64(inode);
        self.output.u64(entry.next());
        self.output.u32(u32::try_from(name.len()).unwrap_or_default());
        self.output.u32(kind.as_raw_mode() >> 12);
        self.output.extend_from_slice(name);
        let padded = name.len().next_multiple_of(ALIGNMENT).saturating_sub(name.len());
        self.output.resize(self.output.len().saturating_add(padded), 0);
    }
}
