//! The interrupt controllers, and the counters that `start.s` keeps.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;
use crate::port;
use crate::report::{Result, ensure};
use crate::serial;
use crate::window::Window;

/// Where a reset leaves the local APIC's registers.
pub(crate) const LAPIC: usize = 0xfee0_0000;
const LAPIC_ID: usize = 0x20;
const LAPIC_LINT0: usize = 0x350;
const LVT_MASKED: u32 = 1 << 16;

/// The I/O APIC's window: a register's number, its value.
const SELECT: usize = 0;
const VALUE: usize = 0x10;
const REDIRECTIONS: u32 = 0x10;
const REDIRECTION_MASKED: u32 = 1 << 16;

/// The vectors of the machine's wired interrupts; MSI-X ones are above.
const VECTOR_SERIAL: u8 = 0x30;
const VECTOR_BUTTON: u8 = 0x31;
/// The pins they are on.
const PIN_SERIAL: u32 = 4;
const PIN_BUTTON: u32 = 9;

unsafe extern "C" {
    #[link_name = "interrupt_counts"]
    static COUNTS: [AtomicU64; 256];
}

/// How many interrupts of `vector` have come.
pub(crate) fn count(vector: u8) -> u64 {
    // SAFETY: `start.s` lays the counters out, and its handlers increment them atomically.
    unsafe { COUNTS[usize::from(vector)].load(Ordering::Acquire) }
}

/// How many interrupts of any vector have come.
pub(crate) fn total() -> u64 {
    (0..=u8::MAX).map(count).sum()
}

/// Waits until more than `before` interrupts of `vector` have come.
pub(crate) fn wait_for(vector: u8, before: u64) -> bool {
    cpu::wait_until(|| count(vector) > before)
}

/// This processor's local APIC.
pub(crate) struct LocalApic(Window);

pub(crate) fn local_apic() -> LocalApic {
    // SAFETY: the local APIC's registers.
    LocalApic(unsafe { Window::at(LAPIC, 4096) })
}

impl LocalApic {
    pub(crate) fn id(&self) -> u8 {
        self.0.read::<u32>(LAPIC_ID).to_le_bytes()[3]
    }

    /// Shuts the old interrupt controllers out.
    pub(crate) fn mask_legacy(&self) {
        self.0.write(LAPIC_LINT0, LVT_MASKED);
    }
}

/// The I/O APIC.
pub(crate) struct IoApic(Window);

impl IoApic {
    pub(crate) fn at(address: usize) -> Self {
        // SAFETY: the MADT names it as the I/O APIC's registers.
        Self(unsafe { Window::at(address, 0x20) })
    }

    fn redirect(&self, pin: u32, low: u32) {
        let destination = u32::from(local_apic().id()) << 24;
        for (register, value) in [(1, destination), (0, low)] {
            self.0.write(SELECT, REDIRECTIONS + 2 * pin + register);
            self.0.write(VALUE, value);
        }
    }

    /// Waits, for ever, until the ACPI power button is pressed.
    pub(crate) fn wait_for_power_button(&self) {
        self.redirect(PIN_BUTTON, u32::from(VECTOR_BUTTON));
        crate::report::line(format_args!("waiting for the power button"));
        while count(VECTOR_BUTTON) == 0 {
            core::hint::spin_loop();
        }
    }
}

/// The serial port's interrupt comes through the I/O APIC, and not when its pin is masked.
pub(crate) fn check_io_apic(address: usize) -> Result {
    let io_apic = IoApic::at(address);
    let (before, vector) = (count(VECTOR_SERIAL), u32::from(VECTOR_SERIAL));
    io_apic.redirect(PIN_SERIAL, vector);
    port::write_u8(serial::INTERRUPT_ENABLE, serial::ENABLE_TRANSMITTER);
    let came = wait_for(VECTOR_SERIAL, before);
    port::write_u8(serial::INTERRUPT_ENABLE, 0);
    let _ = port::read_u8(serial::INTERRUPT_ID);
    ensure(came, format_args!("the serial port's interrupt did not come"))?;

    io_apic.redirect(PIN_SERIAL, vector | REDIRECTION_MASKED);
    let before = count(VECTOR_SERIAL);
    port::write_u8(serial::INTERRUPT_ENABLE, serial::ENABLE_TRANSMITTER);
    cpu::pause(1);
    port::write_u8(serial::INTERRUPT_ENABLE, 0);
    let _ = port::read_u8(serial::INTERRUPT_ID);
    ensure(count(VECTOR_SERIAL) == before, format_args!("an interrupt came through a masked pin"))
}
