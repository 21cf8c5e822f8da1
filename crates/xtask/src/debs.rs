//! Debian packages as folders: a package is fetched through apt and unpacked into the chores' cache, never installed.
//!
//! The cache is keyed by package and version and filled atomically, so that several chores may run at once. Nothing
//! here needs root, unless apt has no package lists yet.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::{apt_get, cache_dir, is_root};

/// The folder with the unpacked tree of `package`, in the newest version that apt would install.
pub(crate) fn fetch_unpacked(package: &str) -> Result<PathBuf> {
    let version = field(&control(package)?, "Version")
        .map(str::to_owned)
        .with_context(|| format!("apt names no version of the package {package}"))?;
    let cache = cache_dir().join("debs");
    let folder = cache.join(folder_name(package, &version));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("Cannot make the folder {}", cache.display()))?;
    let work = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(&cache)
        .with_context(|| format!("Cannot write into {}", cache.display()))?;
    download(package, &version, work.path())?;
    let tree = work.path().join("tree");
    unpack(&only_deb(work.path())?, &tree)?;
    match fs::rename(&tree, &folder) {
        Ok(()) => Ok(folder),
        // Another chore was faster; its tree is the same.
        Err(_) if folder.is_dir() => Ok(folder),
        Err(error) => {
            Err(error).with_context(|| format!("Cannot move the package into {}", folder.display()))
        }
    }
}

/// The concrete package behind Debian's kernel metapackage of `flavour` (`amd64`, `cloud-amd64`), such as
/// `linux-image-6.1.0-49-amd64`.
pub(crate) fn kernel_package(flavour: &str) -> Result<String> {
    let metapackage = format!("linux-image-{flavour}");
    let control = control(&metapackage)?;
    let depends = field(&control, "Depends").unwrap_or_default();
    kernel_dependency(depends, flavour)
        .map(str::to_owned)
        .with_context(|| format!("The package {metapackage} depends on no kernel image: {depends}"))
}

fn kernel_dependency<'a>(depends: &'a str, flavour: &str) -> Option<&'a str> {
    depends
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-") && name.ends_with(flavour))
}

/// The control record of the version of `package` that apt would install, after an `apt-get update` when apt does not
/// know the package yet.
///
/// apt takes most of a second to answer, so its answer is kept until its lists change.
fn control(package: &str) -> Result<String> {
    let kept = cache_dir().join("debs").join(format!("{package}.control"));
    if is_newer(&kept, &["/var/lib/apt/lists", "/etc/apt", "/etc/apt/sources.list.d"]) {
        return read_kept(&kept);
    }
    let record = match asked_control(package) {
        Ok(record) => record,
        // The lists are gone and cannot be had again: what is kept is still good.
        Err(_) if kept.is_file() => return read_kept(&kept),
        Err(error) => return Err(error),
    };
    write_atomically(&kept, record.as_bytes())?;
    Ok(record)
}

fn read_kept(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("Cannot read {}", file.display()))
}

fn asked_control(package: &str) -> Result<String> {
    if let Some(record) = known_control(package)? {
        return Ok(record);
    }
    update_lists(package)?;
    known_control(package)?.with_context(|| format!("apt knows no package {package}"))
}

/// Whether `file` is there and newer than each of `others` that is there.
fn is_newer(file: &Path, others: &[&str]) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let own = changed(file);
    own.is_some() && others.iter().all(|other| changed(Path::new(other)) < own)
}

/// Write `file` so that nobody ever sees a part of it.
pub(crate) fn write_atomically(file: &Path, content: &[u8]) -> Result<()> {
    let folder = file.parent().context("A file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let cannot_write = || format!("Cannot write into {}", folder.display());
    let mut part = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(cannot_write)?;
    part.write_all(content).with_context(cannot_write)?;
    part.persist(file).with_context(|| format!("Cannot make the file {}", file.display()))?;
    Ok(())
}

fn known_control(package: &str) -> Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .env("LC_ALL", "C")
        .output()
        .context("Cannot run apt-cache: is this a Debian machine?")?;
    // A package that is installed but in no list cannot be downloaded: only records with a file name count.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success() && field(&text, "Filename").is_some()).then_some(text))
}

fn update_lists(package: &str) -> Result<()> {
    if !is_root() {
        bail!("apt does not know the package {package}; run: sudo apt-get update");
    }
    apt_get(&["update", "-q"], Path::new("/"))
}

fn download(package: &str, version: &str, folder: &Path) -> Result<()> {
    let wanted = format!("{package}={version}");
    if apt_get(&["download", "-q", &wanted], folder).is_ok() {
        return Ok(());
    }
    // The archive drops old versions: lists that are some weeks old name files that are gone.
    update_lists(package)?;
    apt_get(&["download", "-q", package], folder)
}

fn only_deb(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get downloaded no package into {}", folder.display())
}

fn unpack(package: &Path, tree: &Path) -> Result<()> {
    let output =
        Command::new("dpkg-deb").arg("-x").args([package, tree]).output().context("Cannot run dpkg-deb")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("dpkg-deb cannot unpack {}:\n{}", package.display(), text.trim_end());
    }
    Ok(())
}

/// The value of a one-line field in the first record of `control`.
fn field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// A version's epoch colon would split `PATH`-like lists, as in Debian's own file names.
fn folder_name(package: &str, version: &str) -> String {
    format!("{package}_{}", version.replace(':', "%3a"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Package: linux-image-amd64\nVersion: 6.1.192-2\n\
        Depends: linux-image-6.1.0-53-amd64 (= 6.1.192-2)\n\nPackage: other\nFilename: pool/x.deb\n";

    #[test]
    fn fields_come_from_the_first_record_only() {
        assert_eq!(field(CONTROL, "Version"), Some("6.1.192-2"));
        assert_eq!(field(CONTROL, "Filename"), None);
    }

    #[test]
    fn the_kernel_is_the_dependency_of_the_right_flavour() {
        let depends = "initramfs-tools | x (>= 1), linux-image-6.1.0-53-amd64 (= 6.1.192-2)";
        assert_eq!(kernel_dependency(depends, "amd64"), Some("linux-image-6.1.0-53-amd64"));
        assert_eq!(kernel_dependency(depends, "rt-amd64"), None);
    }

    #[test]
    fn epochs_make_no_colon_in_a_folder_name() {
        assert_eq!(folder_name("qemu", "1:7.2"), "qemu_1%3a7.2");
    }
}
