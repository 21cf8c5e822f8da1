//! Signals that ask the program to end, and the one that says that it goes on after a stop.

use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Event;

/// From now on the first signal that asks for the end is an event; the next one ends the program, as it would any other.
pub(crate) fn watch(events: Sender<Event>) -> Result<()> {
    let wanted = not_ignored([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCONT]);
    let mut signals = Signals::new(wanted).context("Cannot watch for signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut told = false;
            for signal in signals.forever() {
                if signal == SIGCONT {
                    let _ = events.send(Event::Continued);
                } else if std::mem::replace(&mut told, true) {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                } else {
                    let _ = events.send(Event::Signal(signal));
                }
            }
        })
        .context("Cannot start the signals' thread")?;
    Ok(())
}

/// Those that whoever started this program does not want ignored.
pub(crate) fn not_ignored(signals: impl IntoIterator<Item = i32>) -> impl Iterator<Item = i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    signals.into_iter().filter(move |signal| !is_in(ignored, *signal))
}

/// The mask of signals that whoever started us wants ignored, as `nohup` does with SIGHUP.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_found_in_the_mask() {
        let mask = ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\tffff\n");
        assert!(is_in(mask, SIGHUP));
        assert!(is_in(mask, 13));
        assert!(!is_in(mask, SIGINT) && !is_in(mask, SIGTERM) && !is_in(mask, 0));
        assert_eq!(ignored(""), 0);
    }
}
