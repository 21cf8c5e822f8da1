//! Store images: folders and closures as read-only EROFS file systems that guests mount.
//!
//! ```text
//!  Source ──key──► cache folder ──found──────────────────────────► Image
//!                       └──missing──► mkfs.erofs ─► Draft ─rename──┘
//! ```
//!
//! An image is the same, byte for byte, whenever it is made of the same files: its owner, times, UUID and label are fixed.
//! It is neither packed nor are ends of files moved into inodes, so that guests can have its pages in place (DAX). Images
//! are kept by what they are made of: the paths of a Nix store never change and are named by their hash, so that their names
//! are enough; of all else every file's size, times and mode are looked at.
//!
//! Knows nothing of machines or KVM.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod exclude;
mod key;
mod mkfs;
mod source;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use snowboot_cache::{Bound, Folder};
use snowboot_config::StoreSource;
use tempfile::NamedTempFile;

use self::source::Source;

/// How the names of our files end.
const SUFFIX: &str = "erofs";
/// Images that a folder keeps: those of a few dozen tests, or a quarter of a small disk.
const KEPT: Bound = Bound { files: 64, bytes: 32 << 30 };

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What the image is to be made of cannot be read.
    #[error("Cannot read {path}: {why}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// `mkfs.erofs` is not there, or failed.
    #[error("Cannot make an image of {path}: {why}", path = path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// There is no room for the image, or no permission to write it.
    #[error("Cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    fn read(path: &Path, error: &io::Error) -> Self {
        Self::Read { path: path.to_owned(), why: error.to_string() }
    }

    fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

/// An image that stays for as long as it is held, unless somebody removes it.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    /// One that is not kept goes away with this.
    temporary: Option<NamedTempFile>,
}

impl Image {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes images, or finds those that were made before. One for a whole process has each source looked at only once, so that
/// all machines of a test have the same image, however often they start.
#[derive(Debug)]
pub struct Images {
    folder: Option<Folder>,
    made: Mutex<HashMap<StoreSource, Arc<Image>>>,
}

impl Images {
    /// Keeps images in the user's cache folder; see [`Folder::of_user`].
    #[must_use]
    pub fn from_environment() -> Self {
        Self { folder: Folder::of_user("stores"), made: Mutex::default() }
    }

    /// Keeps images in `folder`.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(Folder::new(folder)), made: Mutex::default() }
    }

    /// The image of `source`.
    ///
    /// # Errors
    /// When the source cannot be read, or the image cannot be made.
    pub fn get(&self, source: &StoreSource) -> Result<Arc<Image>, StoreError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = made.get(source).filter(|image| image.path.exists()) {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(self.find_or_make(source)?);
        made.insert(source.clone(), Arc::clone(&image));
        Ok(image)
    }

    /// As [`Self::get`], for an image that is to stay when this ends; the path.
    ///
    /// # Errors
    /// When there is no folder to keep it in, too.
    pub fn keep(&self, source: &StoreSource) -> Result<PathBuf, StoreError> {
        let image = self.get(source)?;
        if image.temporary.is_some() {
            let why = "no cache folder can be written to: name one by SNOWBOOT_CACHE_DIR, or a file to write"
                .to_owned();
            return Err(StoreError::Make { path: image.path.clone(), why });
        }
        Ok(image.path.clone())
    }

    fn find_or_make(&self, source: &StoreSource) -> Result<Image, StoreError> {
        let source = Source::read(source)?;
        let Some(folder) = &self.folder else { return unkept(&source) };
        let name = format!("{}.{SUFFIX}", key::of(&source, SystemTime::now())?);
        if let Some(image) = find(folder, &name) {
            return Ok(image);
        }
        let Ok(lock) = folder.lock() else { return unkept(&source) };
        // Whoever had the lock before may have made it.
        if let Some(image) = find(folder, &name) {
            return Ok(image);
        }
        let draft = folder.draft().map_err(StoreError::write(&folder.file("")))?;
        let path = folder.file(&name);
        make(&source, draft.path())?;
        draft.persist(&path).map_err(|error| error.error).map_err(StoreError::write(&path))?;
        folder.make_room(SUFFIX, KEPT);
        drop(lock);
        Ok(Image { path, temporary: None })
    }
}

fn find(folder: &Folder, name: &str) -> Option<Image> {
    let file = folder.open(name)?;
    snowboot_cache::mark_used(&file);
    Some(Image { path: folder.file(name), temporary: None })
}

/// Where nothing can be kept, as in a sandbox without a home.
fn unkept(source: &Source) -> Result<Image, StoreError> {
    let file = tempfile::Builder::new()
        .prefix("snowboot-store-")
        .tempfile()
        .map_err(StoreError::write(&std::env::temp_dir()))?;
    make(source, file.path())?;
    Ok(Image { path: file.path().to_owned(), temporary: Some(file) })
}

/// Makes the image of `source` at `path`, whole or not at all.
///
/// # Errors
/// When the source cannot be read, or the image cannot be made or written.
pub fn write_image(source: &StoreSource, path: &Path) -> Result<(), StoreError> {
    let source = Source::read(source)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let draft = tempfile::Builder::new()
        .prefix(".store-")
        .permissions(permissions)
        .tempfile_in(folder)
        .map_err(StoreError::write(path))?;
    make(&source, draft.path())?;
    draft.persist(path).map_err(|error| error.error).map_err(StoreError::write(path))?;
    Ok(())
}

/// A source that changes meanwhile gives an image that is neither the old one nor the new one.
fn make(source: &Source, image: &Path) -> Result<(), StoreError> {
    // Both of the same moment, so that what is not settled yet counts as the same.
    let now = SystemTime::now();
    let before = key::of(source, now)?;
    mkfs::run(source, image)?;
    if key::of(source, now)? != before {
        let why = "it changed meanwhile: try again when nobody writes to it".to_owned();
        return Err(StoreError::Make { path: source.folder.clone(), why });
    }
    File::open(image).and_then(|file| file.sync_data()).map_err(StoreError::write(image))
}

#[cfg(test)]
mod tests;
