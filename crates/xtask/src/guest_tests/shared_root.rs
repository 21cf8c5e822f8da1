//! A userland as a folder of the host, and the shares that a NixOS test machine has.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::{self, Backdoor, Kernel};
use crate::run::quiet;

/// A machine that has them all by one protocol, by the tags that NixOS gives them.
macro_rules! machine {
    ($name:literal, $protocol:literal, $cache:literal) => {
        (
            $name,
            concat!("cmdline = \"root=", $protocol, ":nix-store\"\n"),
            concat!(
                share!($name, $protocol, "always", "nix-store", "root", "false"),
                share!($name, $protocol, $cache, "shared", "$SHARED_DIR", "true"),
                share!($name, $protocol, $cache, "xchg", concat!("xchg-", $name), "true"),
            ),
        )
    };
}

macro_rules! share {
    ($name:literal, $protocol:literal, $cache:literal, $tag:literal, $path:expr, $writable:literal) => {
        concat!(
            "[[machines.",
            $name,
            ".shares]]\ntag = \"",
            $tag,
            "\"\npath = \"",
            $path,
            "\"\nwritable = ",
            $writable,
            "\ncache = \"",
            $cache,
            "\"\nprotocol = \"",
            $protocol,
            "\"\n"
        )
    };
}

/// One machine has them by virtio-fs, one by 9P, whose cache is the guest's own business.
pub(super) const SHARES: &[(&str, &str, &str)] =
    &[machine!("new", "virtiofs", "auto"), machine!("old", "9p", "always")];

/// Unpacks the root image of guests with the stock kernel.
pub(super) fn make_root(folder: &Path) -> Result<()> {
    for name in ["xchg-new", "xchg-old"] {
        fs::create_dir_all(folder.join(name)).with_context(|| format!("Cannot make the folder {name}"))?;
    }
    let root = folder.join("root");
    if root.exists() {
        return Ok(());
    }
    let guests = guest::make(Kernel::Generic, &["new".to_owned(), "old".to_owned()], &[], Backdoor::InRoot)?;
    let mut unpack = Command::new("fsck.erofs");
    unpack
        .arg(format!("--extract={}", root.display()))
        .arg(guests.folder.join("new").join(guest::ROOT_IMAGE));
    quiet("unpacking a root image", &mut unpack)
}
