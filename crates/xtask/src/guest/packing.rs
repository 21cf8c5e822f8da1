//! Debian's kernel packed as NixOS's is: by zstd. The kernels of Debian's releases are packed by xz and lz4.
//!
//! Only the payload is another one. The code around it still unpacks xz, so this kernel does not boot by itself: it boots where
//! the host has unpacked it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Kernel;
use crate::debs;
use crate::host::{cache_dir, ensure_packages};
use crate::lab;

/// How the kernel's build calls it (`cmd_zstd22_with_size` of its `scripts/Makefile.lib`): the best there is.
const PACKER: (&str, &[&str]) = ("zstd", &["-22", "--ultra", "--stdout"]);
const PACKAGES: &[&str] = &["zstd"];
/// Where the boot sector has the size of all code behind it, and its unit (Linux's Documentation/arch/x86/boot.rst, `syssize`).
const CODE_SIZE: usize = 0x1f4;
const PARAGRAPH: usize = 16;

/// The bzImage of a kernel with its payload packed by zstd; made once.
pub(super) fn zstd_bz_image(kernel: Kernel) -> Result<PathBuf> {
    let tree = debs::fetch_unpacked(&debs::kernel_package(kernel.flavour())?)?;
    let name = tree.file_name().context("A package's folder has no name")?;
    let made = cache_dir().join("packed").join(name).with_added_extension("zstd.bzImage");
    if made.is_file() {
        return Ok(made);
    }
    ensure_packages(PACKAGES)?;
    let vmlinux = lab::unpacked_kernel(&tree)?;
    let packed = lab::packed_kernel(&tree)?;
    let packed = fs::read(&packed).with_context(|| format!("Cannot read {}", packed.display()))?;
    let image = with_payload(&packed, &payload(&vmlinux)?)?;
    debs::write_atomically(&made, &image)?;
    Ok(made)
}

/// A file as the kernel's build packs it: from a pipe, and with its size behind it.
fn payload(file: &PathBuf) -> Result<Vec<u8>> {
    let cannot_read = || format!("Cannot read {}", file.display());
    let input = File::open(file).with_context(cannot_read)?;
    let size = u32::try_from(input.metadata().with_context(cannot_read)?.len())?;
    let (program, arguments) = PACKER;
    let output = Command::new(program).args(arguments).stdin(input).output();
    let output = output.with_context(|| format!("Cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    let mut payload = output.stdout;
    payload.extend(size.to_le_bytes());
    Ok(payload)
}

/// A bzImage with another payload in the place of its own.
fn with_payload(bz_image: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
    let place = lab::payload_of(bz_image)?;
    let (before, after) = (bz_image.get(..place.start), bz_image.get(place.end..));
    let mut image = before.context("The kernel is cut off")?.to_vec();
    image.extend(payload);
    image.extend(after.context("The kernel is cut off")?);
    let code = lab::code_of(bz_image)?;
    image.resize(code + image.len().saturating_sub(code).next_multiple_of(PARAGRAPH), 0);
    let paragraphs = (image.len() - code) / PARAGRAPH;
    put_word(&mut image, CODE_SIZE, paragraphs)?;
    put_word(&mut image, lab::PAYLOAD_LENGTH, payload.len())?;
    Ok(image)
}

fn put_word(image: &mut [u8], offset: usize, value: usize) -> Result<()> {
    let place = image.get_mut(offset..).and_then(|rest| rest.first_chunk_mut());
    *place.context("The kernel is cut off")? = u32::try_from(value)?.to_le_bytes();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: usize = 2 * 512;

    /// A setup of two sectors, and code of 32 bytes, of which the last but 8 are the payload.
    fn bz_image() -> Vec<u8> {
        let mut image = vec![0; CODE];
        image[0x1f1] = 1;
        image[0x248] = 16;
        image[lab::PAYLOAD_LENGTH] = 8;
        image.extend([0xaa; 16]);
        image.extend(b"payload!");
        image.extend([0xbb; 8]);
        image
    }

    #[test]
    fn a_payload_takes_the_place_of_another_and_the_code_around_it_stays() {
        for payload in [&b"short"[..], b"payload!", &[7; 1000]] {
            let image = with_payload(&bz_image(), payload).unwrap();
            let place = lab::payload_of(&image).unwrap();
            assert_eq!(image[place.clone()], *payload);
            assert_eq!((place.start, &image[CODE..place.start]), (CODE + 16, &[0xaa; 16][..]));
            assert_eq!(image[place.end..][..8], [0xbb; 8]);
            let paragraphs = u32::from_le_bytes(*image[CODE_SIZE..].first_chunk().unwrap());
            assert_eq!(usize::try_from(paragraphs).unwrap() * PARAGRAPH, image.len() - CODE);
        }
    }

    #[test]
    fn a_kernel_that_is_cut_off_gets_no_payload() {
        let whole = bz_image();
        for length in [0, 0x1f1, lab::PAYLOAD_LENGTH + 2, whole.len() - 9] {
            assert!(with_payload(&whole[..length], b"x").is_err(), "{length}");
        }
    }

    #[test]
    fn a_file_is_packed_with_its_size_behind_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [1; 3000]).unwrap();
        let packed = payload(&file.path().to_owned()).unwrap();
        assert!(packed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "no zstd frame");
        assert!(packed.ends_with(&3000u32.to_le_bytes()));
    }
}
