//! Opening, and content.

use std::io::{Read, Write};

use snowboot_virtio::{Reader, Writer};

use super::Server;
use super::fids::Open;
use super::wire::{Answer, Fields, HEADER, Header, Qid, READ_HEADER, WRITE_FIELDS, entry_kind, fields, kind};
use crate::{Errno, FolderReader, OpenHow, Result};

/// What an entry of a folder has besides its name: `qid[13] offset[8] type[1] name[s]`.
const ENTRY: usize = 13 + 8 + 1 + 2;
/// No advice on how much to read or write at once: as much as a message holds.
const NO_UNIT: u32 = 0;

impl Server {
    /// `fid[4] flags[4]`, answered by `qid[13] iounit[4]`.
    pub(super) fn lopen(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, flags) = (fields.u32()?, fields.u32()?);
        let node = self.fids.closed(number)?;
        // The dialect has its own numbers for flags, which are those of x86-64.
        let how = OpenHow::from_flags(flags);
        let (open, attributes) = match self.tree.open_file(node, how) {
            Ok(file) => {
                let attributes = self.tree.attributes_of_open(&file)?;
                (Open::File(file, Vec::new()), attributes)
            }
            Err(Errno::ISDIR) if !how.write => {
                let folder = self.tree.open_folder(node)?;
                (Open::Folder(folder), self.tree.attributes(node)?)
            }
            Err(errno) => return Err(errno),
        };
        self.fids.replace(number, node, Some(open))?;
        self.answer.qid(Qid::of(&attributes));
        self.answer.u32(NO_UNIT);
        Ok(())
    }

    /// `fid[4] offset[8] count[4]`, answered by `count[4] data[count]`.
    pub(super) fn read(
        &mut self,
        header: Header,
        fields: &mut Fields<'_>,
        writer: &mut Writer,
    ) -> Result<()> {
        let (number, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let room = self.room(writer).saturating_sub(READ_HEADER);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(room);
        match self.fids.open_mut(number)? {
            Open::File(file, _) => {
                // An error, as long as what precedes the data, still fits without it.
                let mut data = writer.split_at(READ_HEADER).map_err(|_| Errno::MSGSIZE)?;
                let count = file.read_at(&mut data, offset, count)?;
                let _ = writer.write_all(&read_header(header, count));
                writer.join(data);
            }
            Open::Xattr(value) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = value.get(from..).unwrap_or_default();
                let part = rest.get(..count).unwrap_or(rest);
                let _ = writer.write_all(&read_header(header, part.len()));
                let _ = writer.write_all(part);
            }
            Open::Folder(_) => return Err(Errno::ISDIR),
            Open::NewXattr(_) => return Err(Errno::BADF),
        }
        Ok(())
    }

    /// `fid[4] offset[8] count[4] data[count]`, answered by `count[4]`; `length` is that of the message after its header.
    pub(super) fn write(
        &mut self,
        header: Header,
        length: usize,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<()> {
        let data = length.checked_sub(WRITE_FIELDS).ok_or(Errno::PROTO)?;
        let mut bytes = [0; WRITE_FIELDS];
        reader.read_exact(&mut bytes).map_err(|_| Errno::PROTO)?;
        let mut fields = fields(&bytes);
        let (number, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let count = usize::try_from(count).ok().filter(|count| *count <= data).ok_or(Errno::PROTO)?;
        let written = match self.fids.open_mut(number)? {
            Open::File(file, _) => file.write_at(reader, offset, count)?,
            Open::NewXattr(new) => {
                let place = usize::try_from(offset).ok().filter(|offset| *offset == new.value.len());
                let end = place.and_then(|place| place.checked_add(count)).filter(|end| *end <= new.size);
                new.value.resize(end.ok_or(Errno::INVAL)?, 0);
                let part = new.value.get_mut(place.unwrap_or_default()..).unwrap_or_default();
                reader.read_exact(part).map_err(|_| Errno::IO)?;
                count
            }
            Open::Folder(_) => return Err(Errno::ISDIR),
            Open::Xattr(_) => return Err(Errno::BADF),
        };
        self.answer.clear();
        self.answer.u32(u32::try_from(written).map_err(|_| Errno::IO)?);
        self.send(header, writer)
    }

    /// `fid[4] offset[8] count[4]`, answered by `count[4]` bytes of entries, as many as fit.
    pub(super) fn readdir(&mut self, fields: &mut Fields<'_>, room: usize) -> Result<()> {
        let (number, offset, count) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(room.saturating_sub(READ_HEADER));
        let Open::Folder(folder) = self.fids.open_mut(number)? else { return Err(Errno::NOTDIR) };
        folder.seek(offset)?;
        self.answer.u32(0);
        list(folder, &mut self.answer, READ_HEADER.saturating_add(count))?;
        let length = self.answer.len().saturating_sub(READ_HEADER);
        self.answer.set_count(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        Ok(())
    }

    /// `fid[4] datasync[4]`; old clients leave out the last.
    pub(super) fn fsync(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let number = fields.u32()?;
        let only_content = !fields.is_empty() && fields.u32()? != 0;
        let node = self.fids.get(number)?.node;
        match self.fids.open_mut(number)? {
            Open::File(file, _) => file.sync(only_content),
            Open::Folder(_) => self.tree.sync_folder(node),
            Open::Xattr(_) | Open::NewXattr(_) => Err(Errno::BADF),
        }
    }
}

fn read_header(request: Header, count: usize) -> [u8; READ_HEADER] {
    let mut bytes = [0; READ_HEADER];
    let (header, field) = bytes.split_at_mut(HEADER);
    header.copy_from_slice(&request.answer(kind::READ + 1, READ_HEADER.saturating_add(count)));
    field.copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    bytes
}

/// Adds entries to an answer until it would be longer than `end`.
fn list(folder: &mut FolderReader, answer: &mut Answer, end: usize) -> Result<()> {
    let start = answer.len();
    loop {
        let entry = match folder.read() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(_) if answer.len() > start => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let length = ENTRY.saturating_add(entry.name().len());
        if answer.len().saturating_add(length) > end {
            folder.put_back(entry);
            // Nothing at all would be the end.
            return if answer.len() > start { Ok(()) } else { Err(Errno::INVAL) };
        }
        answer.qid(Qid::of_entry(entry.kind(), entry.inode()));
        answer.u64(entry.next());
        answer.u8(entry_kind(entry.kind()));
        answer.string(entry.name());
    }
}
