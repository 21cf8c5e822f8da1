//! A disk image: a raw file or a host block device, locked against a second writer.
//!
//! Owned by one block device, which calls it with guest memory in place. It must never read or write outside of the
//! sectors it announced, and never leave a half-made image behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::{StorageExt, StorageOpenOptions};
use rustix::fs::{FallocateFlags, OFlags, RenameFlags, fallocate, fdatasync, renameat_with};
use rustix::io::Errno;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Bytes of a sector, the unit of all of virtio-blk (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;

/// The most buffers of one system call (`IOV_MAX`, limits.h); longer lists are cut.
const MOST_BUFFERS: usize = 1024;
/// Zeroes written at once where the file system cannot zero a range itself.
const ZEROES: usize = 64 << 10;

/// A disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("Cannot open disk image {path}; check that it is there and that its permissions allow {access}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What was asked for, in words.
        access: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("Disk image {path} is neither a file nor a block device; give the path of a raw image")]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// It is in a format with a header, which a guest would see as data.
    #[error("Disk image {path} is in {format} format, not raw; convert it with `qemu-img convert -O raw`")]
    NotRaw {
        /// The image.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// Another machine has it.
    #[error(
        "Disk image {path} is in use by another machine; stop that machine, give this one its own copy, or attach the \
         image read-only to both"
    )]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// It is there already.
    #[error(
        "Cannot create disk image {path}, for something of that name is there; remove it or choose another name"
    )]
    Exists {
        /// The image.
        path: PathBuf,
    },
    /// It cannot be created.
    #[error(
        "Cannot create disk image {path} of {bytes} bytes; check the folder's permissions and free space"
    )]
    Create {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An operation on the open image failed.
    #[error("Cannot {what} disk image {path}")]
    Io {
        /// The image.
        path: PathBuf,
        /// The operation.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open image. It holds a lock on the file until it is dropped: a shared one when read-only, else an exclusive one.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    /// The same open file as `storage`, for what that has no calls for.
    file: File,
    storage: imago::file::File,
    sectors: u64,
    read_only: bool,
}

impl Disk {
    /// Opens a raw image or a host block device.
    ///
    /// A size that is no multiple of 512 bytes is rounded up, so that no byte of the image is hidden: what is past the
    /// end reads as zeroes, and a write there lengthens the file to whole sectors.
    ///
    /// # Errors
    /// When it cannot be opened, is no disk, is not raw, or is in use.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let access = if read_only { "reading" } else { "reading and writing" };
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            // Means nothing to disks, and lets us look at a pipe instead of waiting for its other end.
            .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0))
            .open(path)
            .map_err(|source| refused(path, access, source))?;
        let kind = file.metadata().map_err(|source| failed(path, "examine", source))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NotADisk { path: path.to_owned() });
        }
        lock(&file, path, read_only)?;
        Self::from_locked(file, path, read_only)
    }

    /// Creates an image of `bytes` zeroes that takes no space yet, and opens it for writing. The name appears only once
    /// the image is complete and locked.
    ///
    /// # Errors
    /// When something of that name is there, or the file cannot be made.
    pub fn create_sparse(path: &Path, bytes: u64) -> Result<Self, DiskError> {
        let create = |source| DiskError::Create { path: path.to_owned(), bytes, source };
        let draft = Draft::new(path).map_err(create)?;
        draft.file.set_len(bytes).map_err(create)?;
        lock(&draft.file, path, false)?;
        let file = draft.publish(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => DiskError::Exists { path: path.to_owned() },
            _ => create(source),
        })?;
        Self::from_locked(file, path, false)
    }

    /// Size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it was opened without permission to write.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn from_locked(mut file: File, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let bytes = file.seek(SeekFrom::End(0)).map_err(|source| failed(path, "measure", source))?;
        if let Some(format) = foreign_format(&mut file).map_err(|source| failed(path, "read", source))? {
            return Err(DiskError::NotRaw { path: path.to_owned(), format });
        }
        let twin = file.try_clone().map_err(|source| failed(path, "share", source))?;
        let options = StorageOpenOptions::new().filename(path).write(!read_only);
        let storage = imago::file::File::from_open_file(twin, options)
            .map_err(|source| failed(path, "prepare", source))?;
        Ok(Self { path: path.to_owned(), file, storage, sectors: bytes.div_ceil(SECTOR), read_only })
    }

    /// Reads from byte `offset` into `buffers`; past the end of the file there are zeroes.
    pub(super) fn read<B: BitmapSlice>(
        &self,
        buffers: &[VolatileSlice<'_, B>],
        offset: u64,
    ) -> io::Result<()> {
        let mut offset = offset;
        for part in buffers.chunks(MOST_BUFFERS) {
            let (vector, _guard) = IoVectorMut::from_volatile_slice(part);
            let length = vector.len();
            self.storage.readv(vector, offset)?;
            offset = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    /// Writes `buffers` from byte `offset` on.
    pub(super) fn write<B: BitmapSlice>(
        &self,
        buffers: &[VolatileSlice<'_, B>],
        offset: u64,
    ) -> io::Result<()> {
        let mut offset = offset;
        for part in buffers.chunks(MOST_BUFFERS) {
            let (vector, _guard) = IoVector::from_volatile_slice(part);
            let length = vector.len();
            self.storage.writev(vector, offset)?;
            offset = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    /// Makes everything written so far last.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        retry(|| fdatasync(&self.file))
    }

    /// Gives up the content of a range, where the file system can.
    pub(super) fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.punch(offset, length) {
            // A discard is a hint, and disks with blocks of 4 KiB call a smaller range invalid.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Makes a range read as zeroes; with `unmap` its space may be given up, else it stays allocated where the file
    /// system can do so.
    pub(super) fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        // Disks with blocks of 4 KiB call a smaller range invalid.
        let unsupported = |outcome: &io::Result<()>| matches!(outcome, Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput));
        let mut outcome =
            if unmap { self.punch(offset, length) } else { Err(io::ErrorKind::Unsupported.into()) };
        if unsupported(&outcome) {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            outcome = retry(|| fallocate(&self.file, flags, offset, length));
        }
        if unsupported(&outcome) && !unmap {
            // tmpfs has no zero-range; a hole that is allocated again is the same.
            outcome = self.punch(offset, length);
            if outcome.is_ok() {
                outcome = retry(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length));
            }
        }
        if unsupported(&outcome) { self.write_zeroes(offset, length) } else { outcome }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry(|| fallocate(&self.file, flags, offset, length))
    }

    fn write_zeroes(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
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

/// An image without a name yet, or with a temporary one that goes away with it.
struct Draft {
    file: File,
    temporary: PathBuf,
}

impl Draft {
    fn new(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // Other processes have another number, and within one the name is held for as long as the draft.
        for attempt in 0..100u32 {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{attempt}.new", std::process::id()));
            let temporary = path.with_file_name(hidden);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { file, temporary }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Gives it its name, unless that is taken.
    fn publish(self, path: &Path) -> io::Result<File> {
        let file = self.file.try_clone()?;
        let here = rustix::fs::CWD;
        match renameat_with(here, &self.temporary, here, path, RenameFlags::NOREPLACE) {
            // Some network file systems cannot rename without replacing; a second name is as safe.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => std::fs::hard_link(&self.temporary, path)?,
            outcome => outcome?,
        }
        Ok(file)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary); // Gone already once published by renaming.
    }
}

fn lock(file: &File, path: &Path, shared: bool) -> Result<(), DiskError> {
    let outcome = if shared { file.try_lock_shared() } else { file.try_lock() };
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(DiskError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => {
            tracing::warn!(path = %path.display(), %error, "this file system has no locks: keep other machines off the image");
            Ok(())
        }
    }
}

/// Formats that a user may hand in by mistake.
fn foreign_format(file: &mut File) -> io::Result<Option<&'static str>> {
    let mut start = Vec::new();
    file.rewind()?;
    file.take(8).read_to_end(&mut start)?;
    Ok(match start.as_slice() {
        [b'Q', b'F', b'I', 0xfb, ..] => Some("qcow2"),
        [b'K', b'D', b'M', b'V', ..] => Some("VMDK"),
        b"vhdxfile" => Some("VHDX"),
        _ => None,
    })
}

fn refused(path: &Path, access: &'static str, source: io::Error) -> DiskError {
    DiskError::Open { path: path.to_owned(), access, source }
}

fn failed(path: &Path, what: &'static str, source: io::Error) -> DiskError {
    DiskError::Io { path: path.to_owned(), what, source }
}

fn retry(operation: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(operation)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn slice(bytes: &mut [u8]) -> VolatileSlice<'_, ()> {
        VolatileSlice::from(bytes)
    }

    #[test]
    fn a_created_image_is_sparse_zero_and_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.img");
        let disk = Disk::create_sparse(&path, 1 << 30).unwrap();
        assert_eq!(disk.sectors(), (1 << 30) / SECTOR);
        assert!(std::fs::metadata(&path).unwrap().blocks() < 100);
        assert!(matches!(Disk::open(&path, false), Err(DiskError::InUse { .. })));
        assert!(matches!(Disk::open(&path, true), Err(DiskError::InUse { .. })));
        drop(disk);
        let (one, two) = (Disk::open(&path, true).unwrap(), Disk::open(&path, true).unwrap());
        assert!(one.is_read_only() && two.is_read_only());
        assert!(matches!(Disk::open(&path, false), Err(DiskError::InUse { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn creating_replaces_nothing_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.img");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Disk::create_sparse(&path, 512), Err(DiskError::Exists { .. })));
        let too_long = Disk::create_sparse(&folder.path().join("huge.img"), u64::MAX);
        assert!(matches!(too_long, Err(DiskError::Create { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = Disk::create_sparse(&folder.path().join("no/such.img"), 512);
        assert!(missing.unwrap_err().to_string().contains("no/such.img"));
    }

    #[test]
    fn what_is_no_raw_disk_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.qcow2");
        assert!(matches!(Disk::open(&path, true), Err(DiskError::Open { .. })));
        assert!(matches!(Disk::open(folder.path(), true), Err(DiskError::NotADisk { .. })));
        assert!(matches!(Disk::open(Path::new("/dev/null"), true), Err(DiskError::NotADisk { .. })));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(Disk::open(&pipe, true), Err(DiskError::NotADisk { .. })));
        std::fs::write(&path, b"QFI\xfb and so on").unwrap();
        let message = Disk::open(&path, true).unwrap_err().to_string();
        assert!(message.contains("qcow2") && message.contains("x.qcow2"), "{message}");
    }

    #[test]
    fn the_last_broken_sector_is_padded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.img");
        std::fs::write(&path, vec![9; 700]).unwrap();
        let disk = Disk::open(&path, false).unwrap();
        assert_eq!(disk.sectors(), 2);
        let mut data = [1; 512];
        disk.read(&[slice(&mut data)], 512).unwrap();
        assert_eq!((data[187], data[188], data[511]), (9, 0, 0));
        disk.write(&[slice(&mut [5; 512])], 512).unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), 1024);
    }

    #[test]
    fn more_buffers_than_a_system_call_takes_are_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::create_sparse(&folder.path().join("many.img"), 1 << 20).unwrap();
        let mut data: Vec<u8> = (0..=250).cycle().take(3 * MOST_BUFFERS + 7).collect();
        let buffers: Vec<_> = data.iter_mut().map(|byte| slice(std::slice::from_mut(byte))).collect();
        disk.write(&buffers, 512).unwrap();
        drop(buffers);
        let mut back = vec![0; data.len()];
        let buffers: Vec<_> = back.iter_mut().map(|byte| slice(std::slice::from_mut(byte))).collect();
        disk.read(&buffers, 512).unwrap();
        drop(buffers);
        assert_eq!(data, back);
    }

    #[test]
    fn ranges_are_zeroed_and_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zero.img");
        std::fs::write(&path, vec![9; 1 << 20]).unwrap();
        let disk = Disk::open(&path, false).unwrap();
        let full = std::fs::metadata(&path).unwrap().blocks();
        disk.zero(4096, 8192, false).unwrap();
        disk.zero(65536, 65536, true).unwrap();
        disk.write_zeroes(1024, ZEROES as u64 - 1024 + 7).unwrap();
        disk.discard(512 << 10, 512 << 10).unwrap();
        disk.flush().unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len(), 1 << 20);
        assert!(content[1024..ZEROES + 7].iter().all(|byte| *byte == 0));
        assert!(content[65536..131_072].iter().all(|byte| *byte == 0));
        assert_eq!((content[1023], content[131_072]), (9, 9));
        assert!(std::fs::metadata(&path).unwrap().blocks() < full);
    }
}
