//! The header of a bzImage (Linux `Documentation/arch/x86/boot.rst`).

use std::ops::Range;

use super::layout;

/// Offsets in the file.
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
const JUMP: usize = 0x200;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const XLOADFLAGS: usize = 0x236;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

/// The header begins here; its length is the jump's displacement.
pub(super) const HEADER_START: usize = SETUP_SECTS;
/// The longest header that `boot_params` has room for (0x1f1 to 0x290).
const HEADER_MAX: usize = 0x290 - HEADER_START;
/// Payload fields exist from here on.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;
/// `XLOADFLAGS` exists from here on.
const VERSION_WITH_XLOADFLAGS: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;

/// A bzImage whose header has been checked against the file's length.
#[derive(Debug)]
pub(super) struct BzImage<'a> {
    head: &'a [u8],
    setup_end: u64,
    payload: Range<u64>,
    version: u16,
}

impl<'a> BzImage<'a> {
    /// Checks the header of a file of `length` bytes that begins with `head`; the error says what is wrong with the file.
    pub(super) fn parse(head: &'a [u8], length: u64) -> Result<Self, String> {
        let not_a_kernel = || "it is neither a bzImage nor a 64-bit ELF vmlinux".to_owned();
        if u16_at(head, BOOT_FLAG) != Some(0xaa55) || head.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
            return Err(not_a_kernel());
        }
        let version = u16_at(head, VERSION).ok_or_else(not_a_kernel)?;
        if version < VERSION_WITH_PAYLOAD {
            return Err(format!("its boot protocol {version:#x} is older than 2.08 (Linux 2.6.26)"));
        }
        let sectors = match head.get(SETUP_SECTS) {
            Some(0) | None => 4,
            Some(sectors) => u64::from(*sectors),
        };
        let setup_end = (sectors + 1) * SECTOR;
        let announced = u64::from(u32_at(head, SYSSIZE).ok_or_else(not_a_kernel)?) * PARAGRAPH + setup_end;
        // SYSSIZE counts whole paragraphs, the file may end within the last.
        if announced >= length.saturating_add(PARAGRAPH) {
            return Err(format!(
                "it is truncated: its header announces {announced} bytes, the file has {length}; copy or build it again"
            ));
        }
        let payload = payload_of(head, setup_end)
            .filter(|payload| payload.end <= length)
            .ok_or("its header names a payload that is outside of the file")?;
        Ok(Self { head, setup_end, payload, version })
    }

    /// Where in the file the compressed kernel is, with the four bytes of its unpacked size at the end.
    pub(super) fn payload(&self) -> Range<u64> {
        self.payload.clone()
    }

    /// What goes to 0x1f1 of `boot_params`.
    pub(super) fn header(&self) -> &'a [u8] {
        let length = self.head.get(JUMP + 1).map_or(0, |end| MAGIC + usize::from(*end) - HEADER_START);
        self.head.get(HEADER_START..HEADER_START + length.min(HEADER_MAX)).unwrap_or_default()
    }

    /// Where in the file the part begins that runs in protected mode and unpacks the rest.
    pub(super) fn protected_mode(&self) -> u64 {
        self.setup_end
    }

    pub(super) fn has_64_bit_entry(&self) -> bool {
        let flags = u16_at(self.head, XLOADFLAGS).unwrap_or(0);
        self.version >= VERSION_WITH_XLOADFLAGS && flags & XLF_KERNEL_64 != 0
    }

    /// Where the kernel wants to run.
    pub(super) fn preferred_address(&self) -> u64 {
        match u64_at(self.head, PREF_ADDRESS) {
            None | Some(0) => layout::HIGH_RAM,
            Some(address) => address,
        }
    }

    /// First byte after what the kernel needs before it reads its memory map.
    pub(super) fn runtime_end(&self) -> u64 {
        let size = u32_at(self.head, INIT_SIZE).unwrap_or(0);
        self.preferred_address().saturating_add(u64::from(size))
    }
}

fn payload_of(head: &[u8], setup_end: u64) -> Option<Range<u64>> {
    let start = setup_end.checked_add(u64::from(u32_at(head, PAYLOAD_OFFSET)?))?;
    Some(start..start.checked_add(u64::from(u32_at(head, PAYLOAD_LENGTH)?))?)
}

fn array_at<const N: usize>(file: &[u8], offset: usize) -> Option<[u8; N]> {
    file.get(offset..)?.first_chunk().copied()
}

fn u16_at(file: &[u8], offset: usize) -> Option<u16> {
    array_at(file, offset).map(u16::from_le_bytes)
}

fn u64_at(file: &[u8], offset: usize) -> Option<u64> {
    array_at(file, offset).map(u64::from_le_bytes)
}

fn u32_at(file: &[u8], offset: usize) -> Option<u32> {
    array_at(file, offset).map(u32::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SECTOR: usize = 512;

    fn parse(file: &[u8]) -> Result<BzImage<'_>, String> {
        BzImage::parse(file, u64::try_from(file.len()).unwrap())
    }

    /// A bzImage of one setup sector and `payload`.
    pub(in super::super) fn image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 2 * SECTOR];
        file[SETUP_SECTS] = 1;
        file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
        file[JUMP..JUMP + 2].copy_from_slice(&[0xeb, 0x6a]);
        file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        file[VERSION..VERSION + 2].copy_from_slice(&0x20fu16.to_le_bytes());
        file[XLOADFLAGS] = 1;
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4]
            .copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.extend(payload);
        file.resize(file.len().next_multiple_of(16), 0);
        let paragraphs = u32::try_from((file.len() - 2 * SECTOR) / 16).unwrap();
        file[SYSSIZE..SYSSIZE + 4].copy_from_slice(&paragraphs.to_le_bytes());
        file
    }

    #[test]
    fn a_whole_image_gives_its_payload_and_header() {
        let file = image(b"payload");
        let parsed = parse(&file).unwrap();
        assert_eq!(parsed.payload(), 1024..1031);
        assert_eq!(parsed.header().len(), 0x202 + 0x6a - 0x1f1);
        assert!(parsed.has_64_bit_entry());
        assert_eq!(parsed.preferred_address(), layout::HIGH_RAM);
    }

    #[test]
    fn a_truncated_image_is_named_as_such() {
        let file = image(&[7; 4096]);
        let error = parse(&file[..2000]).unwrap_err();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn other_files_are_not_kernels() {
        assert!(parse(b"#!/bin/sh").unwrap_err().contains("neither a bzImage nor"));
        assert!(parse(&[]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(edits in proptest::collection::vec((0usize..0x300, proptest::num::u8::ANY), 0..32)) {
            let mut file = image(&[1; 300]);
            for (offset, value) in edits {
                file[offset] = value;
            }
            if let Ok(parsed) = parse(&file) {
                let _ = (parsed.payload(), parsed.header(), parsed.protected_mode(), parsed.runtime_end());
            }
        }
    }
}
