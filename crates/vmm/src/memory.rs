//! Guest memory: one private, anonymous mapping per machine, and the files that guests read in place.
//!
//! Private, so that the host gives it huge pages: a memfd has none unless root has set `shmem_enabled`. Aligned to them, so
//! that KVM maps them as such: a boot takes some forty page faults then instead of fifteen thousand. A machine whose devices
//! other processes serve (vhost-user) has a memfd all the same, which those map.
#![expect(unsafe_code, reason = "guest memory is raw memory: it is mapped, and unmapped with its last user")]

mod ring;

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use snowboot_bus::{GuestAddress, GuestMemory, Tracker};
use snowboot_config::MemorySize;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, GuestMemoryBackend, GuestRegionMmap};

use crate::Error;
use crate::arch::layout;

pub(crate) use self::ring::Ring;

/// A huge page of x86, in bytes.
const HUGE_PAGE: usize = 2 << 20;
/// What is reserved besides guest memory, to align it, and to keep it apart from whatever else the process has.
const MARGIN: usize = 2 * HUGE_PAGE;

/// Who has a machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// This process alone.
    Private,
    /// Other processes, too, which are handed its file.
    WithProcesses,
}

/// Makes a machine's memory. It is zero, and takes up room on the host only where it is used.
pub(crate) fn allocate(name: &str, size: MemorySize, sharing: Sharing) -> Result<GuestMemory, Error> {
    let what = || {
        format!(
            "allocate {size} of guest memory for {name} (the host, or this user's limits, must allow for it)"
        )
    };
    let failed = |error: io::Error| Error::Host { what: what(), source: error };
    let total = usize::try_from(size.bytes()).map_err(|_| Error::Config(what()))?;
    let mapping = Arc::new(Mapping::new(total, sharing).map_err(failed)?);
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
    let mut builder = MmapRegionBuilder::new_with_bitmap(length, tracker)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_NORESERVE | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    if let Some(file) = &mapping.file {
        let place = FileOffset::from_arc(Arc::clone(file), u64::try_from(offset).map_err(io::Error::other)?);
        builder = builder.with_mmap_flags(libc::MAP_NORESERVE | libc::MAP_SHARED).with_file_offset(place);
    }
    let start = mapping.place.start.wrapping_byte_add(offset).cast();
    // SAFETY: the mapping covers `offset + length` bytes, readable and writable, and the tracker keeps it for as long as
    // the region lives.
    unsafe { builder.with_raw_mmap_pointer(start) }.build().map_err(io::Error::other)
}

/// Reads `length` bytes of a file from `offset` on to guest memory at `address`. The file may be read by others meanwhile:
/// machines that start at once have one unpacked kernel.
///
/// Guests could also have the file's pages themselves, mapped copy-on-write; but a kernel writes to nearly all of its own
/// at boot, and each costs one or two page faults and a copy then, against one fault for 512 of them here. And a file
/// that is mapped ends the process when somebody cuts it, or when it cannot be read.
///
/// # Errors
/// `UnexpectedEof` when the file is shorter, `InvalidInput` when guest memory has no such range.
pub(crate) fn read_file(
    memory: &GuestMemory,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let size = check(memory, address, file, offset, length)?;
    let read = |mut source: &File| {
        source.seek(SeekFrom::Start(offset))?;
        memory.read_exact_volatile_from(GuestAddress(address), &mut source, size).map_err(io::Error::other)
    };
    // A copy of a descriptor would share the position with it.
    match File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(own) => read(&own),
        Err(_) => {
            let _alone = POSITIONS.lock().unwrap_or_else(PoisonError::into_inner);
            read(file)
        }
    }
}

/// Who reads files by their own positions, where there is no `/proc` to open them anew.
static POSITIONS: Mutex<()> = Mutex::new(());

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

/// Resident bytes of the guest memory of this process, all machines together.
#[must_use]
pub fn resident_guest_memory() -> Option<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let ranges = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    Some(resident_within(&smaps, &ranges))
}

/// Gives back the pages of the program's own code that are in memory; those that are needed again come back by themselves.
///
/// For a program that is about to wait for its machines: most of the code that brought them up will not run again, and
/// counts as memory of the process for as long as it is mapped. Does nothing where Linux does not say what is mapped.
pub fn give_back_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let here: fn() = give_back_code;
    let Some(code) = code_around(&maps, here as usize) else { return };
    // SAFETY: pages of a file that cannot be written to in memory; what is read there later is the same, from the file.
    let _ = unsafe {
        rustix::mm::madvise(
            std::ptr::with_exposed_provenance_mut(code.start),
            code.len(),
            Advice::LinuxDontNeed,
        )
    };
}

/// The mapping of a file around an address, when it is one that is only read and executed.
fn code_around(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let parse = |text| usize::from_str_radix(text, 16).ok();
        let range = parse(start)?..parse(end)?;
        let is_code = words.next() == Some("r-xp") && words.nth(2) != Some("0");
        (is_code && range.contains(&address)).then_some(range)
    })
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

/// Addresses of this process that begin at a multiple of a huge page, with room that is never touched before and behind
/// them. Whatever was mapped there goes with it when it is dropped.
struct Reservation {
    start: *mut c_void,
    length: usize,
    reserved: *mut c_void,
}

// SAFETY: it only stands for the mapping; nothing is read or written through it.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    fn new(length: usize) -> io::Result<Self> {
        let room = length.checked_add(MARGIN).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let reserved =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), flags) }?;
        // At least a page of the reservation is left on both sides.
        let lead = reserved.addr().saturating_add(1).next_multiple_of(HUGE_PAGE) - reserved.addr();
        Ok(Self { start: reserved.wrapping_byte_add(lead), length, reserved })
    }

    /// Puts zeroed memory of this process alone there, or anew.
    fn fill(&self, access: ProtFlags) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range is within the reservation, which nobody else knows.
        unsafe { rustix::mm::mmap_anonymous(self.start, self.length, access, flags) }?;
        self.keep_from_children()
    }

    /// Puts the first `length` bytes of a file there, as all who have it see them.
    fn map_shared(&self, file: &File, length: usize, access: ProtFlags) -> io::Result<()> {
        if length > self.length {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range is within the reservation, which nobody else knows.
        unsafe { rustix::mm::mmap(self.start, length, access, flags, file, 0) }?;
        self.keep_from_children()
    }

    /// A child of this process is not to have it: every page that a guest writes would be copied first.
    fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: advice on a mapping of ours, which it leaves as it is in this process.
        Ok(unsafe { rustix::mm::madvise(self.start, self.length, Advice::LinuxDontFork) }?)
    }

    fn range(&self) -> Range<usize> {
        self.start.addr()..self.start.addr().saturating_add(self.length)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and nothing points into it any more: whoever does holds on to it.
        let _ = unsafe { rustix::mm::munmap(self.reserved, self.length.saturating_add(MARGIN)) };
    }
}

/// Guest memory, counted while it is there.
struct Mapping {
    place: Reservation,
    /// Its file, when it is shared.
    file: Option<Arc<File>>,
}

impl Mapping {
    /// Zeroed memory that begins at a multiple of a huge page.
    fn new(length: usize, sharing: Sharing) -> io::Result<Self> {
        let place = Reservation::new(length)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let file = match sharing {
            Sharing::Private => {
                place.fill(access)?;
                None
            }
            Sharing::WithProcesses => {
                let file = memory_file(length)?;
                place.map_shared(&file, length, access)?;
                Some(Arc::new(file))
            }
        };
        // SAFETY: advice on a mapping of ours, which stays as it is. A kernel without huge pages refuses.
        let _ = unsafe { rustix::mm::madvise(place.start, length, Advice::LinuxHugepage) };
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(place.range());
        Ok(Self { place, file })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let range = self.place.range();
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| *it != range);
    }
}

/// A file that is in memory, and that nobody whom it is handed to can cut: this process would end where it is gone.
fn memory_file(length: usize) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("snowboot-guest", flags)?);
    file.set_len(u64::try_from(length).map_err(io::Error::other)?)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A file that guests read in place: KVM has the pages of the host's page cache themselves for it.
///
/// It is mapped for KVM alone. Nothing in this process reads through the mapping, since a page that is gone (a file that was
/// cut meanwhile, a disk that fails) would end the process; KVM only gets no page, and the vCPU says so.
pub(crate) struct Image {
    place: Reservation,
    path: PathBuf,
    file: File,
    /// Of the file when it was mapped.
    length: u64,
}

impl Image {
    /// What the size of a mapping is a multiple of: the least that Linux makes pages of (virtio-pmem, `ZONE_DEVICE`).
    const UNIT: u64 = 2 << 20;

    /// Maps a file whole. Behind its end there are zeroes, up to the next 2 MiB.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a regular file, or empty; `WouldBlock` when a machine may write to it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Where a file system has no locks the file is used all the same, as disks are.
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = metadata.len();
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let whole = length.checked_next_multiple_of(Self::UNIT).ok_or(io::ErrorKind::FileTooLarge)?;
        let place = Reservation::new(usize::try_from(whole).map_err(too_large)?)?;
        place.fill(ProtFlags::READ)?;
        let size = usize::try_from(length).map_err(too_large)?;
        place.map_shared(&file, size, ProtFlags::READ)?;
        Ok(Self { place, path: path.to_owned(), file, length })
    }

    /// In bytes, a multiple of 2 MiB.
    pub(crate) fn size(&self) -> u64 {
        self.length.next_multiple_of(Self::UNIT)
    }

    /// Where it is in this process. For KVM alone.
    pub(crate) fn host_address(&self) -> u64 {
        self.place.start.addr() as u64
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long the file is now, if it has become shorter.
    pub(crate) fn cut_to(&self) -> Option<u64> {
        self.file.metadata().ok().map(|it| it.len()).filter(|now| *now < self.length)
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
    use vm_memory::bitmap::Bitmap;

    use super::*;

    fn some(mib: u64) -> GuestMemory {
        allocate("test", MemorySize::from_mib(mib).unwrap(), Sharing::Private).unwrap()
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
    fn code_that_was_given_back_still_runs() {
        let code = |maps: &str| code_around(maps, give_back_code as fn() as usize);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(code(&maps).is_some(), "{maps}");
        give_back_code();
        assert_eq!(some(64).num_regions(), 1);
    }

    #[test]
    fn only_code_of_a_file_is_taken_for_that() {
        let maps = "1000-2000 r--p 00000000 00:1b 3 /a\n2000-4000 r-xp 00001000 00:1b 3 /a\n\
            4000-5000 rwxp 00000000 00:1b 3 /a\n7000-8000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code_around(maps, 0x3000), Some(0x2000..0x4000));
        assert_eq!(code_around(maps, 0x2000), Some(0x2000..0x4000));
        for elsewhere in [0x1000, 0x4000, 0x7000, 0x9000] {
            assert_eq!(code_around(maps, elsewhere), None, "{elsewhere:#x}");
        }
        assert_eq!(code_around("no maps\n-\n", 0), None);
    }

    #[test]
    fn shared_memory_is_what_others_see_and_cannot_cut() {
        let size = MemorySize::from_mib(4 << 10).unwrap();
        let memory = allocate("test", size, Sharing::WithProcesses).unwrap();
        assert_eq!(memory.num_regions(), 2);
        memory.write_obj(7u64, GuestAddress((4 << 30) + 8)).unwrap();
        let region = memory.iter().last().unwrap();
        let place = region.file_offset().unwrap();
        let mut word = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(place.file(), &mut word, place.start() + 8).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 7);
        place.file().set_len(4096).unwrap_err();
        assert!(resident_guest_memory().unwrap() >= 4096);
        assert!(some(64).iter().all(|region| region.file_offset().is_none()));
    }

    #[test]
    fn an_image_is_mapped_whole_with_zeroes_behind_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let image = Image::open(file.path()).unwrap();
        assert_eq!((image.size(), image.host_address() % (2 << 20)), (2 << 20, 0));
        assert_eq!(image.cut_to(), None);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line =
            maps.lines().find(|line| line.starts_with(&format!("{:x}-", image.host_address()))).unwrap();
        assert!(line.contains(" r--s "), "{line}");
        file.as_file().set_len(100).unwrap();
        assert_eq!(image.cut_to(), Some(100));
        let held = File::open(file.path()).unwrap();
        assert!(held.try_lock().is_err());
        drop(image);
        held.try_lock().unwrap();
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
        let memory = some(64);
        read_file(&memory, 0x10_0001, &file, 4095, 5001).unwrap();
        let mut found = [0; 5003];
        memory.read_slice(&mut found, GuestAddress(0x10_0000)).unwrap();
        assert_eq!((found[0], found[1], found[5002]), (0, 1, 0));
        assert!(found[2..5002].iter().all(|byte| *byte == 2));
        let region = memory.iter().next().unwrap();
        assert!(region.bitmap().dirty_at(0x10_0000) && !region.bitmap().dirty_at(0x20_0000));
        assert_eq!(
            read_file(&memory, 0, &file, 4096, 5001).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert!(
            read_file(&memory, (64 << 20) - 1, &file, 0, 2).unwrap_err().kind()
                == io::ErrorKind::InvalidInput
        );
        read_file(&memory, 0, &file, 8192, 0).unwrap();
    }

    #[test]
    fn a_file_is_read_by_several_at_once() {
        const PART: usize = 1 << 20;
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..8 * PART).map(|at| u8::try_from(at / 4096 % 251).unwrap()).collect();
        file.write_all(&content).unwrap();
        std::thread::scope(|scope| {
            for part in 0..8 {
                let (file, expected) = (&file, &content[part * PART..][..PART]);
                scope.spawn(move || {
                    let memory = some(64);
                    for _ in 0..20 {
                        let offset = u64::try_from(part * PART).unwrap();
                        read_file(&memory, 0, file, offset, u64::try_from(PART).unwrap()).unwrap();
                        let mut found = vec![0; PART];
                        memory.read_slice(&mut found, GuestAddress(0)).unwrap();
                        assert!(found == expected, "part {part}");
                    }
                });
            }
        });
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
