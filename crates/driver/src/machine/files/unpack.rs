//! What a guest sends as files and folders of the host. The guest is not trusted: nothing is made outside of the folder
//! that is meant, nothing is written through a link, and there are no devices, hard links or set-user-id programs.
//!
//! Every folder on the way to an entry is opened from the one above it, without following links, so that it does not
//! matter what the guest has had made before.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fchmod, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::conversation::{HostTrouble, Trouble};

/// The longest name or target of a link: Linux' `PATH_MAX`, of which tar makes a little more at most.
const LONGEST_NAME: u64 = 8 * 1024;

/// Bytes that are moved in one go.
const CHUNK: usize = 64 * 1024;

/// Names of skipped entries that are told.
const SKIPPED_TOLD: usize = 10;

/// Writes all that comes into a new file.
pub(super) fn file(path: &Path, mode: u32, source: &mut dyn Read) -> Result<(), Trouble> {
    let host = |error| Trouble::Host(HostTrouble::new(path, "write", error));
    let mut file = File::create_new(path).map_err(host)?;
    copy(source, &mut file, path)?;
    fchmod(&file, kept(mode) | Mode::RUSR).map_err(|error| host(error.into()))
}

fn copy(source: &mut dyn Read, file: &mut File, path: &Path) -> Result<(), Trouble> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let written = file.write_all(chunk.get(..count).unwrap_or_default());
                written.map_err(|error| Trouble::Host(HostTrouble::new(path, "write", error)))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Trouble::Guest(error.to_string())),
        }
    }
}

/// The bits of a guest's mode that count here. A guest's set-user-id program would be one of the host's user.
fn kept(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

/// Unpacks an archive into a folder that is empty; gives the names of what was skipped, or the first of them.
pub(super) fn folder(path: &Path, mode: u32, source: &mut dyn Read) -> Result<Vec<String>, Trouble> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, path, flags, Mode::empty());
    let root = root.map_err(|error| Trouble::Host(HostTrouble::new(path, "write", error.into())))?;
    let mut unpacker = Unpacker { path, root, name: None, target: None, skipped: Vec::new() };
    let mut archive = Archive::new(&mut *source);
    let entries = archive.entries().map_err(|error| Trouble::Guest(error.to_string()))?;
    // Raw: long names are read here, where their length is looked at first.
    for entry in entries.raw(true) {
        unpacker.entry(&mut entry.map_err(|error| Trouble::Guest(error.to_string()))?)?;
    }
    fchmod(&unpacker.root, kept(mode) | Mode::RWXU).map_err(|error| unpacker.host(&[], error))?;
    // What fills up the last record.
    io::copy(source, &mut io::sink()).map_err(|error| Trouble::Guest(error.to_string()))?;
    Ok(unpacker.skipped)
}

struct Unpacker<'a> {
    path: &'a Path,
    root: OwnedFd,
    /// The name and the link's target of the next entry, where they were too long for its header.
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    skipped: Vec<String>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), Trouble> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.name = Some(long(entry)?),
            EntryType::GNULongLink => self.target = Some(long(entry)?),
            kind => {
                let name = self.name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
                let target = self.target.take();
                self.make(&name, target, kind, entry)?;
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        name: &[u8],
        target: Option<Vec<u8>>,
        kind: EntryType,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Trouble> {
        let parts = parts(name)?;
        let mode = kept(entry.header().mode().map_err(|error| Trouble::Guest(error.to_string()))?);
        let Some((last, folders)) = parts.split_last() else {
            // The folder itself.
            return if kind == EntryType::Directory { Ok(()) } else { Err(refused(name, "it has no name")) };
        };
        let parent = self.open(name, folders)?;
        let last = OsStr::from_bytes(last);
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&parent, last, flags, Mode::RUSR | Mode::WUSR);
                let mut file = File::from(file.map_err(|error| self.failed(name, error))?);
                copy(entry, &mut file, &self.path_of(name))?;
                fchmod(&file, mode | Mode::RUSR).map_err(|error| self.host(name, error))
            }
            EntryType::Directory => {
                mkdirat(&parent, last, Mode::RWXU).map_err(|error| self.failed(name, error))?;
                // Whatever the guest's mode is, what comes next has to go into it, and the user to get rid of it.
                let made = open_folder(&parent, last).map_err(|error| self.failed(name, error))?;
                fchmod(made, mode | Mode::RWXU).map_err(|error| self.host(name, error))
            }
            EntryType::Symlink => {
                let target =
                    target.or_else(|| entry.header().link_name_bytes().map(std::borrow::Cow::into_owned));
                let target = target.filter(|target| !target.is_empty() && !target.contains(&0));
                let target = target.ok_or_else(|| refused(name, "it is a link to nowhere"))?;
                symlinkat(OsStr::from_bytes(&target), &parent, last).map_err(|error| self.failed(name, error))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                if self.skipped.len() < SKIPPED_TOLD {
                    self.skipped.push(String::from_utf8_lossy(name).into_owned());
                }
                Ok(())
            }
            EntryType::Link => Err(refused(name, "it is a hard link")),
            other => Err(refused(name, &format!("nobody asked for entries of type {:?}", other.as_byte()))),
        }
    }

    fn open(&self, name: &[u8], folders: &[&[u8]]) -> Result<OwnedFd, Trouble> {
        let root = self
            .root
            .try_clone()
            .map_err(|error| Trouble::Host(HostTrouble::new(self.path, "write", error)))?;
        folders.iter().try_fold(root, |folder, part| {
            open_folder(&folder, OsStr::from_bytes(part)).map_err(|error| self.failed(name, error))
        })
    }

    /// What the guest's own names can bring about is its fault.
    fn failed(&self, name: &[u8], error: Errno) -> Trouble {
        match error {
            Errno::EXIST => refused(name, "there is one already"),
            Errno::NOENT => refused(name, "its folder did not come before it"),
            Errno::LOOP | Errno::NOTDIR => refused(name, "it is not in a folder"),
            error => self.host(name, error),
        }
    }

    fn host(&self, name: &[u8], error: Errno) -> Trouble {
        Trouble::Host(HostTrouble::new(&self.path_of(name), "write", error.into()))
    }

    fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }
}

fn open_folder(folder: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(folder, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The parts of a name, none of which leads up or to the root.
fn parts(name: &[u8]) -> Result<Vec<&[u8]>, Trouble> {
    let is_up = name.split(|byte| *byte == b'/').any(|part| part == b"..");
    if name.first() == Some(&b'/') || is_up || name.contains(&0) {
        return Err(refused(name, "it would be outside of the folder"));
    }
    let parts = name.split(|byte| *byte == b'/');
    Ok(parts.filter(|part| !part.is_empty() && *part != b".").collect())
}

fn long(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, Trouble> {
    let mut name = Vec::new();
    let read = entry.by_ref().take(LONGEST_NAME).read_to_end(&mut name);
    read.map_err(|error| Trouble::Guest(error.to_string()))?;
    if entry.header().entry_size().unwrap_or(u64::MAX) > LONGEST_NAME {
        return Err(refused(&name, "it is too long"));
    }
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn refused(name: &[u8], why: &str) -> Trouble {
    let shown = name.get(..200).unwrap_or(name);
    Trouble::Guest(format!(
        "the guest sent `{}`, which is refused: {why}",
        String::from_utf8_lossy(shown).escape_debug()
    ))
}
