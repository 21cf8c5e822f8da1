//! The emulated host's kernel: Debian's, unpacked once.
//!
//! A bzImage unpacks itself, which takes an emulated CPU over 3 s of each start. QEMU enters the ELF image inside it
//! directly (PVH), so that is taken out and kept in the cache.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;

use crate::debs::write_atomically;
use crate::host::cache_dir;

/// Far above any kernel's; keeps a broken file from filling the disk.
const IMAGE_MAX: u64 = 1 << 30;
/// Offsets in the boot sector (Linux's Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";

/// The kernel to start from `package`, the unpacked tree of a Debian kernel package.
pub(crate) fn image(package: &Path) -> Result<PathBuf> {
    let bz_image = bz_image(package)?;
    let folder = cache_dir().join("lab");
    let name = package.file_name().unwrap_or_default();
    let image = folder.join(name).with_added_extension("vmlinux");
    if image.is_file() {
        return Ok(image);
    }
    let content = fs::read(&bz_image).with_context(|| format!("Cannot read {}", bz_image.display()))?;
    // Other releases pack it in other ways. Starting from the bzImage is slower, and that is all.
    let Ok(elf) = unpack(&content) else { return Ok(bz_image) };
    write_atomically(&image, &elf)?;
    Ok(image)
}

fn bz_image(package: &Path) -> Result<PathBuf> {
    let boot = package.join("boot");
    for entry in fs::read_dir(&boot).with_context(|| format!("Cannot list {}", boot.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("The package in {} holds no kernel", package.display())
}

fn unpack(bz_image: &[u8]) -> Result<Vec<u8>> {
    let sectors = *bz_image.get(SETUP_SECTORS).context("The kernel is cut off")?;
    let start = (usize::from(sectors) + 1) * SECTOR + word(bz_image, PAYLOAD_OFFSET)?;
    let payload = bz_image.get(start..).and_then(|rest| rest.get(..word(bz_image, PAYLOAD_LENGTH).ok()?));
    let payload = payload.context("The kernel is cut off")?;
    if !payload.starts_with(XZ_MAGIC) {
        bail!("The kernel is not packed with xz");
    }
    let mut elf = Vec::new();
    XzReader::new(payload, false).take(IMAGE_MAX).read_to_end(&mut elf)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("The kernel's payload is no ELF image");
    }
    Ok(elf)
}

fn word(bytes: &[u8], offset: usize) -> Result<usize> {
    let word = bytes.get(offset..).and_then(|rest| rest.first_chunk()).context("The kernel is cut off")?;
    Ok(usize::try_from(u32::from_le_bytes(*word))?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bz_image(offset: u32, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[PAYLOAD_OFFSET..][..4].copy_from_slice(&offset.to_le_bytes());
        image[PAYLOAD_LENGTH..][..4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.resize(image.len() + usize::try_from(offset).unwrap(), 0xaa);
        image.extend_from_slice(payload);
        image
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_elf_image_is_found_behind_the_setup_code() {
        let mut payload = packed(b"\x7fELF and more");
        // The unpacked size follows, as the kernel's build leaves it.
        payload.extend_from_slice(&[0; 4]);
        assert_eq!(unpack(&bz_image(3, &payload)).unwrap(), b"\x7fELF and more");
    }

    #[test]
    fn other_payloads_are_refused() {
        assert!(unpack(&bz_image(0, &packed(b"no ELF"))).is_err());
        assert!(unpack(&bz_image(0, b"\x28\xb5\x2f\xfd")).is_err());
        let whole = bz_image(0, &packed(b"\x7fELF"));
        for length in [0, SETUP_SECTORS, PAYLOAD_LENGTH + 2, whole.len() - 1] {
            assert!(unpack(&whole[..length]).is_err(), "cut at {length}");
        }
    }
}
