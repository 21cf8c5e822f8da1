//! The state a boot processor enters a 64-bit kernel in (Linux boot protocol, "64-bit boot protocol"): long mode, flat
//! segments, identity-mapped low 4 GiB, `%rsi` at `boot_params`.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use snowboot_bus::{GuestAddress, GuestMemory};
use snowboot_devices::power;
use vm_memory::Bytes;

use super::layout;
use crate::Error;
use crate::kvm::Vcpu;

/// Control register and EFER bits.
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The flag that is always one.
const RFLAGS_RESERVED: u64 = 2;

/// Page-table entry bits: present, writable, and "maps 2 MiB".
const PTE_PRESENT_WRITE: u64 = 3;
const PTE_LARGE: u64 = 1 << 7;
/// The kernel expects itself, `boot_params` and its command line mapped; a map of the low 4 GiB covers any place.
const MAPPED_GIB: u64 = 4;

/// Segment selectors of the boot protocol: `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TSS: u16 = 0x20;
/// Descriptors: 64-bit code, flat data, busy 64-bit TSS.
const GDT: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

/// MSRs that firmware sets on every processor.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = (1 << 11) | 6;

/// Writes the descriptor table and the page tables that [`enter_at`] points the boot processor at.
pub(crate) fn write_tables(memory: &GuestMemory) -> Result<(), Error> {
    let failed = |error| Error::Host {
        what: "write the boot tables".to_owned(),
        source: std::io::Error::other(error),
    };
    // A table at a time: writing an entry alone costs almost as much as writing all.
    let put = |address: u64, entries: &mut dyn Iterator<Item = u64>| {
        let bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        memory.write_slice(&bytes, GuestAddress(address)).map_err(failed)
    };
    put(layout::GDT, &mut GDT.into_iter())?;
    let (pml4, pdpt) = (layout::PAGE_TABLES, layout::PAGE_TABLES + 0x1000);
    let directory = |gib: u64| pdpt + 0x1000 * (gib + 1);
    put(pml4, &mut std::iter::once(pdpt | PTE_PRESENT_WRITE))?;
    put(pdpt, &mut (0..MAPPED_GIB).map(|gib| directory(gib) | PTE_PRESENT_WRITE))?;
    for gib in 0..MAPPED_GIB {
        let pages = (0..512).map(|entry| (gib * 512 + entry) << 21);
        put(directory(gib), &mut pages.map(|page| page | PTE_PRESENT_WRITE | PTE_LARGE))?;
    }
    Ok(())
}

/// Writes real-mode code that resets the machine to where a PC's firmware has its entry. Linux resets a
/// hardware-reduced ACPI machine through UEFI (`efi_reboot_required`) and, where there is none, by jumping there.
pub(crate) fn write_reset_vector(memory: &GuestMemory) -> Result<(), Error> {
    let port = layout::port::POWER.saturating_add(power::RESET).to_le_bytes();
    // mov dx, PORT; mov al, VALUE; out dx, al; hlt; jmp to the hlt
    let code = [0xba, port[0], port[1], 0xb0, power::RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd];
    memory.write_slice(&code, GuestAddress(layout::RESET_VECTOR)).map_err(|error| Error::Host {
        what: "write the reset vector".to_owned(),
        source: std::io::Error::other(error),
    })
}

/// What every processor has set before the kernel runs.
pub(crate) fn set_up(vcpu: &Vcpu) -> Result<(), Error> {
    vcpu.set_msrs(&[
        (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        (MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
    ])?;
    vcpu.wire_lapic()
}

/// Makes the boot processor start at `entry` in long mode.
pub(crate) fn enter_at(vcpu: &Vcpu, entry: u64) -> Result<(), Error> {
    let mut sregs = vcpu.sregs()?;
    sregs.gdt = kvm_dtable { base: layout::GDT, limit: 39, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cs = segment(BOOT_CS, 0xb, true);
    let data = segment(BOOT_DS, 3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr =
        kvm_segment { selector: BOOT_TSS, type_: 0xb, present: 1, limit: 0xf_ffff, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rip: entry,
        rsi: layout::BOOT_PARAMS,
        rsp: layout::BOOT_PARAMS,
        rbp: layout::BOOT_PARAMS,
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    })
}

fn segment(selector: u16, type_: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}
