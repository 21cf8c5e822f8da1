//! The way to a guest's shell, for one call.

use std::io;
use std::time::{Duration, Instant};

use super::ShellError;
use crate::console::ConsoleLog;
use crate::control::{Control, Pace, TICK};
use crate::vm::Channel;

/// What a shell is reached over, and what a wait for it looks at, for one call.
pub(crate) struct Link<'a> {
    pub(super) channel: &'a dyn Channel,
    console: &'a ConsoleLog,
    pace: Pace<'a>,
}

impl<'a> Link<'a> {
    pub(crate) fn new(channel: &'a dyn Channel, console: &'a ConsoleLog, control: &'a Control) -> Self {
        Self { channel, console, pace: Pace::new(control) }
    }

    /// Until when to wait in one go; fails when the run or the time is over, or nothing can come any more.
    pub(crate) fn tick(&self, deadline: Option<Instant>) -> Result<Instant, ShellError> {
        self.pace.check().map_err(ShellError::Ended)?;
        if self.console.stands_still() {
            return Err(ShellError::Standstill);
        }
        let now = Instant::now();
        match deadline {
            Some(deadline) if deadline <= now => Err(ShellError::Late(Duration::ZERO, None)),
            Some(deadline) => Ok(deadline.min(now + TICK)),
            None => Ok(now + TICK),
        }
    }

    /// Writes; also tells how much was written before the error.
    pub(super) fn write(&self, bytes: &[u8], deadline: Option<Instant>) -> (usize, Result<(), ShellError>) {
        let mut written = 0;
        while let Some(rest @ [_, ..]) = bytes.get(written..) {
            let until = match self.tick(deadline) {
                Ok(until) => until,
                Err(error) => return (written, Err(error)),
            };
            match self.channel.write(rest, until) {
                Ok(count) => written = written.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return (written, Err(ShellError::Gone)),
            }
        }
        (written, Ok(()))
    }
}
