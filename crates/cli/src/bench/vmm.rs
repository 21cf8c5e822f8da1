//! The VMMs that can be measured: how each is found and told to boot a kernel with its console on the standard output.
//!
//! All get one serial port as their console, no disk, no network and no display.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use snowboot_config::BootProfile;

/// Linux's number for it (include/uapi/linux/kvm.h).
const KVM_CAP_XCRS: u32 = 56;

/// A program that boots kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Vmm {
    Snowboot,
    Qemu,
    QemuMicrovm,
    Firecracker,
    CloudHypervisor,
}

/// What is booted, all paths absolute.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    pub(super) cmdline: &'a str,
    /// The command line is the VMM's own usual one.
    pub(super) is_usual: bool,
    /// Snowboot runs so many of it in one process, with `snowboot bench machines`.
    pub(super) machines: Option<u32>,
    pub(super) memory_mib: u64,
    pub(super) vcpus: u8,
}

impl Vmm {
    /// The others.
    pub(super) const RIVALS: [Self; 4] =
        [Self::Qemu, Self::QemuMicrovm, Self::Firecracker, Self::CloudHypervisor];

    /// As on the command line and in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Snowboot => "snowboot",
            Self::Qemu => "qemu",
            Self::QemuMicrovm => "qemu-microvm",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }

    /// The program's name where it is looked for in PATH. Snowboot is this very program.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Self::Snowboot => None,
            Self::Qemu | Self::QemuMicrovm => Some("qemu-system-x86_64"),
            Self::Firecracker | Self::CloudHypervisor => Some(self.name()),
        }
    }

    /// Whether a kernel must be an ELF `vmlinux`.
    pub(super) fn needs_elf(self) -> bool {
        self == Self::Firecracker
    }

    /// The command line that its users give it, as its documentation has it, without words about disks.
    pub(super) fn usual_cmdline(self) -> &'static str {
        match self {
            Self::Snowboot => BootProfile::default().cmdline(),
            // Its documentation sets the console only. With `panic=-1` and `-no-reboot` a panic ends it.
            Self::Qemu | Self::QemuMicrovm => "console=ttyS0 quiet panic=-1",
            // docs/initrd.md.
            Self::Firecracker => "console=ttyS0 reboot=k panic=1 pci=off",
            // README.md sets the console only.
            Self::CloudHypervisor => "console=ttyS0 quiet",
        }
    }

    /// The program's arguments. A configuration file that it needs is written to `folder`.
    pub(super) fn arguments(self, guest: &Guest<'_>, folder: &Path) -> Result<Vec<OsString>> {
        let (memory, vcpus) = (format!("{}M", guest.memory_mib), guest.vcpus.to_string());
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        let machines = guest.machines.map(|count| count.to_string());
        match self {
            Self::Snowboot => match &machines {
                None => add(&["run", "--memory", &memory, "--cpus", &vcpus]),
                Some(count) => {
                    add(&["bench", "machines", "--count", count, "--memory", &memory, "--vcpus", &vcpus]);
                }
            },
            Self::Qemu => add(&["-machine", "q35", "-smp", &vcpus, "-m", &memory]),
            Self::QemuMicrovm => add(&["-machine", "microvm", "-smp", &vcpus, "-m", &memory]),
            Self::CloudHypervisor => {
                let (cpus, memory) = (format!("boot={vcpus}"), format!("size={memory}"));
                add(&["--cpus", &cpus, "--memory", &memory, "--serial", "tty", "--console", "off"]);
            }
            Self::Firecracker => {
                add(&["--no-api", "--config-file"]);
                words.push(configure_firecracker(guest, folder, has_xsave())?.into());
                return Ok(words);
            }
        }
        if matches!(self, Self::Qemu | Self::QemuMicrovm) {
            add(&["-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-nographic"]);
            add(&["-serial", "stdio", "-no-reboot"]);
        }
        let [kernel, initrd, cmdline] = match self {
            Self::Qemu | Self::QemuMicrovm => ["-kernel", "-initrd", "-append"],
            Self::CloudHypervisor => ["--kernel", "--initramfs", "--cmdline"],
            _ => ["--kernel", "--initrd", "--cmdline"],
        };
        words.extend([kernel.into(), guest.kernel.into(), initrd.into(), guest.initrd.into()]);
        // Its usual command line is what Snowboot takes by itself.
        if !(self == Self::Snowboot && guest.is_usual && machines.is_none()) {
            words.extend([cmdline.into(), guest.cmdline.into()]);
        }
        Ok(words)
    }
}

/// Writes what Firecracker's `--config-file` takes (its docs/getting-started.md), and returns where that is.
fn configure_firecracker(guest: &Guest<'_>, folder: &Path, has_xsave: bool) -> Result<PathBuf> {
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("Firecracker cannot be told {}: it is not UTF-8; rename it", path.display()),
    };
    let write = |name: &str, content: &Value| {
        let file = folder.join(name);
        fs::write(&file, content.to_string()).with_context(|| format!("Cannot write {}", file.display()))?;
        Ok::<_, anyhow::Error>(file)
    };
    let template = if has_xsave {
        None
    } else {
        // It asks KVM for its XCRS capability, which it needs for snapshots only, unless told not to (its
        // docs/cpu_templates/cpu-templates.md). The lab's emulated CPU has no XSAVE.
        let content = json!({ "kvm_capabilities": [format!("!{KVM_CAP_XCRS}")] });
        Some(text(&write("cpu.json", &content)?)?)
    };
    let config = json!({
        "boot-source": {
            "kernel_image_path": text(guest.kernel)?,
            "initrd_path": text(guest.initrd)?,
            "boot_args": guest.cmdline,
        },
        "drives": [],
        "machine-config": { "vcpu_count": guest.vcpus, "mem_size_mib": guest.memory_mib },
        "cpu-config": template,
    });
    write("firecracker.json", &config)
}

/// Whether this host's CPU can save extended state.
fn has_xsave() -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpus.lines().find(|line| line.starts_with("flags"));
    flags.is_none_or(|flags| flags.split_ascii_whitespace().any(|flag| flag == "xsave"))
}

/// The first program of that name in the folders of PATH.
pub(super) fn find_in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// Whether it is a file that can be run.
pub(super) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(is_usual: bool) -> Guest<'static> {
        let (kernel, initrd) = (Path::new("/k"), Path::new("/i"));
        let cmdline = "console=ttyS0 \"x\"";
        Guest { kernel, initrd, cmdline, is_usual, machines: None, memory_mib: 128, vcpus: 2 }
    }

    fn line(vmm: Vmm, guest: &Guest<'_>) -> String {
        let words = vmm.arguments(guest, Path::new("/nonexistent")).unwrap();
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_is_told_in_its_own_words() {
        assert_eq!(
            line(Vmm::Snowboot, &guest(false)),
            "run --memory 128M --cpus 2 --kernel /k --initrd /i --cmdline console=ttyS0 \"x\""
        );
        assert_eq!(line(Vmm::Snowboot, &guest(true)), "run --memory 128M --cpus 2 --kernel /k --initrd /i");
        assert_eq!(
            line(Vmm::Snowboot, &Guest { machines: Some(8), ..guest(true) }),
            "bench machines --count 8 --memory 128M --vcpus 2 --kernel /k --initrd /i --cmdline console=ttyS0 \"x\""
        );
        let qemu = line(Vmm::QemuMicrovm, &guest(true));
        assert!(qemu.starts_with("-machine microvm -smp 2 -m 128M -accel kvm"), "{qemu}");
        assert!(qemu.ends_with("-kernel /k -initrd /i -append console=ttyS0 \"x\""), "{qemu}");
        let cloud = line(Vmm::CloudHypervisor, &guest(true));
        assert!(
            cloud.starts_with("--cpus boot=2 --memory size=128M --serial tty --console off --kernel"),
            "{cloud}"
        );
    }

    #[test]
    fn firecracker_reads_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("firecracker.json");
        let words = Vmm::Firecracker.arguments(&guest(true), folder.path()).unwrap();
        assert_eq!(words, ["--no-api".into(), "--config-file".into(), file.clone().into_os_string()]);
        let read = |file: &Path| serde_json::from_slice::<Value>(&fs::read(file).unwrap()).unwrap();
        let config = read(&file);
        assert_eq!(config["boot-source"]["boot_args"], "console=ttyS0 \"x\"");
        assert_eq!(config["machine-config"]["mem_size_mib"], 128);

        configure_firecracker(&guest(true), folder.path(), true).unwrap();
        assert_eq!(read(&file)["cpu-config"], Value::Null);
        configure_firecracker(&guest(true), folder.path(), false).unwrap();
        let template = folder.path().join("cpu.json");
        assert_eq!(read(&file)["cpu-config"], template.to_str().unwrap());
        assert_eq!(read(&template)["kvm_capabilities"][0], "!56");
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for vmm in Vmm::value_variants() {
            assert_eq!(vmm.to_possible_value().unwrap().get_name(), vmm.name());
            assert_eq!(serde_json::to_value(vmm).unwrap(), vmm.name());
        }
        assert_eq!(Vmm::RIVALS.len() + 1, Vmm::value_variants().len());
    }

    #[test]
    fn a_program_is_a_file_that_can_be_run() {
        assert!(find_in_path("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_in_path("no-such-program-of-anyone"), None);
        assert!(!is_program(Path::new("/proc/self/status")) && !is_program(Path::new("/")));
    }
}
