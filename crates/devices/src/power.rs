//! The registers through which a guest asks to be powered off or reset, for hardware-reduced ACPI (ACPI 6.5, section
//! 4.8.3.7 for sleep, 4.8.3.6 for reset).
//!
//! The machine puts [`SleepControl`] on a bus, in ports or memory, and writes the addresses into its FADT and the sleep
//! type into `\_S5`. The device has no state; it must never act itself, only report what the guest asked for.

use snowboot_bus::{Action, BusDevice};

/// Number of one-byte registers.
pub const REGISTERS: u64 = 3;
/// Offset of the sleep control register (FADT `SLEEP_CONTROL_REG`).
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of the sleep status register (FADT `SLEEP_STATUS_REG`).
pub const SLEEP_STATUS: u64 = 1;
/// Offset of the reset register (FADT `RESET_REG`).
pub const RESET: u64 = 2;
/// The value that resets (FADT `RESET_VALUE`).
pub const RESET_VALUE: u8 = 1;
/// The sleep type of S5, soft off: the first element of the DSDT's `\_S5` package.
pub const S5_SLEEP_TYPE: u8 = 5;

/// `SLP_TYPx`: bits 2 to 4 of the sleep control register.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
/// `SLP_EN`: bit 5 of the sleep control register; always reads as zero.
const SLEEP_ENABLE: u8 = 1 << 5;

/// Sleep control, sleep status and reset.
#[derive(Debug, Default)]
pub struct SleepControl;

impl SleepControl {
    /// The registers; they hold no state.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl BusDevice for SleepControl {
    /// Everything reads as zero: `SLP_EN` is write-only, and `WAK_STS` is never set, for no sleep state is left without a
    /// reset.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (_, byte) in (offset..REGISTERS).zip(data) {
            *byte = 0;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        for (register, value) in (offset..REGISTERS).zip(data) {
            let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
            match register {
                SLEEP_CONTROL if value & SLEEP_ENABLE != 0 && sleep_type == S5_SLEEP_TYPE => {
                    return Action::Shutdown;
                }
                RESET if *value == RESET_VALUE => return Action::Reset,
                _ => {}
            }
        }
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_bus_device() {
        snowboot_bus::testing::conformance(REGISTERS, || Box::new(SleepControl::new()));
        assert_eq!(SleepControl::new().save().unwrap(), None);
    }

    #[test]
    fn only_the_right_values_end_the_machine() {
        let mut device = SleepControl::new();
        for value in 0..=255u8 {
            let s5 = value & 0b0011_1100 == 0b0011_0100;
            assert_eq!(
                device.write(SLEEP_CONTROL, &[value]) == Action::Shutdown,
                s5,
                "sleep control {value:#x}"
            );
            assert_eq!(device.write(SLEEP_STATUS, &[value]), Action::None);
            assert_eq!(device.write(RESET, &[value]) == Action::Reset, value == 1, "reset {value:#x}");
        }
    }

    #[test]
    fn registers_read_as_zero_and_nothing_follows_them() {
        let mut device = SleepControl::new();
        let mut data = [0xff; 4];
        device.read(SLEEP_CONTROL, &mut data);
        assert_eq!(data, [0, 0, 0, 0xff]);
        assert_eq!(device.write(u64::MAX, &[1; 8]), Action::None);
    }
}
