//! The ACPI tables (ACPI 6.5, chapter 5): every checksum, and what the other checks need.

use alloc::format;
use alloc::vec::Vec;

use crate::boot::{bytes_at, little_endian};
use crate::report::{Result, ensure};

const HEADER: usize = 36;
/// Fields of the FADT.
const FADT_RESET_REGISTER: usize = 116;
const FADT_RESET_VALUE: usize = 128;
const FADT_X_DSDT: usize = 140;
const FADT_SLEEP_CONTROL: usize = 244;
/// A generic address: space, width, offset, access size, address.
const ADDRESS_IN: usize = 4;
const SPACE_SYSTEM_IO: u8 = 1;
/// The first entry of an MCFG: base address of segment 0.
const MCFG_BASE: usize = 44;
/// The first entry of a MADT, and its kinds.
const MADT_ENTRIES: usize = 44;
const MADT_LOCAL_APIC: u8 = 0;
const MADT_IO_APIC: u8 = 1;
const ENABLED: u64 = 1;
/// AML: a package, and a byte constant.
const AML_PACKAGE: u8 = 0x12;
const AML_BYTE: u8 = 0x0a;

/// What the tables say.
pub(crate) struct Tables {
    /// Configuration space of bus 0.
    pub(crate) ecam: usize,
    /// APIC ids of all processors.
    pub(crate) processors: Vec<u8>,
    /// The I/O APIC's registers.
    pub(crate) io_apic: usize,
    pub(crate) power: Power,
}

/// How to end the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Power {
    pub(crate) sleep_control: u16,
    pub(crate) sleep_type: u8,
    pub(crate) reset: u16,
    pub(crate) reset_value: u8,
}

/// Reads what hangs on the root pointer at `rsdp`.
pub(crate) fn read(rsdp: usize) -> Result<Tables> {
    let root = bytes_at(rsdp, HEADER);
    ensure(root.starts_with(b"RSD PTR "), format_args!("no root pointer at {rsdp:#x}"))?;
    ensure(sum(&root[..20]) == 0 && sum(root) == 0, format_args!("the root pointer's checksums are wrong"))?;
    let xsdt = table(little_endian(root, 24, 8) as usize)?;
    let tables: Result<Vec<_>> =
        xsdt[HEADER..].chunks(8).map(|entry| table(little_endian(entry, 0, 8) as usize)).collect();
    let tables = tables?;
    let find = |name: &str| {
        let found = tables.iter().copied().find(|table| table.starts_with(name.as_bytes()));
        found.ok_or_else(|| format!("there is no {name}"))
    };
    let (processors, io_apic) = read_madt(find("APIC")?)?;
    let ecam = little_endian(find("MCFG")?, MCFG_BASE, 8) as usize;
    Ok(Tables { ecam, processors, io_apic, power: read_fadt(find("FACP")?)? })
}

fn table(address: usize) -> Result<&'static [u8]> {
    let length = little_endian(bytes_at(address, HEADER), 4, 4) as usize;
    let bytes = bytes_at(address, length);
    let name = core::str::from_utf8(&bytes[..4]).unwrap_or("?");
    ensure(sum(bytes) == 0, format_args!("the checksum of {name} is wrong"))?;
    Ok(bytes)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn read_madt(madt: &[u8]) -> Result<(Vec<u8>, usize)> {
    let (mut processors, mut io_apic) = (Vec::new(), None);
    let mut rest = &madt[MADT_ENTRIES..];
    while let [kind, length, ..] = *rest {
        let (entry, more) = rest.split_at(usize::from(length));
        match kind {
            MADT_LOCAL_APIC if little_endian(entry, 4, 4) & ENABLED != 0 => processors.push(entry[3]),
            MADT_IO_APIC => io_apic = Some(little_endian(entry, 4, 4) as usize),
            _ => {}
        }
        rest = more;
    }
    Ok((processors, io_apic.ok_or("the MADT names no I/O APIC")?))
}

fn read_fadt(fadt: &[u8]) -> Result<Power> {
    let port = |offset: usize| {
        let space = fadt[offset];
        ensure(space == SPACE_SYSTEM_IO, format_args!("FADT register at {offset}: address space {space}"))?;
        u16::try_from(little_endian(fadt, offset + ADDRESS_IN, 8))
            .map_err(|_| format!("FADT register at {offset}: not a port"))
    };
    let dsdt = table(little_endian(fadt, FADT_X_DSDT, 8) as usize)?;
    Ok(Power {
        sleep_control: port(FADT_SLEEP_CONTROL)?,
        sleep_type: s5_sleep_type(dsdt).ok_or("the DSDT has no \\_S5 that starts with a small number")?,
        reset: port(FADT_RESET_REGISTER)?,
        reset_value: fadt[FADT_RESET_VALUE],
    })
}

/// The first element of `Name (_S5, Package ...)`.
fn s5_sleep_type(dsdt: &[u8]) -> Option<u8> {
    let at = dsdt.windows(5).position(|bytes| bytes == [b'_', b'S', b'5', b'_', AML_PACKAGE])?;
    // Package length (one byte when below 64), number of elements, elements.
    match dsdt.get(at + 7..at + 9)? {
        [AML_BYTE, value] => Some(*value),
        [small @ (0 | 1), _] => Some(*small),
        _ => None,
    }
}
