//! Waiting for facts in a guest.
//!
//! Every wait looks at once, then with pauses in proportion to what a look costs ([`crate::watch`]); a failure says what
//! was waited for, for how long, how often it was looked at, and what was there instead.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::console::{ConsoleLog, Queued};
use crate::control::Pace;
use crate::diagnosis;
use crate::error::Error;
use crate::machine::{Execute, MachineHandle, Reply};
use crate::search::Search;
use crate::watch::{LEAST_LOOK, Slice};

/// How long waits take when the test does not say: 15 minutes, as upstream.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(900);

/// How long the guest looks for a file by itself in one command: other threads of the test wait that long for the shell.
const SLICE: Duration = Duration::from_secs(1);

/// Console lines between two looks at the clock.
const LOOKED_AT_ONCE: usize = 256;

impl MachineHandle {
    /// Repeats a command until it ends with status 0; gives its output.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_until_succeeds(&self, command: &str, timeout: Duration) -> Result<String, Error> {
        let _block = self.nested(&format!("waiting for success: {command}"));
        let what = format!("command `{command}` did not succeed");
        self.probe(command, timeout, &what, |reply| reply.status == 0).map(|reply| reply.output)
    }

    /// Repeats a command until it ends with another status than 0; gives its output.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_until_fails(&self, command: &str, timeout: Duration) -> Result<String, Error> {
        let _block = self.nested(&format!("waiting for failure: {command}"));
        let what = format!("command `{command}` did not fail");
        self.probe(command, timeout, &what, |reply| reply.status != 0).map(|reply| reply.output)
    }

    /// Waits until a file is there. The name goes to the guest's shell as it is, so that patterns work.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_file(&self, file: &str, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for file '{file}'"));
        let look = format!("test -e {file}");
        let mut slice = Slice::new(SLICE);
        let looked = self.watch(timeout, |now| {
            let began = Instant::now();
            let limit = timeout.max(LEAST_LOOK).saturating_add(SLICE);
            let command = slice.command(&look, &look, now.left);
            let reply = self.execute(&command, Execute::limited(Some(limit)))?;
            slice.learn(&reply, began.elapsed(), now);
            Ok(if reply.status == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        looked.map_err(|missed| {
            let message = format!("the file `{file}` did not appear {}", missed.within(""));
            self.check_failed_after_asking(&message, &diagnosis::of_file(file))
        })
    }

    /// Waits until the console lines that no such wait has seen yet match a regular expression. The lines are joined
    /// without line ends, as upstream does; each line counts by itself too. What matched, and what came before it, is used
    /// up.
    ///
    /// # Errors
    /// When the expression is wrong, the time is up, or the machine ends.
    pub fn wait_for_console_text(&self, pattern: &str, timeout: Option<Duration>) -> Result<(), Error> {
        let regex = Regex::new(pattern)
            .map_err(|error| Error::setup(format!("`{pattern}` is not a regular expression: {error}")))?;
        self.wait_for_console(pattern, timeout, |text| regex.is_match(text))
    }

    /// The same with any test of the text instead of a regular expression; `what` names it in errors. The test is called
    /// for each new line, at intervals for the lines joined, and for a line without end once it looks like a prompt.
    ///
    /// # Errors
    /// When the time is up, the machine ends, or its kernel panicked and stands still.
    pub fn wait_for_console(
        &self,
        what: &str,
        timeout: Option<Duration>,
        found: impl FnMut(&str) -> bool,
    ) -> Result<(), Error> {
        self.ensure_started_once()?;
        let _block = self.nested(&format!("waiting for {what} to appear on console"));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let console = self.console();
        let pace = Pace::new(self.control());
        let mut search = Search::new(found);
        // What is there already is looked at whole, however short the time.
        let mut late = None;
        let mut known = None;
        loop {
            if look(console, &mut search, &pace, late)? {
                return Ok(());
            }
            late = deadline;
            let due = search.due();
            let until = deadline.into_iter().chain(due).min();
            let queued = console.wait_queued(&pace, until, known.as_ref())?;
            if let Queued::Prompt(prompt) = &queued
                && search.look_at_prompt(&prompt.text)
            {
                console.take_prompt(prompt);
                return Ok(());
            }
            let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if queued == Queued::Lines && !is_over {
                continue;
            }
            if let Some(rest) = search.look_at_all() {
                console.give_back(rest.into_iter());
                return Ok(());
            }
            match queued {
                Queued::Ended => return Err(self.not_on_console(what, "before the machine ended")),
                Queued::Standstill => return Err(self.stands_still(None)),
                _ if is_over => {
                    let seconds = timeout.unwrap_or_default().as_secs_f64();
                    return Err(self.not_on_console(what, &format!("within {seconds} s")));
                }
                Queued::Prompt(prompt) => known = Some(prompt),
                // Only the joined lines were due.
                Queued::Lines | Queued::Late => {}
            }
        }
    }

    fn not_on_console(&self, what: &str, when: &str) -> Error {
        self.check_failed(&format!("`{what}` did not appear on the console {when}"), None, None)
    }

    /// Sleeps inside the guest, by the guest's clock.
    ///
    /// # Errors
    /// When the machine is in trouble.
    pub fn sleep(&self, time: Duration) -> Result<(), Error> {
        self.succeed(&[&format!("sleep {}", time.as_secs_f64())], None).map(drop)
    }

    /// Repeats a command until `good`.
    fn probe(
        &self,
        command: &str,
        timeout: Duration,
        what: &str,
        good: impl Fn(&Reply) -> bool,
    ) -> Result<Reply, Error> {
        let looked = self.watch(timeout, |_| {
            let reply = self.execute(command, Execute::limited(Some(timeout.max(LEAST_LOOK))))?;
            Ok(if good(&reply) { ControlFlow::Break(reply) } else { ControlFlow::Continue(reply) })
        })?;
        looked.map_err(|missed| {
            let within = missed.within(&format!("last exit code {}, ", missed.last.status));
            self.check_failed(&format!("{what} {within}"), Some(command), Some(missed.last))
        })
    }
}

/// Looks at the queued lines, in pieces between which the run may end or the time be up; what was not looked at stays
/// queued. Whether the search has found something.
fn look(
    console: &ConsoleLog,
    search: &mut Search<impl FnMut(&str) -> bool>,
    pace: &Pace<'_>,
    late: Option<Instant>,
) -> Result<bool, Error> {
    let mut lines = console.take_queued().into_iter();
    while lines.len() > 0 {
        if let Some(rest) = search.look(lines.by_ref().take(LOOKED_AT_ONCE)) {
            let rest: Vec<String> = rest.into_iter().chain(lines).collect();
            console.give_back(rest.into_iter());
            return Ok(true);
        }
        let checked = pace.check();
        if checked.is_err() || late.is_some_and(|late| Instant::now() >= late) {
            console.give_back(lines);
            return checked.map(|()| false);
        }
    }
    Ok(false)
}
