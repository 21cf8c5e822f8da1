//! qcow2 images with the images behind them.
//!
//! An image names the one behind it, relative to itself. All but the first are opened read-only, with a shared lock, so
//! that machines can share them. Which files are read is said by the header of a file that the user names, or of one that
//! such a file names with its format: never by content alone, which a guest could have written.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, FormatCreateBuilder, StorageOpenOptions};

use super::error::{DiskError, failed, unusable};
use super::file::{self, FileId, ImageFile};
use super::format::{Format, Looks, MAGIC, looks};

type Access = FormatAccess<imago::file::File>;
type Driver = Qcow2<imago::file::File>;

/// The most images of a chain: each one costs a look-up per read, and two open files.
const MOST_LAYERS: usize = 64;

/// An open image.
#[derive(Debug)]
pub(super) struct Qcow2Image {
    access: Access,
    /// The files of all layers, the image's own first: their locks, and their lengths.
    files: Vec<ImageFile>,
    /// What the first layer is over, if it is over something.
    backing: Option<FileId>,
}

/// One image of the chain, not joined to the others yet.
struct Layer {
    driver: LayerDriver,
    file: ImageFile,
    id: FileId,
}

enum LayerDriver {
    Raw(Raw<imago::file::File>),
    Qcow2(Box<Driver>),
}

impl Qcow2Image {
    /// Opens a locked image and everything behind it.
    pub(super) fn open(file: ImageFile, id: FileId) -> Result<Self, DiskError> {
        let top = file.path().to_owned();
        let mut layers = vec![Layer::new(file, id, Format::Qcow2)?];
        while let Some((path, format)) = next(&layers)? {
            if layers.len() >= MOST_LAYERS {
                let why = format!(
                    "it has more than {MOST_LAYERS} images behind it; `qemu-img rebase` makes them fewer"
                );
                return Err(unusable(&top, why));
            }
            let (file, id) = file::open(&path, true).map_err(|error| behind(&top, &error))?;
            // Before the lock, which one who waits for himself would not get.
            if layers.iter().any(|layer| layer.id == id) {
                let why = format!("its backing files go in a circle: {} is behind itself", path.display());
                return Err(unusable(&top, why));
            }
            let file = ImageFile::lock(file, &path, true).map_err(|error| behind(&top, &error))?;
            let format = named_format(&top, &file, format)?;
            layers.push(Layer::new(file, id, format).map_err(|error| behind(&top, &error))?);
        }
        join(layers).ok_or_else(|| unusable(&top, "there is no image in it"))
    }

    /// Writes an image of `bytes` zeroes into an empty file; with `backing`, one that shows that file instead.
    pub(super) fn create(
        file: &File,
        path: &Path,
        bytes: u64,
        backing: Option<(&Path, Format)>,
    ) -> Result<(), DiskError> {
        let create = |source| DiskError::Create { path: path.to_owned(), bytes, source };
        let twin = file.try_clone().map_err(create)?;
        let storage =
            imago::file::File::from_open_file(twin, StorageOpenOptions::new().filename(path).write(true));
        let mut builder = Driver::create_builder(storage.map_err(create)?).size(bytes);
        if let Some((backing, format)) = backing {
            let name = backing.to_str().ok_or_else(|| {
                unusable(path, format!("the name of its backing file is not UTF-8: {}", backing.display()))
            })?;
            let format = match format {
                Format::Raw => "raw",
                Format::Qcow2 => "qcow2",
            };
            builder = builder.backing(name.to_owned(), format.to_owned());
        }
        builder.create().map_err(create)
    }

    /// Its size as a disk, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.access.size()
    }

    pub(super) fn is_over(&self, id: FileId) -> bool {
        self.backing == Some(id)
    }

    pub(super) fn read(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        self.access.readv(buffers, offset)
    }

    pub(super) fn write(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        self.access.writev(buffers, offset)
    }

    /// Hands all changes to the host's kernel; with `sync`, to its storage.
    pub(super) fn flush(&self, sync: bool) -> io::Result<()> {
        self.access.flush()?;
        if sync { self.access.sync() } else { Ok(()) }
    }

    /// Gives up the content of a range as far as whole clusters are in it.
    pub(super) fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        match self.access.discard_to_zero(offset, length) {
            // Version 2 has no zeroes of its own.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            outcome => outcome,
        }
    }

    /// Makes a range read as zeroes.
    pub(super) fn zero(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap
            && !matches!(self.access.discard_to_zero(offset, length), Err(error) if error.kind() == io::ErrorKind::Unsupported)
        {
            return Ok(());
        }
        self.access.write_zeroes(offset, length)
    }

    /// As [`ImageFile::check_length`], of all files.
    pub(super) fn check_length(&self) -> io::Result<()> {
        self.files.iter().try_for_each(ImageFile::check_length)
    }
}

/// What is behind the last layer, and its format, if the image says one.
fn next(layers: &[Layer]) -> Result<Option<(PathBuf, Option<String>)>, DiskError> {
    let Some(Layer { driver: LayerDriver::Qcow2(driver), file, .. }) = layers.last() else { return Ok(None) };
    let Some(name) = driver.implicit_backing_file() else { return Ok(None) };
    if name.starts_with("json:") || name.contains("://") || name.starts_with("nbd:") {
        let why = format!("its backing file is no file: {name}");
        return Err(unusable(file.path(), why));
    }
    let folder = file.path().parent().unwrap_or(Path::new(""));
    let path = folder.join(name.strip_prefix("file:").unwrap_or(name));
    Ok(Some((path, driver.implicit_backing_format().cloned())))
}

/// The format of a backing file. One that is not named can only be raw: a raw image in which a guest wrote a header must not
/// have that guest name files of the host.
fn named_format(top: &Path, file: &ImageFile, named: Option<String>) -> Result<Format, DiskError> {
    match named.as_deref() {
        Some("raw" | "file" | "host_device") => Ok(Format::Raw),
        Some("qcow2") => Ok(Format::Qcow2),
        Some(other) => {
            let file = file.path().display();
            Err(unusable(top, format!("its backing file {file} is in {other} format, which is not read")))
        }
        None => {
            let mut start = [0; MAGIC];
            let length = file.start(&mut start)?;
            match looks(start.get(..length).unwrap_or_default()) {
                Looks::Like(Format::Raw) => Ok(Format::Raw),
                Looks::Like(Format::Qcow2) | Looks::Foreign(_) => {
                    let (top_name, file) = (top.display(), file.path().display());
                    let why = format!(
                        "it does not say the format of its backing file {file}; name it: \
                         `qemu-img rebase -u -F FORMAT -b {file} {top_name}`"
                    );
                    Err(unusable(top, why))
                }
            }
        }
    }
}

fn behind(top: &Path, error: &DiskError) -> DiskError {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(" ({cause})"));
    unusable(top, format!("its backing files are not all there: {error}{cause}"))
}

impl Layer {
    fn new(file: ImageFile, id: FileId, format: Format) -> Result<Self, DiskError> {
        let path = file.path();
        let writable = !file.is_read_only();
        let driver = match format {
            Format::Raw => {
                let raw = Raw::open_image(file.share()?, writable);
                LayerDriver::Raw(raw.map_err(|source| failed(path, "open", source))?)
            }
            Format::Qcow2 => {
                let driver = Driver::open_image(file.share()?, writable).map_err(|source| {
                    unusable(path, format!("it is no qcow2 image that can be read: {source}"))
                })?;
                if driver.requires_external_data_file() {
                    let why = "its data is in another file; `qemu-img convert -O qcow2` puts it into one";
                    return Err(unusable(path, why));
                }
                LayerDriver::Qcow2(Box::new(driver))
            }
        };
        Ok(Self { driver, file, id })
    }
}

/// Joins layers, the uppermost first.
fn join(layers: Vec<Layer>) -> Option<Qcow2Image> {
    let backing = layers.get(1).map(|layer| layer.id);
    let mut files = Vec::new();
    let mut joined: Option<Access> = None;
    for layer in layers.into_iter().rev() {
        files.push(layer.file);
        joined = Some(match layer.driver {
            LayerDriver::Raw(raw) => FormatAccess::new(raw),
            LayerDriver::Qcow2(mut driver) => {
                driver.set_data_file(None);
                driver.set_backing(joined.take());
                FormatAccess::new(*driver)
            }
        });
    }
    files.reverse();
    joined.map(|access| Qcow2Image { access, files, backing })
}
