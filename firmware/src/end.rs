//! How a run ends.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::acpi::{Power, Tables};
use crate::interrupts::IoApic;
use crate::port;
use crate::report::{fail, line};
use crate::serial;
use crate::virtio::Rng;

/// `SLP_EN` and the place of `SLP_TYPx` in the sleep control register (ACPI 6.5, section 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const I8042_COMMAND: u16 = 0x64;
const I8042_PULSE_RESET: u8 = 0xfe;

/// Sleep control port, and above it the value that powers off, for whoever has no tables at hand.
static POWER_OFF: AtomicU32 = AtomicU32::new(0);

/// The ends that a command line can ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    PowerOff,
    Reset,
    I8042,
    TripleFault,
    Hang,
    Busy,
    Button,
    Key,
}

impl End {
    pub(crate) fn from_word(word: &str) -> Self {
        match word {
            "poweroff" => Self::PowerOff,
            "reset" => Self::Reset,
            "i8042" => Self::I8042,
            "triple-fault" => Self::TripleFault,
            "hang" => Self::Hang,
            "busy" => Self::Busy,
            "button" => Self::Button,
            "key" => Self::Key,
            _ => panic!("there is no end={word}"),
        }
    }

    pub(crate) fn carry_out(self, tables: &Tables, rng: Option<Rng>) -> ! {
        match self {
            Self::PowerOff => {}
            Self::Reset => port::write_u8(tables.power.reset, tables.power.reset_value),
            Self::I8042 => port::write_u8(I8042_COMMAND, I8042_PULSE_RESET),
            Self::TripleFault => triple_fault(),
            Self::Hang => hang(),
            Self::Busy => busy(rng),
            Self::Button => IoApic::at(tables.io_apic).wait_for_power_button(),
            Self::Key => echo_line(),
        }
        give_up()
    }
}

/// Notes how to power off.
pub(crate) fn remember(power: &Power) {
    let value = power.sleep_type << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
    POWER_OFF.store(u32::from(power.sleep_control) << 8 | u32::from(value), Ordering::Relaxed);
}

/// Powers off, if that is possible; else spins.
pub(crate) fn give_up() -> ! {
    let [value, low, high, _] = POWER_OFF.load(Ordering::Relaxed).to_le_bytes();
    let sleep_control = u16::from_le_bytes([low, high]);
    if sleep_control != 0 {
        port::write_u8(sleep_control, value);
    }
    hang()
}

fn hang() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

fn busy(rng: Option<Rng>) -> ! {
    let Some(mut rng) = rng else {
        fail("busy", format_args!("there is no rng"));
        give_up()
    };
    loop {
        match rng.fill(&mut [0; 64]) {
            Ok(()) => line(format_args!("tick")),
            Err(why) => fail("busy", format_args!("{why}")),
        }
    }
}

fn echo_line() {
    line(format_args!("type a line"));
    let mut typed = alloc::string::String::new();
    loop {
        match serial::input() {
            Some(b'\n') => break,
            Some(byte) => typed.push(char::from(byte)),
            None => core::hint::spin_loop(),
        }
    }
    line(format_args!("typed {typed}"));
}

/// Takes all gates away, then raises an exception: neither it, nor that it cannot be delivered, can be delivered.
fn triple_fault() -> ! {
    unsafe extern "C" {
        static mut idt: [u64; 512];
    }
    // SAFETY: `start.s` has the table there. No handler that may run any more belongs to Rust code.
    unsafe {
        (&raw mut idt).write_volatile([0; 512]);
        core::arch::asm!("ud2", options(noreturn));
    }
}
