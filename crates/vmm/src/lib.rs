//! The KVM virtual-machine monitor: guest memory, x86 boot, vCPUs, the PCI bus, and machines assembled from them.
//!
//! [`Builder`] turns a [`snowboot_config::MachineConfig`] and the run-time objects that belong to it (where the consoles
//! go, which switch ports the network cards are plugged into) into a [`Machine`]. A process may hold any number of them.
//!
//! # Invariants
//! * `unsafe` is in `kvm` and `memory` only; no other module, and no other crate of the workspace, has any.
//! * Guest memory is one private mapping per machine, never a buffer of the allocator's.
//! * How a guest ends is a value ([`Outcome`]); nothing here ends the process.
//! * Memory slots are all set before anything registers I/O with KVM (a later slot costs milliseconds on some kernels).
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod arch;
#[doc(hidden)]
pub mod benching;
mod error;
mod gathering;
pub mod host;
mod io;
mod kvm;
mod machine;
mod memory;
pub mod stats;
mod timeline;
pub mod toplevel;
mod vcpu;

pub use arch::boot::{KernelCache, unpack_kernel};
pub use error::Error;
pub use machine::{Builder, EndCallback, Machine, Outcome, TemporaryDisks};
pub use memory::{give_back_code, resident_guest_memory};
pub use timeline::{MARKS_MAX, Mark, Phase, Timeline, process_start};
