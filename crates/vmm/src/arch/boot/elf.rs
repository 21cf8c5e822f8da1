//! Loading an ELF kernel by the physical addresses of its segments.

use std::fs::File;
use std::io::ErrorKind;

use object::LittleEndian;
use object::elf::{EM_X86_64, FileHeader64, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use snowboot_bus::{GuestAddress, GuestMemory};
use vm_memory::GuestMemoryBackend;

use super::layout;
use crate::memory;

/// A kernel in guest memory.
#[derive(Debug)]
pub(super) struct Image {
    /// Physical address of the 64-bit entry.
    pub(super) entry: u64,
    /// First byte after the last segment's memory.
    pub(super) end: u64,
}

pub(super) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

/// Copies the loadable segments of an ELF file that begins with `head`; the error says what is wrong with it.
pub(super) fn load(memory: &GuestMemory, file: &File, head: &[u8]) -> Result<Image, String> {
    let malformed = |error: object::Error| format!("it is not a 64-bit ELF file: {error}");
    let header = FileHeader64::<LittleEndian>::parse(head).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    if header.e_machine(endian) != EM_X86_64 {
        return Err("it is an ELF file, but not for x86_64".to_owned());
    }
    let mut end = 0;
    for segment in header.program_headers(endian, head).map_err(malformed)? {
        if segment.p_type(endian) == PT_LOAD && segment.p_memsz(endian) > 0 {
            end = end.max(load_segment(memory, file, *segment)?);
        }
    }
    if end == 0 {
        return Err("it has no loadable segment".to_owned());
    }
    Ok(Image { entry: header.e_entry(endian), end })
}

fn load_segment(
    memory: &GuestMemory,
    file: &File,
    segment: ProgramHeader64<LittleEndian>,
) -> Result<u64, String> {
    let start = segment.p_paddr(LittleEndian);
    if start < layout::HIGH_RAM {
        return Err(format!("it wants to be at {start:#x}, below 1 MiB"));
    }
    let (offset, length) = segment.file_range(LittleEndian);
    let end =
        start.checked_add(segment.p_memsz(LittleEndian)).ok_or("a segment runs over the end of memory")?;
    let too_large = || {
        let needed = end.div_ceil(layout::MIB);
        format!("it needs guest memory up to {needed} MiB; give the machine more memory")
    };
    if !memory.address_in_range(GuestAddress(end - 1)) {
        return Err(too_large());
    }
    // Memory beyond the file's bytes is zero because guest memory starts as zeroes.
    match memory::read_file(memory, start, file, offset, length) {
        Ok(()) => Ok(end),
        Err(error) => Err(match error.kind() {
            ErrorKind::UnexpectedEof => {
                "it is truncated: a segment runs over its end; copy or build it again".to_owned()
            }
            ErrorKind::InvalidInput => too_large(),
            _ => error.to_string(),
        }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
    }

    fn load(memory: &GuestMemory, kernel: &[u8]) -> Result<Image, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(kernel).unwrap();
        super::load(memory, &file, kernel)
    }

    /// One segment of `bytes` at `address`, `memory` bytes long in memory.
    pub(in super::super) fn elf(address: u64, bytes: &[u8], memory: u64) -> Vec<u8> {
        let mut file = vec![0; 120];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16] = 2;
        file[18] = 62;
        file[20] = 1;
        file[24..32].copy_from_slice(&address.to_le_bytes());
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 1;
        file[72] = 120;
        file[88..96].copy_from_slice(&address.to_le_bytes());
        file[96..104].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        file[104..112].copy_from_slice(&memory.to_le_bytes());
        file.extend(bytes);
        file
    }

    #[test]
    fn segments_land_at_their_physical_address() {
        let memory = memory();
        let image = load(&memory, &elf(0x20_0000, b"kernel", 0x1000)).unwrap();
        assert_eq!((image.entry, image.end), (0x20_0000, 0x20_1000));
        let mut found = [0; 6];
        memory.read_slice(&mut found, GuestAddress(0x20_0000)).unwrap();
        assert_eq!(&found, b"kernel");
    }

    #[test]
    fn what_does_not_fit_says_how_much_memory_it_needs() {
        assert!(load(&memory(), &elf(0x20_0000, b"k", 64 << 20)).unwrap_err().contains("up to 66 MiB"));
        assert!(load(&memory(), &elf(0x1000, b"k", 1)).unwrap_err().contains("below 1 MiB"));
        assert!(load(&memory(), &elf(u64::MAX, b"k", 9)).is_err());
    }

    #[test]
    fn a_truncated_file_is_named_as_such() {
        let file = elf(0x20_0000, &[1; 100], 100);
        assert!(load(&memory(), &file[..150]).unwrap_err().contains("truncated"));
        assert!(load(&memory(), &file[..40]).is_err());
    }
}
