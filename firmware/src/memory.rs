//! Guest memory: the check of the memory map, the heap, and what a program without a C library lacks.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::boot::Range;
use crate::report::{Result, ensure, note};
use crate::window::Window;

/// What `start.s` maps: the 64 GiB of the largest machine, moved on by the PCI hole.
const MAPPED: usize = 68 << 30;
const HIGH_RAM: usize = 1 << 20;
const MIB: usize = 1 << 20;
const ARENA: usize = 2 << 20;

unsafe extern "C" {
    static image_end: u8;
}

/// The highest page of RAM: far from everything else, above 4 GiB when there is that much.
pub(crate) fn top(map: &[Range]) -> usize {
    map.iter().map(|range| range.end.min(MAPPED)).max().unwrap_or(0) - 4096
}

/// Both ends and the middle of every range of high RAM hold their own values.
pub(crate) fn check(map: &[Range]) -> Result {
    let total: usize = map.iter().filter(|range| range.start >= HIGH_RAM).map(|it| it.end - it.start).sum();
    note(format_args!("memory mib={}", (total + HIGH_RAM) / MIB));
    let free = (&raw const image_end).addr().next_multiple_of(4096);
    let high = map.iter().filter(|range| range.start >= HIGH_RAM && range.start < MAPPED);
    for range in high.clone() {
        for place in places(range, free) {
            word(place).write(0, !(place as u64));
        }
    }
    for place in high.flat_map(|range| places(range, free)) {
        let found: u64 = word(place).read(0);
        ensure(found == !(place as u64), format_args!("{place:#x} holds {found:#x}"))?;
    }
    Ok(())
}

fn places(range: &Range, free: usize) -> [usize; 3] {
    let (start, end) = (range.start.max(free), range.end.min(MAPPED));
    [start, (start + (end - start) / 2) & !7, end - 8]
}

fn word(address: usize) -> Window {
    // SAFETY: it is RAM by the machine's memory map, beyond the payload's image, which is all the payload has.
    unsafe { Window::at(address, 8) }
}

/// A heap that never takes back: a run allocates little.
struct Heap {
    arena: UnsafeCell<[u8; ARENA]>,
    used: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap = Heap { arena: UnsafeCell::new([0; ARENA]), used: AtomicUsize::new(0) };

// SAFETY: parts are handed out once each, by an atomic counter.
unsafe impl Sync for Heap {}

// SAFETY: every allocation is a part of the arena of its own, aligned as asked, and stays for ever.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.arena.get().cast::<u8>();
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let start = (base.addr() + used).next_multiple_of(layout.align()) - base.addr();
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= ARENA) else {
                return core::ptr::null_mut();
            };
            match self.used.compare_exchange(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return base.wrapping_add(start),
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller has both ranges, and the direction flag is clear.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
            options(nostack, preserves_flags));
    }
    to
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: a copy upwards does not overwrite what is still to be read.
        return unsafe { memcpy(to, from, count) };
    }
    let (mut last_to, mut last_from) = (to.wrapping_add(count), from.wrapping_add(count));
    while last_to != to {
        (last_to, last_from) = (last_to.wrapping_sub(1), last_from.wrapping_sub(1));
        // SAFETY: within the ranges of the caller. Volatile, or the compiler makes a call to this function of it.
        unsafe { last_to.write_volatile(last_from.read_volatile()) };
    }
    to
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller has the range, and the direction flag is clear.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, inout("rcx") count => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: within the ranges of the caller. Volatile, or the compiler makes a call to this function of it.
        let (left, right) =
            unsafe { (left.wrapping_add(index).read_volatile(), right.wrapping_add(index).read_volatile()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// As in C.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(left, right, count) }
}
