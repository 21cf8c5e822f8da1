//! Changing attributes.

use std::os::fd::AsFd;

use rustix::fs::{
    AtFlags, FileType, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, chmodat, chownat, ftruncate,
    utimensat,
};

use super::open::{OpenFile, OpenHow};
use super::{Tree, number_of, stat_of};
use crate::attributes::{Attributes, Time};
use crate::{Errno, NodeId, Result};

const PERMISSIONS: u32 = 0o7777;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// What a time is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The host's time now.
    Now,
    /// This one.
    At(Time),
}

/// Attributes to change; `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permissions.
    pub mode: Option<u32>,
    /// The owner, in the guest's terms.
    pub uid: Option<u32>,
    /// The group, in the guest's terms.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub accessed: Option<SetTime>,
    /// Last change of the content.
    pub modified: Option<SetTime>,
    /// Whether a change of content or owner, by somebody who is not root, takes back what a program's file lends to who runs
    /// it: `S_ISUID`, and `S_ISGID` where the group can run it.
    pub take_back_loans: bool,
}

impl Tree {
    /// Changes a node's attributes; `file` is the open file that the guest does it by, if it does it by one.
    ///
    /// # Errors
    /// `EROFS`; `EPERM` for an owner that this process cannot give files to; else the host's. What comes before the failed
    /// change, in the order of [`Changes`] with owners first, is done.
    pub fn change(&mut self, node: NodeId, file: Option<&OpenFile>, changes: &Changes) -> Result<Attributes> {
        self.check_writable()?;
        let anchor = self.anchor(node)?;
        self.change_owner(&*anchor, changes)?;
        if let Some(mode) = changes.mode {
            self.change_mode(&*anchor, mode)?;
        }
        if let Some(size) = changes.size {
            self.change_size(node, file, size)?;
        }
        if changes.take_back_loans
            && (changes.size.is_some() || changes.uid.is_some() || changes.gid.is_some())
        {
            self.take_back_loans(&*anchor)?;
        }
        self.change_times(&*anchor, changes)?;
        let stat = stat_of(&*anchor)?;
        Ok(self.describe(&stat))
    }

    /// After content was written by somebody who is not root; see [`Changes::take_back_loans`].
    ///
    /// # Errors
    /// The host's.
    pub fn take_back_loans(&self, file: impl AsFd) -> Result<()> {
        let mode = u32::from(stat_of(&file)?.stx_mode);
        if FileType::from_raw_mode(mode) != FileType::RegularFile {
            return Ok(());
        }
        let group = if mode & GROUP_EXECUTE != 0 { SET_GID } else { 0 };
        let lent = mode & (SET_UID | group);
        if lent == 0 { Ok(()) } else { self.change_mode(file, mode & !lent) }
    }

    fn change_owner(&self, file: impl AsFd, changes: &Changes) -> Result<()> {
        if changes.uid.is_none() && changes.gid.is_none() {
            return Ok(());
        }
        // What the guest sees as root's may be nobody's here: it need not become ours.
        let stat = stat_of(&file)?;
        let uid = changes.uid.filter(|uid| *uid != self.owners.guest_uid(stat.stx_uid));
        let gid = changes.gid.filter(|gid| *gid != self.owners.guest_gid(stat.stx_gid));
        let uid = uid.map(|uid| self.owners.host_uid(uid));
        let gid = gid.map(|gid| self.owners.host_gid(gid));
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        chownat(file, "", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn change_mode(&self, file: impl AsFd, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        chmodat(&self.descriptors, number_of(file.as_fd()), mode, AtFlags::empty())
    }

    fn change_size(&mut self, node: NodeId, file: Option<&OpenFile>, size: u64) -> Result<()> {
        if let Some(file) = file.filter(|file| file.how().write) {
            return ftruncate(file, size);
        }
        match self.nodes.get(node)?.identity.kind() {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        let how = OpenHow { write: true, ..OpenHow::default() };
        ftruncate(self.open_in_place(node, how.flags())?, size)
    }

    fn change_times(&self, file: impl AsFd, changes: &Changes) -> Result<()> {
        if changes.accessed.is_none() && changes.modified.is_none() {
            return Ok(());
        }
        let times = Timestamps {
            last_access: timespec(changes.accessed)?,
            last_modification: timespec(changes.modified)?,
        };
        utimensat(&self.descriptors, number_of(file.as_fd()), &times, AtFlags::empty())
    }
}

fn timespec(time: Option<SetTime>) -> Result<Timespec> {
    Ok(match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(time)) if time.nanoseconds < 1_000_000_000 => {
            Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
        }
        Some(SetTime::At(_)) => return Err(Errno::INVAL),
    })
}
