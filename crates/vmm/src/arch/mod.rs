//! What is particular to `x86_64`: the map of guest-physical memory, the tables, and the state a vCPU starts in.

pub(crate) mod acpi;
pub(crate) mod boot;
pub(crate) mod cpuid;
pub(crate) mod layout;
pub(crate) mod regs;
