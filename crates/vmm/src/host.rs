//! What this host's KVM can do, for those who want to tell a user before a machine fails to start.

use std::path::Path;

use crate::Error;
use crate::kvm::Kvm;

/// Where KVM's device is on every distribution.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// How guests run on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtualization {
    /// AMD-V (`svm`).
    Svm,
    /// Intel VT-x (`vmx`).
    Vmx,
    /// The CPU shows neither: a KVM device that opens all the same emulates guests, far too slowly for a kernel.
    None,
}

/// What was found.
#[derive(Debug)]
pub struct KvmStatus {
    /// By the CPU's flags.
    pub virtualization: Virtualization,
    /// Whether the device opens and answers as the KVM API does.
    pub device: Result<(), Error>,
}

/// Looks at the CPU's flags and opens `device`.
#[must_use]
pub fn check_kvm(device: &Path) -> KvmStatus {
    KvmStatus { virtualization: virtualization(), device: Kvm::open(device).map(drop) }
}

fn virtualization() -> Virtualization {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
    if has("svm") {
        Virtualization::Svm
    } else if has("vmx") {
        Virtualization::Vmx
    } else {
        Virtualization::None
    }
}
