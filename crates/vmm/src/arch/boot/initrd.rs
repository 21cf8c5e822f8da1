//! Initial RAM disks: all of a machine's, one behind the other, as one range of guest memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use snowboot_bus::GuestMemory;

use super::zero_page::ZeroPage;
use super::{layout, memory_below_hole, open_file};
use crate::{Error, memory};

/// The highest address for an initrd when the kernel's header does not say: what kernels before 2.03 assumed.
const INITRD_MAX: u64 = 0x37ff_ffff;
const PAGE: u64 = 4096;
/// Where an archive may begin behind another one: cpio's fields are aligned so, counted from the start of them all.
/// Kernels pass over zeros in between.
const ALIGNMENT: u64 = 4;

/// One of them, opened, with its place from the start of all.
struct Part<'a> {
    path: &'a Path,
    file: File,
    offset: u64,
    length: u64,
}

/// Puts the files as high as the kernel can reach them, away from everything that it unpacks itself.
pub(super) fn load(
    memory: &GuestMemory,
    paths: &[PathBuf],
    kernel_end: u64,
    page: &mut ZeroPage,
) -> Result<(), Error> {
    let parts = open(paths)?;
    let Some(last) = parts.last() else { return Ok(()) };
    let length = last.offset.saturating_add(last.length);
    let limit = page.initrd_max().unwrap_or(INITRD_MAX).saturating_add(1);
    let top = memory_below_hole(memory).min(limit);
    let start = top.checked_sub(length).map(|start| start & !(PAGE - 1)).filter(|start| *start >= kernel_end);
    let start = start.ok_or_else(|| too_large(&parts, length))?;
    for Part { path, file, offset, length } in &parts {
        memory::read_file(memory, start.saturating_add(*offset), file, 0, *length)
            .map_err(|error| wrong(path, error.to_string()))?;
    }
    page.set_initrd(start, length).map_err(|why| wrong(last.path, why))
}

fn open(paths: &[PathBuf]) -> Result<Vec<Part<'_>>, Error> {
    let mut parts = Vec::new();
    let mut end = 0u64;
    for path in paths {
        let file = open_file("initrd", path)?;
        let length = file.metadata().map_err(|error| wrong(path, error.to_string()))?.len();
        if length == 0 {
            return Err(wrong(path, "it is empty".to_owned()));
        }
        let offset = end
            .checked_next_multiple_of(ALIGNMENT)
            .ok_or_else(|| wrong(path, "it is too large".to_owned()))?;
        end = offset.saturating_add(length);
        parts.push(Part { path, file, offset, length });
    }
    Ok(parts)
}

/// The largest one is to blame.
fn too_large(parts: &[Part<'_>], length: u64) -> Error {
    let path = parts.iter().max_by_key(|part| part.length).map_or(Path::new(""), |part| part.path);
    let whose = if parts.len() == 1 { "its" } else { "with the others, its" };
    let mib = length.div_ceil(layout::MIB);
    let why = format!(
        "{whose} {mib} MiB do not fit into guest memory beside the kernel; give the machine more memory"
    );
    wrong(path, why)
}

fn wrong(path: &Path, why: String) -> Error {
    Error::File { kind: "initrd", path: path.to_owned(), why }
}
