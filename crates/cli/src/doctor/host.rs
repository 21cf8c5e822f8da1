//! CPU, KVM, limits and folders.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use snowboot_vmm::host::{Virtualization, check_kvm};
use snowboot_vmm::{Error, host};

use super::Check;

/// Below it not even two small machines fit.
const FILES_MISS: u64 = 256;
/// What Linux gives by default; a machine takes some tens.
const FILES_WARN: u64 = 1024;

/// The CPU and the KVM device.
pub(super) fn checks(device: &Path) -> Vec<Check> {
    let status = check_kvm(device);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    vec![check_cpu(status.virtualization, &cpuinfo), check_device(device, status.device, &cpuinfo)]
}

fn check_cpu(virtualization: Virtualization, cpuinfo: &str) -> Check {
    let nested = match is_guest(cpuinfo) {
        true => ", nested: this host is itself a virtual machine",
        false => "",
    };
    match virtualization {
        Virtualization::Svm => Check::ok("cpu", format!("AMD-V (svm){nested}")),
        Virtualization::Vmx => Check::ok("cpu", format!("Intel VT-x (vmx){nested}")),
        Virtualization::None => Check::miss(
            "cpu",
            "neither svm nor vmx: guests would be emulated, far too slowly for a kernel",
            match is_guest(cpuinfo) {
                true => {
                    "this host is a virtual machine: switch nested virtualization on where it runs, or use another"
                }
                false => {
                    "switch AMD-V or VT-x (SVM, Virtualization Technology) on in the firmware's settings"
                }
            },
        ),
    }
}

fn check_device(device: &Path, result: Result<(), Error>, cpuinfo: &str) -> Check {
    let path = device.display();
    let Err(error) = result else {
        return Check::ok("kvm", format!("{path} works"));
    };
    let kind = match &error {
        Error::KvmDevice { source, .. } => source.kind(),
        _ => std::io::ErrorKind::Other,
    };
    match kind {
        std::io::ErrorKind::NotFound if device == Path::new(host::KVM_DEVICE) => Check::miss(
            "kvm",
            format!("{path} does not exist: the kernel's KVM module is not loaded"),
            format!("sudo modprobe {}", module(cpuinfo)),
        ),
        std::io::ErrorKind::NotFound => {
            Check::miss("kvm", format!("{path} does not exist"), "name another device, or none for /dev/kvm")
        }
        std::io::ErrorKind::PermissionDenied => Check::miss(
            "kvm",
            format!("{path}: permission denied; its group, mostly kvm, may use it"),
            "sudo usermod -aG kvm $USER, and log in again",
        ),
        _ => Check::miss("kvm", error.to_string(), "name the host's KVM device, mostly /dev/kvm"),
    }
}

fn module(cpuinfo: &str) -> &'static str {
    let vendor = cpuinfo.lines().find(|line| line.starts_with("vendor_id")).unwrap_or_default();
    if vendor.ends_with("GenuineIntel") {
        "kvm_intel"
    } else if vendor.ends_with("AuthenticAMD") || vendor.ends_with("HygonGenuine") {
        "kvm_amd"
    } else {
        "kvm_amd (or kvm_intel)"
    }
}

/// Whether the CPU says that a hypervisor is below.
fn is_guest(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "hypervisor")
}

/// How many files a test's process may have open: as many as its user may, however few the shell gives it.
pub(super) fn check_open_files() -> Check {
    open_files(getrlimit(Resource::Nofile).maximum)
}

fn open_files(limit: Option<u64>) -> Check {
    let advice =
        "have the administrator raise the hard limit (nofile in /etc/security/limits.conf) to 4096 or more";
    match limit {
        None => Check::ok("open-files", "no limit"),
        Some(limit) if limit < FILES_MISS => {
            Check::miss("open-files", format!("at most {limit}: too few for two machines"), advice)
        }
        Some(limit) if limit < FILES_WARN => {
            Check::warn("open-files", format!("at most {limit}: enough for few machines only"), advice)
        }
        Some(limit) => Check::ok("open-files", format!("at most {limit}")),
    }
}

/// The folder for what is kept from run to run.
pub(super) fn check_cache() -> Check {
    let Some(folder) =
        cache_folder(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    else {
        return Check::miss(
            "cache",
            "no folder: HOME is not set",
            "set HOME, or SNOWBOOT_CACHE_DIR to a folder",
        );
    };
    cache(&folder)
}

fn cache_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("SNOWBOOT_CACHE_DIR")
        .or_else(|| {
            // A relative path is to be ignored (XDG Base Directory Specification).
            let folder = variable("XDG_CACHE_HOME").filter(|folder| folder.is_absolute())?;
            Some(folder.join("snowboot"))
        })
        .or_else(|| Some(variable("HOME")?.join(".cache/snowboot")))
}

fn cache(folder: &Path) -> Check {
    let shown = folder.display();
    let advice = "give yourself the folder, or set SNOWBOOT_CACHE_DIR to another";
    // A folder that is not there yet is made in the nearest one that is. Permissions do not tell all: a file system may
    // be read-only or full.
    match folder.ancestors().find(|ancestor| fs::symlink_metadata(ancestor).is_ok()) {
        Some(there) if !there.is_dir() => {
            Check::miss("cache", format!("{shown}: {} is not a folder", there.display()), advice)
        }
        Some(there) if tempfile::tempdir_in(there).is_err() => {
            Check::miss("cache", format!("{shown}: {} cannot be written to", there.display()), advice)
        }
        _ => Check::ok("cache", shown.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    const GUEST: &str = "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor lm\n";

    #[test]
    fn a_cpu_without_virtualization_is_a_miss_with_the_advice_that_fits() {
        let found = check_cpu(Virtualization::None, GUEST);
        assert_eq!(found.status, Status::Miss);
        assert!(found.advice.unwrap().contains("nested"));
        assert!(check_cpu(Virtualization::None, "").advice.unwrap().contains("firmware"));
        assert!(check_cpu(Virtualization::Svm, GUEST).found.contains("nested"));
        assert_eq!(check_cpu(Virtualization::Vmx, "").found, "Intel VT-x (vmx)");
    }

    #[test]
    fn a_kvm_device_that_cannot_be_used_says_what_to_do() {
        let failed = |path: &str, kind: std::io::ErrorKind| {
            let error = Error::KvmDevice { path: path.into(), why: "why".to_owned(), source: kind.into() };
            check_device(Path::new(path), Err(error), GUEST).advice.unwrap()
        };
        assert_eq!(failed("/dev/kvm", std::io::ErrorKind::NotFound), "sudo modprobe kvm_intel");
        assert!(failed("/dev/kvm", std::io::ErrorKind::PermissionDenied).contains("usermod -aG kvm"));
        assert!(failed("/x", std::io::ErrorKind::NotFound).contains("another device"));
        assert!(failed("/dev/null", std::io::ErrorKind::Unsupported).contains("mostly /dev/kvm"));
        assert_eq!(module("vendor_id : AuthenticAMD"), "kvm_amd");
    }

    #[test]
    fn limits_of_open_files() {
        assert_eq!(open_files(Some(100)).status, Status::Miss);
        assert_eq!(open_files(Some(512)).status, Status::Warn);
        assert_eq!(open_files(Some(1024)).status, Status::Ok);
        assert_eq!(open_files(None).status, Status::Ok);
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let folder = |set: &[(&str, &str)]| {
            cache_folder(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        let all = [("SNOWBOOT_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(folder(&all), Some("/a".into()));
        assert_eq!(folder(&all[1..]), Some("/b/snowboot".into()));
        assert_eq!(folder(&all[2..]), Some("/c/.cache/snowboot".into()));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "b"), ("HOME", "/c")]), Some("/c/.cache/snowboot".into()));
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn a_cache_folder_need_not_be_there_yet_but_must_be_possible() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cache(&folder.path().join("a/b")).status, Status::Ok);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(cache(&file.join("b")).status, Status::Miss);
        assert_eq!(cache(Path::new("/proc/snowboot")).status, Status::Miss);
    }
}
