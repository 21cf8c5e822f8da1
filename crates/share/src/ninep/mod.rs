//! 9P2000.L, as Linux's client speaks it (Documentation/filesystems/9p.rst).
//!
//! ```text
//!  request ──► header ──► fields ──► operation on handles and the tree ──► answer
//!                └─ data of Twrite, straight from guest memory to the file; that of Rread straight back
//! ```
//!
//! Requests are answered one after the other, so a flush finds nothing that is still to be done. The client itself asks
//! again for locks that it has to wait for.
//!
//! What cannot be understood is answered with `EPROTO`, a request that is not known with `EOPNOTSUPP`. A message whose header
//! is not there, or that has no room for an error in its answer, gets none: nobody could learn of it.

mod attach;
mod attributes;
mod data;
mod fids;
mod locks;
mod names;
mod wire;
mod xattr;

use std::io::{Read, Write};

use snowboot_virtio::{Reader, Writer};

use self::fids::Fids;
use self::wire::{Answer, ERROR, Fields, HEADER, Header, fields, kind};
use crate::trouble::Troubles;
use crate::{Errno, Result, Tree, Trouble};

/// The least that a client may want a message to be, in bytes: Linux's least.
const LEAST_MESSAGE: u32 = 4096;
/// The largest message, in bytes: what Linux's virtio transport can ask for is a little less.
const MOST_MESSAGE: u32 = 512 << 10;
/// The most bytes of a request besides written data. The longest that makes sense is a walk of 16 names; a name has a length of
/// 16 bits, and is to be told that it is too long.
const LONGEST_FIELDS: usize = 128 << 10;

/// A server of one tree to one client.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    fids: Fids,
    /// The most bytes of a message, once client and server have agreed.
    largest: Option<u32>,
    answer: Answer,
    fields: Vec<u8>,
    troubles: Troubles,
}

/// What a request has cost the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Not much.
    Little,
    /// It may have waited for storage.
    Storage,
}

impl Server {
    /// Serves `tree` to a client that has yet to say which version it speaks.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self {
            tree,
            fids: Fids::default(),
            largest: None,
            answer: Answer::new(),
            fields: Vec::new(),
            troubles: Troubles::default(),
        }
    }

    /// Forgets the client.
    pub fn reset(&mut self) {
        self.fids.clear();
        self.tree.reset();
        self.largest = None;
    }

    /// Whether a client has a handle, which means something to this server alone.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        !self.fids.is_empty()
    }

    /// Answers a request: reads it, and writes the answer.
    pub fn serve(&mut self, reader: &mut Reader, writer: &mut Writer) -> Cost {
        let mut header = [0; HEADER];
        if writer.remaining() < ERROR || reader.read_exact(&mut header).is_err() {
            return Cost::Little;
        }
        let header = Header::parse(header);
        if let Err(errno) = self.answer(header, reader, writer) {
            self.troubles.note(&self.tree, kind::what(header.kind), errno);
            self.answer.clear();
            self.answer.u32(errno.raw_os_error().cast_unsigned());
            let _ = writer.write_all(self.answer.finish(header, kind::ERROR_ANSWER));
        }
        if header.kind == kind::FSYNC { Cost::Storage } else { Cost::Little }
    }

    /// Why requests fail by the host's doing; each kind of it once.
    pub fn next_trouble(&mut self) -> Option<Trouble> {
        self.troubles.next()
    }

    fn answer(&mut self, header: Header, reader: &mut Reader, writer: &mut Writer) -> Result<()> {
        let length = self.fields_length(header, reader.remaining())?;
        if header.kind == kind::WRITE {
            return self.write(header, length, reader, writer);
        }
        let mut fields = std::mem::take(&mut self.fields);
        fields.resize(length, 0);
        let outcome = match reader.read_exact(&mut fields) {
            Ok(()) => self.answer_fields(header, &fields, writer),
            Err(_) => Err(Errno::IO),
        };
        self.fields = fields;
        outcome
    }

    /// The bytes of a message after its header.
    fn fields_length(&self, header: Header, available: usize) -> Result<usize> {
        let largest = match self.largest {
            Some(largest) => largest,
            None if header.kind == kind::VERSION => LEAST_MESSAGE,
            None => return Err(Errno::PROTO),
        };
        if header.size > largest {
            return Err(Errno::MSGSIZE);
        }
        let size = usize::try_from(header.size).map_err(|_| Errno::MSGSIZE)?;
        let length = size.checked_sub(HEADER).filter(|length| *length <= available).ok_or(Errno::PROTO)?;
        if header.kind != kind::WRITE && length > LONGEST_FIELDS { Err(Errno::MSGSIZE) } else { Ok(length) }
    }

    fn answer_fields(&mut self, header: Header, bytes: &[u8], writer: &mut Writer) -> Result<()> {
        let mut fields = fields(bytes);
        if header.kind == kind::READ {
            return self.read(header, &mut fields, writer);
        }
        self.answer.clear();
        let room = self.room(writer);
        self.run(header.kind, &mut fields, room)?;
        self.send(header, writer)
    }

    /// Bytes that an answer can have.
    fn room(&self, writer: &Writer) -> usize {
        let largest = self.largest.unwrap_or(LEAST_MESSAGE);
        writer.remaining().min(usize::try_from(largest).unwrap_or(usize::MAX))
    }

    fn send(&mut self, header: Header, writer: &mut Writer) -> Result<()> {
        if self.answer.len() > self.room(writer) {
            return Err(Errno::MSGSIZE);
        }
        // It fits, and guest memory does not go away.
        let _ = writer.write_all(self.answer.finish(header, header.kind.saturating_add(1)));
        Ok(())
    }

    /// Does what a request says, and puts the fields of its answer together; `room` is what the whole answer can have.
    fn run(&mut self, kind: u8, fields: &mut Fields<'_>, room: usize) -> Result<()> {
        match kind {
            kind::WALK => self.walk(fields),
            kind::GETATTR => self.getattr(fields),
            kind::CLUNK => self.clunk(fields),
            kind::LOPEN => self.lopen(fields),
            kind::READDIR => self.readdir(fields, room),
            kind::READLINK => self.readlink(fields),
            kind::VERSION => self.version(fields),
            kind::AUTH => Err(Errno::OPNOTSUPP),
            kind::ATTACH => self.attach(fields),
            kind::FLUSH => fields.u16().map(drop),
            kind::STATFS => self.statfs(fields),
            kind::SETATTR => self.setattr(fields),
            kind::FSYNC => self.fsync(fields),
            kind::LCREATE => self.lcreate(fields),
            kind::SYMLINK => self.symlink(fields),
            kind::MKNOD => self.mknod(fields),
            kind::MKDIR => self.mkdir(fields),
            kind::LINK => self.link(fields),
            kind::RENAME => self.rename(fields),
            kind::RENAMEAT => self.renameat(fields),
            kind::UNLINKAT => self.unlinkat(fields),
            kind::REMOVE => self.remove(fields),
            kind::XATTRWALK => self.xattrwalk(fields),
            kind::XATTRCREATE => self.xattrcreate(fields),
            kind::LOCK => self.lock(fields),
            kind::GETLOCK => self.getlock(fields),
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}
