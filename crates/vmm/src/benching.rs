//! Steps of a machine's start, one by one, for the benchmarks in `benches/`. No part of the API.

use snowboot_bus::GuestMemory;
use snowboot_config::{BootConfig, MemorySize};

use crate::arch::{acpi, boot};
use crate::{Error, KernelCache, memory};

/// Memory as a machine has it.
///
/// # Errors
/// When the host does not have so much.
pub fn guest_memory(size: MemorySize) -> Result<GuestMemory, Error> {
    memory::allocate("bench", size, memory::Sharing::Private)
}

/// Writes the ACPI tables of a machine with `vcpus` vCPUs; returns where they begin.
///
/// # Errors
/// When they do not fit.
pub fn write_acpi(memory: &GuestMemory, vcpus: u8) -> Result<u64, Error> {
    acpi::write(memory, vcpus)
}

/// Prepares kernel, initrd and command line; returns where the kernel is entered.
///
/// # Errors
/// When a file cannot be used, or memory is too small.
pub fn load_kernel(memory: &GuestMemory, boot: &BootConfig, kernels: &KernelCache) -> Result<u64, Error> {
    boot::load(memory, boot, 0, kernels).map(|entry| entry.address)
}
