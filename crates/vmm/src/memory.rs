//! Guest memory: one memfd per machine, mapped below and above the PCI hole.

use std::fs::File;

use rustix::fs::MemfdFlags;
use snowboot_bus::{GuestAddress, GuestMemory};
use snowboot_config::MemorySize;
use vm_memory::{FileOffset, GuestRegionMmap, MmapRegion};

use crate::Error;
use crate::arch::layout;

/// How the names of memfds with guest memory begin; the machine's name follows. It lets `/proc/PID/smaps` tell guest
/// memory from the VMM's own.
pub const GUEST_MEMORY_PREFIX: &str = "snowboot-memory-";

/// How much of a machine's name goes into its memfd's, which has room for 249 bytes.
const LABEL_MAX: usize = 64;

/// Makes a machine's memory.
pub(crate) fn allocate(name: &str, size: MemorySize) -> Result<GuestMemory, Error> {
    let what = || {
        format!(
            "allocate {size} of guest memory for {name} (the host, or this user's limits, must allow for it)"
        )
    };
    let label: String = name.chars().filter(char::is_ascii_graphic).take(LABEL_MAX).collect();
    let fd = rustix::fs::memfd_create(format!("{GUEST_MEMORY_PREFIX}{label}"), MemfdFlags::CLOEXEC)
        .map_err(Error::host(what()))?;
    let file = File::from(fd);
    file.set_len(size.bytes()).map_err(Error::host(what()))?;
    let file = std::sync::Arc::new(file);
    let mut regions = Vec::new();
    for (address, offset, length) in split(size.bytes()) {
        let length = usize::try_from(length).map_err(|_| Error::Config(what()))?;
        let mapping = MmapRegion::from_file(FileOffset::from_arc(file.clone(), offset), length)
            .map_err(|error| Error::Host { what: what(), source: std::io::Error::other(error) })?;
        let region =
            GuestRegionMmap::new(mapping, GuestAddress(address)).ok_or_else(|| Error::Config(what()))?;
        regions.push(region);
    }
    GuestMemory::from_regions(regions)
        .map_err(|error| Error::Host { what: what(), source: std::io::Error::other(error) })
}

/// The parts that `bytes` of memory are in: guest-physical address, offset in the memfd, length.
pub(crate) fn split(bytes: u64) -> Vec<(u64, u64, u64)> {
    let below = bytes.min(layout::PCI_HOLE);
    let mut parts = vec![(0, 0, below)];
    if bytes > below {
        parts.push((layout::ABOVE_HOLE, below, bytes - below));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_up_to_the_hole_is_one_part() {
        assert_eq!(split(256 << 20), [(0, 0, 256 << 20)]);
        assert_eq!(split(3 << 30), [(0, 0, 3 << 30)]);
    }

    #[test]
    fn memory_beyond_the_hole_goes_on_at_four_gib() {
        assert_eq!(split(5 << 30), [(0, 0, 3 << 30), (4 << 30, 3 << 30, 2 << 30)]);
    }
}
