//! The ranges through which a vCPU reaches PCI: two windows onto configuration space, and the memory BARs.
//!
//! Each owns at most the address register that a guest can set, and saves no more than that. The machine puts them on its
//! buses; `Bus` calls them. They decode an offset and hand the access on whole, never in parts.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::root::ConfigAddress;
use super::{PciFunction, PciRoot};
use crate::access::lock;
use crate::{Action, BusDevice, NotSaveable, RestoreError, Saved};

/// Memory-mapped configuration space (PCI Express Base 3.0, section 7.2.2): 4 KiB per function, 1 MiB per bus, from
/// bus 0 on. Other buses do not exist.
#[derive(Debug)]
pub struct Ecam {
    root: Arc<PciRoot>,
}

impl Ecam {
    /// A window onto `root`.
    #[must_use]
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root }
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(address) = ecam_address(offset) {
            self.root.read(address, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        ecam_address(offset).map_or(Action::None, |address| self.root.write(address, data))
    }
}

/// Bits 27 to 20 are the bus, 19 to 15 the device, 14 to 12 the function, 11 to 0 the register.
fn ecam_address(offset: u64) -> Option<ConfigAddress> {
    Some(ConfigAddress {
        bus: u8::try_from(offset >> 20).ok()?,
        device: u8::try_from((offset >> 15) & 0x1f).ok()?,
        function: u8::try_from((offset >> 12) & 0x7).ok()?,
        register: u16::try_from(offset & 0xfff).ok()?,
    })
}

/// Configuration mechanism #1 (PCI Local Bus 3.0, section 3.2.2.3.2): the address at port 0xcf8, the data at 0xcfc to
/// 0xcff. Insert it at 0xcf8 with a length of 8; it reaches the first 256 bytes of each function.
#[derive(Debug)]
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: u32,
}

/// The enable bit of the address register.
const ENABLE: u32 = 1 << 31;
/// Bits of the address register that are not reserved.
const ADDRESS_BITS: u32 = ENABLE | 0x00ff_fffc;
/// Where the data port starts.
const DATA_PORT: u64 = 4;

const KIND: &str = "pci-config-ports";
const VERSION: u16 = 1;

impl ConfigPorts {
    /// A window onto `root`, switched off until the guest sets an address.
    #[must_use]
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root, address: 0 }
    }

    /// The register that `width` bytes at `offset` of the ports are now; `None` outside the data port, across its end,
    /// and while configuration access is off.
    fn target(&self, offset: u64, width: usize) -> Option<ConfigAddress> {
        let byte = u8::try_from(offset.checked_sub(DATA_PORT)?).ok()?;
        if self.address & ENABLE == 0 || usize::from(byte).checked_add(width)? > 4 {
            return None;
        }
        let [register, function, bus, _] = self.address.to_le_bytes();
        Some(ConfigAddress {
            bus,
            device: function >> 3,
            function: function & 7,
            register: u16::from(register) + u16::from(byte),
        })
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(address) = self.target(offset, data.len()) {
            self.root.read(address, data);
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        if let Some(address) = self.target(offset, data.len()) {
            return self.root.write(address, data);
        }
        // Only a full dword reaches the address register; Linux relies on it when it looks for mechanism #2.
        if let (0, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address = u32::from_le_bytes(bytes) & ADDRESS_BITS;
        }
        Action::None
    }

    fn save(&self) -> Result<Option<Saved>, NotSaveable> {
        Saved::new(KIND, VERSION, &ConfigPortsState { address: self.address }).map(Some)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: ConfigPortsState = saved.open(KIND, VERSION)?;
        self.address = state.address & ADDRESS_BITS;
        Ok(())
    }
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigPortsState {
    address: u32,
}

/// One memory BAR of a function, as a range of the MMIO bus.
pub struct BarWindow {
    function: Arc<Mutex<dyn PciFunction>>,
    bar: u8,
}

impl BarWindow {
    /// The range of `function`'s BAR `bar`.
    #[must_use]
    pub fn new(function: Arc<Mutex<dyn PciFunction>>, bar: u8) -> Self {
        Self { function, bar }
    }
}

impl std::fmt::Debug for BarWindow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BarWindow").field("bar", &self.bar).finish_non_exhaustive()
    }
}

impl BusDevice for BarWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        lock(&self.function).read_bar(self.bar, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        lock(&self.function).write_bar(self.bar, offset, data)
    }
}
