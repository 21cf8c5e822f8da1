//! What is left of the keyboard controller: the reset line (IBM PC/AT Technical Reference, "Keyboard controller").
//!
//! Guests without ACPI reset, and Linux with `reboot=k`, pulse the CPU's reset line through it. There is no keyboard
//! behind it, and the status register says so in the way that costs a probing driver least: output is always "full", so
//! Linux gives up after 16 reads ("No controller found") instead of waiting half a second for each command's answer, and
//! the input buffer is always empty, so that the reset itself does not wait.

use serde::{Deserialize, Serialize};
use snowboot_bus::{Action, BusDevice, NotSaveable, RestoreError, Saved};

/// First I/O port.
pub const BASE: u64 = 0x60;
/// Number of I/O ports taken; 0x61 to 0x63 are not answered here.
pub const PORTS: u64 = 5;

const DATA: u64 = 0;
const COMMAND: u64 = 4;

/// Output buffer full, self-test passed, keyboard not inhibited; input buffer empty.
const STATUS: u8 = 0x01 | 0x04 | 0x10;
/// Pulse output line 0, the reset line.
const PULSE_RESET: u8 = 0xfe;
/// The next data byte sets the output port.
const WRITE_OUTPUT_PORT: u8 = 0xd1;
/// Bit 0 of the output port: the reset line, active low.
const RESET_LINE: u8 = 1;

const KIND: &str = "i8042";
const VERSION: u16 = 1;

/// Ports 0x60 and 0x64.
#[derive(Debug, Default)]
pub struct I8042 {
    /// The next data byte is for the output port.
    output_port_next: bool,
}

impl I8042 {
    /// A controller without a keyboard.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..PORTS).zip(data) {
            match port {
                DATA => *byte = 0,
                COMMAND => *byte = STATUS,
                _ => {}
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        for (port, value) in (offset..PORTS).zip(data) {
            match (port, *value) {
                (COMMAND, PULSE_RESET) => return Action::Reset,
                (COMMAND, command) => self.output_port_next = command == WRITE_OUTPUT_PORT,
                (DATA, value) if std::mem::take(&mut self.output_port_next) && value & RESET_LINE == 0 => {
                    return Action::Reset;
                }
                _ => {}
            }
        }
        Action::None
    }

    fn save(&self) -> Result<Option<Saved>, NotSaveable> {
        Saved::new(KIND, VERSION, &State { output_port_next: self.output_port_next }).map(Some)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        self.output_port_next = state.output_port_next;
        Ok(())
    }
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    output_port_next: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_bus_device() {
        snowboot_bus::testing::conformance(PORTS, || Box::new(I8042::new()));
    }

    #[test]
    fn a_reset_that_was_begun_ends_after_a_restore() {
        let (mut device, mut other) = (I8042::new(), I8042::new());
        assert_eq!(device.write(COMMAND, &[WRITE_OUTPUT_PORT]), Action::None);
        other.restore(device.save().unwrap().unwrap()).unwrap();
        assert_eq!(other.write(DATA, &[0]), Action::Reset);
    }

    #[test]
    fn the_reset_line_can_be_pulsed_and_pulled() {
        let mut device = I8042::new();
        assert_eq!(device.write(COMMAND, &[0xfe]), Action::Reset);
        assert_eq!(device.write(DATA, &[0]), Action::None);
        assert_eq!(device.write(COMMAND, &[WRITE_OUTPUT_PORT]), Action::None);
        assert_eq!(device.write(DATA, &[0x02]), Action::Reset);
        assert_eq!(device.write(COMMAND, &[WRITE_OUTPUT_PORT]), Action::None);
        assert_eq!(device.write(DATA, &[0xdf]), Action::None); // gate A20, as boot loaders do
        assert_eq!(device.write(DATA, &[0]), Action::None);
    }

    #[test]
    fn the_status_ends_a_probe_and_lets_a_reset_through() {
        let mut data = [0xff; 5];
        I8042::new().read(DATA, &mut data);
        assert_eq!(data, [0, 0xff, 0xff, 0xff, STATUS]);
        assert_eq!(STATUS & 0b11, 0b01);
    }
}
