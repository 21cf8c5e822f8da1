//! What is behind a disk: one of the ways in which its bytes are kept.

use std::io;
use std::sync::Arc;

use imago::io_buffers::{IoVector, IoVectorMut};

use super::file::ImageFile;
use super::overlay::Overlay;
use super::qcow2::Qcow2Image;

/// The bytes of a disk. Reads past the end of what is there give zeroes; nobody calls past the end of the disk.
#[derive(Debug)]
pub(super) enum Content {
    Raw(Arc<ImageFile>),
    Qcow2(Box<Qcow2Image>),
    Overlay(Box<Overlay>),
}

impl Content {
    pub(super) fn read(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.read(buffers, offset),
            Self::Qcow2(image) => image.read(buffers, offset),
            Self::Overlay(overlay) => overlay.read(buffers, offset),
        }
    }

    pub(super) fn write(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.write(buffers, offset),
            Self::Qcow2(image) => image.write(buffers, offset),
            Self::Overlay(overlay) => overlay.write(buffers, offset),
        }
    }

    /// Hands all changes to the host's kernel; with `sync`, to its storage.
    pub(super) fn flush(&self, sync: bool) -> io::Result<()> {
        match self {
            Self::Raw(file) if sync => file.sync(),
            Self::Raw(_) => Ok(()),
            Self::Qcow2(image) => image.flush(sync),
            // Nothing outlives the process anyway.
            Self::Overlay(_) => Ok(()),
        }
    }

    pub(super) fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.discard(offset, length),
            Self::Qcow2(image) => image.discard(offset, length),
            Self::Overlay(overlay) => overlay.discard(offset, length),
        }
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.zero(offset, length, unmap),
            Self::Qcow2(image) => image.zero(offset, length, unmap),
            Self::Overlay(overlay) => overlay.zero(offset, length, unmap),
        }
    }

    /// Whether the files are still as long as they were.
    ///
    /// # Errors
    /// `UnexpectedEof` with the name of one that somebody has cut short.
    pub(super) fn check_length(&self) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.check_length(),
            Self::Qcow2(image) => image.check_length(),
            Self::Overlay(overlay) => overlay.check_length(),
        }
    }
}
