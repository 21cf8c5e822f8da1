//! The port where a guest says how far its boot has come: every byte that is written there is one mark.
//!
//! The machine puts [`BootMarks`] at one I/O port and hands it what to do with a mark. `docs/timeline.md` says which numbers
//! mean what. The device has no state, and knows no clock: who is told looks at one.

use std::fmt;

use snowboot_bus::{Action, BusDevice};

/// Number of one-byte registers.
pub const REGISTERS: u64 = 1;

/// What a mark is told to, on the vCPU's thread.
pub type Note = Box<dyn FnMut(u8) + Send>;

/// The port.
pub struct BootMarks {
    note: Note,
}

impl BootMarks {
    /// A port that calls `note` with every byte that is written to it.
    #[must_use]
    pub fn new(note: Note) -> Self {
        Self { note }
    }
}

impl fmt::Debug for BootMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootMarks").finish_non_exhaustive()
    }
}

impl BusDevice for BootMarks {
    /// All ones, as where there is nothing: a guest cannot ask what it said.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (_, byte) in (offset..REGISTERS).zip(data) {
            *byte = 0xff;
        }
    }

    /// Of a wide access only the lowest byte is for this port.
    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        for (_, mark) in (offset..REGISTERS).zip(data) {
            (self.note)(*mark);
        }
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn port() -> (BootMarks, Arc<Mutex<Vec<u8>>>) {
        let marks = Arc::new(Mutex::new(Vec::new()));
        let noted = marks.clone();
        (BootMarks::new(Box::new(move |mark| noted.lock().unwrap().push(mark))), marks)
    }

    #[test]
    fn it_is_a_bus_device() {
        snowboot_bus::testing::conformance(REGISTERS, || Box::new(port().0));
        assert_eq!(port().0.save().unwrap(), None);
    }

    #[test]
    fn every_byte_is_told_in_order_and_of_a_wide_access_the_lowest() {
        let (mut device, marks) = port();
        for mark in [1, 200, 200, 0] {
            assert_eq!(device.write(0, &[mark]), Action::None);
        }
        let _ = device.write(0, &[7, 8, 9, 10]);
        let _ = device.write(1, &[11]);
        let _ = device.write(u64::MAX, &[12; 8]);
        assert_eq!(*marks.lock().unwrap(), [1, 200, 200, 0, 7]);
    }

    #[test]
    fn reads_tell_nothing() {
        let (mut device, marks) = port();
        let _ = device.write(0, &[5]);
        let mut data = [0; 2];
        device.read(0, &mut data);
        assert_eq!(data, [0xff, 0]);
        assert_eq!(*marks.lock().unwrap(), [5]);
    }
}
