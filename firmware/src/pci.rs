//! Bus 0 through ECAM: what is there, whether both ways into configuration space agree, BARs, capabilities (PCI Local
//! Bus 3.0, chapter 6), and MSI-X.

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::interrupts::{LAPIC, local_apic};
use crate::port;
use crate::report::{Result, ensure, note};
use crate::window::Window;

/// Devices of a bus.
pub(crate) const DEVICES: u8 = 32;
/// Configuration space of a function.
pub(crate) const CONFIG_LENGTH: usize = 4096;
const FUNCTIONS: usize = 8;

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const CONFIG_ENABLE: u32 = 1 << 31;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const BAR_FLAGS: u64 = 0xf;
const BAR_IO: u64 = 1;
const BAR_TYPE: u64 = 0x7;
const BAR_64_BIT: u64 = 0x4;
const COMMAND_MEMORY_BUS_MASTER: u16 = 0x6;
/// What makes an address another one in the host bridge's window, where nothing is.
const ELSEWHERE: u64 = 1 << 28;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const NOTHING: u32 = u32::MAX;

const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
const MSIX_ENTRY: usize = 16;
const VECTOR_MASKED: u32 = 1;

/// Interrupt vectors of MSI-X messages start here.
const FIRST_VECTOR: u8 = 0x40;
static NEXT_VECTOR: AtomicU8 = AtomicU8::new(FIRST_VECTOR);

/// A virtio function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    /// Its device number.
    pub(crate) number: u8,
    /// Its virtio device type.
    pub(crate) kind: u16,
    pub(crate) config: Window,
    pub(crate) bar: Window,
    /// What BAR 0 holds.
    bar_value: u64,
    pub(crate) common: Window,
    pub(crate) notify: Window,
    pub(crate) msix: Msix,
}

impl Function {
    /// Puts back what reaches it: the BAR at its place, decoding, bus mastering, interrupts.
    pub(crate) fn restore(&self) {
        self.config.write(COMMAND, 0u16);
        write_bar(&self.config, self.bar_value, self.bar_value & BAR_TYPE == BAR_64_BIT);
        self.config.write(COMMAND, COMMAND_MEMORY_BUS_MASTER);
        self.msix.mask_function(false);
    }

    /// Assigns BAR 0 and lets it answer there.
    fn move_to(&self, value: u64) -> Result {
        self.config.write(COMMAND, 0u16);
        self.set_bar(value);
        self.config.write(COMMAND, COMMAND_MEMORY_BUS_MASTER);
        ensure(
            self.answers_at(value),
            format_args!("00:{:02x}.0 does not answer at {:#x}", self.number, value & !BAR_FLAGS),
        )
    }

    fn set_bar(&self, value: u64) {
        write_bar(&self.config, value, value & BAR_TYPE == BAR_64_BIT);
    }

    /// Whether a BAR of this value is this function's: each has interrupt vectors of its own in its table.
    fn answers_at(&self, value: u64) -> bool {
        self.first_message((value & !BAR_FLAGS) as usize) == u32::from(self.msix.first_vector)
    }

    fn reads_as_nothing(&self) -> bool {
        self.first_message((self.bar_value & !BAR_FLAGS) as usize) == NOTHING
    }

    fn first_message(&self, bar: usize) -> u32 {
        let offset = self.msix.table.address() - self.bar.address() + 8;
        // SAFETY: it is in the host bridge's window, where nothing but BARs is.
        unsafe { Window::at(bar + offset, 4) }.read(0)
    }
}

/// A function's MSI-X vectors. Vector `n` arrives as interrupt `first_vector + n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Msix {
    control: Window,
    table: Window,
    pending: Window,
    pub(crate) first_vector: u8,
}

/// Finds all functions, checks each, and enables the virtio ones with all their interrupts.
pub(crate) fn enumerate(ecam: usize) -> Result<Vec<Function>> {
    let mut functions = Vec::new();
    for device in 0..DEVICES {
        let config = config_space(ecam, device);
        let identity: u32 = config.read(0);
        for register in [0x00, 0x08, 0x2c] {
            let (one, other): (u32, u32) = (config.read(register), read_by_ports(device, register));
            ensure(
                one == other,
                format_args!("00:{device:02x}.0 +{register:#x}: {one:#x} by ECAM, {other:#x} by ports"),
            )?;
        }
        if identity == NOTHING {
            continue;
        }
        let header: u8 = config.read(HEADER_TYPE);
        ensure(header == 0, format_args!("00:{device:02x}.0 has header type {header:#x}"))?;
        if device == 0 {
            continue;
        }
        let [_, _, low, high] = identity.to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        let kind = id.checked_sub(0x1040).filter(|_| identity & 0xffff == 0x1af4);
        let kind = kind.ok_or_else(|| format!("00:{device:02x}.0 is no virtio device: {identity:#x}"))?;
        functions.push(function(device, kind, config).map_err(|why| format!("00:{device:02x}.0: {why}"))?);
        note(format_args!("pci device={device} virtio={kind}"));
    }
    Ok(functions)
}

/// BARs go elsewhere and come back, and two functions change places, as when an operating system assigns them anew.
/// Whatever uses the functions afterwards finds their doorbells back in place, or does not work.
pub(crate) fn move_bars(functions: &[Function]) -> Result {
    for function in functions {
        function.move_to(function.bar_value ^ ELSEWHERE)?;
        ensure(
            function.reads_as_nothing(),
            format_args!("something is where 00:{:02x}.0 was", function.number),
        )?;
        function.move_to(function.bar_value)?;
    }
    for pair in functions.windows(2) {
        let [one, other] = pair else { continue };
        one.config.write(COMMAND, 0u16);
        other.config.write(COMMAND, 0u16);
        one.move_to(other.bar_value)?;
        other.move_to(one.bar_value)?;
        one.config.write(COMMAND, 0u16);
        other.config.write(COMMAND, 0u16);
        other.move_to(other.bar_value)?;
        one.move_to(one.bar_value)?;
        // While both decode: the first finds its place taken until the second has left.
        one.set_bar(other.bar_value);
        other.move_to(one.bar_value)?;
        ensure(one.answers_at(other.bar_value), format_args!("00:{:02x}.0 stays away", one.number))?;
        one.set_bar(one.bar_value);
        other.move_to(other.bar_value)?;
        ensure(one.answers_at(one.bar_value), format_args!("00:{:02x}.0 stays away", one.number))?;
    }
    Ok(())
}

/// Configuration space of function 0 of a device of bus 0.
pub(crate) fn config_space(ecam: usize, device: u8) -> Window {
    // SAFETY: the MCFG says that configuration space is there.
    unsafe { Window::at(ecam + usize::from(device) * FUNCTIONS * CONFIG_LENGTH, CONFIG_LENGTH) }
}

/// Configuration mechanism 1.
fn read_by_ports(device: u8, register: usize) -> u32 {
    port::write_u32(CONFIG_ADDRESS, CONFIG_ENABLE | u32::from(device) << 11 | register as u32);
    port::read_u32(CONFIG_DATA)
}

fn function(number: u8, kind: u16, config: Window) -> Result<Function> {
    let bar = size_bar(&config)?;
    config.write(COMMAND, COMMAND_MEMORY_BUS_MASTER);
    let (mut common, mut notify, mut msix) = (None, None, None);
    for place in capabilities(&config)? {
        match (config.read::<u8>(place), config.read::<u8>(place + 3)) {
            (CAPABILITY_VENDOR, 1) => common = Some(structure(&config, &bar, place)),
            (CAPABILITY_VENDOR, 2) => notify = Some(structure(&config, &bar, place)),
            (CAPABILITY_MSIX, _) => msix = Some(Msix::new(&config, &bar, place)),
            _ => {}
        }
    }
    let msix = msix.ok_or("it has no MSI-X capability")?;
    msix.enable();
    let bar_value = read_bar(&config);
    Ok(Function {
        number,
        kind,
        config,
        bar,
        bar_value,
        common: common.ok_or("it has no common configuration")?,
        notify: notify.ok_or("it has no doorbells")?,
        msix,
    })
}

/// The registers behind BAR 0, a 32-bit or 64-bit memory BAR.
fn size_bar(config: &Window) -> Result<Window> {
    let before = read_bar(config);
    let wide = before & BAR_TYPE == BAR_64_BIT;
    write_bar(config, u64::MAX, wide);
    let sized = read_bar(config);
    write_bar(config, before, wide);
    // The upper half is no part of a 32-bit BAR's size.
    let upper = if wide { 0 } else { u64::MAX << 32 };
    let (address, length) = (before & !BAR_FLAGS & !upper, (sized & !BAR_FLAGS | upper).wrapping_neg());
    ensure(
        before & BAR_IO == 0 && length.is_power_of_two() && address & (length - 1) == 0 && address != 0,
        format_args!("BAR 0 is {before:#x}, and sized {sized:#x}"),
    )?;
    ensure(read_bar(config) == before, format_args!("BAR 0 is not what it was before it was sized"))?;
    // SAFETY: the function answers there.
    Ok(unsafe { Window::at(address as usize, length as usize) })
}

/// BAR 0 and the register after it, which a 64-bit BAR goes on in.
fn read_bar(config: &Window) -> u64 {
    u64::from(config.read::<u32>(BAR0 + 4)) << 32 | u64::from(config.read::<u32>(BAR0))
}

fn write_bar(config: &Window, value: u64, wide: bool) {
    config.write(BAR0, value as u32);
    if wide {
        config.write(BAR0 + 4, (value >> 32) as u32);
    }
}

/// Offsets of all capabilities.
fn capabilities(config: &Window) -> Result<Vec<usize>> {
    let status: u16 = config.read(STATUS);
    ensure(status & STATUS_CAPABILITIES != 0, format_args!("it has no capabilities"))?;
    let mut places = Vec::new();
    let mut next = usize::from(config.read::<u8>(CAPABILITIES));
    while next != 0 {
        ensure(next % 4 == 0 && places.len() < 48, format_args!("the capabilities do not end"))?;
        places.push(next);
        next = usize::from(config.read::<u8>(next + 1));
    }
    Ok(places)
}

/// What a virtio capability points at.
fn structure(config: &Window, bar: &Window, place: usize) -> Window {
    bar.part(config.read::<u32>(place + 8) as usize, config.read::<u32>(place + 12) as usize)
}

impl Msix {
    fn new(config: &Window, bar: &Window, place: usize) -> Self {
        let control = config.part(place + 2, 2);
        let vectors = (control.read::<u16>(0) & 0x7ff) + 1;
        let at = |offset: usize| (config.read::<u32>(place + offset) & !7) as usize;
        Self {
            control,
            table: bar.part(at(4), usize::from(vectors) * MSIX_ENTRY),
            pending: bar.part(at(8), usize::from(vectors.div_ceil(64)) * 8),
            first_vector: NEXT_VECTOR.fetch_add(vectors as u8, Ordering::Relaxed),
        }
    }

    /// Number of vectors.
    pub(crate) fn vectors(&self) -> usize {
        self.table.length() / MSIX_ENTRY
    }

    /// The vector table.
    pub(crate) fn table(&self) -> Window {
        self.table
    }

    /// Gives every vector its message and enables it.
    fn enable(&self) {
        let address = LAPIC as u32 | u32::from(local_apic().id()) << 12;
        for vector in 0..self.vectors() {
            let entry = vector * MSIX_ENTRY;
            self.table.write(entry, address);
            self.table.write(entry + 4, 0u32);
            self.table.write(entry + 8, u32::from(self.first_vector) + vector as u32);
            self.mask(vector, false);
        }
        self.control.write(0, MSIX_ENABLE);
    }

    /// Masks one vector, or lets it through.
    pub(crate) fn mask(&self, vector: usize, masked: bool) {
        self.table.write(vector * MSIX_ENTRY + 12, if masked { VECTOR_MASKED } else { 0 });
    }

    /// Masks all of the function, or lets it through.
    pub(crate) fn mask_function(&self, masked: bool) {
        self.control.write(0, if masked { MSIX_ENABLE | MSIX_FUNCTION_MASK } else { MSIX_ENABLE });
    }

    /// A vector's pending bit.
    pub(crate) fn is_pending(&self, vector: usize) -> bool {
        self.pending.read::<u64>(vector / 64 * 8) >> (vector % 64) & 1 == 1
    }
}
