//! The root image: Debian's systemd userland with the instrumentation of NixOS test machines, as EROFS.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::is_root;
use crate::run::quiet;

/// The image's name in its folder, and in each toplevel.
pub(crate) const IMAGE: &str = "root.erofs";
/// The userland besides Debian's essential packages.
const PACKAGES: &[&str] = &[
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netcat-openbsd",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
];
/// A userland's name in its folder.
const USERLAND: &str = "root.tar";
const OPTIONS: &[&str] = &[
    "--quiet",
    "--variant=minbase",
    "--format=tar",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--aptopt=Acquire::Languages none",
];
/// Turns an unpacked Debian into a guest's root: runs as root or under fakeroot.
const SEAL: &str = include_str!("files/seal.sh");
/// Files that go into the root as they are.
const FILES: &[(&str, &str, u32)] = &[
    ("usr/lib/snowboot/backdoor", include_str!("files/backdoor.sh"), 0o755),
    ("usr/lib/snowboot/network", include_str!("files/network.sh"), 0o755),
    ("etc/systemd/system/backdoor.service", include_str!("files/backdoor.service"), 0o644),
    ("etc/systemd/system/network-setup.service", include_str!("files/network-setup.service"), 0o644),
    (
        "etc/systemd/system/systemd-udev-trigger.service.d/test.conf",
        include_str!("files/coldplug.conf"),
        0o644,
    ),
    ("etc/modprobe.d/test.conf", include_str!("files/modprobe.conf"), 0o644),
    ("etc/systemd/journald.conf.d/test.conf", include_str!("files/journald.conf"), 0o644),
    ("etc/systemd/system.conf.d/test.conf", include_str!("files/system.conf"), 0o644),
    ("etc/sysctl.d/test.conf", include_str!("files/sysctl.conf"), 0o644),
];

/// What a userland is made of, for the cache's key.
pub(crate) fn userland_source(extra: &[String]) -> String {
    format!("{OPTIONS:?}\n{}", include(extra))
}

/// What an image is made of besides its userland and its kernel, for the cache's key.
pub(crate) fn source() -> String {
    let files: String = FILES.iter().map(|(name, text, mode)| format!("{name} {mode:o}\n{text}")).collect();
    format!("{SEAL}\n{files}")
}

fn include(extra: &[String]) -> String {
    let packages: Vec<&str> = PACKAGES.iter().copied().chain(extra.iter().map(String::as_str)).collect();
    packages.join(",")
}

/// Installs Debian with the `extra` packages into a tar file in `work`.
pub(crate) fn write_userland(work: &Path, extra: &[String]) -> Result<()> {
    quiet(
        "installing the guests' Debian packages",
        Command::new("mmdebstrap")
            .args(OPTIONS)
            .arg(format!("--include={}", include(extra)))
            .arg("bookworm")
            .arg(work.join(USERLAND))
            .env("SOURCE_DATE_EPOCH", "1"),
    )
}

/// Makes the image in `work`, of the userland in another folder.
pub(crate) fn write(work: &Path, kernel_tree: &Path, userland: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("Cannot make a scratch folder")?;
    let files = scratch.path().join("files");
    write_files(&files)?;
    let seal = scratch.path().join("seal.sh");
    fs::write(&seal, SEAL).context("Cannot write the sealing script")?;
    let mut command = if is_root() { Command::new("sh") } else { Command::new("fakeroot") };
    if !is_root() {
        command.arg("sh");
    }
    command
        .arg(&seal)
        .arg(userland.join(USERLAND))
        .arg(&files)
        .arg(kernel_tree)
        .arg(work.join(IMAGE))
        .current_dir(scratch.path());
    quiet("making the guests' root image", &mut command)
}

fn write_files(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (name, text, mode) in FILES {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)))
            .with_context(|| format!("Cannot write {}", path.display()))?;
    }
    Ok(())
}
