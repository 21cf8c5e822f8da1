//! The memory of another VMM's machine, as that VMM shares it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::FileType;
use snowboot_bus::{GuestAddress, GuestMemory};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

/// The most memory of one machine, 4 TiB: a bit is kept for each page.
const MOST_BYTES: u64 = 4 << 40;

/// Memory that is mapped here, and where its VMM has it.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) guest: Arc<GuestMemory>,
    regions: Vec<Region>,
}

/// A piece of memory: where it is in the other VMM's process and in its guest, and its length in bytes.
#[derive(Clone, Copy, Debug)]
struct Region {
    user: u64,
    guest: u64,
    length: u64,
}

impl Memory {
    /// Maps regions of files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn map(table: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self, String> {
        let total = table.iter().try_fold(0u64, |sum, region| sum.checked_add(region.memory_size));
        if total.is_none_or(|total| total > MOST_BYTES) {
            return Err(format!("its memory is more than {} TiB", MOST_BYTES >> 40));
        }
        let mut mapped = Vec::with_capacity(table.len());
        for (region, file) in table.iter().zip(files) {
            mapped.push(map(region, file)?);
        }
        mapped.sort_by_key(GuestMemoryRegion::start_addr);
        let guest = GuestMemory::from_regions(mapped);
        let guest = guest.map_err(|error| format!("its regions of memory do not fit together: {error}"))?;
        let regions = table.iter().map(|region| Region {
            user: region.user_addr,
            guest: region.guest_phys_addr,
            length: region.memory_size,
        });
        Ok(Self { guest: Arc::new(guest), regions: regions.collect() })
    }

    /// The guest-physical address of what the other VMM has at `user`.
    pub(super) fn guest_address(&self, user: u64) -> Option<u64> {
        let offset_in =
            |region: &Region| user.checked_sub(region.user).filter(|offset| *offset < region.length);
        self.regions.iter().find_map(|region| region.guest.checked_add(offset_in(region)?))
    }
}

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<GuestRegionMmap<snowboot_bus::Tracker>, String> {
    let VhostUserMemoryRegion { guest_phys_addr, memory_size, mmap_offset, .. } = *region;
    let metadata = file.metadata().map_err(|error| format!("its memory cannot be looked at: {error}"))?;
    let end = mmap_offset.checked_add(memory_size);
    // What is behind the end of a file is a signal for who touches it, and that ends the process.
    if !FileType::from_raw_mode(metadata.mode()).is_file() || end.is_none_or(|end| end > metadata.len()) {
        return Err(format!("its memory at {guest_phys_addr:#x} is not all in the file that it hands over"));
    }
    let length = usize::try_from(memory_size).map_err(|_| "its memory is too large".to_owned())?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, mmap_offset), length)
        .map_err(|error| format!("its memory at {guest_phys_addr:#x} cannot be mapped: {error}"))?;
    GuestRegionMmap::new(mapping, GuestAddress(guest_phys_addr))
        .ok_or_else(|| format!("its memory at {guest_phys_addr:#x} goes past the end of all addresses"))
}
