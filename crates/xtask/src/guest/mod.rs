//! `cargo xtask guest`: NixOS-shaped guests from Debian packages.
//!
//! Each node gets a toplevel folder as NixOS makes one (kernel, initrd, init, kernel-params, boot.json ...). All nodes
//! of the same packages share one root image; what is a node's own rides in a second archive behind its initrd.
//! Everything is kept in the chores' cache, keyed by what it is made of, and put there by a rename.

mod initrd;
pub(crate) mod nixos;
mod node;
mod packing;
mod root;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::host::{cache_dir, ensure_packages, is_root};
use crate::{debs, lab};

/// What the image is made with.
const TOOLS: &[&str] = &["busybox-static", "erofs-utils", "kmod", "mmdebstrap"];
/// What an ordinary user needs besides: name spaces with several users, and their ownership of files.
const TOOLS_WITHOUT_ROOT: &[&str] = &["fakeroot", "uidmap"];
/// Where apt keeps what the archive's packages are today.
const APT_LISTS: &str = "/var/lib/apt/lists";

/// The root image's name in a toplevel.
pub(crate) use root::IMAGE as ROOT_IMAGE;

const EXAMPLES: &str = "\
Examples:
  cargo xtask guest                                   machine1 and machine2, Debian's stock kernel
  cargo xtask guest --kernel cloud --nodes web,db     other names, Debian's cloud kernel
  cargo xtask guest --with mariadb-server,nginx       with more Debian packages";

/// Arguments of `cargo xtask guest`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Debian's kernel: the stock one (xz) or the one for clouds (lz4)
    #[arg(long, value_enum, default_value = "generic")]
    kernel: Kernel,
    /// More Debian packages for the guests
    #[arg(long, value_delimiter = ',', value_name = "PACKAGES")]
    with: Vec<String>,
    /// The nodes' names; their numbers are their places in the sorted list
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "machine1,machine2")]
    nodes: Vec<String>,
    /// A systemd with a shell for the driver in the initrd, too; it stays there until the test's `switch_root()`
    #[arg(long)]
    initrd_backdoor: bool,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// A kernel that Debian ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// `linux-image-amd64`
    Generic,
    /// `linux-image-cloud-amd64`
    Cloud,
}

impl Kernel {
    fn flavour(self) -> &'static str {
        match self {
            Self::Generic => "amd64",
            Self::Cloud => "cloud-amd64",
        }
    }
}

/// Where a guest has a shell for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backdoor {
    InRoot,
    InInitrdToo,
}

/// Guests that are ready to boot.
pub(crate) struct Guests {
    /// The folder that holds a toplevel folder per node.
    pub(crate) folder: PathBuf,
    nodes: Vec<String>,
}

/// Makes the guests and prints where they are.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let backdoor = if args.initrd_backdoor { Backdoor::InInitrdToo } else { Backdoor::InRoot };
    let guests = make(args.kernel, &args.nodes, &args.with, backdoor)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&guests.describe())?);
    } else {
        println!("{}", guests.folder.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the guests `names`, or finds them in the cache.
pub(crate) fn make(kernel: Kernel, names: &[String], with: &[String], backdoor: Backdoor) -> Result<Guests> {
    let mut nodes = names.to_vec();
    nodes.sort();
    nodes.dedup();
    node::check_names(&nodes)?;
    let mut packages = with.to_vec();
    packages.sort();
    packages.dedup();
    let package = debs::kernel_package(kernel.flavour())?;
    let kernel_tree = debs::fetch_unpacked(&package)?;
    let image = root_image(&kernel_tree, &packages)?;
    let folder = cache_dir().join("guests").join(key(&[
        image.to_string_lossy().as_bytes(),
        kernel_tree.to_string_lossy().as_bytes(),
        nodes.join(",").as_bytes(),
        initrd::source().as_bytes(),
        node::source().as_bytes(),
        format!("{backdoor:?}").as_bytes(),
    ]));
    if !folder.is_dir() {
        ensure_packages(TOOLS)?;
        fill(&folder, |work| node::write_all(work, &nodes, &kernel_tree, &image, backdoor))?;
    }
    Ok(Guests { folder, nodes })
}

/// The kernel as an ELF image, as the build of a kernel leaves it.
pub(crate) fn vmlinux(kernel: Kernel) -> Result<PathBuf> {
    lab::unpacked_kernel(&debs::fetch_unpacked(&debs::kernel_package(kernel.flavour())?)?)
}

/// The kernel as Debian ships it.
pub(crate) fn bz_image(kernel: Kernel) -> Result<PathBuf> {
    lab::packed_kernel(&debs::fetch_unpacked(&debs::kernel_package(kernel.flavour())?)?)
}

/// An initrd that is all of a guest with this kernel; see [`initrd::whole`].
pub(crate) fn whole_initrd(
    kernel: Kernel,
    init: &str,
    modules: &[&str],
    programs: &[&str],
    own: &[(&str, &Path)],
) -> Result<Vec<u8>> {
    ensure_packages(TOOLS)?;
    let kernel_tree = debs::fetch_unpacked(&debs::kernel_package(kernel.flavour())?)?;
    initrd::whole(&kernel_tree, init, modules, programs, own)
}

/// The root image that goes with a kernel and packages.
fn root_image(kernel_tree: &Path, packages: &[String]) -> Result<PathBuf> {
    let userland = key(&[&archive_state()?, root::userland_source(packages).as_bytes()]);
    let image =
        key(&[userland.as_bytes(), kernel_tree.to_string_lossy().as_bytes(), root::source().as_bytes()]);
    let folder = cache_dir().join("roots").join(image);
    if !folder.is_dir() {
        ensure_packages(TOOLS)?;
        if !is_root() {
            ensure_packages(TOOLS_WITHOUT_ROOT)?;
        }
        // The same for all kernels, and what takes longest.
        let userland = cache_dir().join("userlands").join(userland);
        fill(&userland, |work| root::write_userland(work, packages))?;
        fill(&folder, |work| root::write(work, kernel_tree, &userland))?;
    }
    Ok(folder.join(root::IMAGE))
}

/// Fills `folder` in one step: it is there whole or not at all. Another chore that wants the same one waits for it.
fn fill(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = folder.parent().context("The cache has no folder")?;
    fs::create_dir_all(parent).with_context(|| format!("Cannot make the folder {}", parent.display()))?;
    let _turn = turn_at(folder)?;
    if folder.is_dir() {
        return Ok(());
    }
    let work = tempfile::Builder::new()
        .prefix(".making-")
        .tempdir_in(parent)
        .with_context(|| format!("Cannot write into {}", parent.display()))?;
    let content = work.path().join("content");
    fs::create_dir(&content).with_context(|| format!("Cannot make the folder {}", content.display()))?;
    make(&content)?;
    fs::rename(&content, folder).with_context(|| format!("Cannot move the result to {}", folder.display()))
}

/// The right to make `folder`, for as long as the file is open.
fn turn_at(folder: &Path) -> Result<File> {
    let lock = folder.with_extension("lock");
    let cannot_lock = || format!("Cannot lock {}", lock.display());
    let file = File::create(&lock).with_context(cannot_lock)?;
    file.lock().with_context(cannot_lock)?;
    Ok(file)
}

/// What the archive's packages are today: the signed release files, which name all others by their hash.
fn archive_state() -> Result<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(APT_LISTS)
        .with_context(|| format!("Cannot list {APT_LISTS}"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.to_string_lossy().ends_with("Release"))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("apt knows no packages; run `apt-get update` first");
    }
    let mut state = Vec::new();
    for file in files {
        state.extend(fs::read(&file).with_context(|| format!("Cannot read {}", file.display()))?);
    }
    Ok(state)
}

/// A short name for `parts`.
fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl Guests {
    fn describe(&self) -> serde_json::Value {
        let nodes = (1..).zip(&self.nodes).map(|(number, name): (u32, _)| {
            let toplevel = self.folder.join(name);
            let entry = serde_json::json!({
                "toplevel": toplevel, "root": toplevel.join(root::IMAGE), "node": number,
            });
            (name.clone(), entry)
        });
        serde_json::json!({ "folder": self.folder, "nodes": nodes.collect::<serde_json::Map<_, _>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_where_one_part_ends() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"ab"]).len(), 32);
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("it");
        assert!(fill(&folder, |_| bail!("no")).is_err());
        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["it.lock"]);
        fill(&folder, |work| Ok(fs::write(work.join("x"), "y")?)).unwrap();
        assert_eq!(fs::read_to_string(folder.join("x")).unwrap(), "y");
        fill(&folder, |_| bail!("it is there")).unwrap();
    }
}
