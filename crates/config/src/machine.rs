//! One machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{DiskConfig, MacAddress, MemorySize, ShareConfig, VcpuCount, VhostUserConfig};

/// Everything that the VMM needs to know of a machine. Where its console bytes go and which switch a NIC is plugged into
/// are run-time objects, handed to the builder beside this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineConfig {
    /// Name, as in logs.
    pub name: String,
    /// What it boots.
    pub boot: BootConfig,
    /// Guest memory.
    #[serde(default)]
    pub memory: MemorySize,
    /// Number of vCPUs.
    #[serde(default)]
    pub vcpus: VcpuCount,
    /// Disks: `/dev/vda`, `/dev/vdb` ... in this order.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// Persistent memory: `/dev/pmem0`, `/dev/pmem1` ... in this order.
    #[serde(default)]
    pub pmem: Vec<PmemConfig>,
    /// Devices that other processes serve. They have all of the guest's memory, which is shared for them.
    #[serde(default)]
    pub vhost_user: Vec<VhostUserConfig>,
    /// Network cards, in PCI order.
    #[serde(default)]
    pub nics: Vec<NicConfig>,
    /// Folders of the host, known to the guest by their tags.
    #[serde(default)]
    pub shares: Vec<ShareConfig>,
}

/// What a machine boots. Resolved: a toplevel has already been read into these three.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BootConfig {
    /// A bzImage or an ELF `vmlinux`.
    pub kernel: PathBuf,
    /// Initial RAM disks: the kernel unpacks them one after the other, so that files of later ones win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub initrds: Vec<PathBuf>,
    /// The kernel's whole command line.
    #[serde(default)]
    pub cmdline: String,
}

/// A virtio-pmem range: a file that guests read in place, without a copy of its pages in their own memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PmemConfig {
    /// An image. It is never written to.
    pub path: PathBuf,
}

/// A virtio-net card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NicConfig {
    /// Its address.
    pub mac: MacAddress,
    /// The VLAN (switch) that it is plugged into; `None` for the user network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u8>,
}
