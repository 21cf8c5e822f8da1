//! `struct boot_params`, the "zero page" (Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`).

use super::bzimage::HEADER_START;

const LENGTH: usize = 4096;
/// Offsets in the page.
const ACPI_RSDP: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const CMDLINE_SIZE: usize = 0x238;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
/// "A boot loader without a registered id".
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;

/// What a range of the memory map is (ACPI 6.5, section 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
}

/// An entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) kind: Kind,
}

/// The page under construction.
pub(super) struct ZeroPage {
    bytes: Box<[u8; LENGTH]>,
}

impl ZeroPage {
    /// A page for a kernel without a header of its own (an ELF `vmlinux`).
    pub(super) fn new() -> Self {
        let mut page = Self { bytes: Box::new([0; LENGTH]) };
        page.put(BOOT_FLAG, &0xaa55u16.to_le_bytes());
        page.put(HEADER_MAGIC, b"HdrS");
        page.put(HEADER_MAGIC + 4, &0x020fu16.to_le_bytes());
        page.put(INITRD_ADDR_MAX, &0x7fff_ffffu32.to_le_bytes());
        page.put(KERNEL_ALIGNMENT, &0x20_0000u32.to_le_bytes());
        page.put(CMDLINE_SIZE, &2047u32.to_le_bytes());
        page.mark_loader();
        page
    }

    /// Takes a bzImage's own header.
    pub(super) fn set_header(&mut self, header: &[u8]) {
        self.put(HEADER_START, header);
        self.mark_loader();
    }

    fn mark_loader(&mut self) {
        self.put(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
        let flags = self.bytes.get(LOADFLAGS).copied().unwrap_or(0);
        self.put(LOADFLAGS, &[flags | LOADED_HIGH]);
    }

    /// The highest address that the kernel takes an initrd's last byte at.
    pub(super) fn initrd_max(&self) -> Option<u64> {
        let bytes: &[u8; 4] = self.bytes.get(INITRD_ADDR_MAX..)?.first_chunk()?;
        Some(u64::from(u32::from_le_bytes(*bytes))).filter(|max| *max > 0)
    }

    pub(super) fn set_initrd(&mut self, start: u64, length: u64) -> Result<(), String> {
        let too_high = |_| "it does not fit below 4 GiB".to_owned();
        let start = u32::try_from(start).map_err(too_high)?;
        let length = u32::try_from(length).map_err(too_high)?;
        self.put(RAMDISK_IMAGE, &start.to_le_bytes());
        self.put(RAMDISK_SIZE, &length.to_le_bytes());
        Ok(())
    }

    pub(super) fn set_cmdline(&mut self, address: u64, length: usize) {
        let address = u32::try_from(address).unwrap_or_default();
        self.put(CMD_LINE_PTR, &address.to_le_bytes());
        let length = u32::try_from(length).unwrap_or_default();
        self.put(CMDLINE_SIZE, &length.to_le_bytes());
    }

    pub(super) fn set_acpi(&mut self, rsdp: u64) {
        self.put(ACPI_RSDP, &rsdp.to_le_bytes());
    }

    pub(super) fn set_memory_map(&mut self, map: &[Range]) {
        for (index, range) in map.iter().enumerate() {
            let offset = E820_TABLE + index * E820_ENTRY;
            self.put(offset, &range.start.to_le_bytes());
            self.put(offset + 8, &range.length.to_le_bytes());
            self.put(offset + 16, &(range.kind as u32).to_le_bytes());
        }
        self.put(E820_ENTRIES, &[u8::try_from(map.len()).unwrap_or(u8::MAX)]);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    fn put(&mut self, offset: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(offset..offset + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_is_laid_out_as_the_kernel_reads_it() {
        let mut page = ZeroPage::new();
        page.set_memory_map(&[
            Range { start: 0, length: 0x9fc00, kind: Kind::Ram },
            Range { start: 0xe0000, length: 0x20000, kind: Kind::Acpi },
        ]);
        assert_eq!(page.bytes()[0x1e8], 2);
        assert_eq!(page.bytes()[0x2d0 + 20..0x2d0 + 28], 0xe0000u64.to_le_bytes());
        assert_eq!(page.bytes()[0x2d0 + 36], 3);
    }

    #[test]
    fn a_bzimage_header_keeps_the_loader_mark() {
        let mut page = ZeroPage::new();
        page.set_header(&[0; 0x60]);
        assert_eq!(page.bytes()[0x210], 0xff);
        assert_eq!(page.bytes()[0x211] & 1, 1);
    }
}
