//! Making new things.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawMode, Statx, chmodat, chownat, linkat, makedev, mkdirat, mknodat,
    symlinkat, unlinkat,
};

use super::open::{OpenFile, OpenHow};
use super::place::{open_beneath, waiting};
use super::{Entry, Tree, number_of, stat_in, stat_of};
use crate::attributes::Identity;
use crate::{Errno, Name, NodeId, Result};

/// Permission bits, `S_ISUID`, `S_ISGID` and `S_ISVTX`.
const PERMISSIONS: u32 = 0o7777;
const SET_GID: u32 = 0o2000;
/// How often a file that comes and goes is looked for.
const TRIES: u32 = 4;

/// Whose a new file is to be, in the guest's terms, and its permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Permissions, after the guest's umask. This process's own umask does not count.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group, unless the folder gives its own to what is made in it.
    pub gid: u32,
}

impl Tree {
    /// Opens the file `name` in `parent`, which is made if it is not there.
    ///
    /// # Errors
    /// `EEXIST` when it is there and `exclusive`; as [`Tree::open_file`]; else the host's.
    pub fn create(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        creation: Creation,
        how: OpenHow,
        exclusive: bool,
    ) -> Result<(Entry, Arc<OpenFile>)> {
        self.check_writable()?;
        let permit = self.permit()?;
        let folder = self.folder(parent)?;
        let flags = how.flags() | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        for _ in 0..TRIES {
            match open_beneath(&folder, name.bytes(), flags, mode_of(creation)) {
                Ok(file) => {
                    let file = waiting(file, flags)?;
                    let stat = self.dress(&file, creation).inspect_err(|_| undo(&folder, name, false))?;
                    let entry = self.enter(&stat, Some((parent, name)))?;
                    let open = self.opened(entry.node, file, how, permit)?;
                    return Ok((entry, open));
                }
                Err(Errno::EXIST) if !exclusive => {}
                Err(errno) => return Err(errno),
            }
            match self.open_existing(parent, name, how) {
                Err(Errno::NOENT | Errno::STALE) => {}
                outcome => return outcome,
            }
        }
        Err(Errno::STALE)
    }

    fn open_existing(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        how: OpenHow,
    ) -> Result<(Entry, Arc<OpenFile>)> {
        let mut entry = self.lookup(parent, name)?;
        let opened = self.open_file(entry.node, how);
        match opened {
            Ok(open) => {
                if how.truncate {
                    entry.attributes = self.attributes_of_open(&open)?;
                }
                Ok((entry, open))
            }
            Err(errno) => {
                self.forget(entry.node, 1);
                Err(errno)
            }
        }
    }

    /// Makes a file without a name in `parent`'s file system (`O_TMPFILE`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system has none; else the host's.
    pub fn create_nameless(
        &mut self,
        parent: NodeId,
        creation: Creation,
        how: OpenHow,
    ) -> Result<(Entry, Arc<OpenFile>)> {
        self.check_writable()?;
        let permit = self.permit()?;
        let folder = self.folder(parent)?;
        let how = OpenHow { write: true, ..how };
        let flags = how.flags() | OFlags::TMPFILE;
        let file = waiting(open_beneath(&folder, b".", flags, mode_of(creation))?, flags)?;
        let stat = self.dress(&file, creation)?;
        let place = Arc::new(self.open_again(&file, OFlags::PATH)?);
        let entry = self.enter(&stat, None)?;
        self.nodes.get_mut(entry.node)?.pinned = Some(place);
        let open = self.opened(entry.node, file, how, permit)?;
        Ok((entry, open))
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// The host's.
    pub fn make_folder(&mut self, parent: NodeId, name: Name<'_>, creation: Creation) -> Result<Entry> {
        self.make(parent, name, creation, true, |folder| mkdirat(folder, name.bytes(), mode_of(creation)))
    }

    /// Makes an empty file, a pipe or a socket; of device files only the one that overlays mark removed names with
    /// (character device 0:0), since others would be doors to the host's devices.
    ///
    /// # Errors
    /// `EPERM` for other device files, `EINVAL` for what is made in other ways; else the host's.
    pub fn make_node(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        kind: FileType,
        device: (u32, u32),
        creation: Creation,
    ) -> Result<Entry> {
        match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {}
            FileType::CharacterDevice if device == (0, 0) => {}
            FileType::CharacterDevice | FileType::BlockDevice => return Err(Errno::PERM),
            FileType::Directory | FileType::Symlink | FileType::Unknown => return Err(Errno::INVAL),
        }
        let device = makedev(device.0, device.1);
        self.make(parent, name, creation, false, |folder| {
            mknodat(folder, name.bytes(), kind, mode_of(creation), device)
        })
    }

    /// Makes a symbolic link. Its target is only ever followed by the guest.
    ///
    /// # Errors
    /// The host's.
    pub fn make_link(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        target: &[u8],
        creation: Creation,
    ) -> Result<Entry> {
        let creation = Creation { mode: 0o777, ..creation };
        self.make(parent, name, creation, false, |folder| symlinkat(target, folder, name.bytes()))
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// The host's.
    pub fn link(&mut self, node: NodeId, parent: NodeId, name: Name<'_>) -> Result<Entry> {
        self.check_writable()?;
        let folder = self.folder(parent)?;
        // Through a file that is open: one without a name can only be given one by a descriptor of that kind.
        let open = self.nodes.get(node)?.open.upgrade();
        match open {
            Some(open) => self.link_open(&*open, &folder, name)?,
            None => {
                let anchor = self.anchor(node)?;
                self.link_open(&*anchor, &folder, name)?;
            }
        }
        self.lookup(parent, name)
    }

    fn link_open(&self, file: impl AsFd, folder: &OwnedFd, name: Name<'_>) -> Result<()> {
        let number = number_of(file.as_fd());
        linkat(&self.descriptors, number, folder, name.bytes(), AtFlags::SYMLINK_FOLLOW)
    }

    fn make(
        &mut self,
        parent: NodeId,
        name: Name<'_>,
        creation: Creation,
        is_folder: bool,
        make: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<Entry> {
        self.check_writable()?;
        let folder = self.folder(parent)?;
        make(&folder)?;
        let stat = stat_in(&*folder, name)?;
        let stat = if self.fits(&stat, creation) {
            stat
        } else {
            let made = self.pin(&folder, name, Identity::of(&stat))?;
            self.dress(&made, creation).inspect_err(|_| undo(&folder, name, is_folder))?
        };
        self.enter(&stat, Some((parent, name)))
    }

    /// Makes something new the guest's: the host made it this process's, with this process's umask.
    fn dress(&self, made: &OwnedFd, creation: Creation) -> Result<Statx> {
        let stat = stat_of(made)?;
        if self.fits(&stat, creation) {
            return Ok(stat);
        }
        let (uid, gid) = (self.owners.host_uid(creation.uid), self.owners.host_gid(creation.gid));
        let uid = (uid.as_raw() != stat.stx_uid).then_some(uid);
        let gid = (gid.as_raw() != stat.stx_gid && self.is_own_group(&stat)).then_some(gid);
        if uid.is_some() || gid.is_some() {
            chownat(made, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if wanted_mode(&stat, creation) != u32::from(stat.stx_mode) & PERMISSIONS {
            let mode = Mode::from_raw_mode(wanted_mode(&stat, creation));
            chmodat(&self.descriptors, number_of(made.as_fd()), mode, AtFlags::empty())?;
        }
        stat_of(made)
    }

    fn fits(&self, stat: &Statx, creation: Creation) -> bool {
        self.owners.host_uid(creation.uid).as_raw() == stat.stx_uid
            && (self.owners.host_gid(creation.gid).as_raw() == stat.stx_gid || !self.is_own_group(stat))
            && wanted_mode(stat, creation) == u32::from(stat.stx_mode) & PERMISSIONS
    }

    /// Whether something new has this process's group, and not that of a folder which hands its own on.
    fn is_own_group(&self, stat: &Statx) -> bool {
        self.owners.host_gid(0).as_raw() == stat.stx_gid
    }
}

fn mode_of(creation: Creation) -> Mode {
    Mode::from_raw_mode(creation.mode & PERMISSIONS)
}

/// The permissions that something new is to have. The bit that a folder hands on to folders in it stays.
fn wanted_mode(stat: &Statx, creation: Creation) -> RawMode {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => creation.mode & PERMISSIONS | u32::from(stat.stx_mode) & SET_GID,
        FileType::Symlink => u32::from(stat.stx_mode) & PERMISSIONS,
        _ => creation.mode & PERMISSIONS,
    }
}

/// Removes what could not be made the guest's. If that fails, too, it stays as a file of this process's.
fn undo(folder: &OwnedFd, name: Name<'_>, is_folder: bool) {
    let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let _ = unlinkat(folder, name.bytes(), flags);
}
