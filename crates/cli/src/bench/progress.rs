//! How far a bench is, on the standard error: one line that changes on a terminal, a line for each round elsewhere.

use std::io::{IsTerminal, Write, stderr};

use crate::say;

#[derive(Debug)]
pub(super) struct Progress {
    warm_up: u32,
    runs: u32,
    configurations: usize,
    is_terminal: bool,
    round: String,
    done: usize,
}

impl Progress {
    pub(super) fn new(warm_up: u32, runs: u32, configurations: usize) -> Self {
        let is_terminal = stderr().is_terminal();
        Self { warm_up, runs, configurations, is_terminal, round: String::new(), done: 0 }
    }

    /// A round begins.
    pub(super) fn round(&mut self, round: u32) {
        self.done = 0;
        self.round = match round.checked_sub(self.warm_up) {
            Some(run) => format!("run {} of {}", run.saturating_add(1), self.runs),
            None => format!("warm-up {} of {}", round.saturating_add(1), self.warm_up),
        };
        if !self.is_terminal {
            say::line(&format!("snowboot: {}", self.round));
        }
    }

    /// A configuration's turn begins.
    pub(super) fn subject(&mut self, name: &str) {
        self.done = self.done.saturating_add(1);
        if self.is_terminal {
            let mut out = stderr().lock();
            // Back to the line's beginning, and erase it.
            let _ = write!(out, "\r\x1b[K{}: {name} ({} of {})", self.round, self.done, self.configurations);
            let _ = out.flush();
        }
    }

    /// Something else is to be said.
    pub(super) fn clear(&mut self) {
        self.done = self.done.saturating_sub(1);
        self.erase();
    }

    fn erase(&self) {
        if self.is_terminal {
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K");
            let _ = out.flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.erase();
    }
}
