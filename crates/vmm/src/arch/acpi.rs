//! ACPI tables (ACPI 6.5): hardware-reduced, one host bridge, one serial port, a clock, a power button.
//!
//! Hardware-reduced means that a kernel looks for no PM1 blocks, no SCI, no PIT, no PIC. There is no PM timer: NixOS test
//! machines ask for `clocksource=acpi_pm`, but every read of it would be an exit, and without it they fall back to
//! kvm-clock, which is what they should have.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use snowboot_bus::{GuestAddress, GuestMemory};
use snowboot_devices::power;
use vm_memory::Bytes;

use super::layout;
use crate::Error;

const OEM: [u8; 6] = *b"SNOWBT";
const OEM_TABLE: [u8; 8] = *b"SNOWBOOT";
const OEM_REVISION: u32 = 1;
/// `IAPC_BOOT_ARCH`: do not look for a VGA adapter. All else is absent, the i8042 too: a kernel that believes it saves
/// the probing.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// S5 is entered by writing this sleep type.
const SLEEP_TYPE_S5: u8 = power::S5_SLEEP_TYPE;

/// Writes the tables of a machine with `vcpus` vCPUs and returns the address of the RSDP.
pub(crate) fn write(memory: &GuestMemory, vcpus: u8) -> Result<u64, Error> {
    let mut area = Area { memory, next: layout::ACPI + 0x40 };
    let dsdt = area.put(&dsdt())?;
    let tables = [area.put(&fadt(dsdt))?, area.put(&madt(vcpus))?, area.put(&mcfg())?];
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in tables {
        xsdt.add_entry(table);
    }
    let xsdt = area.put(&xsdt)?;
    area.next = layout::ACPI;
    area.put(&Rsdp::new(OEM, xsdt))
}

/// Where tables are laid down one after the other.
struct Area<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Area<'_> {
    fn put(&mut self, table: &dyn Aml) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let failed = || Error::Config("The ACPI tables do not fit below 1 MiB".to_owned());
        let start = self.next;
        let length = u64::try_from(bytes.len()).map_err(|_| failed())?;
        let end = start.checked_add(length).filter(|end| *end <= layout::ACPI_END).ok_or_else(failed)?;
        self.memory.write_slice(&bytes, GuestAddress(start)).map_err(|_| failed())?;
        self.next = end.next_multiple_of(16);
        Ok(start)
    }
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register = |offset: u64| {
        GAS::new(GasSpace::SystemIo, 8, 0, AccessSize::ByteAccess, layout::port::POWER + offset)
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    fadt.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let address = u32::try_from(layout::LAPIC).unwrap_or_default();
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(address));
    for index in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    // KVM's I/O APIC has id 0, which its redirections never use.
    madt.add_structure(IoApic::new(0, u32::try_from(layout::IOAPIC).unwrap_or_default(), 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}

/// A table whose body is AML.
struct Dsdt(Vec<u8>);

impl Aml for Dsdt {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn dsdt() -> Dsdt {
    let mut body = Vec::new();
    host_bridge(&mut body);
    platform_devices(&mut body);
    power_button(&mut body);
    let zero = 0u8;
    aml::Name::new(aml::Path::new("_S5_"), &aml::Package::new(vec![&SLEEP_TYPE_S5, &zero, &zero, &zero]))
        .to_aml_bytes(&mut body);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&body);
    Dsdt(table.as_slice().to_vec())
}

fn host_bridge(sink: &mut Vec<u8>) {
    let window_start = u32::try_from(layout::PCI_WINDOW).unwrap_or_default();
    let window_end = u32::try_from(layout::PCI_WINDOW + layout::PCI_WINDOW_LENGTH - 1).unwrap_or_default();
    let bus = aml::AddressSpace::new_bus_number(0u16, 0u16);
    let ports = aml::IO::new(0xcf8, 0xcf8, 1, 8);
    let window = aml::AddressSpace::new_memory(
        aml::AddressSpaceCacheable::NotCacheable,
        true,
        window_start,
        window_end,
        None,
    );
    aml::Device::new(
        aml::Path::new("_SB_.PCI0"),
        vec![
            &aml::Name::new(aml::Path::new("_HID"), &aml::EISAName::new("PNP0A08")),
            &aml::Name::new(aml::Path::new("_CID"), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new(aml::Path::new("_UID"), &0u8),
            &aml::Name::new(aml::Path::new("_SEG"), &0u8),
            &aml::Name::new(aml::Path::new("_BBN"), &0u8),
            &aml::Name::new(aml::Path::new("_CRS"), &aml::ResourceTemplate::new(vec![&bus, &ports, &window])),
        ],
    )
    .to_aml_bytes(sink);
}

fn platform_devices(sink: &mut Vec<u8>) {
    // ECAM must be claimed by a motherboard device, or Linux does not believe the MCFG (PCI Firmware 3.0, 4.1.2).
    let ecam = aml::Memory32Fixed::new(
        true,
        u32::try_from(layout::ECAM).unwrap_or_default(),
        u32::try_from(layout::ECAM_LENGTH).unwrap_or_default(),
    );
    device(sink, "_SB_.MBRD", "PNP0C02", &[&ecam]);
    let com1 = u16::try_from(layout::port::COM1).unwrap_or_default();
    let ports = aml::IO::new(com1, com1, 1, 8);
    device(sink, "_SB_.COM1", "PNP0501", &[&ports, &edge(layout::gsi::COM1)]);
    let rtc = u16::try_from(layout::port::RTC).unwrap_or_default();
    device(sink, "_SB_.RTC_", "PNP0B00", &[&aml::IO::new(rtc, rtc, 1, 2)]);
}

/// The power button, and the generic event device (ACPI 6.5, section 5.6.9) that says when it is pressed.
fn power_button(sink: &mut Vec<u8>) {
    device(sink, "_SB_.PWRB", "PNP0C0C", &[]);
    aml::Device::new(
        aml::Path::new("_SB_.GED_"),
        vec![
            &aml::Name::new(aml::Path::new("_HID"), &"ACPI0013"),
            &aml::Name::new(aml::Path::new("_UID"), &0u8),
            &aml::Name::new(
                aml::Path::new("_CRS"),
                &aml::ResourceTemplate::new(vec![&edge(layout::gsi::POWER_BUTTON)]),
            ),
            &aml::Method::new(
                aml::Path::new("_EVT"),
                1,
                true,
                vec![&aml::Notify::new(&aml::Path::new("\\_SB_.PWRB"), &0x80u8)],
            ),
        ],
    )
    .to_aml_bytes(sink);
}

fn edge(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

fn device(sink: &mut Vec<u8>, path: &str, id: &str, resources: &[&dyn Aml]) {
    let crs = aml::ResourceTemplate::new(resources.to_vec());
    aml::Device::new(
        aml::Path::new(path),
        vec![
            &aml::Name::new(aml::Path::new("_HID"), &aml::EISAName::new(id)),
            &aml::Name::new(aml::Path::new("_UID"), &0u8),
            &aml::Name::new(aml::Path::new("_CRS"), &crs),
        ],
    )
    .to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reachable_from_the_rsdp_and_sums_to_zero() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let rsdp = write(&memory, 4).unwrap();
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        };
        let root = read(rsdp, 36);
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!(sum(&root), 0);
        let table = |address: u64| {
            let length = u32::from_le_bytes(read(address + 4, 4).try_into().unwrap());
            read(address, length as usize)
        };
        let xsdt = table(u64::from_le_bytes(root[24..32].try_into().unwrap()));
        assert_eq!(sum(&xsdt), 0);
        let mut names = Vec::new();
        for entry in xsdt[36..].chunks(8) {
            let bytes = table(u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!(sum(&bytes), 0, "{:?}", &bytes[..4]);
            names.push(String::from_utf8(bytes[..4].to_vec()).unwrap());
            if bytes.starts_with(b"FACP") {
                let dsdt = table(u64::from_le_bytes(bytes[140..148].try_into().unwrap()));
                assert!(dsdt.starts_with(b"DSDT"));
                assert_eq!(sum(&dsdt), 0);
            }
        }
        assert_eq!(names, ["FACP", "APIC", "MCFG"]);
    }
}
