//! The images of the test of disks, made by the tools that users have.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::quiet;

/// What the machines have behind their roots: keys of their own, and disks.
pub(super) const DISKS: &[(&str, &str, &str)] = &[
    (
        "machine1",
        r#"empty-disks = [
    16,
    { size-mib = 24, serial = "second", memory = true },
    { size-mib = 40, filesystem = "ext4", label = "third" },
]
"#,
        r#"[[machines.machine1.disks]]
path = "base.img"
snapshot = true
serial = "shared"
[[machines.machine1.disks]]
path = "top.qcow2"
serial = "chain"
[[machines.machine1.disks]]
path = "packed.qcow2"
snapshot = true
memory = true
serial = "packed"
[[machines.machine1.disks]]
path = "over.qcow2"
backing-file = "base.img"
backing-format = "raw"
serial = "over"
[[machines.machine1.disks]]
path = "nixos.img"
create-mib = 64
filesystem = "ext4"
label = "nixos"
serial = "nixos"
[[machines.machine1.disks]]
path = "small/full.img"
create-mib = 64
serial = "full"
"#,
    ),
    (
        "machine2",
        "",
        r#"[[machines.machine2.disks]]
path = "base.img"
snapshot = true
[[machines.machine2.disks]]
create-mib = 32
memory = true
"#,
    ),
];

/// The disk of the test of many power cuts.
pub(super) const DATA: &[(&str, &str, &str)] =
    &[("machine", "", "[[machines.machine.disks]]\npath = \"data.qcow2\"\nserial = \"data\"\n")];

/// Makes its image, empty.
pub(super) fn make_data_image(folder: &Path) -> Result<()> {
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "data.qcow2", "2G"])
}

/// Makes the images that are not made by the machines' first start, and removes those that are.
pub(super) fn make_images(folder: &Path) -> Result<()> {
    for name in ["base.img", "middle.qcow2", "top.qcow2", "packed.qcow2", "over.qcow2", "nixos.img"] {
        let path = folder.join(name);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("Cannot remove {}", path.display()))?;
        }
    }
    let content = folder.join("content");
    for folder in [&content, &folder.join("small")] {
        fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    }
    fs::write(content.join("hello"), "from the base\n").context("Cannot write the base's content")?;
    let mut mkfs = Command::new("/sbin/mkfs.ext4");
    mkfs.args(["-q", "-L", "base", "-d", "content", "base.img", "32M"]);
    quiet("making a base image", mkfs.current_dir(folder))?;
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", "middle.qcow2"])?;
    qemu_img(folder, &["create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2"])?;
    qemu_img(folder, &["convert", "-c", "-O", "qcow2", "base.img", "packed.qcow2"])
}

fn qemu_img(folder: &Path, words: &[&str]) -> Result<()> {
    quiet("making a qcow2 image", Command::new("qemu-img").args(words).current_dir(folder))
}
