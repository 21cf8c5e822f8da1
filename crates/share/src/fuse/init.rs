//! The beginning: what guest and server can both do.

use super::wire::{Fields, MAJOR, MINOR, OLDEST_MINOR, Put, init};
use super::{Cache, LARGEST_TRANSFER, Server};
use crate::{Errno, Result};

/// Requests that the guest's kernel sends by itself, such as reading ahead, at a time.
const MOST_IN_BACKGROUND: u16 = 128;
/// Above this it holds back.
const CONGESTED: u16 = 96;
/// Times are exact to a nanosecond.
const TIME_GRANULARITY: u32 = 1;
const PAGE: u32 = 4096;
/// Unused fields at the end of `fuse_init_out`, in bytes.
const UNUSED: usize = 28;

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    flags: u64,
}

impl Agreed {
    fn has(self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

impl Server {
    pub(super) fn init(&mut self, mut fields: Fields<'_>) -> Result<()> {
        let (major, minor) = (fields.u32()?, fields.u32()?);
        if major > MAJOR {
            // The guest tries again with this one.
            self.put_version(MINOR);
            self.output.resize(super::OUT_HEADER + 64, 0);
            return Ok(());
        }
        if major < MAJOR || minor < OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let (read_ahead, low) = (fields.u32()?, fields.u32()?);
        let mut offered = u64::from(low);
        if offered & init::INIT_EXT != 0 {
            offered |= u64::from(fields.u32()?) << 32;
        }
        self.reset();
        let flags = offered & self.wanted();
        self.agreed = Some(Agreed { flags });
        self.put_version(minor.min(MINOR));
        self.output.u32(read_ahead);
        let [low, high] = halves(flags);
        self.output.u32(low);
        self.output.u16(MOST_IN_BACKGROUND);
        self.output.u16(CONGESTED);
        self.output.u32(LARGEST_TRANSFER);
        self.output.u32(TIME_GRANULARITY);
        self.output.u16(u16::try_from(LARGEST_TRANSFER / PAGE).unwrap_or(u16::MAX));
        self.output.u16(0); // alignment of mappings: there are none
        self.output.u32(high);
        self.output.resize(self.output.len().saturating_add(UNUSED), 0);
        Ok(())
    }

    fn put_version(&mut self, minor: u32) {
        self.output.u32(MAJOR);
        self.output.u32(minor);
    }

    fn wanted(&self) -> u64 {
        let mut flags = init::ASYNC_READ
            | init::BIG_WRITES
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::MAX_PAGES
            | init::HANDLE_KILLPRIV_V2
            | init::INIT_EXT;
        // Attributes come with all names, and not, as with READDIRPLUS_AUTO, with a folder's first page, and others where the guest thinks
        // it will want them: a walk takes a fortieth less. One that may keep no attributes has no use for them.
        flags |= match self.cache {
            Cache::Always => init::DO_READDIRPLUS | init::CACHE_SYMLINKS,
            Cache::Auto => init::DO_READDIRPLUS | init::AUTO_INVAL_DATA,
            Cache::Never => init::AUTO_INVAL_DATA | init::DIRECT_IO_ALLOW_MMAP,
        };
        if self.tree.is_writable() {
            // Locks are only of use where there is something to write.
            flags |= init::POSIX_LOCKS | init::FLOCK_LOCKS;
            if self.cache == Cache::Always {
                flags |= init::WRITEBACK_CACHE;
            }
        } else if self.cache == Cache::Always {
            flags |= init::NO_OPEN_SUPPORT | init::NO_OPENDIR_SUPPORT;
        }
        flags
    }

    /// Whether the guest reads files without opening them.
    pub(super) fn needs_no_open(&self) -> bool {
        self.agreed.is_some_and(|agreed| agreed.has(init::NO_OPEN_SUPPORT))
    }

    /// Whether the guest reads folders without opening them.
    pub(super) fn needs_no_open_of_folders(&self) -> bool {
        self.agreed.is_some_and(|agreed| agreed.has(init::NO_OPENDIR_SUPPORT))
    }

    /// Whether the guest collects writes, and so reads what it is going to write a part of, and knows where the end is.
    pub(super) fn writes_back(&self) -> bool {
        self.agreed.is_some_and(|agreed| agreed.has(init::WRITEBACK_CACHE))
    }
}

fn halves(flags: u64) -> [u32; 2] {
    [
        u32::try_from(flags & u64::from(u32::MAX)).unwrap_or_default(),
        u32::try_from(flags >> 32).unwrap_or_default(),
    ]
}
