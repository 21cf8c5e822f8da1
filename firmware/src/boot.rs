//! What the boot protocol hands over (Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`).

use alloc::vec::Vec;

const LENGTH: usize = 4096;
const ACPI_RSDP: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const E820_RAM: u64 = 1;
const CMDLINE_MAX: usize = 2048;

/// `struct boot_params`.
pub(crate) struct BootParams {
    page: &'static [u8],
}

/// A range of RAM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl BootParams {
    /// # Safety
    /// `address` must be that of a `boot_params` page, as the boot protocol promises.
    pub(crate) unsafe fn at(address: usize) -> Self {
        Self { page: bytes_at(address, LENGTH) }
    }

    /// Address of the ACPI root pointer.
    pub(crate) fn rsdp(&self) -> usize {
        little_endian(self.page, ACPI_RSDP, 8) as usize
    }

    /// All ranges of RAM, in ascending order.
    pub(crate) fn memory_map(&self) -> Vec<Range> {
        let entry = |index: usize| {
            let offset = E820_TABLE + index * E820_ENTRY;
            let start = little_endian(self.page, offset, 8) as usize;
            let length = little_endian(self.page, offset + 8, 8) as usize;
            (little_endian(self.page, offset + 16, 4), Range { start, end: start + length })
        };
        let entries = (0..usize::from(self.page[E820_ENTRIES])).map(entry);
        entries.filter(|(kind, _)| *kind == E820_RAM).map(|(_, range)| range).collect()
    }

    /// Whether a word is on the command line.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words().any(|found| found == word)
    }

    /// What stands after `NAME=` on the command line.
    pub(crate) fn value(&self, name: &str) -> Option<&'static str> {
        self.words().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn words(&self) -> impl Iterator<Item = &'static str> {
        let line = bytes_at(little_endian(self.page, CMD_LINE_PTR, 4) as usize, CMDLINE_MAX);
        let end = line.iter().position(|byte| *byte == 0).unwrap_or(0);
        core::str::from_utf8(&line[..end]).unwrap_or_default().split_ascii_whitespace()
    }
}

/// Memory that the machine filled before it started the payload.
pub(crate) fn bytes_at(address: usize, length: usize) -> &'static [u8] {
    // SAFETY: all of the low memory is mapped; what the machine puts there is below the payload and its allocations, and
    // nothing writes to it.
    unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(address), length) }
}

/// The `length` bytes at `offset` as a number.
pub(crate) fn little_endian(bytes: &[u8], offset: usize, length: usize) -> u64 {
    bytes[offset..offset + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
