//! A descriptor that becomes readable when somebody has news for a device.
//!
//! Owned by whoever tells; the device watches it as one of its sources and drains it first. Coalescing is the kernel's:
//! any number of signals before a drain is one wake-up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// An event descriptor that never blocks either side.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    /// A quiet one.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable. A full counter already is, so a refused write loses nothing.
    pub(crate) fn signal(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes it quiet again. Being quiet already is no error.
    pub(crate) fn drain(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
