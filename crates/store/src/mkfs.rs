//! `mkfs.erofs`, and what is done to an image after it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::source::Source;
use crate::{StoreError, exclude};

/// What images are like. It is part of their key: whoever changes how they are made changes this.
pub(crate) const FORMAT: &str = "snowboot store image 1";

const PROGRAM: &str = "mkfs.erofs";
/// Where programs for administrators are, which is not on every user's path.
const MORE_FOLDERS: &str = "/usr/sbin:/sbin";
/// A UUID of our own, always the same: there is one store in a guest.
const UUID: &str = "7b5f2d1e-6c43-4f6a-9a53-0d5e1f3c8b20";
/// The label that NixOS test machines look for (`/dev/disk/by-label/nix-store`).
const LABEL: &[u8; 16] = b"nix-store\0\0\0\0\0\0\0";
/// The super block (`struct erofs_super_block` of Linux): where it is, its magic number, and where in it the label is.
const SUPER_BLOCK: u64 = 1024;
const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];
const LABEL_OFFSET: u64 = 64;
/// What virtio-pmem wants an image's size to be a multiple of. Snowboot pads others by itself; other VMMs refuse them.
const UNIT: u64 = 2 << 20;

/// Makes an image in an empty file.
pub(crate) fn run(source: &Source, image: &Path) -> Result<(), StoreError> {
    let failed = |why: String| StoreError::Make { path: source.folder.clone(), why };
    let mut command = Command::new(PROGRAM);
    // No extended attributes, no times and no owners of the host's. All files begin at a block: guests can only map those in
    // place. No sum of the super block, which is written to once more.
    command.args(["-x-1", "-T0", "-Enoinline_data,nosbcrc", "--force-uid=0", "--force-gid=0", "-U", UUID]);
    command.args(excluded(source)?).arg(image).arg(&source.folder);
    command.env("PATH", search_path()).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            failed(format!("there is no {PROGRAM}: install the package erofs-utils (Debian, Fedora, Nix)"))
        }
        _ => failed(format!("{PROGRAM} does not run: {error}")),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
        return Err(failed(format!("{PROGRAM} failed with {}: {last}", output.status)));
    }
    finish(image).map_err(StoreError::write(image))
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(MORE_FOLDERS);
    path
}

fn excluded(source: &Source) -> Result<Vec<OsString>, StoreError> {
    let Some(names) = &source.names else { return Ok(Vec::new()) };
    let all: Vec<Vec<u8>> = fs::read_dir(&source.folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().into_vec())).collect())
        .map_err(|error: io::Error| StoreError::read(&source.folder, &error))?;
    let wanted = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    let option = |expression: Vec<u8>| {
        let mut option = OsString::from("--exclude-regex=");
        option.push(OsStr::from_bytes(&expression));
        option
    };
    Ok(exclude::expressions(&all, &wanted).into_iter().map(option).collect())
}

/// Gives the image its label, which older versions of the program cannot, and its size.
fn finish(image: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(image)?;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, SUPER_BLOCK)?;
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{PROGRAM} made no EROFS image")));
    }
    file.write_all_at(LABEL, SUPER_BLOCK + LABEL_OFFSET)?;
    file.set_len(file.metadata()?.len().next_multiple_of(UNIT))
}
