//! Where things are in guest-physical memory and in I/O space, in ascending order.
//!
//! ```text
//! 0x0000_1000            GDT
//! 0x0000_7000            boot_params ("zero page")
//! 0x0000_9000            page tables of the 64-bit entry
//! 0x0002_0000            kernel command line
//! 0x0009_fc00            end of low RAM
//! 0x000e_0000            ACPI tables, RSDP first
//! 0x000f_fff0            reset vector
//! 0x0010_0000            high RAM; kernel, initrd at its end
//! 0xc000_0000            PCI hole: BARs
//! 0xe000_0000            ECAM of bus 0
//! 0xfec0_0000            I/O APIC
//! 0xfee0_0000            local APICs
//! 0xfffb_c000            KVM's identity map and TSS pages
//! 0x1_0000_0000          RAM that did not fit below the hole
//!      ...               persistent memory, behind all RAM
//! ```

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Global descriptor table of the boot processor.
pub(crate) const GDT: u64 = 0x1000;
/// `struct boot_params`, one page.
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
/// Page tables of the 64-bit entry: PML4, PDPT, then one page directory per GiB that they map.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line, at most [`CMDLINE_MAX`] bytes with its NUL.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// `COMMAND_LINE_SIZE` of x86.
pub(crate) const CMDLINE_MAX: u64 = 2048;
/// End of RAM below the legacy hole, where a PC has its EBDA.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables: in the BIOS area, where a kernel that does not know `acpi_rsdp_addr` looks for the RSDP.
pub(crate) const ACPI: u64 = 0xe_0000;
/// End of the ACPI tables.
pub(crate) const ACPI_END: u64 = RESET_VECTOR;
/// Where a PC's processor starts after a reset (`f000:fff0`), and where a kernel jumps to that gives up on all other
/// ways to reset.
pub(crate) const RESET_VECTOR: u64 = 0xf_fff0;
/// Where RAM goes on after the legacy hole.
pub(crate) const HIGH_RAM: u64 = MIB;

/// Start of the PCI hole; RAM that does not fit below it goes on at [`ABOVE_HOLE`].
pub(crate) const PCI_HOLE: u64 = 0xc000_0000;
/// 32-bit window of the host bridge, from which BARs are assigned.
pub(crate) const PCI_WINDOW: u64 = PCI_HOLE;
/// Length of [`PCI_WINDOW`].
pub(crate) const PCI_WINDOW_LENGTH: u64 = ECAM - PCI_WINDOW;
/// Configuration space of bus 0 (PCI Firmware 3.0, section 4.1.2).
pub(crate) const ECAM: u64 = 0xe000_0000;
/// One bus: 32 devices of 8 functions of 4 KiB.
pub(crate) const ECAM_LENGTH: u64 = MIB;
/// The I/O APIC in KVM.
pub(crate) const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs in KVM.
pub(crate) const LAPIC: u64 = 0xfee0_0000;
/// One page that KVM uses on hosts without unrestricted guests.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM uses likewise.
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;
/// RAM above the hole.
pub(crate) const ABOVE_HOLE: u64 = 1 << 32;

/// What persistent memory begins at multiples of: a section of Linux's (`SECTION_SIZE_BITS` of x86-64), so that it shares none
/// with RAM, nor one range with another.
pub(crate) const PMEM_ALIGNMENT: u64 = 128 * MIB;

/// I/O ports.
pub(crate) mod port {
    /// i8042: 0x60 data, 0x64 command.
    pub(crate) const I8042: u64 = 0x60;
    /// Clock: 0x70 index, 0x71 data.
    pub(crate) const RTC: u64 = 0x70;
    /// First serial port (ttyS0).
    pub(crate) const COM1: u64 = 0x3f8;
    /// ACPI sleep control, sleep status and reset registers.
    pub(crate) const POWER: u64 = 0x600;
    /// Where a guest says how far its boot has come (`docs/timeline.md`, which names the port). Apart from 0x604, where
    /// kernels that know only QEMU power off. No ACPI resource claims it: nothing but its user knows of it.
    pub(crate) const BOOT_MARKS: u64 = 0x610;
    /// PCI configuration address and data.
    pub(crate) const PCI_CONFIG: u64 = 0xcf8;
}

/// Global system interrupts of what is not PCI.
pub(crate) mod gsi {
    /// First serial port.
    pub(crate) const COM1: u32 = 4;
    /// The generic event device that carries the power button.
    pub(crate) const POWER_BUTTON: u32 = 9;
    /// Routes of message-signalled interrupts start above the 24 pins of the I/O APIC.
    pub(crate) const FIRST_MSI: u32 = 24;
}

const _: () = {
    assert!(GDT + 0x1000 <= BOOT_PARAMS);
    assert!(BOOT_PARAMS + 0x1000 <= PAGE_TABLES);
    assert!(PAGE_TABLES + 6 * 0x1000 <= CMDLINE);
    assert!(CMDLINE + CMDLINE_MAX <= LOW_RAM_END);
    assert!(LOW_RAM_END <= ACPI && ACPI_END <= RESET_VECTOR && RESET_VECTOR + 16 <= HIGH_RAM);
    assert!(ECAM + ECAM_LENGTH <= IOAPIC && IOAPIC < LAPIC && LAPIC < KVM_IDENTITY_MAP);
    assert!(KVM_IDENTITY_MAP + 0x1000 == KVM_TSS && KVM_TSS + 0x3000 < ABOVE_HOLE);
};
