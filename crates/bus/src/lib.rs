//! How a device is reached by its machine, and how it signals back: register accesses, PCI, interrupts, guest memory; and
//! the form in which its state is saved.
//!
//! # Invariants
//! * Nothing here opens a file, spawns a thread, reads a clock or names KVM.
//! * An access always has an answer: reads of nothing are all ones, writes to nothing vanish, no path panics.
//! * No device moves itself: a BAR that the guest moves is an [`Action`] that the machine carries out.
//! * A saved state is untrusted; what answers accesses takes it whole or stays as it was.
//! * Lock order is bus, then transport, then device, then MSI-X table.
#![forbid(unsafe_code)]

mod access;
mod interrupt;
mod memory;
pub mod pci;
mod saved;
pub mod testing;

pub use access::{Access, Action, BarMove, Bus, BusDevice, BusError, Op, Space};
pub use interrupt::{IrqLine, Msi, MsiAllocator, MsiError, MsiSource};
pub use memory::{GuestAddress, GuestMemory, Tracker};
pub use saved::{NotSaveable, RestoreError, Saved};
