//! What is known of files, and changes of it.

use super::Server;
use super::wire::{Fields, Qid};
use crate::{Attributes, Changes, Errno, Result, SetTime, Time};

/// Bits that say which fields of an answer mean something (`P9_STATS_*`): all that statx(2) has in its basic set, ...
const BASIC: u64 = 0x7ff;
/// ... the time of birth, ...
const BIRTH: u64 = 0x800;
/// ... and a number that tells a file from a later one with the same inode.
const GENERATION: u64 = 0x1000;

/// Bits that say which attributes are set (`P9_ATTR_*`).
mod set {
    pub(super) const MODE: u32 = 1 << 0;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ACCESSED: u32 = 1 << 4;
    pub(super) const MODIFIED: u32 = 1 << 5;
    /// To the time in the request, and not to the time now.
    pub(super) const ACCESSED_AT: u32 = 1 << 7;
    pub(super) const MODIFIED_AT: u32 = 1 << 8;
}

/// What Linux calls a file system of this protocol (`V9FS_MAGIC`, magic.h), whatever it is on the host.
const FILE_SYSTEM: u32 = 0x0102_1997;

impl Server {
    /// `fid[4] request_mask[8]`, answered by all that is known.
    pub(super) fn getattr(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, _wanted) = (fields.u32()?, fields.u64()?);
        let attributes = match self.fids.file(number) {
            Some(file) => self.tree.attributes_of_open(&file)?,
            None => self.tree.attributes(self.fids.get(number)?.node)?,
        };
        self.put(&attributes);
        Ok(())
    }

    /// `valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8] size[8] blksize[8] blocks[8]`, then access, modification, change
    /// and birth in seconds and nanoseconds of 8 bytes each, then `gen[8] data_version[8]`.
    fn put(&mut self, attributes: &Attributes) {
        let answer = &mut self.answer;
        answer.u64(BASIC | GENERATION | if attributes.born.is_some() { BIRTH } else { 0 });
        answer.qid(Qid::of(attributes));
        answer.u32(attributes.mode);
        answer.u32(attributes.uid);
        answer.u32(attributes.gid);
        answer.u64(attributes.links.into());
        let (major, minor) = attributes.device;
        answer.u64(rustix::fs::makedev(major, minor));
        answer.u64(attributes.size);
        answer.u64(attributes.block_size.into());
        answer.u64(attributes.blocks);
        let born = attributes.born.unwrap_or_default();
        for time in [attributes.accessed, attributes.modified, attributes.changed, born] {
            answer.time(time);
        }
        answer.u64(u64::from(born.nanoseconds) ^ (born.seconds.cast_unsigned() & 0xffff_ffff));
        answer.u64(0);
    }

    /// `fid[4] valid[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8]`.
    pub(super) fn setattr(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let (number, valid) = (fields.u32()?, fields.u32()?);
        let has = |bit: u32| valid & bit != 0;
        let mode = fields.u32().map(|mode| has(set::MODE).then_some(mode))?;
        let uid = fields.u32().map(|uid| has(set::UID).then_some(uid))?;
        let gid = fields.u32().map(|gid| has(set::GID).then_some(gid))?;
        let size = fields.u64().map(|size| has(set::SIZE).then_some(size))?;
        let accessed = time(fields, has(set::ACCESSED), has(set::ACCESSED_AT))?;
        let modified = time(fields, has(set::MODIFIED), has(set::MODIFIED_AT))?;
        // The client takes back loans itself, by a mode.
        let changes = Changes { mode, uid, gid, size, accessed, modified, take_back_loans: false };
        let file = self.fids.file(number);
        let node = self.fids.get(number)?.node;
        self.tree.change(node, file.as_deref(), &changes).map(drop)
    }

    /// `fid[4]`, answered by `type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8] namelen[4]`.
    pub(super) fn statfs(&mut self, fields: &mut Fields<'_>) -> Result<()> {
        let node = self.fids.get(fields.u32()?)?.node;
        let state = self.tree.file_system(node)?;
        let answer = &mut self.answer;
        answer.u32(FILE_SYSTEM);
        answer.u32(u32::try_from(state.f_bsize).unwrap_or(4096));
        for count in [state.f_blocks, state.f_bfree, state.f_bavail, state.f_files, state.f_ffree] {
            answer.u64(count);
        }
        answer.u64(0);
        answer.u32(u32::try_from(state.f_namelen).unwrap_or(255));
        Ok(())
    }
}

fn time(fields: &mut Fields<'_>, is_set: bool, is_given: bool) -> Result<Option<SetTime>> {
    let (seconds, nanoseconds) = (fields.u64()?.cast_signed(), fields.u64()?);
    Ok(match (is_set, is_given) {
        (false, _) => None,
        (true, false) => Some(SetTime::Now),
        (true, true) => {
            let nanoseconds = u32::try_from(nanoseconds).map_err(|_| Errno::INVAL)?;
            Some(SetTime::At(Time { seconds, nanoseconds }))
        }
    })
}
