//! FUSE messages (linux/fuse.h, protocol 7): numbers, and reading and writing their fields. All is little-endian, as the guest
//! is.

use snowboot_virtio::Reader;

pub(super) use crate::fields::Fields;
use crate::{Attributes, Errno, Name, Result};

/// `FUSE_KERNEL_VERSION`.
pub(super) const MAJOR: u32 = 7;
/// The newest minor version that is spoken here: that of Linux 6.2.
pub(super) const MINOR: u32 = 38;
/// The oldest: that of Linux 5.4. Messages had other lengths before.
pub(super) const OLDEST_MINOR: u32 = 31;

/// Length of `fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// Length of `fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;

macro_rules! opcodes {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// What a request asks for (`enum fuse_opcode`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Opcode { $($name),* }

        impl Opcode {
            pub(super) fn parse(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

opcodes! {
    Lookup = 1, Forget = 2, GetAttr = 3, SetAttr = 4, ReadLink = 5, SymLink = 6, MkNod = 8, MkDir = 9, Unlink = 10,
    RmDir = 11, Rename = 12, Link = 13, Open = 14, Read = 15, Write = 16, StatFs = 17, Release = 18, FSync = 20,
    SetXattr = 21, GetXattr = 22, ListXattr = 23, RemoveXattr = 24, Flush = 25, Init = 26, OpenDir = 27, ReadDir = 28,
    ReleaseDir = 29, FSyncDir = 30, GetLk = 31, SetLk = 32, SetLkW = 33, Access = 34, Create = 35, Interrupt = 36,
    Destroy = 38, Ioctl = 39, BatchForget = 42, FAllocate = 43, ReadDirPlus = 44, Rename2 = 45, LSeek = 46,
    CopyFileRange = 47, SyncFs = 50, TmpFile = 51,
}

impl Opcode {
    /// What it does, for who reads of its failures.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Read => "reading a file",
            Self::Write | Self::FAllocate | Self::CopyFileRange => "writing a file",
            Self::Open | Self::OpenDir => "opening",
            Self::ReadDir | Self::ReadDirPlus => "reading a folder",
            Self::Create | Self::MkNod | Self::MkDir | Self::SymLink | Self::Link | Self::TmpFile => {
                "making a file"
            }
            Self::Unlink | Self::RmDir => "removing a file",
            Self::Rename | Self::Rename2 => "renaming a file",
            Self::SetAttr | Self::SetXattr | Self::RemoveXattr => "changing attributes",
            Self::FSync | Self::FSyncDir | Self::SyncFs | Self::Flush => "writing out what was changed",
            Self::GetLk | Self::SetLk | Self::SetLkW => "locking a file",
            _ => "looking up a file",
        }
    }
}

/// `FUSE_*` flags of INIT.
pub(super) mod init {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// `FOPEN_*` flags of an answer to OPEN.
pub(super) mod fopen {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
}

/// `FATTR_*`: which fields of SETATTR count.
pub(super) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const FH: u32 = 1 << 6;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_GETATTR_FH`: the request has a handle.
pub(super) const GETATTR_FH: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_RELEASE_FLOCK_UNLOCK`.
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `FUSE_FSYNC_FDATASYNC`.
pub(super) const FSYNC_FDATASYNC: u32 = 1;
/// `FUSE_LK_FLOCK`.
pub(super) const LK_FLOCK: u32 = 1;

/// The beginning of every request (`fuse_in_header`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) length: u32,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Header {
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        let mut bytes = [0; IN_HEADER];
        std::io::Read::read_exact(reader, &mut bytes).ok()?;
        let mut fields = fields(&bytes);
        Self::parse(&mut fields).ok()
    }

    fn parse(fields: &mut Fields<'_>) -> Result<Self> {
        Ok(Self {
            length: fields.u32()?,
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
        })
    }
}

/// The fields of a request. What is missing is `EINVAL`, as from the kernel's own servers.
pub(super) fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields::new(bytes, Errno::INVAL)
}

/// What is of this protocol alone.
impl<'a> Fields<'a> {
    /// Passes over padding, or fields of no concern.
    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.bytes(count).map(drop)
    }

    /// Text up to a NUL.
    pub(super) fn text(&mut self) -> Result<&'a [u8]> {
        let end = self.rest().iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let text = self.bytes(end)?;
        self.skip(1)?;
        Ok(text)
    }

    pub(super) fn name(&mut self) -> Result<Name<'a>> {
        Name::new(self.text()?)
    }
}

/// Writing the fields of an answer.
pub(super) trait Put {
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    /// `fuse_attr`.
    fn attributes(&mut self, attributes: &Attributes);
}

impl Put for Vec<u8> {
    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn attributes(&mut self, it: &Attributes) {
        let times = [it.accessed, it.modified, it.changed];
        [it.inode, it.size, it.blocks].into_iter().for_each(|field| self.u64(field));
        times.into_iter().for_each(|time| self.u64(time.seconds.cast_unsigned()));
        times.into_iter().for_each(|time| self.u32(time.nanoseconds));
        [it.mode, it.links, it.uid, it.gid, device_number(it.device), it.block_size, 0]
            .into_iter()
            .for_each(|field| self.u32(field));
    }
}

/// As Linux writes a device's number in 32 bits (`new_encode_dev`).
fn device_number((major, minor): (u32, u32)) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}

/// And reads it again.
pub(super) fn device_of(number: u32) -> (u32, u32) {
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00)
}
