//! What the function looks like from outside: identifiers, the parts of BAR 0, and the capabilities that lead to them
//! (virtio 1.2, 4.1.2 and 4.1.4).
//!
//! ```text
//!   0x0000  common configuration      0x3000  doorbells, 4 bytes each
//!   0x1000  interrupt status          0x4000  MSI-X table
//!   0x2000  device configuration      0x7000  MSI-X pending bits
//! ```

use snowboot_bus::pci::{ConfigSpace, Identifiers, PciError};

use super::registers;
use super::state::device_type;
use crate::DeviceId;

/// Length of BAR 0 in bytes.
pub(super) const BAR_SIZE: u64 = 0x8000;
pub(super) const BAR: u8 = 0;

const COMMON: u32 = 0;
const INTERRUPT_STATUS: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const DEVICE_LENGTH: u32 = 0x1000;
const DOORBELLS: u32 = 0x3000;
const MSIX_TABLE: u32 = 0x4000;
const MSIX_PENDING: u32 = 0x7000;

/// Bytes from one doorbell to the next, so that each can be an ioeventfd of its own.
const DOORBELL_STEP: u32 = 4;

/// What fits: the MSI-X table has room for 768 vectors, and one is for the configuration.
pub(super) const MAX_QUEUES: usize = 512;

const VENDOR: u16 = 0x1af4;
/// The device IDs of modern devices start here (4.1.2).
const FIRST_DEVICE: u16 = 0x1040;
/// At least 0x40 for modern devices (4.1.2.1); this is what guests know from other hypervisors.
const SUBSYSTEM: u16 = 0x1100;

const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
/// Kinds of virtio capability (4.1.4).
const KIND_COMMON: u8 = 1;
const KIND_NOTIFY: u8 = 2;
const KIND_ISR: u8 = 3;
const KIND_DEVICE: u8 = 4;
const KIND_PCI: u8 = 5;
/// Length of `virtio_pci_cap`.
const CAPABILITY_LENGTH: u8 = 16;

/// A place in BAR 0, with the offset from the start of its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Common(u64),
    InterruptStatus(u64),
    Device(u32),
    Doorbell(u64),
    MsixTable(u64),
    MsixPending(u64),
}

/// Where in configuration space the registers are that the transport has to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// The capability that reaches into the BAR.
    pub(super) window: u16,
    /// MSI-X message control.
    pub(super) msix_control: u16,
}

/// The place at `offset` of BAR 0.
pub(super) fn place(offset: u64) -> Option<Place> {
    let within = |start: u32| offset - u64::from(start);
    Some(match u32::try_from(offset).ok()? {
        COMMON..INTERRUPT_STATUS => Place::Common(within(COMMON)),
        INTERRUPT_STATUS..DEVICE => Place::InterruptStatus(within(INTERRUPT_STATUS)),
        address @ DEVICE..DOORBELLS => Place::Device(address - DEVICE),
        DOORBELLS..MSIX_TABLE => Place::Doorbell(within(DOORBELLS)),
        MSIX_TABLE..MSIX_PENDING => Place::MsixTable(within(MSIX_TABLE)),
        MSIX_PENDING..0x8000 => Place::MsixPending(within(MSIX_PENDING)),
        _ => return None,
    })
}

/// Offset in BAR 0 of a queue's doorbell.
pub(super) fn doorbell(queue: u16) -> u64 {
    u64::from(DOORBELLS) + u64::from(queue) * u64::from(DOORBELL_STEP)
}

/// The queue whose doorbell is at an offset from the first.
pub(super) fn doorbell_queue(offset: u64) -> Option<usize> {
    let step = u64::from(DOORBELL_STEP);
    offset.is_multiple_of(step).then(|| usize::try_from(offset / step).ok())?
}

/// Who the function says it is.
pub(super) fn identifiers(id: DeviceId) -> Identifiers {
    let class = match id {
        DeviceId::Net => [0x02, 0x00, 0x00],
        DeviceId::Block => [0x01, 0x00, 0x00],
        DeviceId::Console => [0x07, 0x80, 0x00],
        DeviceId::Entropy | DeviceId::Pmem => [0x00, 0xff, 0x00],
        DeviceId::NineP | DeviceId::FileSystem => [0x01, 0x80, 0x00],
    };
    Identifiers {
        vendor: VENDOR,
        device: FIRST_DEVICE + device_type(id),
        revision: 1,
        class,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    }
}

/// Adds BAR and capabilities.
pub(super) fn add_capabilities(
    config: &mut ConfigSpace,
    address: u64,
    queues: u16,
    msix_control: u16,
) -> Result<Capabilities, PciError> {
    config.add_memory_bar(BAR, BAR_SIZE, address, false)?;
    let mut add = |kind, offset, length, more: &[u8]| {
        config.add_capability(CAPABILITY_VENDOR, &body(kind, offset, length, more), &[])
    };
    add(KIND_COMMON, COMMON, registers::LENGTH, &[])?;
    add(KIND_NOTIFY, DOORBELLS, u32::from(queues) * DOORBELL_STEP, &DOORBELL_STEP.to_le_bytes())?;
    add(KIND_ISR, INTERRUPT_STATUS, 1, &[])?;
    add(KIND_DEVICE, DEVICE, DEVICE_LENGTH, &[])?;
    // BAR, offset, length and data are the driver's to write (4.1.4.9).
    let mut writable = body(0, u32::MAX, u32::MAX, &[0xff; 4]);
    writable[0] = 0;
    writable[2] = 0xff;
    let window = config.add_capability(CAPABILITY_VENDOR, &body(KIND_PCI, 0, 0, &[0; 4]), &writable)?;

    let mut msix = [0; 10];
    let fields = msix_control.to_le_bytes().into_iter();
    let fields = fields.chain(MSIX_TABLE.to_le_bytes()).chain(MSIX_PENDING.to_le_bytes());
    for (byte, value) in msix.iter_mut().zip(fields) {
        *byte = value;
    }
    let msix = config.add_capability(CAPABILITY_MSIX, &msix, &[0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(Capabilities { window, msix_control: msix + 2 })
}

/// A virtio capability from its third byte on.
fn body(kind: u8, offset: u32, length: u32, more: &[u8]) -> Vec<u8> {
    let extra = u8::try_from(more.len()).unwrap_or(0);
    let mut body = vec![CAPABILITY_LENGTH + extra, kind, BAR, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}
