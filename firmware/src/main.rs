//! A freestanding guest payload that checks the machine it runs on, from the guest's side of every interface.
//!
//! It is booted as a kernel, through the 64-bit entry of the Linux boot protocol, prints one line per check on ttyS0
//! (`ok NAME` or `FAILED NAME: why`), `note` lines with what it found, then `done: N ok, M failed`, and ends the way the
//! command line asks for:
//!
//! | word | |
//! | --- | --- |
//! | `end=poweroff` | ACPI S5 (also without a word) |
//! | `end=reset` | the ACPI reset register |
//! | `end=i8042` | the keyboard controller's reset line |
//! | `end=triple-fault` | an exception that cannot be delivered |
//! | `end=hang` | spins |
//! | `end=busy` | asks the rng for bytes and prints `tick`, for ever |
//! | `end=button` | waits for the ACPI power button, then powers off |
//! | `end=key` | prints the line that is typed into ttyS0, then powers off |
//! | `hostile=SEED` | before its end, writes garbage at random to everything that the machine answers |
//! | `wild` | with it: also interrupt messages that stop this very CPU |
//!
//! `start.s` says why nearly all of it runs at CPL 3.
#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod boot;
mod cpu;
mod end;
mod hostile;
mod interrupts;
mod memory;
mod pci;
mod port;
mod processors;
mod report;
mod serial;
mod virtio;
mod window;

use core::panic::PanicInfo;

use crate::boot::BootParams;
use crate::end::End;

core::arch::global_asm!(include_str!("start.s"));

/// Where `start.s` goes to, at CPL 3.
#[unsafe(no_mangle)]
extern "C" fn payload_main(boot_params: usize) -> ! {
    // SAFETY: the boot protocol puts the address of `boot_params` into the register that `start.s` hands on.
    let boot = unsafe { BootParams::at(boot_params) };
    report::check("serial", serial::check);
    let Some(tables) = report::check("acpi", || acpi::read(boot.rsdp())) else { end::give_up() };
    end::remember(&tables.power);
    report::check("memory", || memory::check(&boot.memory_map()));
    report::check("processors", || processors::check(&tables.processors));
    report::check("ioapic", || interrupts::check_io_apic(tables.io_apic));
    let functions = report::check("pci", || pci::enumerate(tables.ecam)).unwrap_or_default();
    report::check("bars", || pci::move_bars(&functions));
    let top = memory::top(&boot.memory_map());
    let mut rng = virtio::check_all(tables.ecam, &functions, top);
    if let Some(seed) = boot.value("hostile") {
        drop(rng.take());
        hostile::run(tables.ecam, &functions, top, seed, boot.has("wild"));
    }
    report::summary();
    End::from_word(boot.value("end").unwrap_or("poweroff")).carry_out(&tables, rng)
}

/// Where an exception goes to.
#[unsafe(no_mangle)]
extern "C" fn payload_exception(vector: u64, error: u64, address: usize, fault: usize) -> ! {
    report::fail(
        "exception",
        format_args!("vector {vector}, error code {error:#x}, at {address:#x}, CR2 {fault:#x}"),
    );
    end::give_up()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report::fail("panic", format_args!("{info}"));
    end::give_up()
}
