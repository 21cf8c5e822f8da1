//! The emulated host's kernel: Debian's, unpacked once.
//!
//! A bzImage unpacks itself, which takes an emulated CPU over 3 s of each start. QEMU enters the ELF image inside it
//! directly (PVH), so that is taken out and kept in the cache.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lzma_rust2::XzReader;

use crate::debs::write_atomically;
use crate::host::cache_dir;

/// Far above any kernel's; keeps a broken file from filling the disk.
const IMAGE_MAX: u64 = 1 << 30;
/// Offsets in the boot sector (Linux's Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
/// The payload's length.
pub(crate) const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
const LZ4_MAGIC: &[u8] = b"\x02\x21\x4c\x18";
/// What a block of lz4's legacy frame unpacks to, at most.
const LZ4_BLOCK_MAX: usize = 8 << 20;

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

/// The kernel in `package` as it is there.
pub(crate) fn bz_image(package: &Path) -> Result<PathBuf> {
    let boot = package.join("boot");
    for entry in fs::read_dir(&boot).with_context(|| format!("Cannot list {}", boot.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("The package in {} holds no kernel", package.display())
}

/// Where a bzImage's code begins, behind its boot sector and setup.
pub(crate) fn code_of(bz_image: &[u8]) -> Result<usize> {
    let sectors = *bz_image.get(SETUP_SECTORS).context("The kernel is cut off")?;
    Ok((usize::from(sectors) + 1) * SECTOR)
}

/// Where a bzImage's payload is.
pub(crate) fn payload_of(bz_image: &[u8]) -> Result<Range<usize>> {
    let start = code_of(bz_image)? + word(bz_image, PAYLOAD_OFFSET)?;
    let end = start + word(bz_image, PAYLOAD_LENGTH)?;
    ensure!(end <= bz_image.len(), "The kernel is cut off");
    Ok(start..end)
}

fn unpack(bz_image: &[u8]) -> Result<Vec<u8>> {
    let payload = bz_image.get(payload_of(bz_image)?).context("The kernel is cut off")?;
    let elf = if payload.starts_with(XZ_MAGIC) {
        let mut elf = Vec::new();
        XzReader::new(payload, false).take(IMAGE_MAX).read_to_end(&mut elf)?;
        elf
    } else if let Some(blocks) = payload.strip_prefix(LZ4_MAGIC) {
        unpack_lz4(blocks)?
    } else {
        bail!("The kernel is packed neither with xz nor with lz4")
    };
    if !elf.starts_with(b"\x7fELF") {
        bail!("The kernel's payload is no ELF image");
    }
    Ok(elf)
}

/// Blocks, each with its length before it (the legacy frame of lz4's `doc/lz4_Frame_format.md`, which kernels use). The
/// unpacked size, which the kernel's build adds, follows them: a length without a block.
fn unpack_lz4(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk()
        && let Some((block, after)) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length))?)
    {
        elf.extend(lz4_flex::block::decompress(block, LZ4_BLOCK_MAX)?);
        rest = after;
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
    fn blocks_of_lz4_are_put_together() {
        let mut payload = LZ4_MAGIC.to_vec();
        for part in [&b"\x7fELF and "[..], b"more"] {
            let block = lz4_flex::block::compress(part);
            payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend(block);
        }
        payload.extend(12u32.to_le_bytes());
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
