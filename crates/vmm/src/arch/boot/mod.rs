//! Direct kernel boot: from the files of a [`BootConfig`] to a guest that only has to be entered.
//!
//! A bzImage's payload is unpacked on the host, so the guest runs no decompressor; one that cannot be unpacked is
//! entered at its own 64-bit entry, as a boot loader would. An ELF `vmlinux` is taken as it is.

mod bzimage;
mod cache;
mod elf;
mod initrd;
mod payload;
#[cfg(test)]
mod tests;
mod zero_page;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use snowboot_bus::{GuestAddress, GuestMemory};
use snowboot_config::BootConfig;
use vm_memory::{Bytes, GuestMemoryBackend};

use self::bzimage::BzImage;
pub use self::cache::KernelCache;
use self::zero_page::ZeroPage;
use super::layout;
use crate::Error;
use crate::memory;

/// Offset of the 64-bit entry from the load address of a bzImage (boot protocol 2.12, `XLF_KERNEL_64`).
const ENTRY_64: u64 = 0x200;
/// Bytes of a kernel's file that are looked at to know what it is: room for its headers. Those of an ELF file could be
/// anywhere, and are at the beginning in every kernel.
const HEAD: usize = 16 << 10;

/// What the boot processor needs to know.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it starts, in 64-bit mode.
    pub(crate) address: u64,
    /// Something the user may want to hear of, such as why the kernel was not unpacked on the host.
    pub(crate) note: Option<String>,
}

/// Loads kernel, initrds, command line and `boot_params` into guest memory.
pub(crate) fn load(
    memory: &GuestMemory,
    config: &BootConfig,
    rsdp: u64,
    cache: &KernelCache,
) -> Result<Entry, Error> {
    let mut page = ZeroPage::new();
    let kernel = load_kernel(memory, &config.kernel, &mut page, cache)?;
    write_cmdline(memory, &config.cmdline, &mut page)?;
    initrd::load(memory, &config.initrds, kernel.end, &mut page)?;
    page.set_acpi(rsdp);
    page.set_memory_map(&memory_map(memory));
    let failed =
        |error| Error::Host { what: "write boot_params".to_owned(), source: io::Error::other(error) };
    memory.write_slice(page.bytes(), GuestAddress(layout::BOOT_PARAMS)).map_err(failed)?;
    Ok(kernel.entry)
}

struct Loaded {
    entry: Entry,
    /// First byte after everything that the kernel needs for itself at boot.
    end: u64,
}

fn load_kernel(
    memory: &GuestMemory,
    path: &Path,
    page: &mut ZeroPage,
    cache: &KernelCache,
) -> Result<Loaded, Error> {
    let wrong = |why: String| Error::File { kind: "kernel", path: path.to_owned(), why };
    let file = open_file("kernel", path)?;
    let head = read_head(&file).map_err(|error| wrong(error.to_string()))?;
    if elf::is_elf(&head) {
        let image = elf::load(memory, &file, &head).map_err(wrong)?;
        return Ok(Loaded { entry: Entry { address: image.entry, note: None }, end: image.end });
    }
    let length = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
    let image = BzImage::parse(&head, length).map_err(wrong)?;
    page.set_header(image.header());
    match cache.unpack(&file, &image.payload()) {
        Ok(vmlinux) => {
            let head = read_head(&vmlinux).map_err(|error| wrong(error.to_string()))?;
            let loaded = elf::load(memory, &vmlinux, &head).map_err(wrong)?;
            let end = loaded.end.max(image.runtime_end());
            Ok(Loaded { entry: Entry { address: loaded.entry, note: None }, end })
        }
        Err(reason) => load_classic(memory, &file, length, &image, &reason).map_err(wrong),
    }
}

/// The beginning of a file, with all that tells how a kernel is to be loaded.
fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    // Not by the file's own position, which all that have it open share.
    let mut chunk = [0; HEAD];
    while head.len() < HEAD {
        let at = u64::try_from(head.len()).unwrap_or(u64::MAX);
        match file.read_at(chunk.get_mut(head.len()..).unwrap_or_default(), at) {
            Ok(0) => break,
            Ok(read) => head.extend_from_slice(chunk.get(head.len()..head.len() + read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

/// What the kernel in a file is when it is unpacked: an ELF `vmlinux`, for VMMs that take nothing else.
///
/// # Errors
/// When the file cannot be read, is no kernel, or is packed in a way that is not known; the text says which.
pub fn unpack_kernel(path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |why: String| Error::File { kind: "kernel", path: path.to_owned(), why };
    let mut file = Vec::new();
    io::Read::read_to_end(&mut open_file("kernel", path)?, &mut file)
        .map_err(|error| wrong(error.to_string()))?;
    if elf::is_elf(&file) {
        return Ok(file);
    }
    let length = u64::try_from(file.len()).unwrap_or(u64::MAX);
    let payload = BzImage::parse(&file, length).map_err(wrong)?.payload();
    let range = usize::try_from(payload.start).unwrap_or(usize::MAX)
        ..usize::try_from(payload.end).unwrap_or(usize::MAX);
    payload::unpack(file.get(range).unwrap_or_default())
        .map_err(|reason| wrong(format!("it cannot be unpacked on the host ({reason})")))
}

/// The way a boot loader does it: the guest unpacks itself.
fn load_classic(
    memory: &GuestMemory,
    file: &File,
    length: u64,
    image: &BzImage<'_>,
    reason: &str,
) -> Result<Loaded, String> {
    if !image.has_64_bit_entry() {
        return Err(format!("it cannot be unpacked on the host ({reason}), and it has no 64-bit entry"));
    }
    let (start, end) = (image.preferred_address(), image.runtime_end());
    let too_large = || {
        format!(
            "it needs guest memory up to {} MiB to unpack itself; give the machine more memory",
            end.div_ceil(layout::MIB)
        )
    };
    if end > memory_below_hole(memory) {
        return Err(too_large());
    }
    let offset = image.protected_mode();
    memory::read_file(memory, start, file, offset, length.saturating_sub(offset)).map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidInput { too_large() } else { error.to_string() }
    })?;
    let note = Some(format!("The guest unpacks its kernel itself, which is slower: {reason}"));
    Ok(Loaded { entry: Entry { address: start.saturating_add(ENTRY_64), note }, end })
}

fn write_cmdline(memory: &GuestMemory, cmdline: &str, page: &mut ZeroPage) -> Result<(), Error> {
    let mut bytes = cmdline.as_bytes().to_vec();
    if bytes.contains(&0) {
        return Err(Error::Config("The kernel command line contains a NUL byte".to_owned()));
    }
    bytes.push(0);
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > layout::CMDLINE_MAX {
        return Err(Error::Config(format!(
            "The kernel command line is {} bytes long, and x86 kernels take at most {}; shorten it",
            cmdline.len(),
            layout::CMDLINE_MAX - 1
        )));
    }
    page.set_cmdline(layout::CMDLINE, cmdline.len());
    memory.write_slice(&bytes, GuestAddress(layout::CMDLINE)).map_err(|error| Error::Host {
        what: "write the command line".to_owned(),
        source: io::Error::other(error),
    })
}

/// Guest memory that starts at address 0, in bytes.
fn memory_below_hole(memory: &GuestMemory) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, |region| {
        use vm_memory::GuestMemoryRegion;
        region.len()
    })
}

fn memory_map(guest: &GuestMemory) -> Vec<zero_page::Range> {
    use vm_memory::GuestMemoryRegion;
    use zero_page::{Kind, Range};
    let total: u64 = guest.iter().map(GuestMemoryRegion::len).fold(0, u64::saturating_add);
    let mut map = vec![
        Range { start: 0, length: layout::LOW_RAM_END, kind: Kind::Ram },
        Range { start: layout::ACPI, length: layout::HIGH_RAM - layout::ACPI, kind: Kind::Acpi },
    ];
    for (start, _, length) in memory::split(total) {
        let skipped = layout::HIGH_RAM.saturating_sub(start);
        map.push(Range {
            start: start.saturating_add(skipped),
            length: length.saturating_sub(skipped),
            kind: Kind::Ram,
        });
    }
    map.push(Range { start: layout::ECAM, length: layout::ECAM_LENGTH, kind: Kind::Reserved });
    map
}

pub(super) fn open_file(kind: &'static str, path: &Path) -> Result<File, Error> {
    let wrong = |why: String| Error::File { kind, path: path.to_owned(), why };
    let file = File::open(path).map_err(|error| {
        wrong(match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied; make it readable for you".to_owned(),
            _ => error.to_string(),
        })
    })?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if metadata.is_dir() {
        return Err(wrong(format!("it is a folder; name the {kind} file in it")));
    }
    if !metadata.is_file() {
        return Err(wrong("it is neither a file nor a link to one; copy it to a file first".to_owned()));
    }
    Ok(file)
}
