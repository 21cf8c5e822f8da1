//! Requests about the content of files.

use std::io::{Read, Write};
use std::sync::Arc;

use snowboot_virtio::DescriptorChain;

use super::wire::{
    FSYNC_FDATASYNC, Fields, Header, OUT_HEADER, Put, RELEASE_FLOCK_UNLOCK, WRITE_KILL_SUIDGID, fields, fopen,
};
use super::{Cache, LARGEST_TRANSFER, Server, out_header};
use crate::{Errno, LockKind, NodeId, OpenFile, OpenHow, Result};

/// Length of `fuse_read_in` and of `fuse_write_in`.
const TRANSFER: usize = 40;
/// `SEEK_DATA` and `SEEK_HOLE` (unistd.h).
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// The fields that reading and writing have in common.
struct Transfer {
    handle: u64,
    offset: u64,
    size: u32,
    flags: u32,
}

impl Transfer {
    fn parse(chain: &mut DescriptorChain) -> Result<Self> {
        let mut bytes = [0; TRANSFER];
        chain.reader.read_exact(&mut bytes).map_err(|_| Errno::INVAL)?;
        let mut fields = fields(&bytes);
        let (handle, offset) = (fields.u64()?, fields.u64()?);
        let (size, flags) = (fields.u32()?, fields.u32()?);
        if size > LARGEST_TRANSFER { Err(Errno::INVAL) } else { Ok(Self { handle, offset, size, flags }) }
    }
}

impl Server {
    pub(super) fn open(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        if self.needs_no_open() {
            return Err(Errno::NOSYS);
        }
        let how = self.how(fields.u32()?);
        let file = match self.tree.open_file(node, how) {
            // Who may only write is not read for.
            Err(Errno::ACCESS) if how.write && how.read => {
                self.tree.open_file(node, OpenHow { read: false, ..how })?
            }
            outcome => outcome?,
        };
        let handle = self.new_handle();
        self.files.insert(handle, file);
        self.output.u64(handle);
        self.output.u32(self.open_flags());
        self.output.u32(0);
        Ok(())
    }

    pub(super) fn open_flags(&self) -> u32 {
        match self.cache {
            Cache::Always => fopen::KEEP_CACHE,
            Cache::Auto => 0,
            Cache::Never => fopen::DIRECT_IO,
        }
    }

    /// The file that a handle stands for; one of its own where the guest opens none.
    fn file(&mut self, node: NodeId, handle: u64) -> Result<Arc<OpenFile>> {
        if let Some(file) = self.files.get(&handle) {
            return Ok(Arc::clone(file));
        }
        if !self.needs_no_open() {
            return Err(Errno::BADF);
        }
        if let Some(file) = self.kept_files.get(node) {
            return Ok(Arc::clone(file));
        }
        let file = self.tree.open_file(node, OpenHow::READ)?;
        self.kept_files.insert(node, Arc::clone(&file));
        Ok(file)
    }

    pub(super) fn read(&mut self, header: Header, chain: &mut DescriptorChain) {
        if let Err(errno) = self.try_read(header, chain) {
            self.fail(header, chain, errno);
        }
    }

    fn try_read(&mut self, header: Header, chain: &mut DescriptorChain) -> Result<()> {
        let request = Transfer::parse(chain)?;
        let file = self.file(NodeId::from_raw(header.node), request.handle)?;
        let size = usize::try_from(request.size).map_err(|_| Errno::INVAL)?;
        let room = chain.writer.remaining().checked_sub(OUT_HEADER).ok_or(Errno::INVAL)?;
        if room < size {
            return Err(Errno::INVAL);
        }
        let mut data = chain.writer.split_at(OUT_HEADER).map_err(|_| Errno::INVAL)?;
        let read = file.read_at(&mut data, request.offset, size);
        match &read {
            Ok(count) => {
                let length = OUT_HEADER.saturating_add(*count);
                let _ = chain.writer.write_all(&out_header(length, 0, header.unique));
                chain.writer.join(data);
            }
            Err(errno) => self.fail(header, chain, *errno),
        }
        Ok(())
    }

    pub(super) fn write(&mut self, header: Header, chain: &mut DescriptorChain) {
        match self.try_write(header, chain) {
            Ok(count) => {
                self.output.clear();
                self.output.resize(OUT_HEADER, 0);
                self.output.u32(count);
                self.output.u32(0);
                self.answer(header, chain);
            }
            Err(errno) => self.fail(header, chain, errno),
        }
    }

    fn try_write(&mut self, header: Header, chain: &mut DescriptorChain) -> Result<u32> {
        let request = Transfer::parse(chain)?;
        if !self.tree.is_writable() {
            return Err(Errno::ROFS);
        }
        let file = self.file(NodeId::from_raw(header.node), request.handle)?;
        let size = usize::try_from(request.size).map_err(|_| Errno::INVAL)?;
        if chain.reader.remaining() < size {
            return Err(Errno::INVAL);
        }
        let count = file.write_at(&mut chain.reader, request.offset, size)?;
        if request.flags & WRITE_KILL_SUIDGID != 0 {
            self.tree.take_back_loans(&*file)?;
        }
        u32::try_from(count).map_err(|_| Errno::INVAL)
    }

    pub(super) fn release(&mut self, mut fields: Fields<'_>) -> Result<()> {
        let handle = fields.u64()?;
        fields.skip(4)?;
        let (flags, owner) = (fields.u32()?, fields.u64()?);
        let Some(file) = self.files.remove(&handle) else { return Ok(()) };
        if flags & RELEASE_FLOCK_UNLOCK != 0 {
            file.lock_whole(LockKind::None)?;
        }
        self.tree.release_locks(file.node(), owner);
        Ok(())
    }

    /// A program has closed one of its descriptors.
    pub(super) fn flush(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        if !self.tree.is_writable() {
            // There are no locks to take back: the guest need not come again.
            return Err(Errno::NOSYS);
        }
        fields.skip(16)?;
        self.tree.release_locks(node, fields.u64()?);
        Ok(())
    }

    pub(super) fn sync(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let handle = fields.u64()?;
        let only_content = fields.u32()? & FSYNC_FDATASYNC != 0;
        self.file(node, handle)?.sync(only_content)
    }

    pub(super) fn allocate(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let (handle, offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let mode = fields.u32()?;
        if !self.tree.is_writable() {
            return Err(Errno::ROFS);
        }
        self.file(node, handle)?.allocate(mode, offset, length)
    }

    pub(super) fn seek(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let (handle, offset) = (fields.u64()?, fields.u64()?);
        let hole = match fields.u32()? {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return Err(Errno::INVAL),
        };
        let found = self.file(node, handle)?.seek_data(offset, hole)?;
        self.output.u64(found);
        Ok(())
    }

    pub(super) fn copy(&mut self, node: NodeId, mut fields: Fields<'_>) -> Result<()> {
        let (handle, offset) = (fields.u64()?, fields.u64()?);
        let (to_node, to_handle, to_offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (length, flags) = (fields.u64()?, fields.u64()?);
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        if !self.tree.is_writable() {
            return Err(Errno::ROFS);
        }
        let from = self.file(node, handle)?;
        let to = self.file(NodeId::from_raw(to_node), to_handle)?;
        // One turn is not to last: the guest goes on from where it was left.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(MOST_COPIED);
        let count = from.copy_to(offset, &to, to_offset, length)?;
        self.output.u32(u32::try_from(count).map_err(|_| Errno::INVAL)?);
        self.output.u32(0);
        Ok(())
    }
}

/// The most bytes that are copied within the host in one request, in case it cannot share blocks.
const MOST_COPIED: usize = 16 << 20;
