//! Waiting for facts in a guest.
//!
//! Every wait probes at once, then with growing pauses ([`Backoff`]); a failure says what was waited for, for how long,
//! and what the last probe gave.

use std::time::{Duration, Instant};

use regex::Regex;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::machine::{Execute, MachineHandle, Reply};
use crate::shell::quote;

/// How long waits take when the test does not say: 15 minutes, as upstream.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(900);

impl MachineHandle {
    /// Repeats a command until it ends with status 0; gives its output.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_until_succeeds(&self, command: &str, timeout: Duration) -> Result<String, Error> {
        let _block = self.nested(&format!("waiting for success: {command}"));
        let what = format!("command `{command}` did not succeed");
        self.probe(command, timeout, &what, |reply| reply.status == 0)
    }

    /// Repeats a command until it ends with another status than 0; gives its output.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_until_fails(&self, command: &str, timeout: Duration) -> Result<String, Error> {
        let _block = self.nested(&format!("waiting for failure: {command}"));
        let what = format!("command `{command}` did not fail");
        self.probe(command, timeout, &what, |reply| reply.status != 0)
    }

    /// Waits until a file is there. The name goes to the guest's shell as it is, so that patterns work.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_file(&self, file: &str, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for file '{file}'"));
        let what = format!("the file `{file}` did not appear");
        self.probe(&format!("test -e {file}"), timeout, &what, |reply| reply.status == 0).map(drop)
    }

    /// Waits until something listens on a TCP port.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_open_port(&self, port: u16, address: &str, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for TCP port {port} on {address}"));
        let what = format!("TCP port {port} on {address} did not open");
        self.probe(&port_probe(port, address), timeout, &what, |reply| reply.status == 0).map(drop)
    }

    /// Waits until nothing listens on a TCP port.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_closed_port(&self, port: u16, address: &str, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for TCP port {port} on {address} to close"));
        let what = format!("TCP port {port} on {address} did not close");
        self.probe(&port_probe(port, address), timeout, &what, |reply| reply.status != 0).map(drop)
    }

    /// Waits until the console lines that no such wait has seen yet match a regular expression. The lines are joined
    /// without line ends, as upstream does. What matched, and what came before it, is used up.
    ///
    /// # Errors
    /// When the expression is wrong, the time is up, or the machine ends.
    pub fn wait_for_console_text(&self, pattern: &str, timeout: Option<Duration>) -> Result<(), Error> {
        let regex = Regex::new(pattern)
            .map_err(|error| Error::setup(format!("`{pattern}` is not a regular expression: {error}")))?;
        self.wait_for_console(pattern, timeout, |text| regex.is_match(text))
    }

    /// The same with any test of the text instead of a regular expression; `what` names it in errors. The test is called
    /// again for every new line.
    ///
    /// # Errors
    /// When the time is up, or the machine ends.
    pub fn wait_for_console(
        &self,
        what: &str,
        timeout: Option<Duration>,
        mut found: impl FnMut(&str) -> bool,
    ) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for {what} to appear on console"));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let console = self.console();
        let mut text = String::new();
        loop {
            let mut lines = console.take_queued().into_iter();
            while let Some(line) = lines.next() {
                text.push_str(&line);
                if found(&text) {
                    console.give_back(lines);
                    return Ok(());
                }
            }
            // A bounded memory of what was seen; text that matches across more than this is not a console line.
            keep_end(&mut text, 1 << 20);
            if !console.wait_queued(self.control(), deadline)? {
                let message = match timeout {
                    Some(limit) => {
                        format!("`{what}` did not appear on the console within {} s", limit.as_secs_f64())
                    }
                    None => format!("`{what}` did not appear on the console before the machine ended"),
                };
                return Err(self.check_failed(&message, None, None));
            }
        }
    }

    /// Sleeps inside the guest, by the guest's clock.
    ///
    /// # Errors
    /// When the machine is in trouble.
    pub fn sleep(&self, time: Duration) -> Result<(), Error> {
        self.succeed(&[&format!("sleep {}", time.as_secs_f64())], None).map(drop)
    }

    /// Probes until `good`, with one last look when the time is up.
    fn probe(
        &self,
        command: &str,
        timeout: Duration,
        what: &str,
        good: impl Fn(&Reply) -> bool,
    ) -> Result<String, Error> {
        let deadline = Instant::now().checked_add(timeout);
        let mut backoff = Backoff::new();
        loop {
            let is_last = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let reply = self.execute(command, Execute::limited(Some(timeout)))?;
            if good(&reply) {
                return Ok(reply.output);
            }
            if is_last {
                let seconds = timeout.as_secs_f64();
                let message = format!("{what} within {seconds} s (last exit code {})", reply.status);
                return Err(self.check_failed(&message, Some(command), Some(reply)));
            }
            let pause = backoff.pause();
            let left = deadline.map_or(pause, |deadline| deadline.saturating_duration_since(Instant::now()));
            self.control().pause(pause.min(left))?;
        }
    }
}

fn port_probe(port: u16, address: &str) -> String {
    format!("nc -z {} {port}", quote(address))
}

fn keep_end(text: &mut String, most: usize) {
    if text.len() > most {
        let start = text.ceil_char_boundary(text.len() - most);
        text.drain(..start);
    }
}
