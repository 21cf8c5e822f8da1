//! PCI on bus 0: functions with their configuration space and BARs, the host bridge's two windows onto configuration
//! space (ECAM and ports 0xcf8/0xcfc), and MSI-X tables.
//!
//! ```text
//!  MMIO bus ──► Ecam ────────┐
//!                            ├─► PciRoot ──► PciFunction::{read,write}_config ──► ConfigSpace
//!  port bus ──► ConfigPorts ─┘                   (one lock per function)
//!  MMIO bus ──► BarWindow ─────────────────► PciFunction::{read,write}_bar ──────► MsixTable, registers
//! ```
//!
//! The root owns which function sits in which slot. A function owns its [`ConfigSpace`] and its [`MsixTable`]; the
//! machine owns the ranges on the MMIO bus. vCPU threads call in through the windows, device threads through
//! [`MsixTable::trigger`]. Nothing here may move a range itself: a function reports [`Action::MoveBar`] and the machine
//! moves it.

use crate::Action;

mod config_space;
mod error;
mod msix;
mod root;
mod windows;

#[cfg(test)]
mod tests;

pub use config_space::{BarInfo, CONFIG_SPACE_SIZE, ConfigSpace, ConfigSpaceState, Identifiers};
pub use error::PciError;
pub use msix::{MSIX_MAX_VECTORS, MsixState, MsixTable, MsixVectorState};
pub use root::PciRoot;
pub use windows::{BarWindow, ConfigPorts, Ecam};

/// A PCI function of bus 0 as the host bridge reaches it.
///
/// The function keeps its own BAR registers; the machine has put the BARs on the MMIO bus and moves them when a write
/// returns [`Action::MoveBar`].
pub trait PciFunction: Send {
    /// Reads configuration space (4 KiB); `data` arrives as all ones.
    fn read_config(&mut self, offset: u16, data: &mut [u8]);
    /// Writes configuration space.
    fn write_config(&mut self, offset: u16, data: &[u8]) -> Action;
    /// Reads from a memory BAR; `data` arrives as all ones.
    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]);
    /// Writes to a memory BAR.
    fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) -> Action;
}
