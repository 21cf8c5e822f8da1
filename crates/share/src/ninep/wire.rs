//! The form of 9P2000.L messages: numbers are little-endian, strings have their length in 16 bits before them.
//!
//! Sources: Linux, include/net/9p/9p.h and net/9p/protocol.c; the 9P2000 manual, section 5; the description of the Linux
//! dialect that comes with diod.

use crate::attributes::{Attributes, Time};
pub(super) use crate::fields::Fields;
use crate::{Errno, Kind, Result};

/// Length of what every message begins with: its size with this in 32 bits, its type in 8, its tag in 16.
pub(super) const HEADER: usize = 7;
/// The longest answer that a request may have to be answered with: an error.
pub(super) const ERROR: usize = HEADER + 4;
/// What precedes the data in the answer to a read.
pub(super) const READ_HEADER: usize = HEADER + 4;
/// What precedes the data in a write, after the header.
pub(super) const WRITE_FIELDS: usize = 16;
/// The most names of a walk (`P9_MAXWELEM`).
pub(super) const MOST_NAMES: u16 = 16;
/// The dialect.
pub(super) const DIALECT: &[u8] = b"9P2000.L";
/// What a server that knows no such dialect says.
pub(super) const NO_DIALECT: &[u8] = b"unknown";
/// `P9_NOFID`.
pub(super) const NO_FID: u32 = u32::MAX;

/// The types of requests; the answer's is one more (`enum p9_msg_t`).
pub(super) mod kind {
    pub(in super::super) const ERROR_ANSWER: u8 = 7;
    pub(in super::super) const STATFS: u8 = 8;
    pub(in super::super) const LOPEN: u8 = 12;
    pub(in super::super) const LCREATE: u8 = 14;
    pub(in super::super) const SYMLINK: u8 = 16;
    pub(in super::super) const MKNOD: u8 = 18;
    pub(in super::super) const RENAME: u8 = 20;
    pub(in super::super) const READLINK: u8 = 22;
    pub(in super::super) const GETATTR: u8 = 24;
    pub(in super::super) const SETATTR: u8 = 26;
    pub(in super::super) const XATTRWALK: u8 = 30;
    pub(in super::super) const XATTRCREATE: u8 = 32;
    pub(in super::super) const READDIR: u8 = 40;
    pub(in super::super) const FSYNC: u8 = 50;
    pub(in super::super) const LOCK: u8 = 52;
    pub(in super::super) const GETLOCK: u8 = 54;
    pub(in super::super) const LINK: u8 = 70;
    pub(in super::super) const MKDIR: u8 = 72;
    pub(in super::super) const RENAMEAT: u8 = 74;
    pub(in super::super) const UNLINKAT: u8 = 76;
    pub(in super::super) const VERSION: u8 = 100;
    pub(in super::super) const AUTH: u8 = 102;
    pub(in super::super) const ATTACH: u8 = 104;
    pub(in super::super) const FLUSH: u8 = 108;
    pub(in super::super) const WALK: u8 = 110;
    pub(in super::super) const READ: u8 = 116;
    pub(in super::super) const WRITE: u8 = 118;
    pub(in super::super) const CLUNK: u8 = 120;
    pub(in super::super) const REMOVE: u8 = 122;

    /// What a request does, for who reads of its failures.
    pub(in super::super) fn what(kind: u8) -> &'static str {
        match kind {
            READ => "reading a file",
            WRITE => "writing a file",
            LOPEN => "opening",
            READDIR => "reading a folder",
            LCREATE | MKNOD | MKDIR | SYMLINK | LINK => "making a file",
            UNLINKAT | REMOVE => "removing a file",
            RENAME | RENAMEAT => "renaming a file",
            SETATTR | XATTRCREATE | CLUNK => "changing attributes",
            FSYNC => "writing out what was changed",
            LOCK | GETLOCK => "locking a file",
            _ => "looking up a file",
        }
    }
}

/// What a message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the whole message.
    pub(super) size: u32,
    pub(super) kind: u8,
    pub(super) tag: u16,
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, d, kind, e, f] = bytes;
        Self { size: u32::from_le_bytes([a, b, c, d]), kind, tag: u16::from_le_bytes([e, f]) }
    }

    /// Of the answer to this request, with `length` bytes in all.
    pub(super) fn answer(self, kind: u8, length: usize) -> [u8; HEADER] {
        let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let [e, f] = self.tag.to_le_bytes();
        [a, b, c, d, kind, e, f]
    }
}

/// The fields of a request. What is missing makes it `EPROTO`.
pub(super) fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields::new(bytes, Errno::PROTO)
}

/// What is of this protocol alone.
impl<'a> Fields<'a> {
    pub(super) fn string(&mut self) -> Result<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(length.into())
    }
}

/// An answer in the making, after room for its header. The buffer is used again and again.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    pub(super) fn new() -> Self {
        Self(vec![0; HEADER])
    }

    /// Without fields.
    pub(super) fn clear(&mut self) {
        self.0.truncate(HEADER);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A string; what does not fit its length field is left out.
    pub(super) fn string(&mut self, string: &[u8]) {
        let length = u16::try_from(string.len()).unwrap_or(u16::MAX);
        self.u16(length);
        self.bytes(string.get(..length.into()).unwrap_or(string));
    }

    pub(super) fn time(&mut self, time: Time) {
        self.u64(time.seconds.cast_unsigned());
        self.u64(time.nanoseconds.into());
    }

    pub(super) fn qid(&mut self, qid: Qid) {
        self.u8(qid.kind);
        self.u32(qid.version);
        self.u64(qid.path);
    }

    /// Says in the first field how many bytes follow it, or, of a walk, how many names there are.
    pub(super) fn set_count<const N: usize>(&mut self, count: [u8; N]) {
        if let Some(field) = self.0.get_mut(HEADER..).and_then(|fields| fields.first_chunk_mut()) {
            *field = count;
        }
    }

    /// The whole message.
    pub(super) fn finish(&mut self, request: Header, kind: u8) -> &[u8] {
        let header = request.answer(kind, self.0.len());
        if let Some(place) = self.0.first_chunk_mut() {
            *place = header;
        }
        &self.0
    }
}

/// What a file is the same by (intro(5) of the manual).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Qid {
    kind: u8,
    version: u32,
    path: u64,
}

impl Qid {
    /// The version changes with the content: clients with a cache look at it when they open a file. It is never 0, which
    /// tells Linux to cache nothing.
    pub(super) fn of(attributes: &Attributes) -> Self {
        let Time { seconds, nanoseconds } = attributes.modified;
        let [a, b, c, d, ..] = seconds.to_le_bytes();
        let seconds = u32::from_le_bytes([a, b, c, d]);
        let version = seconds ^ nanoseconds.rotate_left(2);
        Self { kind: qid_kind(attributes.kind()), version: version.max(1), path: attributes.inode }
    }

    /// Of a thing in a folder, of which no more is known.
    pub(super) fn of_entry(kind: Kind, inode: u64) -> Self {
        Self { kind: qid_kind(kind), version: 0, path: inode }
    }
}

/// `P9_QTDIR`, `P9_QTSYMLINK`, `P9_QTFILE`.
fn qid_kind(kind: Kind) -> u8 {
    match kind {
        Kind::Directory => 0x80,
        Kind::Symlink => 0x02,
        _ => 0,
    }
}

/// A type of file as folders have it (`DT_*`, dirent.h).
pub(super) fn entry_kind(kind: Kind) -> u8 {
    match kind {
        Kind::Fifo => 1,
        Kind::CharacterDevice => 2,
        Kind::Directory => 4,
        Kind::BlockDevice => 6,
        Kind::RegularFile => 8,
        Kind::Symlink => 10,
        Kind::Socket => 12,
        Kind::Unknown => 0,
    }
}
