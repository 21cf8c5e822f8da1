//! The first serial port (16550A): output, and input by polling.

use core::fmt;

use crate::port;
use crate::report::{Result, ensure};

const COM1: u16 = 0x3f8;
const LINE_CONTROL: u16 = COM1 + 3;
const LINE_STATUS: u16 = COM1 + 5;
const SCRATCH: u16 = COM1 + 7;

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const DIVISOR_LATCH: u8 = 0x80;
const EIGHT_BITS: u8 = 3;

/// Interrupt enable register, with the port's data port at offset 0.
pub(crate) const INTERRUPT_ENABLE: u16 = COM1 + 1;
/// Interrupt identification.
pub(crate) const INTERRUPT_ID: u16 = COM1 + 2;
/// Interrupt enable: the transmitter is empty.
pub(crate) const ENABLE_TRANSMITTER: u8 = 2;

/// ttyS0 as a text sink.
pub(crate) struct Port;

impl fmt::Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        while port::read_u8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
            core::hint::spin_loop();
        }
        port::write_bytes(COM1, text.as_bytes());
        Ok(())
    }
}

/// One byte of input, if there is one.
pub(crate) fn input() -> Option<u8> {
    (port::read_u8(LINE_STATUS) & DATA_READY != 0).then(|| port::read_u8(COM1))
}

/// Registers that a driver probes for.
pub(crate) fn check() -> Result {
    for value in [0x5a, 0xa5] {
        port::write_u8(SCRATCH, value);
        let found = port::read_u8(SCRATCH);
        ensure(found == value, format_args!("scratch register is {found:#x} after writing {value:#x}"))?;
    }
    port::write_u8(LINE_CONTROL, DIVISOR_LATCH | EIGHT_BITS);
    port::write_u8(COM1, 1);
    port::write_u8(COM1 + 1, 0);
    let divisor = (port::read_u8(COM1), port::read_u8(COM1 + 1));
    port::write_u8(LINE_CONTROL, EIGHT_BITS);
    ensure(divisor == (1, 0), format_args!("divisor is {divisor:?} after writing (1, 0)"))
}
