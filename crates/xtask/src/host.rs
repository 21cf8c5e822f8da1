//! The machine that a chore runs on: where the project is, and the Debian packages that a chore needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The project's root folder.
pub(crate) fn project_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where chores keep what they download and build, keyed by content.
pub(crate) fn cache_dir() -> PathBuf {
    project_root().join("target").join("snowboot")
}

/// Make sure that each Debian package of `packages` is installed: as root through apt, otherwise by telling the one
/// command to run.
///
/// For one package, apt may remove another of them: one of a newer Debian's, say. So they are looked at again.
pub(crate) fn ensure_packages(packages: &[&str]) -> Result<()> {
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let missing = missing(packages);
        if missing.is_empty() {
            return Ok(());
        }
        install(&missing)?;
    }
    match missing(packages) {
        left if left.is_empty() => Ok(()),
        left => bail!(
            "apt-get installs {} only by removing others that are needed, too: {}",
            left.join(" "),
            packages.join(" ")
        ),
    }
}

fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages.iter().copied().filter(|name| !is_installed(name)).collect()
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() {
        bail!(
            "Debian packages are missing; install them with: sudo apt-get install --no-install-recommends {list}"
        );
    }
    // Several chores may want packages at once, and apt does not wait for another one.
    let lock = std::env::temp_dir().join("snowboot-xtask-apt.lock");
    let turn = std::fs::File::create(&lock).with_context(|| format!("Cannot write {}", lock.display()))?;
    turn.lock().with_context(|| format!("Cannot lock {}", lock.display()))?;
    eprintln!("xtask: installing {list}");
    let anywhere = Path::new("/");
    apt_get(&["update", "-q"], anywhere)?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments, anywhere)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Abbrev}", package])
        .output()
        .is_ok_and(|out| out.status.success() && out.stdout.starts_with(b"ii"))
}

/// Runs `apt-get` in `folder`; its output is for the error.
pub(crate) fn apt_get(arguments: &[&str], folder: &Path) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .current_dir(folder)
        .output()
        .context("Cannot run apt-get: is this a Debian machine?")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {} failed:\n{}", arguments.join(" "), text.trim_end());
    }
    Ok(())
}
