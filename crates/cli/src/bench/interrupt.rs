//! Signals that ask the program to end, as something that a wait for a VMM can wait for too.

use std::io::{PipeReader, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::run::signals::not_ignored;

/// Takes these signals for the rest of the program's life.
#[derive(Debug)]
pub(super) struct Interrupt {
    signal: Arc<AtomicUsize>,
    reader: PipeReader,
}

impl Interrupt {
    pub(super) fn watch() -> Result<Self> {
        let what = "Cannot watch for signals";
        let signal = Arc::new(AtomicUsize::new(0));
        let (reader, writer) = pipe().context(what)?;
        for number in not_ignored([SIGHUP, SIGINT, SIGQUIT, SIGTERM]) {
            let value = usize::try_from(number).context(what)?;
            // In this order: whoever is woken by the pipe finds the number.
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value).context(what)?;
            let writer = writer.try_clone().context(what)?;
            signal_hook::low_level::pipe::register(number, writer).context(what)?;
        }
        Ok(Self { signal, reader })
    }

    /// The signal that has come.
    pub(super) fn signal(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::SeqCst)).ok().filter(|signal| *signal != 0)
    }
}

impl AsFd for Interrupt {
    /// Can be read once a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
