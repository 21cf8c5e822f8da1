//! The configuration space of one function (PCI Local Bus 3.0, chapter 6).
//!
//! Owns the registers, which of their bits a driver may write, and where each BAR was last enabled. Called by the
//! function that owns it, with offsets and values straight from the guest. Never calls anything and never touches the
//! bus: a BAR that moves is reported, and the machine moves it.

use serde::{Deserialize, Serialize};

use super::PciError;
use crate::{Action, BarMove};

/// Bytes of configuration space that ECAM shows for a function.
pub const CONFIG_SPACE_SIZE: u16 = 4096;

/// Bytes that hold anything. The extended part is read-only zeroes, which is how a function says that it has no
/// extended capabilities (PCI Express Base 3.0, section 7.9.1).
const REGISTERS: usize = 256;

const VENDOR_ID: u16 = 0x00;
const DEVICE_ID: u16 = 0x02;
const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const REVISION_ID: u16 = 0x08;
const CACHE_LINE_SIZE: u16 = 0x0c;
const LATENCY_TIMER: u16 = 0x0d;
const FIRST_BAR: u16 = 0x10;
const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
const SUBSYSTEM_ID: u16 = 0x2e;
const CAPABILITIES_POINTER: u16 = 0x34;
const INTERRUPT_LINE: u16 = 0x3c;
const FIRST_CAPABILITY: u16 = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_PARITY: u16 = 1 << 6;
const COMMAND_SERR: u16 = 1 << 8;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// I/O space stays off: there are no I/O BARs.
const COMMAND_WRITABLE: u16 =
    COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_PARITY | COMMAND_SERR | COMMAND_INTX_DISABLE;

const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What firmware leaves in the latency timer. Linux raises anything below 16 to this when it makes a function a bus
/// master (`pcibios_set_master`), so presetting it spares the guest one exit per function.
const LATENCY: u8 = 64;

/// BAR registers of a type-0 header.
const BAR_REGISTERS: u8 = 6;
const BAR_64_BIT: u64 = 0b100;
const BAR_PREFETCHABLE: u64 = 0b1000;
/// Smallest memory BAR: the low four bits are flags.
const BAR_MIN_SIZE: u64 = 16;
/// The bits of a memory BAR that are not address.
const BAR_FLAGS: u64 = 0xf;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identifiers {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class, subclass, programming interface.
    pub class: [u8; 3],
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// Where a memory BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarInfo {
    /// The guest-physical address at which it was last enabled; before that, where the machine has put it. What the
    /// driver has since written into the register does not count until decoding is enabled.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A [`ConfigSpace`] as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpaceState {
    /// The first 256 bytes; the rest never changes.
    pub registers: Vec<u8>,
    /// Where each BAR was last enabled, in the order in which they were added.
    pub bars: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Bar {
    index: u8,
    size: u64,
    /// Where the machine has put it; what a reset returns to.
    assigned: u64,
    /// Where it was last enabled, which is where the machine has it on the bus.
    effective: u64,
}

/// Type-0 configuration space of a function: 4 KiB with a write mask per bit.
///
/// A function comes up as firmware would leave it, with its BARs assigned, but with `COMMAND` zero as after a reset
/// (section 6.2.2): Linux then need not switch decoding off to size the BARs.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    device_number: u8,
    registers: [u8; REGISTERS],
    writable: [u8; REGISTERS],
    /// The registers as they were when the last BAR or capability was added; what a reset returns to.
    initial: [u8; REGISTERS],
    bars: Vec<Bar>,
    last_capability: Option<u16>,
    capabilities_end: u16,
}

impl ConfigSpace {
    /// A function without BARs and capabilities in slot `device_number` of bus 0.
    #[must_use]
    pub fn new(device_number: u8, identifiers: Identifiers) -> Self {
        let mut space = Self {
            device_number,
            registers: [0; REGISTERS],
            writable: [0; REGISTERS],
            initial: [0; REGISTERS],
            bars: Vec::new(),
            last_capability: None,
            capabilities_end: FIRST_CAPABILITY,
        };
        let [class, subclass, interface] = identifiers.class;
        space.preset(VENDOR_ID, &identifiers.vendor.to_le_bytes());
        space.preset(DEVICE_ID, &identifiers.device.to_le_bytes());
        space.preset(REVISION_ID, &[identifiers.revision, interface, subclass, class]);
        space.preset(LATENCY_TIMER, &[LATENCY]);
        space.preset(SUBSYSTEM_VENDOR_ID, &identifiers.subsystem_vendor.to_le_bytes());
        space.preset(SUBSYSTEM_ID, &identifiers.subsystem.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(CACHE_LINE_SIZE, &[0xff]);
        space.allow(LATENCY_TIMER, &[0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a 64-bit memory BAR of `size` bytes in registers `index` and `index + 1`. The machine has put it at
    /// `address`; moving it there again is not reported.
    ///
    /// # Errors
    /// When the registers do not exist or are taken, `size` is not a power of two of at least 16, or `address` is not a
    /// multiple of it.
    pub fn add_memory_bar(
        &mut self,
        index: u8,
        size: u64,
        address: u64,
        prefetchable: bool,
    ) -> Result<(), PciError> {
        let taken = self.bars.iter().any(|bar| bar.index.abs_diff(index) < 2);
        if taken || index >= BAR_REGISTERS - 1 {
            return Err(PciError::BarIndex { index });
        }
        if !size.is_power_of_two() || size < BAR_MIN_SIZE {
            return Err(PciError::BarSize { index, size });
        }
        if !address.is_multiple_of(size) || address.checked_add(size).is_none() {
            return Err(PciError::BarAddress { index, size, address });
        }
        let flags = if prefetchable { BAR_64_BIT | BAR_PREFETCHABLE } else { BAR_64_BIT };
        self.preset(bar_offset(index), &(address | flags).to_le_bytes());
        // Sizing works by address bits below the size reading back as zero (section 6.2.5.1).
        self.allow(bar_offset(index), &(!(size - 1)).to_le_bytes());
        self.bars.push(Bar { index, size, assigned: address, effective: address });
        Ok(())
    }

    /// Appends a capability and returns its offset. `body` is what follows the ID and the pointer to the next one;
    /// `writable` has a one for each bit of it that the driver may write, or is empty when it may write none.
    ///
    /// # Errors
    /// When it does not fit into the first 256 bytes, or the mask has another length than the body.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u16, PciError> {
        let length = body.len();
        if !writable.is_empty() && writable.len() != length {
            return Err(PciError::CapabilityMask { id, length, mask: writable.len() });
        }
        let offset = self.capabilities_end;
        let end = u16::try_from(length)
            .ok()
            .and_then(|length| offset.checked_add(2)?.checked_add(length)?.checked_next_multiple_of(4))
            .filter(|end| usize::from(*end) <= REGISTERS)
            .ok_or(PciError::CapabilityRoom { id, length })?;
        let [pointer, _] = offset.to_le_bytes();
        self.preset(offset, &[id, 0]);
        self.preset(offset + 2, body);
        self.allow(offset + 2, writable);
        self.preset(self.last_capability.map_or(CAPABILITIES_POINTER, |last| last + 1), &[pointer]);
        self.preset(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_capability = Some(offset);
        self.capabilities_end = end;
        Ok(offset)
    }

    /// Reads from `offset` on; bytes past the end of configuration space are ones.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let extended = usize::from(CONFIG_SPACE_SIZE) - REGISTERS;
        let all = self.registers.iter().copied().chain(std::iter::repeat_n(0, extended));
        for (byte, value) in data.iter_mut().zip(all.skip(usize::from(offset))) {
            *byte = value;
        }
    }

    /// Writes from `offset` on, leaving read-only bits as they are.
    ///
    /// Returns [`Action::MoveBar`] when decoding is enabled and a BAR is at another address than where it was last
    /// enabled. An action moves one BAR: when a single write enables several at new addresses, the others are reported
    /// by the next writes, whatever they write.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Action {
        let registers = self.registers.iter_mut().zip(&self.writable).skip(usize::from(offset));
        for ((register, mask), value) in registers.zip(data) {
            *register = (*register & !mask) | (value & mask);
        }
        self.due_move().map_or(Action::None, Action::MoveBar)
    }

    /// Reads one byte.
    #[must_use]
    pub fn read_u8(&self, offset: u16) -> u8 {
        u8::from_le_bytes(self.read_array(offset))
    }

    /// Reads two bytes, little-endian.
    #[must_use]
    pub fn read_u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.read_array(offset))
    }

    /// Reads four bytes, little-endian.
    #[must_use]
    pub fn read_u32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.read_array(offset))
    }

    /// The function's device number on bus 0.
    #[must_use]
    pub fn device_number(&self) -> u8 {
        self.device_number
    }

    /// Whether the driver lets the function write to memory, messages of MSI-X included (section 6.2.2).
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.read_u16(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    /// Whether the driver lets the function answer at its memory BARs. The machine leaves a BAR's range on the bus when
    /// decoding is off, so a function that wants to be silent then asks here.
    #[must_use]
    pub fn memory_enabled(&self) -> bool {
        self.read_u16(COMMAND) & COMMAND_MEMORY != 0
    }

    /// Where the BAR that starts at register `index` is now; `None` when there is none.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<BarInfo> {
        let bar = self.bars.iter().find(|bar| bar.index == index)?;
        Some(BarInfo { address: bar.effective, size: bar.size })
    }

    /// Back to the state before the first access, with the BARs at the addresses that the machine gave them. The
    /// machine moves the ranges on its bus back itself.
    pub fn reset(&mut self) {
        self.registers = self.initial;
        for bar in &mut self.bars {
            bar.effective = bar.assigned;
        }
    }

    /// The state as plain data.
    #[must_use]
    pub fn save(&self) -> ConfigSpaceState {
        ConfigSpaceState {
            registers: self.registers.to_vec(),
            bars: self.bars.iter().map(|bar| bar.effective).collect(),
        }
    }

    /// Takes over the writable bits of a saved state, which need not be trusted, and returns the BARs that the machine
    /// has to move for it.
    ///
    /// # Errors
    /// When the state is not of a function with these BARs; nothing has changed then.
    pub fn restore(&mut self, state: ConfigSpaceState) -> Result<Vec<BarMove>, PciError> {
        check("configuration space", REGISTERS, state.registers.len())?;
        check("set of BARs", self.bars.len(), state.bars.len())?;
        for (bar, address) in self.bars.iter().zip(&state.bars) {
            if !address.is_multiple_of(bar.size) {
                return Err(PciError::BarAddress { index: bar.index, size: bar.size, address: *address });
            }
        }
        self.registers = self.initial;
        for ((register, mask), value) in self.registers.iter_mut().zip(&self.writable).zip(&state.registers) {
            *register = (*register & !mask) | (value & mask);
        }
        let enabled = self.memory_enabled();
        let targets: Vec<u64> = self
            .bars
            .iter()
            .zip(&state.bars)
            .map(|(bar, last)| if enabled { self.programmed(bar) } else { *last })
            .collect();
        let device = self.device_number;
        let bars = self.bars.iter_mut().zip(targets);
        Ok(bars.filter_map(|(bar, target)| bar.move_to(target, device)).collect())
    }

    fn due_move(&mut self) -> Option<BarMove> {
        if !self.memory_enabled() {
            return None;
        }
        let position = self.bars.iter().position(|bar| self.programmed(bar) != bar.effective)?;
        let target = self.programmed(self.bars.get(position)?);
        self.bars.get_mut(position)?.move_to(target, self.device_number)
    }

    /// The address in the BAR's registers.
    fn programmed(&self, bar: &Bar) -> u64 {
        u64::from_le_bytes(self.read_array(bar_offset(bar.index))) & !BAR_FLAGS
    }

    fn read_array<const N: usize>(&self, offset: u16) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes);
        bytes
    }

    /// Sets registers to what they are after a reset.
    fn preset(&mut self, offset: u16, values: &[u8]) {
        let registers = self.registers.iter_mut().zip(&mut self.initial).skip(usize::from(offset));
        for ((register, initial), value) in registers.zip(values) {
            *register = *value;
            *initial = *value;
        }
    }

    /// Makes bits writable.
    fn allow(&mut self, offset: u16, mask: &[u8]) {
        for (writable, mask) in self.writable.iter_mut().skip(usize::from(offset)).zip(mask) {
            *writable = *mask;
        }
    }
}

impl Bar {
    fn move_to(&mut self, to: u64, device: u8) -> Option<BarMove> {
        let from = std::mem::replace(&mut self.effective, to);
        (from != to).then_some(BarMove { device, bar: self.index, from, to, size: self.size })
    }
}

fn bar_offset(index: u8) -> u16 {
    FIRST_BAR + u16::from(index) * 4
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<(), PciError> {
    // A usize has at most 64 bits on every target of Rust.
    let wide = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    if expected == found {
        Ok(())
    } else {
        Err(PciError::State { what, expected: wide(expected), found: wide(found) })
    }
}
