//! A userland as a folder of the host, and the shares that a NixOS test machine has.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::{self, Backdoor, Kernel};
use crate::run::quiet;

/// One machine has them by virtio-fs, one by 9P, by the tags that NixOS gives them.
pub(super) const SHARES: &[(&str, &str, &str)] = &[
    (
        "new",
        "cmdline = \"root=virtiofs:nix-store\"\n",
        r#"[[machines.new.shares]]
tag = "nix-store"
path = "root"
[[machines.new.shares]]
tag = "shared"
path = "$SHARED_DIR"
writable = true
cache = "auto"
[[machines.new.shares]]
tag = "xchg"
path = "xchg-new"
writable = true
cache = "auto"
"#,
    ),
    (
        "old",
        "cmdline = \"root=9p:nix-store\"\n",
        r#"[[machines.old.shares]]
tag = "nix-store"
path = "root"
protocol = "9p"
[[machines.old.shares]]
tag = "shared"
path = "$SHARED_DIR"
writable = true
protocol = "9p"
[[machines.old.shares]]
tag = "xchg"
path = "xchg-old"
writable = true
protocol = "9p"
"#,
    ),
];

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
