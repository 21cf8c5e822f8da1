//! Guest memory: one private, anonymous mapping per machine.
//!
//! Private, so that the host gives it huge pages: a memfd has none unless root has set `shmem_enabled`. Aligned to them, so
//! that KVM maps them as such: a boot takes some forty page faults then instead of fifteen thousand.
#![expect(unsafe_code, reason = "guest memory is raw memory: it is mapped, and unmapped with its last user")]

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use snowboot_bus::{GuestAddress, GuestMemory, Tracker};
use snowboot_config::MemorySize;
use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestMemoryBackend, GuestRegionMmap};

use crate::Error;
use crate::arch::layout;

/// A page of x86, in bytes.
const PAGE: u64 = 4096;
/// A huge page of x86, in bytes.
const HUGE_PAGE: usize = 2 << 20;
/// What is reserved besides guest memory, to align it, and to keep it apart from whatever else the process has.
const MARGIN: usize = 2 * HUGE_PAGE;

/// Makes a machine's memory. It is zero, and takes up room on the host only where it is used.
pub(crate) fn allocate(name: &str, size: MemorySize) -> Result<GuestMemory, Error> {
    let what = || {
        format!(
            "allocate {size} of guest memory for {name} (the host, or this user's limits, must allow for it)"
        )
    };
    let failed = |error: io::Error| Error::Host { what: what(), source: error };
    let total = usize::try_from(size.bytes()).map_err(|_| Error::Config(what()))?;
    let mapping = Arc::new(Mapping::new(total).map_err(failed)?);
    let mut regions = Vec::new();
    for (address, offset, length) in split(size.bytes()) {
        let (offset, length) = (usize::try_from(offset), usize::try_from(length));
        let (Ok(offset), Ok(length)) = (offset, length) else { return Err(Error::Config(what())) };
        let region = region(&mapping, offset, length).map_err(failed)?;
        regions
            .push(GuestRegionMmap::new(region, GuestAddress(address)).ok_or_else(|| Error::Config(what()))?);
    }
    GuestMemory::from_regions(regions).map_err(|error| failed(io::Error::other(error)))
}

fn region(
    mapping: &Arc<Mapping>,
    offset: usize,
    length: usize,
) -> io::Result<vm_memory::MmapRegion<Tracker>> {
    let tracker = Tracker::of_mapping(length, Arc::clone(mapping) as _);
    let builder = MmapRegionBuilder::new_with_bitmap(length, tracker)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    let start = mapping.start.wrapping_byte_add(offset).cast();
    // SAFETY: the mapping covers `offset + length` bytes, readable and writable, and the tracker keeps it for as long as
    // the region lives.
    unsafe { builder.with_raw_mmap_pointer(start) }.build().map_err(io::Error::other)
}

/// A way to bring `length` bytes of a file from `offset` on to guest memory at an address.
pub(crate) type Loader = fn(&GuestMemory, u64, &File, u64, u64) -> io::Result<()>;

/// Copies a part of a file of our own that never changes, from a mapping, since a read costs more.
///
/// Guests could also have the file's pages themselves, mapped copy-on-write; but a kernel writes to nearly all of its own
/// at boot, and each costs one or two page faults and a copy then, against one fault for 512 of them here.
///
/// # Errors
/// `UnexpectedEof` when the file is shorter, `InvalidInput` when guest memory has no such range.
pub(crate) fn copy_kept(
    memory: &GuestMemory,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let size = check(memory, address, file, offset, length)?;
    if size == 0 {
        return Ok(());
    }
    let place = memory.get_slice(GuestAddress(address), size).map_err(io::Error::other)?;
    let source = FileMapping::new(file, offset, size)?;
    // SAFETY: both are `size` bytes long and do not overlap. No reference points into either: they may be written to
    // meanwhile, by whoever has the file and by a guest that runs.
    unsafe { std::ptr::copy_nonoverlapping(source.first(), place.ptr_guard_mut().as_ptr(), size) };
    place.bitmap().mark_dirty(0, size);
    Ok(())
}

/// Reads a part of a file that others may cut or that may fail to be read, which would end the process if it were mapped.
/// Moves the file's position.
///
/// # Errors
/// As for [`copy_kept`].
pub(crate) fn read_file(
    memory: &GuestMemory,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let size = check(memory, address, file, offset, length)?;
    let mut source = file;
    source.seek(SeekFrom::Start(offset))?;
    memory.read_exact_volatile_from(GuestAddress(address), &mut source, size).map_err(io::Error::other)
}

/// Whether the file and guest memory have such ranges; the length as a size.
fn check(memory: &GuestMemory, address: u64, file: &File, offset: u64, length: u64) -> io::Result<usize> {
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "guest memory has no such range");
    let end = offset.checked_add(length).ok_or(io::ErrorKind::UnexpectedEof)?;
    if file.metadata()?.len() < end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let size = usize::try_from(length).map_err(|_| outside())?;
    if memory.check_range(GuestAddress(address), size) { Ok(size) } else { Err(outside()) }
}

/// A part of a file, mapped for reading.
struct FileMapping {
    start: *mut c_void,
    /// Bytes before the part, which begins at any byte and not just at a page.
    lead: usize,
    length: usize,
}

impl FileMapping {
    fn new(file: &File, offset: u64, size: usize) -> io::Result<Self> {
        let lead = offset % PAGE;
        let lead_bytes = usize::try_from(lead).map_err(io::Error::other)?;
        let length = size.checked_add(lead_bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let (first, flags) = (std::ptr::null_mut(), MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let start = unsafe { rustix::mm::mmap(first, length, ProtFlags::READ, flags, file, offset - lead) }?;
        let mapping = Self { start, lead: lead_bytes, length };
        // A page that cannot be read is an error here, and a signal when it is touched.
        // SAFETY: advice on a mapping of ours.
        match unsafe { rustix::mm::madvise(start, length, Advice::LinuxPopulateRead) } {
            // Kernels before 5.14 do not have it.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(mapping),
            Err(error) => Err(error.into()),
        }
    }

    fn first(&self) -> *const u8 {
        self.start.cast_const().cast::<u8>().wrapping_add(self.lead)
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing points into it any more.
        let _ = unsafe { rustix::mm::munmap(self.start, self.length) };
    }
}

/// Resident bytes of the guest memory of this process, all machines together.
#[must_use]
pub fn resident_guest_memory() -> Option<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let ranges = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    Some(resident_within(&smaps, &ranges))
}

/// Where the guest memory of this process is.
static LIVE: Mutex<Vec<Range<usize>>> = Mutex::new(Vec::new());

fn resident_within(smaps: &str, ranges: &[Range<usize>]) -> u64 {
    let mut inside = false;
    let mut sum: u64 = 0;
    for line in smaps.lines() {
        // A mapping's first line begins with its addresses; the lines about it begin with a word and a colon.
        let start = line.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
        if let Some(start) = start {
            inside = ranges.iter().any(|range| range.contains(&start));
        } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside) {
            let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            sum = sum.saturating_add(kib.saturating_mul(1024));
        }
    }
    sum
}

/// Memory of this process, with room that is never touched before and behind it. Unmapped when dropped.
struct Mapping {
    start: *mut c_void,
    length: usize,
    reserved: *mut c_void,
}

// SAFETY: it only stands for the mapping; nothing is read or written through it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory that begins at a multiple of a huge page.
    fn new(length: usize) -> io::Result<Self> {
        let room = length.checked_add(MARGIN).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), flags) }?;
        // At least a page of the reservation is left on both sides.
        let lead = reserved.addr().saturating_add(1).next_multiple_of(HUGE_PAGE) - reserved.addr();
        let mapping = Self { start: reserved.wrapping_byte_add(lead), length, reserved };
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(mapping.range());
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the range is within the reservation, which nobody else knows.
        unsafe { rustix::mm::mmap_anonymous(mapping.start, length, access, flags | MapFlags::FIXED) }?;
        // A child of this process is not to have it: every page that a guest writes would be copied first.
        // SAFETY: advice on a mapping of ours, which it leaves as it is in this process.
        unsafe { rustix::mm::madvise(mapping.start, length, Advice::LinuxDontFork) }?;
        // SAFETY: as above. A kernel without huge pages refuses.
        let _ = unsafe { rustix::mm::madvise(mapping.start, length, Advice::LinuxHugepage) };
        Ok(mapping)
    }

    fn range(&self) -> Range<usize> {
        self.start.addr()..self.start.addr().saturating_add(self.length)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let range = self.range();
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| *it != range);
        // SAFETY: the reservation is ours, and the regions that point into it have gone: each holds on to it.
        let _ = unsafe { rustix::mm::munmap(self.reserved, self.length.saturating_add(MARGIN)) };
    }
}

/// The parts that `bytes` of memory are in: guest-physical address, offset in the mapping, length.
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
    use std::io::Write;

    use vm_memory::GuestMemoryRegion;

    use super::*;

    fn some(mib: u64) -> GuestMemory {
        allocate("test", MemorySize::from_mib(mib).unwrap()).unwrap()
    }

    #[test]
    fn memory_is_zero_aligned_for_huge_pages_and_counted_while_it_is_there() {
        let memory = some(64);
        let place = memory.get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(place.addr() % HUGE_PAGE, 0);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x3ff_fff8)).unwrap(), 0);
        memory.write_slice(&[1; 1 << 20], GuestAddress(0x20_0000)).unwrap();
        assert!(resident_guest_memory().unwrap() >= 1 << 20);
        let copy = memory.clone();
        drop(memory);
        assert_eq!(copy.read_obj::<u8>(GuestAddress(0x20_0000)).unwrap(), 1);
        drop(copy);
        assert!(!LIVE.lock().unwrap().iter().any(|range| range.start == place.addr()));
    }

    #[test]
    fn children_of_the_process_do_not_get_it() {
        let memory = some(64);
        let start = format!("{:x}-", memory.get_host_address(GuestAddress(0)).unwrap().addr());
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        // "Do not copy area on fork" (proc(5)).
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
    }

    #[test]
    fn a_part_of_a_file_is_copied_or_refused_whole() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[vec![1; 4096], vec![2; 5000]].concat()).unwrap();
        for load in [copy_kept, read_file] as [Loader; 2] {
            let memory = some(64);
            load(&memory, 0x10_0001, &file, 4095, 5001).unwrap();
            let mut found = [0; 5003];
            memory.read_slice(&mut found, GuestAddress(0x10_0000)).unwrap();
            assert_eq!((found[0], found[1], found[5002]), (0, 1, 0));
            assert!(found[2..5002].iter().all(|byte| *byte == 2));
            let region = memory.iter().next().unwrap();
            assert!(region.bitmap().dirty_at(0x10_0000) && !region.bitmap().dirty_at(0x20_0000));
            assert_eq!(load(&memory, 0, &file, 4096, 5001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert!(
                load(&memory, (64 << 20) - 1, &file, 0, 2).unwrap_err().kind() == io::ErrorKind::InvalidInput
            );
            load(&memory, 0, &file, 8192, 0).unwrap();
        }
    }

    #[test]
    fn only_the_guests_mappings_are_counted() {
        let smaps = "7f00-7f10 rw-p 00000000 00:00 0 \nSize: 64 kB\nRss:    40 kB\n\
                     7f10-7f20 rw-p 00000000 00:00 0 \nRss:   8 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 \nRss:   2 kB\n";
        assert_eq!(resident_within(smaps, &[0x7f00..0x7f10, 0x7f20..0x7f30]), 42 * 1024);
    }

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
