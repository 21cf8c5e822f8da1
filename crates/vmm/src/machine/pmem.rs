//! Persistent memory: images that guests read in place, behind all RAM.

use std::io;
use std::path::Path;

use snowboot_config::{MachineConfig, MemorySize};
use snowboot_devices::pmem::Pmem;

use super::platform::{Platform, Thread};
use crate::Error;
use crate::arch::{cpuid, layout};
use crate::kvm::{Kvm, PlacedImage};
use crate::memory::{self, Image};

/// Opens a machine's images, and finds each a place that its guest can address.
pub(super) fn place(kvm: &Kvm, config: &MachineConfig) -> Result<Vec<PlacedImage>, Error> {
    if config.pmem.is_empty() {
        return Ok(Vec::new());
    }
    let limit = cpuid::address_limit(&kvm.supported_cpuid()?);
    let mut next = end_of_memory(config.memory);
    let mut images = Vec::new();
    for pmem in &config.pmem {
        let image = Image::open(&pmem.path).map_err(|error| refused(&pmem.path, &error))?;
        let address = next.next_multiple_of(layout::PMEM_ALIGNMENT);
        next = address
            .checked_add(image.size())
            .filter(|end| *end <= limit)
            .ok_or_else(|| beyond_reach(&pmem.path, limit))?;
        images.push(PlacedImage { address, image });
    }
    Ok(images)
}

fn end_of_memory(size: MemorySize) -> u64 {
    let parts = memory::split(size.bytes());
    let ends = parts.iter().map(|(address, _, length)| address.saturating_add(*length));
    ends.max().unwrap_or(0).max(layout::ABOVE_HOLE)
}

/// Start and size of each range.
pub(super) fn ranges(images: &[PlacedImage]) -> Vec<(u64, u64)> {
    images.iter().map(|placed| (placed.address, placed.image.size())).collect()
}

/// Adds a device for each range.
pub(super) fn attach(platform: &mut Platform, ranges: Vec<(u64, u64)>) -> Result<(), Error> {
    ranges
        .into_iter()
        .try_for_each(|(start, size)| platform.add_virtio(Box::new(Pmem::new(start, size)), Thread::Shared))
}

fn refused(path: &Path, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::InvalidInput => "it is not a file with something in it".to_owned(),
        io::ErrorKind::WouldBlock => "a machine may write to it: end that one first".to_owned(),
        _ => error.to_string(),
    };
    Error::File { kind: "persistent memory", path: path.to_owned(), why }
}

fn beyond_reach(path: &Path, limit: u64) -> Error {
    let why = format!("it would end beyond {limit:#x}, where this host's guests can address no more");
    Error::File { kind: "persistent memory", path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_behind_all_memory() {
        let end = |mib| end_of_memory(MemorySize::from_mib(mib).unwrap());
        assert_eq!((end(64), end(3072)), (4 << 30, 4 << 30));
        assert_eq!(end(5 * 1024), 6 << 30);
    }

    #[test]
    fn what_cannot_be_mapped_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let message = |path: &Path| refused(path, &Image::open(path).err().unwrap()).to_string();
        assert!(message(&empty).ends_with("empty: it is not a file with something in it"));
        assert!(message(folder.path()).contains("not a file"));
        assert!(message(&folder.path().join("none")).contains("No such file"));
        let held = folder.path().join("held");
        std::fs::write(&held, "x").unwrap();
        let file = std::fs::File::open(&held).unwrap();
        file.lock().unwrap();
        assert!(message(&held).contains("may write to it"));
    }
}
