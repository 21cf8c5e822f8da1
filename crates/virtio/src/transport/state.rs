//! A function on PCI as plain data.

use serde::{Deserialize, Serialize};
use snowboot_bus::pci::{ConfigSpaceState, MsixState};

use super::RegistersState;
use crate::device::{DeviceId, RestoreError, Saved};
use crate::queue::QueueState;

/// Version of the layout below.
pub(super) const VERSION: u16 = 1;

/// A stopped [`PciTransport`](super::PciTransport) with its device; untrusted input when it is read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// Version of this layout.
    pub version: u16,
    /// The device's type, as virtio numbers them.
    pub device_type: u16,
    /// PCI configuration space.
    pub config: ConfigSpaceState,
    /// The MSI-X table.
    pub msix: MsixState,
    /// The common configuration.
    pub registers: RegistersState,
    /// Where the queues are, while a driver uses the device; `None` in it for those that are not enabled.
    pub queues: Option<Vec<Option<QueueState>>>,
    /// What the device itself keeps.
    pub device: Saved,
}

impl TransportState {
    pub(super) fn check(&self, id: DeviceId) -> Result<(), RestoreError> {
        if self.version != VERSION {
            return Err(RestoreError(format!(
                "expected version {VERSION} of its state, found {}",
                self.version
            )));
        }
        if self.device_type != device_type(id) {
            return Err(RestoreError(format!(
                "expected virtio type {}, found {}",
                device_type(id),
                self.device_type
            )));
        }
        Ok(())
    }
}

/// The number that virtio gives a device type (5).
pub(super) fn device_type(id: DeviceId) -> u16 {
    match id {
        DeviceId::Net => 1,
        DeviceId::Block => 2,
        DeviceId::Console => 3,
        DeviceId::Entropy => 4,
        DeviceId::NineP => 9,
        DeviceId::FileSystem => 26,
        DeviceId::Pmem => 27,
    }
}
