//! Files and folders of the host as bytes for a guest.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::conversation::{HostTrouble, Trouble};

/// The bits of a mode that are kept.
const MODE: u32 = 0o7777;

/// Bytes that are read in one go.
const CHUNK: usize = 64 * 1024;

/// Folders within folders.
const DEEPEST: usize = 512;

/// A file that is ready to be read, and its size.
pub(super) struct Source {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) mode: u32,
}

/// Opens a file. One that does not tell its size, as in `/proc`, is read to its end first, into a file without a name.
pub(super) fn open(path: &Path, check: &dyn Fn() -> io::Result<()>) -> Result<Source, HostTrouble> {
    let wrong = |error| HostTrouble::new(path, "read", error);
    let kind = fs::metadata(path).map_err(wrong)?.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_dir() {
        let what = if kind.is_dir() { io::ErrorKind::IsADirectory } else { io::ErrorKind::Unsupported };
        return Err(wrong(io::Error::new(what, "it is no file")));
    }
    let mut file = File::open(path).map_err(wrong)?;
    let about = file.metadata().map_err(wrong)?;
    let mode = about.permissions().mode() & MODE;
    let mut size = about.len();
    if size == 0 {
        let mut copy = tempfile::tempfile().map_err(wrong)?;
        size = copy_all(&mut file, &mut copy, check).map_err(wrong)?;
        copy.rewind().map_err(wrong)?;
        file = copy;
    }
    Ok(Source { file, size, mode })
}

fn copy_all(from: &mut File, to: &mut File, check: &dyn Fn() -> io::Result<()>) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut size = 0u64;
    loop {
        check()?;
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return Ok(size);
        }
        to.write_all(chunk.get(..count).unwrap_or_default())?;
        size = size.saturating_add(u64::try_from(count).unwrap_or_default());
    }
}

/// Reads exactly as much as was promised: the rest of a file that has become shorter is an error, what was added is left.
struct Exact<'a> {
    path: &'a Path,
    file: File,
    left: u64,
    trouble: &'a mut Option<HostTrouble>,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(buffer.get_mut(..most).unwrap_or_default());
        let read = match read {
            Ok(0) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was copied"))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            other => other,
        };
        let count = read.map_err(|error| {
            *self.trouble = Some(HostTrouble::new(self.path, "read", error));
            io::Error::other("the host's file cannot be read")
        })?;
        self.left = self.left.saturating_sub(u64::try_from(count).unwrap_or_default());
        Ok(count)
    }
}

/// Writes all of a file.
pub(super) fn send(path: &Path, source: Source, sink: &mut dyn Write) -> Result<(), Trouble> {
    let mut trouble = None;
    let mut file = Exact { path, file: source.file, left: source.size, trouble: &mut trouble };
    let mut chunk = vec![0; CHUNK];
    let sent = loop {
        match file.read(&mut chunk) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                if let Err(error) = sink.write_all(chunk.get(..count).unwrap_or_default()) {
                    break Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    sent.map_err(|error| trouble.map_or_else(|| channel(error), Trouble::Host))
}

/// An archive of what is in a folder, under root's name.
pub(super) struct Packer<'a, W: Write> {
    archive: Builder<W>,
    check: &'a dyn Fn() -> io::Result<()>,
    /// The true paths of the folders that are being walked.
    within: Vec<PathBuf>,
    root: PathBuf,
}

impl<'a, W: Write> Packer<'a, W> {
    /// Writes the whole archive.
    pub(super) fn pack(folder: &Path, sink: W, check: &'a dyn Fn() -> io::Result<()>) -> Result<W, Trouble> {
        let root = folder.canonicalize().map_err(|error| host(folder, error))?;
        let mut packer = Self { archive: Builder::new(sink), check, within: Vec::new(), root };
        packer.folder(folder, Path::new(""))?;
        packer.archive.into_inner().map_err(channel)
    }

    fn folder(&mut self, folder: &Path, name: &Path) -> Result<(), Trouble> {
        let wrong = |error| host(folder, error);
        if self.within.len() >= DEEPEST {
            return Err(wrong(io::Error::other(format!(
                "more than {DEEPEST} folders are within each other"
            ))));
        }
        self.within.push(folder.canonicalize().map_err(wrong)?);
        let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(wrong)?.collect();
        let mut entries = entries.map_err(wrong)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            (self.check)().map_err(channel)?;
            self.entry(&entry.path(), &name.join(entry.file_name()))?;
        }
        self.within.pop();
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<(), Trouble> {
        let wrong = |error| host(path, error);
        let mut about = fs::symlink_metadata(path).map_err(wrong)?;
        if about.is_symlink() {
            if !self.is_to_be_followed(path) {
                let target = fs::read_link(path).map_err(wrong)?;
                let mut header = header(EntryType::Symlink, 0o777, 0);
                return self.archive.append_link(&mut header, name, target).map_err(channel);
            }
            about = fs::metadata(path).map_err(wrong)?;
        }
        if about.is_dir() {
            let mut header = header(EntryType::Directory, mode(&about), 0);
            self.archive.append_data(&mut header, name, io::empty()).map_err(channel)?;
            return self.folder(path, name);
        }
        let source = open(path, self.check).map_err(Trouble::Host)?;
        let mut header = header(EntryType::Regular, source.mode, source.size);
        let mut trouble = None;
        let file = Exact { path, file: source.file, left: source.size, trouble: &mut trouble };
        let appended = self.archive.append_data(&mut header, name, file);
        appended.map_err(|error| trouble.map_or_else(|| channel(error), Trouble::Host))
    }

    /// Whether what a link leads to is copied in its place: not when it comes with the folder anyway, or is nowhere, or
    /// would lead around in a circle.
    fn is_to_be_followed(&self, path: &Path) -> bool {
        let (Ok(link), Ok(target)) = (fs::read_link(path), path.canonicalize()) else { return false };
        let comes_along = link.is_relative() && target.starts_with(&self.root);
        !comes_along && !self.within.iter().any(|folder| folder.starts_with(&target))
    }
}

fn channel(error: io::Error) -> Trouble {
    Trouble::Guest(error.to_string())
}

fn host(path: &Path, error: io::Error) -> Trouble {
    Trouble::Host(HostTrouble::new(path, "read", error))
}

pub(super) fn mode(about: &Metadata) -> u32 {
    about.permissions().mode() & MODE
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
