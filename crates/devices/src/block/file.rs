//! An image's file or host block device, locked against a second writer, with its bytes as they lie there.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::{StorageExt, StorageOpenOptions};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags};

use super::error::{DiskError, failed, refused};

/// Zeroes written at once where the file system cannot zero a range itself.
const ZEROES: usize = 64 << 10;

/// An open file. It holds a lock until it is dropped: a shared one when read-only, else an exclusive one.
#[derive(Debug)]
pub(super) struct ImageFile {
    path: PathBuf,
    /// The same open file as `storage`, for what that has no calls for.
    file: File,
    storage: imago::file::File,
    read_only: bool,
    /// Its length when it was opened, in bytes: it may grow, but not shrink. 0 for a block device, which cannot.
    length: u64,
    /// Whether its file system can tell what is in the host's memory, as far as is known.
    tells: AtomicBool,
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

/// How much of what was to be read is in the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All, and it was read.
    All,
    /// Not all.
    Less,
    /// The file system does not tell.
    Unknown,
}

/// Opens a file for an image, not locked yet.
pub(super) fn open(path: &Path, read_only: bool) -> Result<(File, FileId), DiskError> {
    let access = if read_only { "reading" } else { "reading and writing" };
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        // Means nothing to disks, and lets us look at a pipe instead of waiting for its other end.
        .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0))
        .open(path)
        .map_err(|source| refused(path, access, source))?;
    let metadata = file.metadata().map_err(|source| failed(path, "examine", source))?;
    let kind = metadata.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::NotADisk { path: path.to_owned() });
    }
    Ok((file, id(&metadata)))
}

/// Which file is open.
pub(super) fn id_of(file: &File) -> io::Result<FileId> {
    file.metadata().map(|metadata| id(&metadata))
}

fn id(metadata: &Metadata) -> FileId {
    FileId(metadata.dev(), metadata.ino())
}

impl ImageFile {
    /// Locks an open file. `path` is its name in messages.
    pub(super) fn lock(file: File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let outcome = if read_only { file.try_lock_shared() } else { file.try_lock() };
        match outcome {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => {
                tracing::warn!(path = %path.display(), %error, "this file system has no locks: keep other machines off the image");
            }
        }
        Self::of(file, path, read_only)
    }

    /// A file that nobody else knows of.
    pub(super) fn of(file: File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let length = file.metadata().map_err(|source| failed(path, "examine", source))?.len();
        let storage = storage(&file, path, read_only)?;
        Ok(Self { path: path.to_owned(), file, storage, read_only, length, tells: AtomicBool::new(true) })
    }

    /// For calls of a format's driver.
    pub(super) fn share(&self) -> Result<imago::file::File, DiskError> {
        storage(&self.file, &self.path, self.read_only)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Its size in bytes, of block devices, too.
    pub(super) fn size(&self) -> Result<u64, DiskError> {
        (&self.file).seek(SeekFrom::End(0)).map_err(|source| failed(&self.path, "measure", source))
    }

    /// Reads some bytes of its start.
    pub(super) fn start(&self, bytes: &mut [u8]) -> Result<usize, DiskError> {
        rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut *bytes, 0))
            .map_err(|error| failed(&self.path, "read", error.into()))
    }

    /// Reads what is in the host's memory already, and does not wait for its storage.
    pub(super) fn read_at_once(&self, buffers: IoVectorMut<'_>, offset: u64) -> Reach {
        if !self.tells.load(Ordering::Relaxed) {
            return Reach::Unknown;
        }
        let wanted = buffers.len();
        let mut parts = buffers.into_inner();
        match rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(length) if u64::try_from(length) == Ok(wanted) => Reach::All,
            // Or the file ends there.
            Ok(_) | Err(Errno::AGAIN) => Reach::Less,
            // A read that fails is told of by one that may wait.
            Err(error) => {
                if error == Errno::OPNOTSUPP {
                    self.tells.store(false, Ordering::Relaxed);
                }
                Reach::Unknown
            }
        }
    }

    /// Past the end of the file there are zeroes.
    pub(super) fn read(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        self.storage.readv(buffers, offset)
    }

    pub(super) fn write(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        self.storage.writev(buffers, offset)
    }

    /// Makes everything written so far last.
    pub(super) fn sync(&self) -> io::Result<()> {
        retry(|| fdatasync(&self.file))
    }

    /// Whether it is still as long as it was, at least: reads of what somebody cut off give zeroes and no error.
    pub(super) fn check_length(&self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length >= self.length {
            return Ok(());
        }
        let message = format!("{} was cut short from {} to {length} bytes", self.path.display(), self.length);
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
    }

    /// Gives up the content of a range, where the file system can.
    pub(super) fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.punch(offset, length) {
            // A discard is a hint, and disks with blocks of 4 KiB call a smaller range invalid.
            outcome if is_unsupported(&outcome) => Ok(()),
            outcome => outcome,
        }
    }

    /// Makes a range read as zeroes; with `unmap` its space may be given up, else it stays allocated where the file
    /// system can do so.
    pub(super) fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let mut outcome =
            if unmap { self.punch(offset, length) } else { Err(io::ErrorKind::Unsupported.into()) };
        if is_unsupported(&outcome) {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            outcome = retry(|| fallocate(&self.file, flags, offset, length));
        }
        if is_unsupported(&outcome) && !unmap {
            // tmpfs has no zero-range; a hole that is allocated again is the same.
            outcome = self.punch(offset, length);
            if outcome.is_ok() {
                outcome = retry(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length));
            }
        }
        if is_unsupported(&outcome) { self.write_zeroes(offset, length) } else { outcome }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry(|| fallocate(&self.file, flags, offset, length))
    }

    pub(super) fn write_zeroes(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        let zeroes = vec![0u8; ZEROES];
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(ZEROES).min(ZEROES);
            let written =
                rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.file, &zeroes[..part], offset))?;
            let written = u64::try_from(written).map_err(io::Error::other)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            (offset, length) = (offset.saturating_add(written), length.saturating_sub(written));
        }
        Ok(())
    }
}

fn storage(file: &File, path: &Path, read_only: bool) -> Result<imago::file::File, DiskError> {
    let twin = file.try_clone().map_err(|source| failed(path, "share", source))?;
    let options = StorageOpenOptions::new().filename(path).write(!read_only);
    imago::file::File::from_open_file(twin, options).map_err(|source| failed(path, "prepare", source))
}

/// Disks with blocks of 4 KiB call a smaller range invalid.
fn is_unsupported(outcome: &io::Result<()>) -> bool {
    use io::ErrorKind::{InvalidInput, Unsupported};
    matches!(outcome, Err(error) if matches!(error.kind(), Unsupported | InvalidInput))
}

fn retry(operation: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(operation)?)
}
