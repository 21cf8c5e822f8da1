//! One machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{MacAddress, MemorySize, ValueError, VcpuCount};

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
    /// Network cards, in PCI order.
    #[serde(default)]
    pub nics: Vec<NicConfig>,
}

/// What a machine boots. Resolved: a toplevel has already been read into these three.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BootConfig {
    /// A bzImage or an ELF `vmlinux`.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel's whole command line.
    #[serde(default)]
    pub cmdline: String,
}

/// A virtio-blk disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskConfig {
    /// A raw image.
    pub path: PathBuf,
    /// Refuse writes, and open the file for reading only.
    #[serde(default)]
    pub read_only: bool,
    /// Serial number (`/dev/disk/by-id/virtio-SERIAL`), at most 20 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Make a sparse image of this many MiB when the file is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_mib: Option<u64>,
}

impl DiskConfig {
    /// The longest serial number (virtio 1.2, 5.2.6: `VIRTIO_BLK_T_GET_ID`).
    pub const MAX_SERIAL: usize = 20;

    /// Whether `serial` can be a disk's serial number.
    ///
    /// # Errors
    /// When it is empty, too long, or not printable ASCII.
    pub fn check_serial(serial: &str) -> Result<(), ValueError> {
        let printable = serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !serial.is_empty() && serial.len() <= Self::MAX_SERIAL && printable {
            return Ok(());
        }
        let text = serial.escape_debug();
        Err(ValueError(format!(
            "Disk serial `{text}` is not 1 to {} printable ASCII characters",
            Self::MAX_SERIAL
        )))
    }
}

/// A virtio-net card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NicConfig {
    /// Its address.
    pub mac: MacAddress,
    /// The VLAN (switch) that it is plugged into.
    pub vlan: u8,
}
