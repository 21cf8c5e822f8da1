//! The guests' initrd: busybox, the modules that reach the root and the driver's devices, and a shell script.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::Builder;

use super::Backdoor;

/// Process 1 of the initrd.
const INIT: &str = include_str!("files/init.sh");
/// Modules in the sets in which the initrd loads them, by the name of each one's folder.
type ModuleSets<'a> = [(&'a str, &'a [&'a str])];
/// The name of the set that every guest loads.
const ALWAYS: &str = "always";
/// What the root, the driver's shell and the network need, before udev runs, and what some roots need besides.
/// `crc32c_generic` first, which others ask for by the name of its
/// algorithm, not as a dependency. A kernel that has one built in has no file of it.
const MODULES: &ModuleSets<'_> = &[
    (
        ALWAYS,
        &[
            "crc32c_generic",
            "virtio_pci",
            "virtio_blk",
            "virtio_net",
            "virtio_console",
            "virtio-rng",
            "erofs",
            "overlay",
            "af_packet",
        ],
    ),
    ("ext4", &["ext4"]),
    ("virtiofs", &["virtiofs"]),
    ("9p", &["9pnet_virtio", "9p"]),
];
/// The mark of an init that runs (`docs/timeline.md`).
const INIT_STARTED: u8 = 1;
/// An archive member's mode: kind and permissions.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;
const CHARACTERS: u32 = 0o020_600;
/// I/O ports as a file (`Documentation/admin-guide/devices.txt`).
const DEV_PORT: (u32, u32) = (1, 4);

/// What the initrd is made of, for the cache's key.
pub(crate) fn source() -> String {
    format!("{MODULES:?}\n{INIT}")
}

/// An initrd archive under construction.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    folders: Vec<String>,
}

impl Archive {
    /// Adds a file and the folders that lead to it.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.member(path, FILE, content)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.member(path, LINK, target.as_bytes())
    }

    /// Adds a character device.
    fn device(&mut self, path: &str, (major, minor): (u32, u32)) -> Result<()> {
        self.parents(path)?;
        self.put(Builder::new(path).mode(CHARACTERS).rdev_major(major).rdev_minor(minor), &[])
    }

    pub(super) fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.member(path, PROGRAM, content)
    }

    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        if self.folders.iter().any(|it| it == path) {
            return Ok(());
        }
        self.folders.push(path.to_owned());
        self.member(path, DIRECTORY, &[])
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.folder(parent),
            None => Ok(()),
        }
    }

    pub(super) fn busybox(&mut self) -> Result<()> {
        let busybox = "/bin/busybox";
        let content = fs::read(busybox).with_context(|| format!("Cannot read {busybox}"))?;
        self.program("bin/busybox", &content)
    }

    /// Adds sets of modules with all that they need, and a list of each set in the order to load it in. What the first
    /// set has is in no other list: it is loaded already.
    fn modules(&mut self, kernel_tree: &Path, sets: &ModuleSets<'_>) -> Result<()> {
        let modules = modules_folder(kernel_tree)?;
        let dependencies = fs::read_to_string(modules.join("modules.dep"))
            .map_or_else(|_| made_dependencies(kernel_tree, &modules), Ok)?;
        let mut loaded: Vec<String> = Vec::new();
        for (set, wanted) in sets {
            let mut order = load_order(&dependencies, wanted);
            order.retain(|path| !loaded.contains(path));
            let mut list = String::new();
            for path in &order {
                let name = path.rsplit('/').next().unwrap_or(path);
                let content =
                    fs::read(modules.join(path)).with_context(|| format!("Cannot read the module {path}"))?;
                self.file(&format!("modules/{set}/{name}"), &content)?;
                list.push_str(name);
                list.push('\n');
            }
            self.file(&format!("modules/{set}/list"), list.as_bytes())?;
            if loaded.is_empty() {
                loaded = order;
            }
        }
        Ok(())
    }

    fn member(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.put(Builder::new(path).mode(mode), content)
    }

    fn put(&mut self, header: Builder, content: &[u8]) -> Result<()> {
        self.inodes += 1;
        let length = u32::try_from(content.len()).context("An initrd's file is too large")?;
        let mut writer = header.ino(self.inodes).nlink(1).write(&mut self.bytes, length);
        std::io::Write::write_all(&mut writer, content)?;
        writer.finish()?;
        Ok(())
    }

    /// The finished archive. Its length is a multiple of four, so that another may follow.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        cpio::newc::trailer(&mut self.bytes)?;
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        Ok(self.bytes)
    }
}

/// The part of the initrd that all nodes share.
pub(crate) fn common(kernel_tree: &Path, backdoor: Backdoor) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "bin", "node"] {
        archive.folder(folder)?;
    }
    archive.program("init", INIT.as_bytes())?;
    archive.device("dev/port", DEV_PORT)?;
    archive.file("init-started", &[INIT_STARTED])?;
    if backdoor == Backdoor::InInitrdToo {
        archive.file("backdoor", &[])?;
    }
    archive.busybox()?;
    archive.modules(kernel_tree, MODULES)?;
    archive.finish()
}

/// An initrd that is all of a guest: `init` with busybox, `modules`, the programs at these paths of the host, and `own` ones,
/// which need no libraries, by their paths in the guest.
pub(crate) fn whole(
    kernel_tree: &Path,
    init: &str,
    modules: &[&str],
    programs: &[&str],
    own: &[(&str, &Path)],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "tmp"] {
        archive.folder(folder)?;
    }
    archive.program("init", init.as_bytes())?;
    archive.busybox()?;
    archive.modules(kernel_tree, &[(ALWAYS, modules)])?;
    let mut files: Vec<String> = programs.iter().map(|&program| program.to_owned()).collect();
    for program in programs {
        files.extend(libraries(program)?);
    }
    files.sort();
    files.dedup();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("Cannot read {file}"))?;
        archive.program(file.trim_start_matches('/'), &content)?;
    }
    for (place, program) in own {
        let content = fs::read(program).with_context(|| format!("Cannot read {}", program.display()))?;
        archive.program(place, &content)?;
    }
    archive.finish()
}

/// The shared libraries that a program of the host needs, and what loads them.
pub(super) fn libraries(program: &str) -> Result<Vec<String>> {
    let output = std::process::Command::new("ldd").arg(program).output().context("Cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `name => /path (address)`, or `/path (address)`.
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}

pub(super) fn modules_folder(kernel_tree: &Path) -> Result<PathBuf> {
    let folder = kernel_tree.join("lib/modules");
    let mut releases = fs::read_dir(&folder).with_context(|| format!("Cannot list {}", folder.display()))?;
    let release = releases.next().with_context(|| format!("{} is empty", folder.display()))??;
    Ok(release.path())
}

/// Debian's kernel packages come without `modules.dep`; depmod writes it, here to its standard output.
pub(super) fn made_dependencies(kernel_tree: &Path, modules: &Path) -> Result<String> {
    let release = modules.file_name().context("A kernel's module folder has no name")?;
    let output = std::process::Command::new("depmod")
        .args(["--dry-run", "--basedir"])
        .arg(kernel_tree)
        .arg(release)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .context("Cannot run depmod (package kmod)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter(|line| line.contains(".ko:")).map(|line| format!("{line}\n")).collect())
}

/// The files of `wanted` and all that they need, each after what it needs. `dependencies` is a `modules.dep`.
pub(super) fn load_order(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let mut table: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            table.insert(module_name(path), (path, needs.split_whitespace().collect()));
        }
    }
    let mut order = Vec::new();
    for name in wanted {
        visit(&table, &name.replace('-', "_"), &mut order);
    }
    order
}

fn visit(table: &BTreeMap<String, (&str, Vec<&str>)>, name: &str, order: &mut Vec<String>) {
    let Some((path, needs)) = table.get(name) else { return };
    if order.iter().any(|it| it == path) {
        return;
    }
    for need in needs {
        visit(table, &module_name(need), order);
    }
    order.push((*path).to_owned());
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let table = "kernel/a/virtio_net.ko: kernel/b/net_failover.ko kernel/b/failover.ko\n\
            kernel/b/net_failover.ko: kernel/b/failover.ko\nkernel/b/failover.ko:\nkernel/c/virtio-rng.ko:\n";
        let order = load_order(table, &["virtio_net", "virtio-rng", "built_in"]);
        assert_eq!(
            order,
            [
                "kernel/b/failover.ko",
                "kernel/b/net_failover.ko",
                "kernel/a/virtio_net.ko",
                "kernel/c/virtio-rng.ko"
            ]
        );
    }

    #[test]
    fn archives_can_follow_one_another() {
        let mut archive = Archive::default();
        archive.file("a/b/c", b"xyz").unwrap();
        archive.device("a/port", DEV_PORT).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut reader = cpio::NewcReader::new(bytes.as_slice()).unwrap();
        let (mut names, mut devices) = (Vec::new(), Vec::new());
        while !reader.entry().is_trailer() {
            let entry = reader.entry();
            names.push(entry.name().to_owned());
            devices.push((entry.mode() >> 12, entry.rdev_major(), entry.rdev_minor()));
            reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/port"]);
        assert_eq!(devices[2..], [(0o10, 0, 0), (0o2, 1, 4)]);
    }
}
