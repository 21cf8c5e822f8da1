//! What a machine's guest writes to its serial console, kept as lines.
//!
//! One per machine, cleared at every start. Written by a vCPU thread through [`ConsoleWriter`], which must be quick: it
//! splits lines, stores them and hands them to the logger's queue, and never waits for a terminal.

mod clean;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::clean::clean;
use crate::control::{Pace, TICK, lock};
use crate::error::Error;
use crate::event::{Event, Level};
use crate::log::Logger;

/// Bytes of console text kept for [`ConsoleLog::text`]. A boot writes less than 1 MiB; the cap is against a guest that
/// writes without end.
pub const LOG_CAP: usize = 64 << 20;

/// Lines kept for waits on console text that nobody has asked for yet; older ones are dropped.
pub const QUEUE_CAP: usize = 100_000;

/// Console lines that an error shows.
pub const TAIL_LINES: usize = 20;

/// The longest line; longer ones are broken here so that a guest that never ends its line stays bounded.
const LINE_CAP: usize = 16 * 1024;

/// How Linux begins its last words (`kernel/panic.c`).
const PANIC: &str = "Kernel panic - not syncing";

/// How long a kernel that panicked says nothing more before it is taken to stand still. Under `panic=1` it needs little
/// more than a second to reset the machine.
const STANDSTILL: Duration = Duration::from_secs(5);

/// How a kernel begins that took the place of the one that panicked (kdump).
const NEW_KERNEL: &str = "Linux version ";

/// Bytes of lines waiting in the queue, at most: [`QUEUE_CAP`] alone would allow lines of [`LINE_CAP`] each.
const QUEUE_BYTES: usize = 16 << 20;

/// A line that was under way for this long without more of it is a prompt: whoever writes it waits for an answer.
const PROMPT_AFTER: Duration = Duration::from_millis(200);

/// Raw output that is kept for somebody at a terminal who does not read: a few screens.
const RAW_CAP: usize = 64 * 1024;

/// A machine's console.
#[derive(Debug, Default)]
pub struct ConsoleLog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The line under way.
    partial: Vec<u8>,
    /// When it grew last.
    grown: Option<Instant>,
    /// Bytes of it that a wait has taken as a prompt.
    taken: usize,
    /// All lines since the start, newline-joined, up to the cap.
    text: String,
    /// Lines that did not fit.
    cut_lines: u64,
    /// Lines that no wait has taken yet.
    queue: VecDeque<String>,
    queue_bytes: usize,
    /// The newest lines, for errors.
    tail: VecDeque<String>,
    first_line: Option<Instant>,
    panic: Option<String>,
    /// When the kernel that panicked is known to stand still.
    standstill: Option<Instant>,
    /// What the kernel said how long it waits before it resets the machine.
    reset_after: Duration,
    /// Raw output that is kept for somebody at a terminal.
    raw: Option<VecDeque<u8>>,
    /// The machine has ended: nothing more comes.
    ended: bool,
    /// Counts the machine's starts, so that an old one's end or last words cannot reach a new one's console.
    generation: u64,
}

/// A prompt: the end of the line under way that no wait has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    generation: u64,
    /// How much of the line it is.
    length: usize,
}

/// How a wait for a console line went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    /// There are lines.
    Lines,
    /// There is a prompt that this wait does not know.
    Prompt(Prompt),
    /// The time is up.
    Late,
    /// The machine has ended.
    Ended,
    /// The guest's kernel panicked and stands still.
    Standstill,
}

/// A place in what a console has said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    generation: u64,
    bytes: usize,
}

impl ConsoleLog {
    /// All lines since the machine's last start, newline-joined. A note says so when lines were cut.
    #[must_use]
    pub fn text(&self) -> String {
        let state = lock(&self.state);
        if state.cut_lines == 0 {
            return state.text.clone();
        }
        format!("{}\n[{} more lines were not kept: over {LOG_CAP} bytes]", state.text, state.cut_lines)
    }

    /// The last lines, at most [`TAIL_LINES`], including one under way.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let state = lock(&self.state);
        let mut lines: Vec<String> = state.tail.iter().cloned().collect();
        let partial = clean(&state.partial);
        if !partial.trim().is_empty() {
            lines.push(partial);
        }
        lines
    }

    /// What the kernel said when it panicked, without its time stamp.
    #[must_use]
    pub fn panic(&self) -> Option<String> {
        lock(&self.state).panic.clone()
    }

    /// When the first line came.
    #[must_use]
    pub fn first_line(&self) -> Option<Instant> {
        lock(&self.state).first_line
    }

    /// Takes every line that no wait has seen yet.
    pub(crate) fn take_queued(&self) -> Vec<String> {
        let mut state = lock(&self.state);
        state.queue_bytes = 0;
        state.queue.drain(..).collect()
    }

    /// Gives lines back, to the front.
    pub(crate) fn give_back(&self, lines: impl DoubleEndedIterator<Item = String>) {
        let mut state = lock(&self.state);
        for line in lines.rev() {
            state.queue_bytes = state.queue_bytes.saturating_add(line.len());
            state.queue.push_front(line);
        }
    }

    /// Whether the guest's kernel panicked and stands still: nothing will come of it any more.
    pub(crate) fn stands_still(&self) -> bool {
        lock(&self.state).stands_still()
    }

    /// A place in what the console has said, for [`Self::wait_for_word`].
    pub(crate) fn heard(&self) -> Heard {
        let state = lock(&self.state);
        Heard { generation: state.generation, bytes: state.text.len() }
    }

    /// Waits for a line after this place that is a sign, for this time at most. Comes soon after the sign, if there is
    /// one; its absence means nothing.
    pub(crate) fn wait_for_word(
        &self,
        pace: &Pace<'_>,
        mut since: Heard,
        is_sign: impl Fn(&str) -> bool,
        time: Duration,
    ) -> Result<(), Error> {
        let until = Instant::now() + time;
        loop {
            pace.check()?;
            let state = lock(&self.state);
            if since.generation != state.generation {
                since = Heard { generation: state.generation, bytes: 0 };
            }
            let news = state.text.get(since.bytes..).unwrap_or_default();
            since.bytes = state.text.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || news.lines().any(&is_sign) {
                return Ok(());
            }
            drop(self.changed.wait_timeout(state, left.min(TICK)).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Notes that a wait has found what it looked for in this prompt: the next one gets what comes after it.
    pub(crate) fn take_prompt(&self, prompt: &Prompt) {
        let mut state = lock(&self.state);
        if state.generation == prompt.generation && state.partial.len() >= prompt.length {
            state.taken = prompt.length;
        }
    }

    /// Waits until a line is queued, there is a prompt other than the `known` one, or nothing can be expected.
    pub(crate) fn wait_queued(
        &self,
        pace: &Pace<'_>,
        deadline: Option<Instant>,
        known: Option<&Prompt>,
    ) -> Result<Queued, Error> {
        loop {
            pace.check()?;
            let state = lock(&self.state);
            let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if !state.queue.is_empty() {
                return Ok(Queued::Lines);
            } else if let Some(prompt) = state.prompt().filter(|prompt| known != Some(prompt)) {
                return Ok(Queued::Prompt(prompt));
            } else if state.ended {
                return Ok(Queued::Ended);
            } else if left.is_zero() {
                return Ok(Queued::Late);
            } else if state.stands_still() {
                return Ok(Queued::Standstill);
            }
            drop(self.changed.wait_timeout(state, left.min(TICK)).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Forgets everything: the machine is started (again). Gives the number of this start.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = lock(&self.state);
        let generation = state.generation.wrapping_add(1);
        let raw = state.raw.take();
        *state = State { generation, raw, ..State::default() };
        generation
    }

    /// The guest was reset and starts again: what its old kernel said last means nothing any more.
    pub(crate) fn restarts(&self) {
        let mut state = lock(&self.state);
        (state.panic, state.standstill, state.reset_after) = (None, None, Duration::ZERO);
    }

    /// Begins to keep raw output for [`Self::read_raw`], or ends that.
    pub fn keep_raw(&self, on: bool) {
        lock(&self.state).raw = on.then(VecDeque::new);
    }

    /// What the guest wrote since the last call, as it wrote it; waits up to this long when that is nothing. Always
    /// nothing unless [`Self::keep_raw`] was called.
    #[must_use]
    pub fn read_raw(&self, timeout: Duration) -> Vec<u8> {
        let is_empty = |state: &mut State| state.raw.as_ref().is_some_and(VecDeque::is_empty);
        let waited = self.changed.wait_timeout_while(lock(&self.state), timeout, is_empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.raw.as_mut().map(|raw| raw.drain(..).collect()).unwrap_or_default()
    }

    /// Notes the end of the machine's start with this number. A line under way is complete now.
    pub(crate) fn end(&self, generation: u64, mut each: impl FnMut(String)) {
        let mut state = lock(&self.state);
        if state.generation != generation {
            return;
        }
        state.ended = true;
        if !state.partial.is_empty() {
            let line = std::mem::take(&mut state.partial);
            each(state.push(&line));
        }
        drop(state);
        self.changed.notify_all();
    }

    fn write(&self, generation: u64, bytes: &[u8], mut each: impl FnMut(String)) {
        let mut state = lock(&self.state);
        if state.generation != generation {
            return;
        }
        let mut has_line = state.keep_raw(bytes);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ends) = match piece.split_last() {
                Some((b'\n', rest)) => (rest, true),
                _ => (piece, false),
            };
            state.partial.extend_from_slice(piece);
            state.grown = Some(Instant::now());
            while state.partial.len() > LINE_CAP {
                let rest = state.partial.split_off(LINE_CAP);
                let line = std::mem::replace(&mut state.partial, rest);
                each(state.push(&line));
                has_line = true;
            }
            if ends {
                let line = std::mem::take(&mut state.partial);
                each(state.push(&line));
                has_line = true;
            }
        }
        drop(state);
        // Guests write byte by byte; waking a wait costs a system call, and only lines matter to it.
        if has_line {
            self.changed.notify_all();
        }
    }
}

impl State {
    /// The prompt, if the line under way is one.
    fn prompt(&self) -> Option<Prompt> {
        let is_prompt = self.grown.is_some_and(|grown| grown.elapsed() >= PROMPT_AFTER);
        let text = is_prompt.then(|| clean(self.partial.get(self.taken..).unwrap_or_default()))?;
        let prompt = Prompt { text, generation: self.generation, length: self.partial.len() };
        Some(prompt).filter(|prompt| !prompt.text.is_empty())
    }

    fn push(&mut self, raw: &[u8]) -> String {
        let line = clean(raw);
        let taken = std::mem::take(&mut self.taken);
        let queued = if taken == 0 { line.clone() } else { clean(raw.get(taken..).unwrap_or_default()) };
        self.first_line.get_or_insert_with(Instant::now);
        self.watch_for_panic(&line);
        if self.cut_lines == 0 && self.text.len() + line.len() < LOG_CAP {
            if !self.text.is_empty() {
                self.text.push('\n');
            }
            self.text.push_str(&line);
        } else {
            self.cut_lines = self.cut_lines.saturating_add(1);
        }
        self.queue_bytes += queued.len();
        self.queue.push_back(queued);
        while self.queue.len() > QUEUE_CAP || self.queue_bytes > QUEUE_BYTES {
            let Some(old) = self.queue.pop_front() else { break };
            self.queue_bytes = self.queue_bytes.saturating_sub(old.len());
        }
        self.tail.push_back(line.clone());
        if self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
        line
    }

    /// Keeps raw output if somebody wants it, and tells whether so. Who does not read loses the oldest.
    fn keep_raw(&mut self, bytes: &[u8]) -> bool {
        let Some(raw) = &mut self.raw else { return false };
        raw.extend(bytes);
        raw.drain(..raw.len().saturating_sub(RAW_CAP));
        true
    }

    fn watch_for_panic(&mut self, line: &str) {
        if self.panic.is_none() {
            self.panic = line.find(PANIC).and_then(|at| line.get(at..)).map(ToOwned::to_owned);
        }
        let said = without_stamps(line);
        if said.starts_with(NEW_KERNEL) {
            self.standstill = None;
        } else if self.standstill.is_some() || said.starts_with(PANIC) {
            if let Some(seconds) = reset_after(said) {
                self.reset_after = seconds;
            }
            self.standstill = Instant::now().checked_add(STANDSTILL.saturating_add(self.reset_after));
        }
    }

    fn stands_still(&self) -> bool {
        !self.ended && self.standstill.is_some_and(|at| Instant::now() >= at)
    }
}

/// What the kernel says, without the time and the caller that it may put before it. What a program says keeps its name
/// in front, so that an old log shown on the console is no panic.
fn without_stamps(line: &str) -> &str {
    let mut said = line;
    while let Some((_, rest)) = said.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        said = rest.trim_start();
    }
    said
}

/// The time in `Rebooting in 10 seconds..` (`kernel/panic.c`).
fn reset_after(said: &str) -> Option<Duration> {
    let seconds = said.strip_prefix("Rebooting in ")?.split_once(' ')?.0.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Where a machine's serial output goes.
#[derive(Clone, Debug)]
pub struct ConsoleWriter {
    console: Arc<ConsoleLog>,
    generation: u64,
    log: Logger,
    machine: Arc<str>,
}

impl ConsoleWriter {
    /// For the start with this number, as [`ConsoleLog::begin`] gave it.
    pub(crate) fn new(console: Arc<ConsoleLog>, generation: u64, log: Logger, machine: Arc<str>) -> Self {
        Self { console, generation, log, machine }
    }

    /// The console takes nothing more: the machine has ended.
    pub(crate) fn end(&self) {
        self.console.end(self.generation, |text| self.line(text));
    }

    /// Notes a warning about the machine, such as one of its devices, in the log and not on its console.
    pub fn warn(&self, line: &str) {
        self.log.line(Level::Warning, Some(&self.machine), line);
    }

    fn line(&self, text: String) {
        self.log.console(Event::Console { machine: self.machine.clone(), text });
    }
}

impl io::Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console.write(self.generation, bytes, |text| self.line(text));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
