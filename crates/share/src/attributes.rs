//! What is known of a file besides its content.

use std::hash::{Hash, Hasher};

use rustix::fs::{FileType, Statx, StatxFlags};

use crate::owners::Owners;

/// What is asked of the host for every file.
pub(crate) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
/// `S_IFMT` (stat.h).
const TYPE_MASK: u16 = 0o170_000;

/// A time on the host's real-time clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after that, below 1 000 000 000.
    pub nanoseconds: u32,
}

/// What a file is.
pub type Kind = FileType;

/// A file's attributes, as a guest sees them (statx(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode's number; the same for all names of a file, different for any two files of the tree.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes that it takes.
    pub blocks: u64,
    /// Last access.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of these attributes.
    pub changed: Time,
    /// When it was made, where the file system tells.
    pub born: Option<Time>,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Names.
    pub links: u32,
    /// The owner, in the guest's terms.
    pub uid: u32,
    /// The group, in the guest's terms.
    pub gid: u32,
    /// Device number of a device file: major and minor.
    pub device: (u32, u32),
    /// The best size for reading and writing, in bytes.
    pub block_size: u32,
}

impl Attributes {
    pub(crate) fn new(stat: &Statx, inode: u64, owners: Owners) -> Self {
        let time =
            |stamp: rustix::fs::StatxTimestamp| Time { seconds: stamp.tv_sec, nanoseconds: stamp.tv_nsec };
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            inode,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            born: has_birth.then(|| time(stat.stx_btime)),
            mode: stat.stx_mode.into(),
            links: stat.stx_nlink,
            uid: owners.guest_uid(stat.stx_uid),
            gid: owners.guest_gid(stat.stx_gid),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            block_size: stat.stx_blksize,
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        FileType::from_raw_mode(self.mode)
    }
}

/// What makes a file on the host that file. The time of its birth tells it from a later one that got its inode, which the
/// host gives to a new file at once; where the file system knows no such time, the type is all there is besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    born: (i64, u32),
    kind: u16,
}

/// What nearly always tells, since each field costs. The time of birth is in it for a guest that makes and removes files so that all
/// get the same inode.
impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inode.hash(state);
        self.born.1.hash(state);
    }
}

impl Identity {
    pub(crate) fn of(stat: &Statx) -> Self {
        let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: if has_birth { (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) } else { (0, 0) },
            kind: stat.stx_mode & TYPE_MASK,
        }
    }

    pub(crate) fn kind(self) -> Kind {
        FileType::from_raw_mode(self.kind.into())
    }
}
