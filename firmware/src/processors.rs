//! Application processors: start each with INIT and start-up IPIs (Intel SDM 3, section 9.4.4) and see that it runs.

use crate::cpu;
use crate::interrupts::{LAPIC, local_apic};
use crate::report::{Result, ensure, note};
use crate::window::Window;

/// Where they start: a page of low memory that the machine leaves free, and its number.
const START: usize = 0x8000;
const START_PAGE: u32 = 8;

const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;

unsafe extern "C" {
    static processor_start: u8;
    static processor_start_end: u8;
    static processor_start_count: u8;
}

/// Starts all processors of the MADT but this one.
pub(crate) fn check(ids: &[u8]) -> Result {
    note(format_args!("processors={}", ids.len()));
    let me = local_apic().id();
    ensure(ids.contains(&me), format_args!("the MADT does not list this processor, {me}"))?;
    let count = copy_code();
    let others = ids.iter().copied().filter(|id| *id != me);
    for id in others.clone() {
        send(id, INIT);
        cpu::pause(1);
        send(id, START_UP | START_PAGE);
    }
    let wanted = others.count();
    let all = cpu::wait_until(|| usize::from(count.read::<u16>(0)) >= wanted);
    let started: u16 = count.read(0);
    ensure(all, format_args!("{started} of {wanted} application processors started"))
}

/// Puts the code at [`START`]; returns the word in which processors count themselves.
fn copy_code() -> Window {
    let (code, end) = (&raw const processor_start, (&raw const processor_start_end).addr());
    let length = end - code.addr();
    // SAFETY: `start.s` lays the code out between the two labels.
    let code_bytes = unsafe { core::slice::from_raw_parts(code, length) };
    // SAFETY: the machine has nothing in this page of low memory, and the payload nothing else.
    let page = unsafe { Window::at(START, 4096) };
    for (offset, byte) in code_bytes.iter().enumerate() {
        page.write(offset, *byte);
    }
    page.part((&raw const processor_start_count).addr() - code.addr(), 2)
}

fn send(id: u8, command: u32) {
    // SAFETY: the local APIC's registers, where a reset leaves them.
    let registers = unsafe { Window::at(LAPIC, 4096) };
    registers.write(ICR_HIGH, u32::from(id) << 24);
    registers.write(ICR_LOW, command);
}
