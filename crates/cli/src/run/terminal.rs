//! The terminal's mode: raw while a guest has it, and its own again afterwards.

use std::io;

use anyhow::{Context, Result};
use rustix::process::getpgrp;
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetpgrp, tcsetattr,
};

/// A terminal in raw mode. Dropping it, also while a panic unwinds, gives the terminal back.
#[derive(Debug)]
pub(crate) struct Terminal {
    saved: Termios,
    raw: Termios,
}

impl Terminal {
    /// Puts the terminal on the standard input into raw mode; `None` when there is none, or it is another job's.
    pub(crate) fn take() -> Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) || !is_foreground() {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin).context("Cannot read the terminal's mode")?;
        let mut raw = saved.clone();
        raw.make_raw();
        // Output is processed as before, so that lines of our own begin at the left.
        raw.output_modes = saved.output_modes;
        let terminal = Self { saved, raw };
        terminal.make_raw().context("Cannot put the terminal into raw mode")?;
        Ok(Some(terminal))
    }

    /// After a stop: the shell has put the terminal into its own mode meanwhile.
    pub(crate) fn take_again(&self) {
        if is_foreground() && self.make_raw().is_err() {
            tracing::warn!("cannot put the terminal into raw mode again");
        }
    }

    fn make_raw(&self) -> io::Result<()> {
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &self.raw)?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let stdin = io::stdin();
        // What was typed for the guest is not for the shell.
        let _ = tcflush(&stdin, QueueSelector::IFlush);
        if let Err(error) = tcsetattr(&stdin, OptionalActions::Now, &self.saved) {
            tracing::warn!("cannot restore the terminal's mode (`reset` does): {error}");
        }
    }
}

/// A background job must neither read its terminal nor change its mode. Without job control there is no background.
fn is_foreground() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |foreground| foreground == getpgrp())
}
