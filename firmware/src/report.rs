//! Results, one line each, on ttyS0.

use alloc::string::String;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::serial::Port;

/// The result of a check; the error says what is wrong.
pub(crate) type Result<T = ()> = core::result::Result<T, String>;

static OK: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Runs a check and prints its line.
pub(crate) fn check<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Option<T> {
    match body() {
        Ok(value) => {
            OK.fetch_add(1, Ordering::Relaxed);
            line(format_args!("ok {name}"));
            Some(value)
        }
        Err(why) => {
            fail(name, format_args!("{why}"));
            None
        }
    }
}

/// Prints that something failed.
pub(crate) fn fail(name: &str, why: fmt::Arguments<'_>) {
    FAILED.fetch_add(1, Ordering::Relaxed);
    line(format_args!("FAILED {name}: {why}"));
}

/// Prints something that was found.
pub(crate) fn note(what: fmt::Arguments<'_>) {
    line(format_args!("note {what}"));
}

/// Prints the totals.
pub(crate) fn summary() {
    let (ok, failed) = (OK.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed));
    line(format_args!("done: {ok} ok, {failed} failed"));
}

/// Prints a line.
pub(crate) fn line(what: fmt::Arguments<'_>) {
    // The port takes everything.
    let _ = writeln!(Port, "{what}");
}

/// Fails a check with `why` unless `condition` holds.
pub(crate) fn ensure(condition: bool, why: fmt::Arguments<'_>) -> Result {
    if condition { Ok(()) } else { Err(alloc::fmt::format(why)) }
}
