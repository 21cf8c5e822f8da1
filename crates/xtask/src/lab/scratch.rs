//! The emulated host's /var/tmp: a file system on a disk, as tests of disks and of shared folders need one.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::host::{cache_dir, ensure_packages};

/// Room, in bytes. The file is sparse: only what is written takes any.
const SIZE: u64 = 16 << 30;

/// The disk, on a descriptor that a child process inherits. Its file has no name, so nothing is left of it.
pub(crate) fn make() -> Result<File> {
    ensure_packages(&["e2fsprogs"])?;
    let folder = cache_dir().join("lab");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let cannot_write = || format!("Cannot write into {}", folder.display());
    let file = tempfile::tempfile_in(&folder).with_context(cannot_write)?;
    file.set_len(SIZE).with_context(cannot_write)?;
    // No CLOEXEC: mkfs and QEMU open it through their own /proc/self/fd.
    fcntl_setfd(&file, FdFlags::empty())?;
    let mut mkfs = Command::new("/sbin/mkfs.ext4");
    // Without a journal, since nobody ever mounts it again.
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=1"]);
    let output = mkfs
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .stdin(Stdio::null())
        .output()
        .context("Cannot run mkfs.ext4")?;
    if !output.status.success() {
        bail!("mkfs.ext4 failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(file)
}
