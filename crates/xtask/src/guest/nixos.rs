//! A store with a system as NixOS makes one: a kernel packed by zstd; stage 1 in an initrd of several archives, with udev and nothing that is told which
//! devices there are; a stage 2 in the store, which the guest has from a folder of the host; links from one to the other.
//!
//! Programs are the host's and Debian's; what stage 1 does, and in which order, is that of NixOS's scripted one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::initrd::{Archive, libraries, load_order, made_dependencies, modules_folder};
use super::packing::zstd_bz_image;
use super::{Kernel, ensure_packages};
use crate::debs;
use crate::run::quiet;

const TOOLS: &[&str] = &["busybox-static", "e2fsprogs", "kmod", "zstd"];
/// What stage 1 of a test machine may load, and udev or a mount asks for.
const AVAILABLE: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "9p",
    "9pnet_virtio",
    "virtiofs",
    "ext4",
    "crc32c_generic",
    "overlay",
    "erofs",
    "af_packet",
];
/// udev's rules of NixOS's stage 1, as far as these machines have such devices.
const RULES: &[&str] = &[
    "50-udev-default.rules",
    "60-persistent-storage.rules",
    "75-net-description.rules",
    "80-drivers.rules",
    "80-net-setup-link.rules",
];
const STAGE_1: &str = include_str!("files/stage-1.sh");
const STAGE_2: &str = include_str!("files/stage-2.sh");
const BACKDOOR: &str = include_str!("files/stage-2-backdoor.sh");
/// Names of interfaces: by rules, as NixOS's test framework has them for each machine, and one by a link of systemd's.
const NAMES: &str = "\
SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"52:54:00:12:01:07\", NAME=\"uplink\"
SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"52:54:00:12:01:08\", NAME=\"eth1\"
";
const LINK: &str = "[Match]\nMACAddress=52:54:00:12:03:07\n[Link]\nName=lan0\n";
/// Where the kernel looks for microcode, in an archive that is not packed (`Documentation/x86/microcode.rst`).
const MICROCODE: &str = "kernel/x86/microcode/GenuineIntel.bin";
const PARAMS: &[&str] = &[
    "console=tty0",
    "console=ttyS0,115200n8",
    "panic=1",
    "boot.panic_on_fail",
    "clocksource=acpi_pm",
    "loglevel=4",
    "net.ifnames=0",
    "pci=noearly",
];

/// What a test machine of NixOS 24.05 has, with shares by 9P.
const OLD_PARAMS: &[&str] =
    &["console=ttyS0", "panic=1", "boot.panic_on_fail", "clocksource=acpi_pm", "loglevel=7", "net.ifnames=0"];

/// Hashes of store paths are 32 characters of Nix's alphabet; which ones is of no matter.
macro_rules! store_path {
    ($name:literal) => {
        concat!("/nix/store/0sm0wb00r0sm0wb00r0sm0wb00r0sm0w-", $name)
    };
}

const LINUX: &str = store_path!("linux-6.1");
const INITRD: &str = store_path!("initrd-linux-6.1");
const TOOLBOX: &str = store_path!("toolbox");
const SYSTEM: &str = store_path!("nixos-system-machine-test");
/// The same system as one of 24.05 is.
const SPECIALISATION: &str = store_path!("nixos-system-machine-ninep-test");

/// Makes the store in `folder`, and gives the toplevel in it.
pub(crate) fn write_store(folder: &Path) -> Result<PathBuf> {
    ensure_packages(TOOLS)?;
    let kernel_tree = debs::fetch_unpacked(&debs::kernel_package(Kernel::Generic.flavour())?)?;
    let store = Store { folder: folder.to_owned() };
    store.put(LINUX, "bzImage", &fs::read(zstd_bz_image(Kernel::Generic)?)?, 0o444)?;
    store.put(INITRD, "initrd", &initrd(&kernel_tree)?, 0o444)?;
    store.write_toolbox()?;
    store.write_system(SYSTEM, "virtiofs")?;
    store.write_system(SPECIALISATION, "9p")?;
    let specialisations = store.host(SYSTEM).join("specialisation");
    fs::create_dir_all(&specialisations).context("Cannot make the folder of specialisations")?;
    store.link(&specialisations.join("ninep"), SPECIALISATION)?;
    let mut spec = bootspec(SYSTEM, "virtiofs");
    spec["org.nixos.specialisation.v1"] = serde_json::json!({ "ninep": bootspec(SPECIALISATION, "9p") });
    store.put(SYSTEM, "boot.json", &serde_json::to_vec_pretty(&spec)?, 0o444)?;
    Ok(store.host(SYSTEM))
}

/// A folder that is the guest's `/nix/store`.
struct Store {
    folder: PathBuf,
}

impl Store {
    /// Where a path of the guest's store is on the host.
    fn host(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches("/nix/store/"))
    }

    fn put(&self, package: &str, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let file = self.host(package).join(name);
        let folder = file.parent().context("A file is in a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, content))
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("Cannot write {}", file.display()))
    }

    /// A link on the host to what is at a path of the guest's store.
    fn link(&self, at: &Path, path: &str) -> Result<()> {
        symlink(self.host(path), at).with_context(|| format!("Cannot make the link {}", at.display()))
    }

    /// busybox, and bash with a dynamic loader of its own, as all programs in such a store have.
    fn write_toolbox(&self) -> Result<()> {
        let read = |path: &str| fs::read(path).with_context(|| format!("Cannot read {path}"));
        self.put(TOOLBOX, "bin/busybox", &read("/bin/busybox")?, 0o555)?;
        self.put(TOOLBOX, "lib/bash", &read("/bin/bash")?, 0o555)?;
        for library in libraries("/bin/bash")? {
            let name = library.rsplit('/').next().unwrap_or(&library);
            self.put(TOOLBOX, &format!("lib/{name}"), &read(&library)?, 0o555)?;
        }
        let bash = format!(
            "#!{TOOLBOX}/bin/busybox sh\n\
             exec {TOOLBOX}/lib/ld-linux-x86-64.so.2 --library-path {TOOLBOX}/lib {TOOLBOX}/lib/bash \"$@\"\n"
        );
        self.put(TOOLBOX, "bin/bash", bash.as_bytes(), 0o555)?;
        self.put(TOOLBOX, "bin/backdoor", filled(BACKDOOR).as_bytes(), 0o555)
    }

    fn write_system(&self, system: &str, shares: &str) -> Result<()> {
        self.put(system, "init", filled(STAGE_2).as_bytes(), 0o555)?;
        self.put(system, "kernel-params", params(shares).join(" ").as_bytes(), 0o444)?;
        self.put(system, "nixos-version", b"24.05.test", 0o444)?;
        self.put(system, "boot.json", &serde_json::to_vec_pretty(&bootspec(system, shares))?, 0o444)?;
        let folder = self.host(system);
        self.link(&folder.join("kernel"), &format!("{LINUX}/bzImage"))?;
        self.link(&folder.join("initrd"), &format!("{INITRD}/initrd"))
    }
}

fn filled(script: &str) -> String {
    script.replace("@toolbox@", TOOLBOX)
}

fn params(shares: &str) -> Vec<String> {
    let params = if shares == "9p" { OLD_PARAMS } else { PARAMS };
    params.iter().map(ToString::to_string).chain([format!("test.shares={shares}")]).collect()
}

/// With paths of the guest's store, which the host need not have.
fn bootspec(system: &str, shares: &str) -> serde_json::Value {
    serde_json::json!({ "org.nixos.bootspec.v1": {
        "system": "x86_64-linux", "toplevel": system, "label": "NixOS test", "kernelParams": params(shares),
        "init": format!("{system}/init"), "kernel": format!("{LINUX}/bzImage"), "initrd": format!("{INITRD}/initrd"),
    }})
}

/// Three archives behind each other: microcode as it is, the modules by gzip, the rest by zstd.
fn initrd(kernel_tree: &Path) -> Result<Vec<u8>> {
    let mut microcode = Archive::default();
    microcode.file(MICROCODE, b"no microcode for any CPU")?;
    let mut whole = microcode.finish()?;
    whole.extend(packed("gzip", &modules(kernel_tree)?)?);
    // The kernel takes archives at multiples of four alone.
    whole.resize(whole.len().next_multiple_of(4), 0);
    whole.extend(packed("zstd", &stage_1()?)?);
    Ok(whole)
}

fn packed(program: &str, archive: &[u8]) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir().context("Cannot make a scratch folder")?;
    let file = scratch.path().join("archive");
    fs::write(&file, archive).context("Cannot write an archive")?;
    let output = Command::new(program).arg("-c").arg(&file).output();
    let output = output.with_context(|| format!("Cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// The modules that are available and all that they need, with the tables by which they are found for a device.
fn modules(kernel_tree: &Path) -> Result<Vec<u8>> {
    let source = modules_folder(kernel_tree)?;
    let release = source.file_name().context("A kernel's module folder has no name")?;
    let base = tempfile::tempdir().context("Cannot make a scratch folder")?;
    let tree = base.path().join("lib/modules").join(release);
    let mut files = load_order(&made_dependencies(kernel_tree, &source)?, AVAILABLE);
    files.extend(["modules.builtin", "modules.builtin.modinfo", "modules.order"].map(str::to_owned));
    for file in &files {
        let to = tree.join(file);
        fs::create_dir_all(to.parent().context("A file is in a folder")?)
            .and_then(|()| fs::copy(source.join(file), &to).map(drop))
            .with_context(|| format!("Cannot copy the module {file}"))?;
    }
    let mut depmod = Command::new("depmod");
    depmod.arg("-b").arg(base.path()).arg(release).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    quiet("making the tables of modules", &mut depmod)?;
    let mut archive = Archive::default();
    let tables = fs::read_dir(&tree).context("Cannot list the tables of modules")?;
    let tables: Vec<_> = tables.collect::<Result<_, _>>().context("Cannot list the tables of modules")?;
    let tables = tables.iter().filter(|entry| entry.path().is_file());
    files.retain(|file| file.contains('/'));
    files.extend(tables.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    for file in &files {
        let content = fs::read(tree.join(file)).with_context(|| format!("Cannot read {file}"))?;
        archive.file(&format!("lib/modules/{}/{file}", release.to_string_lossy()), &content)?;
    }
    archive.finish()
}

/// udev, the programs that it and the kernel call, and the script.
fn stage_1() -> Result<Vec<u8>> {
    let udev = debs::fetch_unpacked("udev")?;
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "mnt-root"] {
        archive.folder(folder)?;
    }
    archive.busybox()?;
    archive.program("init", STAGE_1.as_bytes())?;
    let own = |path: &str| {
        let path = udev.join(path);
        fs::read(&path).with_context(|| format!("Cannot read {}", path.display()))
    };
    archive.program("bin/udevadm", &own("bin/udevadm")?)?;
    archive.link("lib/systemd/systemd-udevd", "/bin/udevadm")?;
    archive.link("sbin/modprobe", "/bin/kmod")?;
    archive.program("bin/kmod", &fs::read("/bin/kmod").context("Cannot read /bin/kmod")?)?;
    let udevadm = udev.join("bin/udevadm");
    let mut files = libraries(udevadm.to_str().context("A path is not Unicode")?)?;
    files.extend(libraries("/bin/kmod")?);
    files.sort();
    files.dedup();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("Cannot read {file}"))?;
        archive.program(file.trim_start_matches('/'), &content)?;
    }
    for rules in RULES {
        archive.file(&format!("lib/udev/rules.d/{rules}"), &own(&format!("lib/udev/rules.d/{rules}"))?)?;
    }
    archive.file("lib/udev/rules.d/76-names.rules", NAMES.as_bytes())?;
    archive.file("lib/systemd/network/10-lan0.link", LINK.as_bytes())?;
    archive.finish()
}
