//! Accesses by address, and the bus that routes them to devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::{NotSaveable, RestoreError, Saved};

/// The two address spaces of x86.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// I/O ports, 16 bits.
    Port,
    /// Memory-mapped registers.
    Mmio,
}

/// What an access does; the length of the slice is the width (1, 2, 4 or 8 bytes from KVM).
#[derive(Debug)]
pub enum Op<'a> {
    /// Fill the slice.
    Read(&'a mut [u8]),
    /// Take the slice.
    Write(&'a [u8]),
}

/// One access of a vCPU.
#[derive(Debug)]
pub struct Access<'a> {
    /// Port or memory.
    pub space: Space,
    /// Port number or guest-physical address.
    pub addr: u64,
    /// The operation.
    pub op: Op<'a>,
}

/// What a device wants to happen beyond the access itself; the machine carries it out.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// The guest asked for a reset.
    Reset,
    /// The guest asked to be powered off.
    Shutdown,
    /// A memory BAR was enabled, at a new address or after it was off.
    MoveBar(BarMove),
}

/// A memory BAR moves. Reported when decoding is enabled at an address other than the last enabled one, and by functions
/// whose machine may give their place to others while it is off, whenever it is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarMove {
    /// The function's PCI device number on bus 0.
    pub device: u8,
    /// BAR index.
    pub bar: u8,
    /// The guest-physical address at which it was last enabled. That is where its range is on the bus, unless the machine
    /// could not carry out an earlier move; a machine keeps its own record of where it has put each BAR.
    pub from: u64,
    /// The guest-physical address it has now.
    pub to: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A device that answers register accesses. Offsets are relative to the range it was inserted at.
pub trait BusDevice: Send {
    /// Fills `data`, which arrives as all ones; leaving it is "no answer".
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`.
    fn write(&mut self, offset: u64, data: &[u8]) -> Action;

    /// What a guest, or whoever is at the device's other end, can have changed; `None` when there is nothing of the kind.
    ///
    /// # Errors
    /// When this device, as it is configured, cannot be saved.
    fn save(&self) -> Result<Option<Saved>, NotSaveable> {
        Ok(None)
    }

    /// Takes a saved state, which is untrusted input. Only called while no vCPU runs.
    ///
    /// # Errors
    /// When the state is not this device's, or not valid; nothing has changed then.
    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        Err(RestoreError(format!("it keeps no state, and was given one of kind {}", saved.kind)))
    }
}

/// A range could not be inserted or moved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range overlaps one that is there.
    #[error("Address range {start:#x}+{length:#x} overlaps a device that is already there")]
    Overlap {
        /// First address.
        start: u64,
        /// Length in bytes.
        length: u64,
    },
    /// The range is empty or runs over the end of the address space.
    #[error("Address range {start:#x}+{length:#x} is not a range")]
    NotARange {
        /// First address.
        start: u64,
        /// Length in bytes.
        length: u64,
    },
    /// No range starts there.
    #[error("No device starts at address {start:#x}")]
    NoDevice {
        /// First address.
        start: u64,
    },
}

#[derive(Clone)]
struct Range {
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// One address space with its devices. Many vCPUs read the table at once; moving a BAR takes it exclusively for a
/// moment.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves one access. A read is filled with ones first, and nothing here fails: a range that no device owns has no
    /// effect, an access that crosses a device's end is cut to none.
    pub fn serve(&self, addr: u64, op: Op<'_>) -> Action {
        let width = match &op {
            Op::Read(data) => data.len(),
            Op::Write(data) => data.len(),
        };
        let target = self.find(addr, width);
        match (op, target) {
            (Op::Read(data), target) => {
                data.fill(0xff);
                if let Some((offset, device)) = target {
                    lock(&device).read(offset, data);
                }
                Action::None
            }
            (Op::Write(data), Some((offset, device))) => lock(&device).write(offset, data),
            (Op::Write(_), None) => Action::None,
        }
    }

    /// Puts `device` at `start..start + length`.
    ///
    /// # Errors
    /// When the range is empty, too long, or overlaps another.
    pub fn insert(&self, start: u64, length: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), BusError> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        check_free(&ranges, start, length)?;
        ranges.insert(start, Range { length, device });
        Ok(())
    }

    /// Takes the device that starts at `start` off the bus.
    ///
    /// # Errors
    /// When none starts there.
    pub fn remove(&self, start: u64) -> Result<(), BusError> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        ranges.remove(&start).map(drop).ok_or(BusError::NoDevice { start })
    }

    /// Moves the device that starts at `from` so that it starts at `to`. On an error it stays where it was.
    ///
    /// # Errors
    /// When none starts at `from`, or the new range is taken.
    pub fn relocate(&self, from: u64, to: u64) -> Result<(), BusError> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let range = ranges.remove(&from).ok_or(BusError::NoDevice { start: from })?;
        let outcome = check_free(&ranges, to, range.length);
        ranges.insert(if outcome.is_ok() { to } else { from }, range);
        outcome
    }

    fn find(&self, addr: u64, width: usize) -> Option<(u64, Arc<Mutex<dyn BusDevice>>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (start, range) = ranges.range(..=addr).next_back()?;
        let offset = addr.checked_sub(*start)?;
        let end = offset.checked_add(u64::try_from(width).ok()?)?;
        (end <= range.length).then(|| (offset, Arc::clone(&range.device)))
    }
}

fn check_free(ranges: &BTreeMap<u64, Range>, start: u64, length: u64) -> Result<(), BusError> {
    let end =
        start.checked_add(length).filter(|_| length > 0).ok_or(BusError::NotARange { start, length })?;
    let clash = ranges
        .range(..end)
        .next_back()
        .is_some_and(|(other, range)| other.saturating_add(range.length) > start);
    if clash { Err(BusError::Overlap { start, length }) } else { Ok(()) }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with the offset, and remembers the last write.
    #[derive(Default)]
    struct Echo {
        written: Option<(u64, Vec<u8>)>,
    }

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            if let Some(byte) = data.first_mut() {
                *byte = offset.to_le_bytes()[0];
            }
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> Action {
            self.written = Some((offset, data.to_vec()));
            Action::Reset
        }
    }

    fn echo() -> Arc<Mutex<Echo>> {
        Arc::new(Mutex::new(Echo::default()))
    }

    fn read(bus: &Bus, addr: u64) -> [u8; 2] {
        let mut data = [0; 2];
        assert_eq!(bus.serve(addr, Op::Read(&mut data)), Action::None);
        data
    }

    #[test]
    fn accesses_reach_their_device_with_a_relative_offset() {
        let (bus, device) = (Bus::new(), echo());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        assert_eq!(read(&bus, 0x107), [7, 0xff]);
        assert_eq!(bus.serve(0x10f, Op::Write(&[9])), Action::Reset);
        assert_eq!(device.lock().unwrap().written, Some((0xf, vec![9])));
    }

    #[test]
    fn nothing_answers_outside_and_across_the_ends() {
        let (bus, device) = (Bus::new(), echo());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        for addr in [0, 0xff, 0x10f, 0x110, u64::MAX] {
            assert_eq!(read(&bus, addr), [0xff; 2], "{addr:#x}");
            assert_eq!(bus.serve(addr, Op::Write(&[1, 2])), Action::None, "{addr:#x}");
        }
        assert_eq!(device.lock().unwrap().written, None);
    }

    #[test]
    fn ranges_do_not_overlap() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, echo()).unwrap();
        for (start, length) in [(0x100, 0x10), (0xff, 2), (0x10f, 1), (0x108, 1), (0, 0x1000)] {
            assert_eq!(bus.insert(start, length, echo()), Err(BusError::Overlap { start, length }));
        }
        for (start, length) in [(0x200, 0), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(bus.insert(start, length, echo()), Err(BusError::NotARange { start, length }));
        }
        bus.insert(0xf0, 0x10, echo()).unwrap();
        bus.insert(0x110, 0x10, echo()).unwrap();
        assert_eq!(read(&bus, 0x10e), [0xe, 0xff]);
        assert_eq!(read(&bus, 0x10f), [0xff; 2], "an access across two devices reaches neither");
        bus.remove(0x100).unwrap();
        assert_eq!(bus.remove(0x100), Err(BusError::NoDevice { start: 0x100 }));
        assert_eq!(read(&bus, 0x100), [0xff; 2]);
    }

    #[test]
    fn a_device_moves_or_stays_where_it_was() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, echo()).unwrap();
        bus.insert(0x200, 0x10, echo()).unwrap();
        bus.relocate(0x100, 0x108).unwrap();
        assert_eq!((read(&bus, 0x100), read(&bus, 0x108)), ([0xff; 2], [0, 0xff]), "onto its own old range");
        let taken = BusError::Overlap { start: 0x1f8, length: 0x10 };
        assert_eq!(bus.relocate(0x108, 0x1f8), Err(taken));
        let nowhere = BusError::NotARange { start: u64::MAX, length: 0x10 };
        assert_eq!(bus.relocate(0x108, u64::MAX), Err(nowhere));
        assert_eq!(read(&bus, 0x109), [1, 0xff]);
        assert_eq!(bus.relocate(0x100, 0x300), Err(BusError::NoDevice { start: 0x100 }));
    }
}
