//! Why a disk image cannot be used.

use std::io;
use std::path::{Path, PathBuf};

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
    #[error("Disk image {path} is neither a file nor a block device; give the path of an image")]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// It is in a format that is not read.
    #[error(
        "Disk image {path} is in {format} format, which is not read; convert it with `qemu-img convert -O qcow2`, or, \
         if the guest is to see it as it is, name its format, `raw`"
    )]
    ForeignFormat {
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
    /// It is a qcow2 image that cannot be used, or the images behind it cannot.
    #[error("Cannot use disk image {path}: {why}")]
    Unusable {
        /// The image.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
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

pub(super) fn refused(path: &Path, access: &'static str, source: io::Error) -> DiskError {
    DiskError::Open { path: path.to_owned(), access, source }
}

pub(super) fn failed(path: &Path, what: &'static str, source: io::Error) -> DiskError {
    DiskError::Io { path: path.to_owned(), what, source }
}

pub(super) fn unusable(path: &Path, why: impl Into<String>) -> DiskError {
    DiskError::Unusable { path: path.to_owned(), why: why.into() }
}
