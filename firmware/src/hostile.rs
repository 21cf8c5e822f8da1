//! A guest that means no good: garbage at random into everything that the machine answers. The same seed does the same.
//!
//! Whatever happens in the devices, the machine has to go on: afterwards the payload goes to its end as always.

use alloc::vec::Vec;

use crate::interrupts::{self, LAPIC};
use crate::pci::{self, Function};
use crate::port;
use crate::report::line;
use crate::window::Window;

const ROUNDS: u32 = 30;
/// Accesses of each kind in a round.
const ACCESSES: u32 = 60;
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

/// Memory for queues: descriptors and both rings of 256 entries fit.
const ARENA: usize = 64 * 1024;
const STATUS: usize = 0x14;
const CONFIG_VECTOR: usize = 0x10;
const QUEUES: usize = 0x12;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_ADDRESSES: usize = 0x20;
const NEEDS_RESET: u8 = 0x40;
/// `ACKNOWLEDGE`, `DRIVER`, `FEATURES_OK`, `DRIVER_OK`, in steps.
const SET_UP: [u8; 4] = [1, 3, 11, 15];

/// Bits of an interrupt message that would stop this CPU rather than interrupt it: delivery mode, and the vectors of
/// exceptions.
const DELIVERY_MODE: u32 = 0x700;
const HARMLESS_VECTOR: u32 = 0x80;

/// Set in every random address that may be one of RAM, which keeps devices from overwriting the payload itself.
const BEYOND_PAYLOAD: u64 = 1 << 24;

/// Writes garbage everywhere. `top` is the highest page of memory: queues are there, so that what runs over their end
/// runs out of memory and not into the payload.
pub(crate) fn run(ecam: usize, functions: &[Function], top: usize, seed: &str, wild: bool) {
    line(format_args!("hostile"));
    interrupts::local_apic().mask_legacy();
    let before = interrupts::total();
    // SAFETY: it is RAM by the machine's memory map, far beyond the payload, and the rng is done with it.
    let arena = unsafe { Window::at(top + 4096 - ARENA, ARENA) };
    let mut hostile = Hostile { dice: Dice::new(seed), arena, wild, started: 0 };
    for _ in 0..ROUNDS {
        for function in functions {
            hostile.break_queues(function);
            hostile.scribble_registers(function);
            hostile.scribble_interrupts(function);
        }
        hostile.scribble_ports();
        hostile.scribble_configuration(ecam, functions);
    }
    let came = interrupts::total() - before;
    line(format_args!("survived: {} starts of a device, {came} interrupts", hostile.started));
}

struct Hostile {
    dice: Dice,
    arena: Window,
    wild: bool,
    /// Devices that began to work on garbage.
    started: u32,
}

impl Hostile {
    /// A device that is set up as it should be, with garbage in its queues.
    fn break_queues(&mut self, function: &Function) {
        function.common.write(STATUS, 0u8);
        for step in &SET_UP[..2] {
            function.common.write(STATUS, *step);
        }
        for half in 0..2u32 {
            // Take all that is offered.
            function.common.write(0x00, half);
            let offered: u32 = function.common.read(0x04);
            function.common.write(0x08, half);
            function.common.write(0x0c, offered);
        }
        function.common.write(STATUS, SET_UP[2]);
        self.fill_arena();
        let queues: u16 = function.common.read(QUEUES);
        function.common.write(CONFIG_VECTOR, self.dice.next() as u16 & 3);
        let available: Vec<_> = (0..queues).map(|queue| self.place_queue(function, queue)).collect();
        function.common.write(STATUS, SET_UP[3]);
        if function.common.read::<u8>(STATUS) == SET_UP[3] {
            self.started += 1;
        }
        for entries in 0..ACCESSES {
            self.change_arena();
            let queue = self.dice.below(u32::from(queues)) as usize;
            // Most often a believable number of new entries, or the device gives the queue up at once.
            if let Some(Some(ring)) = available.get(queue)
                && self.dice.below(16) != 0
            {
                self.arena.write(ring + 2, entries as u16);
            }
            function.notify.write(queue * 4, queue as u16);
            if function.common.read::<u8>(STATUS) & NEEDS_RESET != 0 {
                break;
            }
        }
    }

    /// Enables a queue; returns where in the arena its available ring is, if it is there.
    fn place_queue(&mut self, function: &Function, queue: u16) -> Option<usize> {
        function.common.write(QUEUE_SELECT, queue);
        let size = 1u16 << self.dice.below(9);
        function.common.write(QUEUE_SIZE, size);
        function.common.write(QUEUE_VECTOR, self.dice.next() as u16 & 3);
        let addresses = [(); 3].map(|()| self.queue_address());
        for (field, address) in addresses.iter().enumerate() {
            function.common.write(QUEUE_ADDRESSES + 8 * field, *address);
        }
        function.common.write(QUEUE_ENABLE, 1u16);
        let ring = (addresses[1] as usize).checked_sub(self.arena.address())?;
        let length = 4 + 2 * usize::from(size);
        if ring + length > ARENA {
            return None;
        }
        // No new entries yet, and heads that exist: a ring that is wrong at once is given up at once.
        self.arena.write(ring + 2, 0u16);
        for place in (ring + 4..ring + length).step_by(2) {
            let head = self.dice.below(u32::from(size)) as u16;
            self.arena.write(place, head);
        }
        Some(ring)
    }

    /// Mostly in the arena, at times anywhere.
    fn queue_address(&mut self) -> u64 {
        match self.dice.below(32) {
            0 => self.dice.next(),
            1 => self.dice.next() & 0xffff_fff0 | BEYOND_PAYLOAD,
            _ => self.arena_address() & !0xf,
        }
    }

    fn arena_address(&mut self) -> u64 {
        self.arena.address() as u64 + u64::from(self.dice.below(ARENA as u32))
    }

    fn fill_arena(&mut self) {
        for place in (0..ARENA).step_by(8) {
            let value = self.entry();
            self.arena.write(place, value);
        }
    }

    fn change_arena(&mut self) {
        for _ in 0..16 {
            let place = self.dice.below(ARENA as u32 / 8) as usize * 8;
            let value = self.entry();
            self.arena.write(place, value);
        }
    }

    /// Eight bytes that look like half a descriptor more often than noise does: an address, or a length, flags and next.
    fn entry(&mut self) -> u64 {
        let noise = self.dice.next();
        match self.dice.below(4) {
            0 => noise,
            1 => self.arena_address(),
            2 => (noise & 0xfff) | (noise >> 16 & 7) << 32 | (noise >> 24 & 0xff) << 48,
            _ => noise & 0xffff_ffff | BEYOND_PAYLOAD,
        }
    }

    fn scribble_registers(&mut self, function: &Function) {
        for _ in 0..ACCESSES {
            self.poke(&function.common);
        }
        for _ in 0..ACCESSES / 4 {
            self.poke(&function.notify);
            // Beyond the common configuration: interrupt status, device configuration, doorbells. The table of interrupt
            // messages comes after them.
            self.poke(&function.bar.part(0x1000, 0x3000));
        }
    }

    /// One access of some width.
    fn poke(&mut self, window: &Window) {
        let width = 1usize << self.dice.below(4);
        let Some(last) = window.length().checked_sub(width) else { return };
        let place = self.dice.below(last as u32 + 1) as usize / width * width;
        let value = self.dice.next();
        match (width, value & 1) {
            (1, 0) => window.write(place, (value >> 8) as u8),
            (2, 0) => window.write(place, (value >> 8) as u16),
            (4, 0) => window.write(place, (value >> 8) as u32),
            (_, 0) => window.write(place, value),
            (1, _) => drop(window.read::<u8>(place)),
            (2, _) => drop(window.read::<u16>(place)),
            (4, _) => drop(window.read::<u32>(place)),
            _ => drop(window.read::<u64>(place)),
        }
    }

    fn scribble_interrupts(&mut self, function: &Function) {
        let table = function.msix.table();
        for _ in 0..ACCESSES / 4 {
            let entry = self.dice.below(function.msix.vectors() as u32) as usize * 16;
            let noise = self.dice.next();
            let (mut address, mut data) = (noise as u32, (noise >> 32) as u32);
            if noise & 0x20 == 0 {
                address = LAPIC as u32 | address & 0xfff;
            }
            if !self.wild {
                data = data & !DELIVERY_MODE | HARMLESS_VECTOR;
            }
            table.write(entry, address);
            table.write(entry + 4, if noise & 0x10 == 0 { 0 } else { self.dice.next() as u32 });
            table.write(entry + 8, data);
            table.write(entry + 12, noise as u32 >> 8 & 3);
        }
    }

    /// What answers at ports. Where a value would end the machine, that value is left out.
    fn scribble_ports(&mut self) {
        const RANGES: [(u16, u16); 3] = [(0x70, 2), (0x3f9, 7), (0xcf8, 8)];
        const CAREFUL: [(u16, u8, u8); 5] =
            [(0x60, 0xff, 0x01), (0x64, 0xff, 0x01), (0x600, 0xdf, 0), (0x601, 0xff, 0), (0x602, 0xff, 0x02)];
        for _ in 0..ACCESSES {
            let (first, count) = RANGES[self.dice.below(RANGES.len() as u32) as usize];
            let port = first + self.dice.below(u32::from(count)) as u16;
            let value = self.dice.next();
            match value >> 32 & 3 {
                0 => port::write_u8(port, value as u8),
                1 => port::write_u16(port, value as u16),
                2 => port::write_u32(port, value as u32),
                _ => drop(port::read_u32(port)),
            }
            let (port, and, or) = CAREFUL[self.dice.below(CAREFUL.len() as u32) as usize];
            port::write_u8(port, self.dice.next() as u8 & and | or);
            port::read_u32(port);
        }
        // Eight data bits and no loop-back, so that what follows can be read.
        port::write_u8(0x3fb, 3);
        port::write_u8(0x3fc, 0);
        port::write_u8(0x3f9, 0);
    }

    /// Configuration space, BARs and commands too; what the next round needs is put back.
    fn scribble_configuration(&mut self, ecam: usize, functions: &[Function]) {
        for _ in 0..ACCESSES {
            let device = self.dice.below(u32::from(pci::DEVICES)) as u8;
            let known = functions.get(self.dice.below(functions.len().max(1) as u32) as usize);
            let config = known.map_or_else(|| pci::config_space(ecam, device), |function| function.config);
            self.poke(&config);
            self.poke(&pci::config_space(ecam, device).part(0, 64));
            let register = self.dice.below(64) * 4;
            port::write_u32(CONFIG_ADDRESS, 1 << 31 | u32::from(device) << 11 | register);
            port::write_u32(CONFIG_DATA, self.dice.next() as u32);
        }
        for function in functions {
            function.restore();
        }
    }
}

/// Marsaglia's xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: &str) -> Self {
        // FNV-1a, which is zero for no short text.
        Self(seed.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `limit`, or zero.
    fn below(&mut self, limit: u32) -> u32 {
        (self.next() >> 32) as u32 % limit.max(1)
    }
}
