//! Time and waiting.

use core::arch::x86_64::_rdtsc;

/// Cycles that stand for "never": some seconds.
const PATIENCE: u64 = 1 << 34;

/// The time-stamp counter.
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and CR4.TSD is clear.
    unsafe { _rdtsc() }
}

/// Waits until `condition` holds; whether it did within some seconds.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let start = now();
    while !condition() {
        if now().wrapping_sub(start) > PATIENCE {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Waits for about `milliseconds`, at any clock rate up to 4 GHz at least that long.
pub(crate) fn pause(milliseconds: u64) {
    let start = now();
    while now().wrapping_sub(start) < milliseconds * 4_000_000 {
        core::hint::spin_loop();
    }
}
