//! The backdoor shell: commands in, status and output out, over a byte channel.
//!
//! The framing is that of NixOS test images (see the crate's documentation). One command runs at a time, and an answer
//! must never be taken for that of another command:
//! * A command whose answer was not waited for leaves it owed; the next command first reads what is owed.
//! * A command that was cut off while it was being sent is completed before the next one; its answer is owed.
//! * When something came that is no answer, the true answer may still come. Then the next command first has the shell say
//!   a word that nothing else says, and skips everything up to it.
//! * A backdoor that greets again has forgotten everything, and so does this side.

mod link;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(crate) use self::link::Link;
use crate::error::Error;

/// What the guest's backdoor prints when it is ready.
pub const GREETING: &str = "Spawning backdoor root shell...";

/// The longest answer to one command, as base64. Far above the "tens of MiB" that scripts fetch with `succeed`; the cap
/// is against a guest that answers without end.
const ANSWER_CAP: usize = 1 << 30;

/// Asks for the exit status of the command before.
const STATUS_LINE: &str = "echo ${PIPESTATUS[0]}\n";

/// The longest exit status line: three digits in an honest answer.
const STATUS_CAP: usize = 64;

/// Bytes of chatter before the greeting, or of a line that is skipped, that are kept.
const CHATTER_CAP: usize = 64 * 1024;

/// Reads in one go of what came unasked: a guest that writes without end must not keep the host from its command.
const STRAY_READS: usize = 16;

/// Longer commands come to their bash as a file: Linux passes at most 128 KiB as one argument.
const LONGEST_ARGUMENT: usize = 120 * 1024;

/// Bytes that are read in one go.
const CHUNK: usize = 64 * 1024;

/// Characters of a command that errors about a later one show.
const OWED_SHOWN: usize = 200;

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
    /// Its output, or what there is of it when the command takes the shell down.
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
    /// The backdoor greeted anew instead of answering.
    Restarted,
    /// The guest's kernel panicked and stands still.
    Standstill,
    /// Nothing came in this time; and the usual cause.
    Late(Duration, Option<String>),
    /// What came is not what the protocol says.
    Malformed(String),
}

/// The host's side of one machine's backdoor.
pub(crate) struct Shell {
    /// Received and not yet used.
    buffer: Vec<u8>,
    chunk: Vec<u8>,
    /// The commands, shortened, for which the guest will still send a line that nobody waits for.
    owed: VecDeque<String>,
    /// The rest of a line that was cut off while it was being sent.
    unsent: Vec<u8>,
    /// Why answers can no longer be told apart.
    lost: Option<String>,
    answer_cap: usize,
    grace: Duration,
    first_answer: Arc<OnceLock<Instant>>,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self {
            buffer: Vec::new(),
            chunk: Vec::new(),
            owed: VecDeque::new(),
            unsent: Vec::new(),
            lost: None,
            answer_cap: ANSWER_CAP,
            grace: GRACE,
            first_answer: Arc::default(),
        }
    }

    /// When the first command was answered, if one was.
    pub(crate) fn first_answer(&self) -> Arc<OnceLock<Instant>> {
        self.first_answer.clone()
    }

    /// Waits for the greeting; returns the lines that came before it.
    pub(crate) fn connect(&mut self, link: &Link<'_>, limit: Duration) -> Result<Vec<String>, ShellError> {
        let deadline = Some(Instant::now() + limit);
        loop {
            if let Some(at) = find(&self.buffer, GREETING.as_bytes()) {
                let chatter = String::from_utf8_lossy(self.buffer.get(..at).unwrap_or_default());
                let lines = chatter.lines().map(|line| line.trim_end().to_owned());
                let lines = lines.filter(|line| !line.is_empty()).collect();
                self.greeted(link, at, deadline).map_err(|error| late(error, limit, None))?;
                return Ok(lines);
            }
            self.keep_end(CHATTER_CAP);
            self.receive(link, deadline).map_err(|error| late(error, limit, None))?;
        }
    }

    /// Runs a command. `limit` is the guest's own limit, none when it is zero as for `timeout 0`; the host waits a little
    /// longer.
    pub(crate) fn run(
        &mut self,
        link: &Link<'_>,
        command: &str,
        limit: Option<Duration>,
        want: Want,
    ) -> Result<Answer, ShellError> {
        self.run_within(link, command, limit, self.grace, want)
    }

    /// The same with a say in how much longer the host waits.
    pub(crate) fn run_within(
        &mut self,
        link: &Link<'_>,
        command: &str,
        limit: Option<Duration>,
        grace: Duration,
        want: Want,
    ) -> Result<Answer, ShellError> {
        let limit = limit.filter(|limit| !limit.is_zero());
        let allowed = limit.map(|limit| limit.saturating_add(grace));
        let deadline = allowed.and_then(|allowed| Instant::now().checked_add(allowed));
        let allowed = allowed.unwrap_or_default();
        self.catch_up(link, deadline).map_err(|error| late(error, allowed, self.overdue()))?;
        self.ask(link, command, limit, want, deadline).map_err(|error| {
            let cause = "usually something that it started in the background holds its standard output; \
                         start that with `>&2 &`";
            late(error, allowed, Some(cause.to_owned()))
        })
    }

    fn ask(
        &mut self,
        link: &Link<'_>,
        command: &str,
        limit: Option<Duration>,
        want: Want,
        deadline: Option<Instant>,
    ) -> Result<Answer, ShellError> {
        self.send(link, &command_line(command, limit), Some(command), deadline)?;
        if want == Want::Nothing {
            return Ok(Answer { status: OUTPUT_NOT_ASKED, output: String::new() });
        }
        self.collect(link, command, want, deadline)
    }

    /// Sends a command and returns at once; `name` is what it is called in messages. Its answer is to be collected, and
    /// is owed until then.
    pub(crate) fn begin(&mut self, link: &Link<'_>, command: &str, name: &str) -> Result<(), ShellError> {
        self.send(link, &command_line(command, None), Some(name), None)
    }

    /// Whether the guest has said a whole line.
    pub(crate) fn has_line(&mut self, link: &Link<'_>) -> Result<bool, ShellError> {
        self.poll(link)?;
        Ok(self.buffer.contains(&b'\n'))
    }

    /// Takes the answer to a command that was sent.
    pub(crate) fn collect(
        &mut self,
        link: &Link<'_>,
        command: &str,
        want: Want,
        deadline: Option<Instant>,
    ) -> Result<Answer, ShellError> {
        let line = match self.answer(link, deadline, self.answer_cap) {
            Err(ShellError::Gone | ShellError::Restarted) if want == Want::Output => {
                let output = decode_part(&std::mem::take(&mut self.buffer));
                return Ok(Answer { status: STATUS_NOT_ASKED, output });
            }
            line => line?,
        };
        self.first_answer.get_or_init(Instant::now);
        let output = decode(&line).ok_or_else(|| {
            let shown = shown(&line);
            self.lose(format!(
                "the shell answered `{shown}` where base64 was expected; does something else write to /dev/hvc0?"
            ))
        })?;
        if want == Want::Output {
            return Ok(Answer { status: STATUS_NOT_ASKED, output });
        }
        self.send(link, STATUS_LINE, Some(command), deadline)?;
        let line = self.answer(link, deadline, STATUS_CAP)?;
        let text = String::from_utf8_lossy(&line);
        let status = text.trim().parse().map_err(|_| {
            let shown = shown(&line);
            self.lose(format!("the shell answered `{shown}` where an exit status was expected"))
        })?;
        Ok(Answer { status, output })
    }

    /// Writes a line to the shell; `owed` is the command that it will answer to. What the guest has not taken when the
    /// time is up goes before the next line.
    pub(crate) fn send(
        &mut self,
        link: &Link<'_>,
        text: &str,
        owed: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<(), ShellError> {
        self.send_rest(link, deadline)?;
        let (sent, result) = link.write(text.as_bytes(), deadline);
        // A line of which nothing was sent was never there.
        if sent > 0 {
            self.unsent.extend_from_slice(text.as_bytes().get(sent..).unwrap_or_default());
            self.owed.extend(owed.map(shortened));
        }
        result
    }

    fn send_rest(&mut self, link: &Link<'_>, deadline: Option<Instant>) -> Result<(), ShellError> {
        let (sent, result) = link.write(&self.unsent, deadline);
        self.unsent.drain(..sent);
        result
    }

    /// Writes bytes that are no command. What the shell answers is told from other answers by a resync.
    pub(crate) fn send_raw(&mut self, link: &Link<'_>, bytes: &[u8]) -> Result<(), ShellError> {
        self.send_rest(link, None)?;
        self.lost = Some("bytes were written to it that were no command of the driver's".to_owned());
        link.write(bytes, None).1
    }

    /// Reads up to `most` bytes as they come; `None` at the deadline, none at all when the machine has ended.
    pub(crate) fn receive_raw(
        &mut self,
        link: &Link<'_>,
        most: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<u8>>, ShellError> {
        if self.buffer.is_empty() {
            match self.receive(link, deadline) {
                Err(ShellError::Late(..)) => return Ok(None),
                Err(ShellError::Gone) => return Ok(Some(Vec::new())),
                other => other?,
            }
        }
        let rest = self.buffer.split_off(most.min(self.buffer.len()));
        Ok(Some(std::mem::replace(&mut self.buffer, rest)))
    }

    /// Brings the shell to where its next line is the answer to the next command.
    pub(crate) fn catch_up(&mut self, link: &Link<'_>, deadline: Option<Instant>) -> Result<(), ShellError> {
        self.poll(link)?;
        if let Some(at) = find(&self.buffer, GREETING.as_bytes()) {
            // It has restarted since; in particular it knows nothing of the first half of what is unsent.
            self.greeted(link, at, deadline)?;
        }
        self.send_rest(link, deadline)?;
        while self.lost.is_none() && !self.owed.is_empty() {
            match self.answer(link, deadline, self.answer_cap) {
                Ok(line) if is_answer(&line) => {}
                Ok(line) => drop(self.lose(format!("`{}` came unasked", shown(&line)))),
                Err(ShellError::Restarted | ShellError::Malformed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if self.lost.is_some() {
            self.resync(link, deadline)?;
        }
        self.poll(link)?;
        self.buffer.clear();
        Ok(())
    }

    /// Has the shell say a new word, and skips everything up to it.
    fn resync(&mut self, link: &Link<'_>, deadline: Option<Instant>) -> Result<(), ShellError> {
        loop {
            let word = format!("{:016x}", RandomState::new().hash_one(GREETING));
            // In parts, so that a terminal that echoes is not taken for the shell.
            self.send(link, &format!("\necho in-step-'{word}'\n"), None, deadline)?;
            let wanted = format!("in-step-{word}");
            loop {
                match self.line(link, deadline, CHATTER_CAP) {
                    Ok(line) if line.trim_ascii_end().ends_with(wanted.as_bytes()) => {
                        self.begin_anew();
                        return Ok(());
                    }
                    // The word may have been for the shell that is no more.
                    Ok(line) if greets(&line) => break,
                    Ok(_) => {}
                    Err(ShellError::Malformed(_)) => self.keep_end(wanted.len()),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Begins anew after the greeting that is at this place. Shells may add remarks to it; as upstream, what came with it
    /// is skipped.
    fn greeted(&mut self, link: &Link<'_>, at: usize, deadline: Option<Instant>) -> Result<(), ShellError> {
        self.buffer.drain(..at);
        match self.line(link, deadline, CHATTER_CAP) {
            Ok(_) | Err(ShellError::Malformed(_)) => {}
            Err(error) => return Err(error),
        }
        self.begin_anew();
        Ok(())
    }

    /// Nothing that came or went before counts any more.
    fn begin_anew(&mut self) {
        self.buffer.clear();
        self.owed.clear();
        self.unsent.clear();
        self.lost = None;
    }

    /// Notes that answers can no longer be told apart.
    fn lose(&mut self, why: String) -> ShellError {
        self.lost = Some(why.clone());
        ShellError::Malformed(why)
    }

    /// What the next command waits for before it is sent.
    fn overdue(&self) -> Option<String> {
        let lost = self.lost.as_ref().map(|why| {
            format!("its answers could not be told apart any more ({why}), and it did not get back in step")
        });
        let owed = || {
            let command = self.owed.front()?;
            Some(format!(
                "the earlier command `{command}`, whose answer was not waited for, has not ended or something that it \
                 started holds its standard output; start that with `>&2 &`"
            ))
        };
        lost.or_else(owed)
    }

    /// The next line that answers something.
    fn answer(
        &mut self,
        link: &Link<'_>,
        deadline: Option<Instant>,
        cap: usize,
    ) -> Result<Vec<u8>, ShellError> {
        let line = self.line(link, deadline, cap).map_err(|error| match error {
            ShellError::Malformed(why) => {
                self.buffer = Vec::new();
                self.lose(why)
            }
            error => error,
        })?;
        if greets(&line) {
            self.begin_anew();
            return Err(ShellError::Restarted);
        }
        self.owed.pop_front();
        Ok(line)
    }

    /// The next line, without its end.
    fn line(
        &mut self,
        link: &Link<'_>,
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
            self.receive(link, deadline)?;
        }
    }

    /// Waits for more bytes.
    fn receive(&mut self, link: &Link<'_>, deadline: Option<Instant>) -> Result<(), ShellError> {
        while !self.read(link, link.tick(deadline)?)? {}
        Ok(())
    }

    /// Takes what is there, without waiting.
    fn poll(&mut self, link: &Link<'_>) -> Result<(), ShellError> {
        for _ in 0..STRAY_READS {
            if !self.read(link, Instant::now())? {
                break;
            }
        }
        Ok(())
    }

    /// Reads once; false when nothing came in time.
    fn read(&mut self, link: &Link<'_>, until: Instant) -> Result<bool, ShellError> {
        // Kept: a guest's answer comes 2 KiB at a time, and making it anew would be most of the work.
        self.chunk.resize(CHUNK, 0);
        match link.channel.read(&mut self.chunk, until) {
            Ok(0) => Err(ShellError::Gone),
            Ok(count) => {
                self.buffer.extend_from_slice(self.chunk.get(..count).unwrap_or_default());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(_) => Err(ShellError::Gone),
        }
    }

    fn keep_end(&mut self, most: usize) {
        let surplus = self.buffer.len().saturating_sub(most);
        self.buffer.drain(..surplus);
    }
}

fn late(error: ShellError, limit: Duration, cause: Option<String>) -> ShellError {
    match error {
        ShellError::Late(..) => ShellError::Late(limit, cause),
        other => other,
    }
}

/// One line for the guest's bash.
fn command_line(command: &str, limit: Option<Duration>) -> String {
    // Below a millisecond, clocks round.
    let least = Duration::from_millis(1);
    let limit =
        limit.map_or_else(String::new, |limit| format!("timeout {} ", limit.max(least).as_secs_f64()));
    let command = quote(&format!("set -euo pipefail; {command}"));
    let script = if command.len() < LONGEST_ARGUMENT {
        format!("-c {command}")
    } else {
        // The shell's own printf takes any length.
        format!("<(printf %s {command})")
    };
    format!("{limit}bash {script} | (base64 -w 0; echo)\n")
}

fn decode(line: &[u8]) -> Option<String> {
    let bytes = STANDARD.decode(line.trim_ascii()).ok()?;
    let text = String::from_utf8(bytes);
    Some(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// What the beginning of an answer holds, for a shell that went away while it wrote.
fn decode_part(line: &[u8]) -> String {
    let line = line.trim_ascii();
    let whole = line.len() - line.len() % 4;
    line.get(..whole).and_then(decode).unwrap_or_default()
}

/// Whether this may be the answer to a command: base64, or an exit status.
fn is_answer(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.iter().all(u8::is_ascii_digit) || STANDARD.decode(line).is_ok()
}

fn greets(line: &[u8]) -> bool {
    line.trim_ascii_end().ends_with(GREETING.as_bytes())
}

fn shortened(command: &str) -> String {
    let end = command.char_indices().nth(OWED_SHOWN).map_or(command.len(), |(at, _)| at);
    let dots = if end < command.len() { "..." } else { "" };
    format!("{}{dots}", command.get(..end).unwrap_or_default())
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
mod tests;
