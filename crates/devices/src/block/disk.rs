//! A disk: an image with a known size, which is read and written in place from and to guest memory.
//!
//! Owned by one block device. It must never read or write outside of the sectors it announced, and never leave a half-made
//! image behind.
//!
//! # Which format an image has
//! One that the user names is that. Otherwise the start of the file tells, as in QEMU, and a disk that was taken for raw
//! because of that refuses the one write that could change the answer: a guest must not be able to turn its disk into an image
//! that names files of the host for the next start.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::io_buffers::{IoVector, IoVectorMut};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{Bytes, VolatileSlice};

use super::content::Content;
use super::draft::Draft;
use super::error::{DiskError, unusable};
use super::file::{self, FileId, ImageFile, Reach};
use super::format::{Format, Looks, MAGIC, looks};
use super::overlay::{Changes, Overlay};
use super::qcow2::Qcow2Image;

/// Bytes of a sector, the unit of all of virtio-blk (virtio 1.2, 5.2.4).
pub const SECTOR: u64 = 512;

/// The most buffers of one system call (`IOV_MAX`, limits.h); longer lists are cut.
const MOST_BUFFERS: usize = 1024;

/// An open disk. It holds locks on its files until it is dropped: shared ones on what is only read, else exclusive ones.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    content: Content,
    sectors: u64,
    read_only: bool,
    /// Nobody said that it is raw.
    is_guess: bool,
}

impl Disk {
    /// Opens an image or a host block device.
    ///
    /// A size that is no multiple of 512 bytes is rounded up, so that no byte of the image is hidden: what is past the
    /// end reads as zeroes, and a write there lengthens a raw file to whole sectors.
    ///
    /// # Errors
    /// When it cannot be opened, is no disk, is in a format that is not read, or is in use; the same of the images behind
    /// it.
    pub fn open(path: &Path, read_only: bool, format: Option<Format>) -> Result<Self, DiskError> {
        let (file, id) = file::open(path, read_only)?;
        let file = ImageFile::lock(file, path, read_only)?;
        Self::of_file(file, id, format)
    }

    /// Opens a qcow2 image that was [made over](Self::create_over) `backing`.
    ///
    /// # Errors
    /// As [`Self::open`], and when it is over something else.
    pub fn open_over(path: &Path, backing: &Path) -> Result<Self, DiskError> {
        let disk = Self::open(path, false, Some(Format::Qcow2))?;
        let (_, id) = file::open(backing, true)?;
        if matches!(&disk.content, Content::Qcow2(image) if image.is_over(id)) {
            return Ok(disk);
        }
        let why = format!("it was not made over {}; remove it, and it is made anew", backing.display());
        Err(unusable(path, why))
    }

    /// Creates an image of `bytes` zeroes that takes no space yet, and opens it for writing. The name appears only once
    /// the image is complete and locked; before, `prepare` can write to it, under a name that goes away.
    ///
    /// # Errors
    /// When something of that name is there, the file cannot be made, or `prepare` fails.
    pub fn create(
        path: &Path,
        bytes: u64,
        format: Option<Format>,
        prepare: impl FnOnce(&Path) -> Result<(), DiskError>,
    ) -> Result<Self, DiskError> {
        Self::make(path, bytes, format, |draft| match format {
            Some(Format::Qcow2) => Qcow2Image::create(&draft.file, path, bytes, None),
            Some(Format::Raw) | None => {
                let create = |source| DiskError::Create { path: path.to_owned(), bytes, source };
                draft.file.set_len(bytes).map_err(create)?;
                prepare(&draft.temporary)
            }
        })
    }

    /// Creates a qcow2 image that shows `backing` until it is written to, and opens it for writing. It has the size of
    /// `backing`, or `bytes` if that is more.
    ///
    /// # Errors
    /// As [`Self::open`] for `backing`, and as [`Self::create`].
    pub fn create_over(
        path: &Path,
        backing: &Path,
        format: Option<Format>,
        bytes: u64,
    ) -> Result<Self, DiskError> {
        let below = Self::open(backing, true, format)?;
        let bytes = bytes.max(below.sectors.saturating_mul(SECTOR));
        let format = match below.content {
            Content::Qcow2(_) => Format::Qcow2,
            Content::Raw(_) | Content::Overlay(_) => Format::Raw,
        };
        let name = name_from(path, backing);
        Self::make(path, bytes, Some(Format::Qcow2), |draft| {
            Qcow2Image::create(&draft.file, path, bytes, Some((&name, format)))
        })
    }

    /// A disk whose image is never written: what is written goes to `changes`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_changes(
        path: &Path,
        format: Option<Format>,
        changes: Arc<Changes>,
    ) -> Result<Self, DiskError> {
        let base = Self::open(path, true, format)?;
        let content = Content::Overlay(Box::new(Overlay::new(base.content, changes)));
        Ok(Self { content, read_only: false, is_guess: false, ..base })
    }

    /// A disk in a file that has no name; `path` stands for it in messages.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn of_nameless(file: File, path: &Path) -> Result<Self, DiskError> {
        let file = ImageFile::lock(file, path, false)?;
        Self::of_content(file.path().to_owned(), file.size()?, Content::Raw(Arc::new(file)), false)
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

    fn make(
        path: &Path,
        bytes: u64,
        format: Option<Format>,
        fill: impl FnOnce(&Draft) -> Result<(), DiskError>,
    ) -> Result<Self, DiskError> {
        let create = |source| DiskError::Create { path: path.to_owned(), bytes, source };
        let draft = Draft::new(path).map_err(create)?;
        fill(&draft)?;
        let id = file::id_of(&draft.file).map_err(create)?;
        let twin = draft.file.try_clone().map_err(create)?;
        let file = ImageFile::lock(twin, path, false)?;
        // Whole, and of use: only then does it get its name.
        let disk = Self::of_file(file, id, format)?;
        draft.publish(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => DiskError::Exists { path: path.to_owned() },
            _ => create(source),
        })?;
        Ok(disk)
    }

    fn of_file(file: ImageFile, id: FileId, format: Option<Format>) -> Result<Self, DiskError> {
        let path = file.path().to_owned();
        let read_only = file.is_read_only();
        let chosen = match format {
            Some(format) => format,
            None => guess(&file)?,
        };
        let mut disk = match chosen {
            Format::Raw => Self::of_content(path, file.size()?, Content::Raw(Arc::new(file)), read_only),
            Format::Qcow2 => {
                let image = Box::new(Qcow2Image::open(file, id)?);
                Self::of_content(path, image.size(), Content::Qcow2(image), read_only)
            }
        }?;
        disk.is_guess = format.is_none() && chosen == Format::Raw;
        Ok(disk)
    }

    fn of_content(path: PathBuf, bytes: u64, content: Content, read_only: bool) -> Result<Self, DiskError> {
        Ok(Self { path, content, sectors: bytes.div_ceil(SECTOR), read_only, is_guess: false })
    }

    /// Reads from byte `offset` into `buffers`, unless that would have to wait for the host's storage and can be done
    /// aside: then the file to [read](read_file) is returned. Of what has a format one cannot tell beforehand.
    pub(super) fn read_at_once<B: BitmapSlice>(
        &self,
        buffers: &[VolatileSlice<'_, B>],
        offset: u64,
    ) -> io::Result<Option<Arc<ImageFile>>> {
        if let Content::Raw(file) = &self.content
            && buffers.len() <= MOST_BUFFERS
        {
            let (vector, _guard) = IoVectorMut::from_volatile_slice(buffers);
            match file.read_at_once(vector, offset) {
                Reach::All => return Ok(None),
                Reach::Less => return Ok(Some(Arc::clone(file))),
                Reach::Unknown => {}
            }
        }
        self.read(buffers, offset).map(|()| None)
    }

    /// Reads from byte `offset` into `buffers`.
    pub(super) fn read<B: BitmapSlice>(
        &self,
        buffers: &[VolatileSlice<'_, B>],
        offset: u64,
    ) -> io::Result<()> {
        let read = |vector: IoVectorMut<'_>, offset| self.content.read(vector, offset);
        read_checked(buffers, offset, read, || self.content.check_length())
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
            if offset == 0 && self.is_guess {
                self.write_start(vector)?;
            } else {
                self.content.write(vector, offset)?;
            }
            offset = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    /// Writes what begins with the first bytes of a disk that was taken for raw. They are looked at and written out of a
    /// copy, since the guest could change them in between.
    fn write_start(&self, buffers: IoVector<'_>) -> io::Result<()> {
        let length = buffers.len().min(SECTOR);
        let (head, rest) = buffers.split_at(length);
        let mut start = vec![0; usize::try_from(length).unwrap_or(0)];
        head.copy_into_slice(&mut start);
        if looks(&start) != Looks::Like(Format::Raw) {
            let message = "the guest wrote the header of another image format to its start; name the format of the image \
                           (`raw`) to let it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        self.content.write((&start).into(), 0)?;
        if rest.is_empty() { Ok(()) } else { self.content.write(rest, length) }
    }

    /// The file that a flush which lasts has to wait for, where that can be done aside.
    pub(super) fn to_sync(&self) -> Option<Arc<ImageFile>> {
        match &self.content {
            Content::Raw(file) if !self.read_only => Some(Arc::clone(file)),
            _ => None,
        }
    }

    /// Hands everything written so far to the host's kernel; with `sync`, makes it last.
    pub(super) fn flush(&self, sync: bool) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.content.check_length()?;
        self.content.flush(sync)
    }

    /// Gives up the content of a range, where the image can.
    pub(super) fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.content.discard(offset, length)
    }

    /// Makes a range read as zeroes; with `unmap` its space may be given up, else it stays allocated where that can be.
    pub(super) fn zero(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.content.zero(offset, length, unmap)
    }
}

/// Reads from byte `offset` of an image's file into `buffers`, as [`Disk::read`] of a raw disk.
pub(super) fn read_file<B: BitmapSlice>(
    file: &ImageFile,
    buffers: &[VolatileSlice<'_, B>],
    offset: u64,
) -> io::Result<()> {
    read_checked(buffers, offset, |vector, offset| file.read(vector, offset), || file.check_length())
}

fn read_checked<B: BitmapSlice>(
    buffers: &[VolatileSlice<'_, B>],
    mut offset: u64,
    read: impl Fn(IoVectorMut<'_>, u64) -> io::Result<()>,
    check_length: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    for part in buffers.chunks(MOST_BUFFERS) {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(part);
        let length = vector.len();
        read(vector, offset)?;
        offset = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
    }
    // A file that was cut short reads as zeroes, so a look at its length is only worth it after those.
    if buffers.last().is_some_and(ends_in_zeroes) { check_length() } else { Ok(()) }
}

/// The format of an image whose format nobody said.
fn guess(file: &ImageFile) -> Result<Format, DiskError> {
    let mut start = [0; MAGIC];
    let length = file.start(&mut start)?;
    match looks(start.get(..length).unwrap_or_default()) {
        Looks::Like(format) => Ok(format),
        Looks::Foreign(format) => Err(DiskError::ForeignFormat { path: file.path().to_owned(), format }),
    }
}

/// What an image at `path` calls `backing`: by its name alone within a folder, so that the folder can be moved.
fn name_from(path: &Path, backing: &Path) -> PathBuf {
    match (path.parent() == backing.parent(), backing.file_name()) {
        (true, Some(name)) => PathBuf::from(name),
        _ => std::path::absolute(backing).unwrap_or_else(|_| backing.to_owned()),
    }
}

fn ends_in_zeroes<B: BitmapSlice>(buffer: &VolatileSlice<'_, B>) -> bool {
    let at = buffer.len().saturating_sub(size_of::<u64>());
    !matches!(buffer.read_obj::<u64>(at), Ok(tail) if tail != 0)
}

#[cfg(test)]
mod tests;
