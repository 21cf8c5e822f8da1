//! The emulated host's initramfs: busybox, kernel modules, `init.sh`, the agent and the job, in one archive.
//!
//! It lives in a memfd, so nothing is left on disk and the job's environment is never written to one.

use std::fs::{self, File};
use std::io::{Cursor, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cpio::newc::Builder;
use rustix::fs::{MemfdFlags, memfd_create};

use super::job::Job;

/// Each after those it needs. `virtio_console` carries the job, 9p and overlay the root, `virtio_blk` and ext4 the scratch
/// disk; the others are what a KVM host has.
const MODULES: [&str; 31] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "virtio-rng",
    "netfs",
    "fscache",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_blk",
    "crc16",
    "crc32c_generic",
    "mbcache",
    "jbd2",
    "ext4",
    "irqbypass",
    "ccp",
    "kvm",
    "kvm-amd",
    "tun",
    "vhost_iotlb",
    "vhost",
    "tap",
    "vhost_net",
    "llc",
    "stp",
    "bridge",
];

/// The archive, on a descriptor that a child process inherits.
///
/// `kernel` is the unpacked tree of a Debian kernel package, `busybox` a static busybox.
pub(crate) fn build(kernel: &Path, busybox: &Path, job: &Job) -> Result<File> {
    let mut entries = vec![
        file("init", 0o755, include_bytes!("init.sh").to_vec()),
        file("bin/busybox", 0o755, read(busybox)?),
        file("agent", 0o755, read(Path::new("/proc/self/exe"))?),
        file("job", 0o600, job.encode()),
    ];
    let mut order = String::new();
    for (name, path) in modules(kernel)? {
        entries.push(file(&format!("modules/{name}.ko"), 0o644, read(&path)?));
        order.push_str(&format!("{name}.ko\n"));
    }
    entries.push(file("modules/order", 0o644, order.into_bytes()));
    let folders =
        ["bin", "modules", "dev"].map(|name| (Builder::new(name).mode(0o40755), Cursor::new(vec![])));
    // No CLOEXEC: QEMU opens it through its own /proc/self/fd.
    let mut archive = File::from(memfd_create("lab-initramfs", MemfdFlags::empty())?);
    cpio::write_cpio(folders.into_iter().chain(entries), &mut archive)?;
    archive.rewind()?;
    Ok(archive)
}

fn file(name: &str, mode: u32, content: Vec<u8>) -> (Builder, Cursor<Vec<u8>>) {
    (Builder::new(name).mode(0o100_000 | mode), Cursor::new(content))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Cannot read {}", path.display()))
}

/// Where each of [`MODULES`] is in the kernel's tree.
fn modules(kernel: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut found = Vec::new();
    collect_modules(&kernel.join("lib/modules"), &mut found)?;
    MODULES
        .iter()
        .map(|name| {
            let file_name = format!("{name}.ko");
            let path = found.iter().find(|path| path.ends_with(&file_name));
            let Some(path) = path else { bail!("The kernel in {} has no module {name}", kernel.display()) };
            Ok((*name, path.clone()))
        })
        .collect()
}

fn collect_modules(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("Cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_modules(&entry.path(), found)?;
        } else if entry.path().extension().is_some_and(|extension| extension == "ko") {
            found.push(entry.path());
        }
    }
    Ok(())
}
