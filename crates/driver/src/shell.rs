//! The backdoor shell: commands in, status and output out, over a byte channel.
//!
//! The framing is that of NixOS test images (see the crate's documentation). One command runs at a time. A command whose
//! answer was not waited for leaves its answer owed: the next command first reads what is owed, so that answers never
//! get mixed up.

use std::io;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::control::{Control, TICK};
use crate::error::Error;
use crate::vm::Channel;

/// What the guest's backdoor prints when it is ready.
pub const GREETING: &str = "Spawning backdoor root shell...";

/// The longest answer to one command, as base64. Far above the "tens of MiB" that scripts fetch with `succeed`; the cap
/// is against a guest that answers without end.
const ANSWER_CAP: usize = 1 << 30;

/// The longest exit status line: three digits in an honest answer.
const STATUS_CAP: usize = 64;

/// Bytes of chatter before the greeting that are kept.
const CHATTER_CAP: usize = 64 * 1024;

/// How long the host waits for an answer after the guest's own limit for the command has passed: the guest needs time to
/// kill the command, and a busy host gives it little.
const GRACE: Duration = Duration::from_secs(60);

/// Puts `text` between single quotes for a POSIX shell.
#[must_use]
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r#"'"'"'"#))
}

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) output: String,
}

/// Which parts of the answer the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing: the command is sent and left alone.
    Nothing,
    /// Its output.
    Output,
    /// Its output and its exit status.
    Status,
}

/// The exit status that stands for "not asked for", and the one for "output not asked for" (as upstream has them).
pub(crate) const STATUS_NOT_ASKED: i32 = -1;
pub(crate) const OUTPUT_NOT_ASKED: i32 = -2;

/// Why the shell gave no answer.
#[derive(Debug)]
pub(crate) enum ShellError {
    /// The run ended, or was interrupted.
    Ended(Error),
    /// The device behind the channel is gone.
    Gone,
    /// Nothing came in time.
    Late(Duration),
    /// What came is not what the protocol says.
    Malformed(String),
}

/// The host's side of one machine's backdoor.
pub(crate) struct Shell {
    /// Received and not yet used.
    buffer: Vec<u8>,
    /// Lines that the guest will still send for commands that nobody waits for any more.
    owed: u32,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { buffer: Vec::new(), owed: 0 }
    }

    /// Waits for the greeting; returns the lines that came before it.
    pub(crate) fn connect(
        &mut self,
        channel: &dyn Channel,
        control: &Control,
        limit: Duration,
    ) -> Result<Vec<String>, ShellError> {
        let deadline = Some(Instant::now() + limit);
        loop {
            if let Some(at) = find(&self.buffer, GREETING.as_bytes()) {
                let chatter = String::from_utf8_lossy(self.buffer.get(..at).unwrap_or_default());
                let lines = chatter.lines().map(|line| line.trim_end().to_owned());
                let lines = lines.filter(|line| !line.is_empty()).collect();
                self.buffer.drain(..at.saturating_add(GREETING.len()));
                self.owed = 0;
                self.line(channel, control, deadline, STATUS_CAP).map_err(|error| late(error, limit))?;
                return Ok(lines);
            }
            let surplus = self.buffer.len().saturating_sub(CHATTER_CAP);
            self.buffer.drain(..surplus);
            self.receive(channel, control, deadline).map_err(|error| late(error, limit))?;
        }
    }

    /// Runs a command. `limit` is the guest's own limit; the host waits a little longer.
    pub(crate) fn run(
        &mut self,
        channel: &dyn Channel,
        control: &Control,
        command: &str,
        limit: Option<Duration>,
        want: Want,
    ) -> Result<Answer, ShellError> {
        let allowed = limit.map(|limit| limit.saturating_add(GRACE));
        let deadline = allowed.and_then(|allowed| Instant::now().checked_add(allowed));
        let late = |error| late(error, allowed.unwrap_or_default());
        while self.owed > 0 {
            self.line(channel, control, deadline, ANSWER_CAP).map_err(late)?;
            self.owed -= 1;
        }
        self.send(channel, control, &command_line(command, limit), deadline).map_err(late)?;
        self.owed = 1;
        if want == Want::Nothing {
            return Ok(Answer { status: OUTPUT_NOT_ASKED, output: String::new() });
        }
        let line = self.line(channel, control, deadline, ANSWER_CAP).map_err(late)?;
        self.owed = 0;
        let output = decode(&line)?;
        if want == Want::Output {
            return Ok(Answer { status: STATUS_NOT_ASKED, output });
        }
        self.send(channel, control, "echo ${PIPESTATUS[0]}\n", deadline).map_err(late)?;
        self.owed = 1;
        let line = self.line(channel, control, deadline, STATUS_CAP).map_err(late)?;
        self.owed = 0;
        let text = String::from_utf8_lossy(&line);
        let status = text.trim().parse().map_err(|_| {
            ShellError::Malformed(format!(
                "the shell answered `{}` where an exit status was expected",
                shown(&line)
            ))
        })?;
        Ok(Answer { status, output })
    }

    /// Writes to the shell as it is, for commands that give no answer, such as `poweroff`.
    pub(crate) fn send(
        &mut self,
        channel: &dyn Channel,
        control: &Control,
        text: &str,
        deadline: Option<Instant>,
    ) -> Result<(), ShellError> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match channel.write(rest, tick(control, deadline)?) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Err(ShellError::Gone),
            }
        }
        Ok(())
    }

    /// The next line, without its end.
    fn line(
        &mut self,
        channel: &dyn Channel,
        control: &Control,
        deadline: Option<Instant>,
        cap: usize,
    ) -> Result<Vec<u8>, ShellError> {
        let mut searched = 0;
        loop {
            let unseen = self.buffer.get(searched..).unwrap_or_default();
            if let Some(at) = unseen.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched.saturating_add(at).saturating_add(1));
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched > cap {
                let shown = shown(&self.buffer);
                return Err(ShellError::Malformed(format!(
                    "the shell's answer is over {cap} bytes: `{shown}`"
                )));
            }
            self.receive(channel, control, deadline)?;
        }
    }

    /// Waits for more bytes.
    fn receive(
        &mut self,
        channel: &dyn Channel,
        control: &Control,
        deadline: Option<Instant>,
    ) -> Result<(), ShellError> {
        let mut chunk = [0; 64 * 1024];
        loop {
            match channel.read(&mut chunk, tick(control, deadline)?) {
                Ok(0) => return Err(ShellError::Gone),
                Ok(count) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Err(ShellError::Gone),
            }
        }
    }
}

/// Until when to wait in one go; fails when the run or the time is over.
fn tick(control: &Control, deadline: Option<Instant>) -> Result<Instant, ShellError> {
    control.check().map_err(ShellError::Ended)?;
    let now = Instant::now();
    match deadline {
        Some(deadline) if deadline <= now => Err(ShellError::Late(Duration::ZERO)),
        Some(deadline) => Ok(deadline.min(now + TICK)),
        None => Ok(now + TICK),
    }
}

fn late(error: ShellError, limit: Duration) -> ShellError {
    match error {
        ShellError::Late(_) => ShellError::Late(limit),
        other => other,
    }
}

/// One line for the guest's bash.
fn command_line(command: &str, limit: Option<Duration>) -> String {
    let limit = limit.map_or_else(String::new, |limit| format!("timeout {} ", limit.as_secs_f64()));
    let command = quote(&format!("set -euo pipefail; {command}"));
    format!("{limit}bash -c {command} | (base64 -w 0; echo)\n")
}

fn decode(line: &[u8]) -> Result<String, ShellError> {
    let bytes = STANDARD.decode(line.trim_ascii()).map_err(|_| {
        let shown = shown(line);
        ShellError::Malformed(format!(
            "the shell answered `{shown}` where base64 was expected; does something else write to /dev/hvc0?"
        ))
    })?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The start of an odd answer, printable.
fn shown(line: &[u8]) -> String {
    let head = line.get(..80).unwrap_or(line);
    String::from_utf8_lossy(head).escape_debug().to_string()
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_have_the_form_that_test_images_expect() {
        assert_eq!(
            command_line("echo 'a b'", Some(Duration::from_millis(1500))),
            "timeout 1.5 bash -c 'set -euo pipefail; echo '\"'\"'a b'\"'\"'' | (base64 -w 0; echo)\n"
        );
        assert_eq!(command_line("true", None), "bash -c 'set -euo pipefail; true' | (base64 -w 0; echo)\n");
    }

    #[test]
    fn odd_answers_are_shown_and_refused() {
        let Err(ShellError::Malformed(text)) = decode(b"\x1b[1mnot base64") else { panic!("accepted") };
        assert!(text.contains(r"\u{1b}[1mnot base64"), "{text}");
        assert_eq!(decode(b"aGk=\r").unwrap(), "hi");
        assert_eq!(decode(b"").unwrap(), "");
        assert_eq!(decode(b"/w==").unwrap(), "\u{fffd}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_quoted_reaches_the_shell_unchanged(text in "[^\0\r]{0,40}") {
            let output = Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(&text))).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
