//! What a machine's guest writes to its serial console, kept as lines.
//!
//! One per machine, cleared at every start. Written by a vCPU thread through [`ConsoleWriter`], which must be quick: it
//! splits lines, stores them and hands them to the logger's queue, and never waits for a terminal.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::control::{Control, TICK, lock};
use crate::error::Error;
use crate::log::{Event, Logger};

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

/// Bytes of lines waiting in the queue, at most: [`QUEUE_CAP`] alone would allow lines of [`LINE_CAP`] each.
const QUEUE_BYTES: usize = 16 << 20;

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
    /// The machine has ended: nothing more comes.
    ended: bool,
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

    /// Waits until a line is queued. False when the deadline or the machine's end comes first.
    pub(crate) fn wait_queued(&self, control: &Control, deadline: Option<Instant>) -> Result<bool, Error> {
        loop {
            control.check()?;
            let state = lock(&self.state);
            if !state.queue.is_empty() {
                return Ok(true);
            }
            let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if state.ended || left.is_zero() {
                return Ok(false);
            }
            drop(self.changed.wait_timeout(state, left.min(TICK)).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Forgets everything: the machine is started (again).
    pub(crate) fn clear(&self) {
        *lock(&self.state) = State::default();
    }

    pub(crate) fn set_ended(&self, ended: bool) {
        lock(&self.state).ended = ended;
        self.changed.notify_all();
    }

    fn write(&self, bytes: &[u8], mut each: impl FnMut(String)) {
        let mut state = lock(&self.state);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ends) = match piece.split_last() {
                Some((b'\n', rest)) => (rest, true),
                _ => (piece, false),
            };
            state.partial.extend_from_slice(piece);
            while state.partial.len() > LINE_CAP {
                let rest = state.partial.split_off(LINE_CAP);
                let line = std::mem::replace(&mut state.partial, rest);
                each(state.push(clean(&line)));
            }
            if ends {
                let line = std::mem::take(&mut state.partial);
                each(state.push(clean(&line)));
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl State {
    fn push(&mut self, line: String) -> String {
        self.first_line.get_or_insert_with(Instant::now);
        if self.panic.is_none() {
            self.panic = line.find(PANIC).and_then(|at| line.get(at..)).map(ToOwned::to_owned);
        }
        if self.cut_lines == 0 && self.text.len() + line.len() < LOG_CAP {
            if !self.text.is_empty() {
                self.text.push('\n');
            }
            self.text.push_str(&line);
        } else {
            self.cut_lines = self.cut_lines.saturating_add(1);
        }
        self.queue_bytes += line.len();
        self.queue.push_back(line.clone());
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
}

/// A console line without carriage returns, terminal escape sequences and control characters, so that a guest cannot
/// steer the terminal that it is shown on.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut cleaned = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => cleaned.push('\t'),
            c if c.is_control() => {}
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// Skips what follows an ESC: a CSI sequence (`[` ... final byte), an OSC or DCS string up to its terminator, or one
/// character (ECMA-48, 5.3 to 5.6).
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            while chars.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
            chars.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
        }
        Some(']' | 'P' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        Some('(' | ')' | '#' | ' ') => {
            chars.next();
            chars.next();
        }
        Some(c) if !c.is_control() => {
            chars.next();
        }
        _ => {}
    }
}

/// Where a machine's serial output goes.
#[derive(Debug)]
pub struct ConsoleWriter {
    console: Arc<ConsoleLog>,
    log: Logger,
    machine: Arc<str>,
}

impl ConsoleWriter {
    pub(crate) fn new(console: Arc<ConsoleLog>, log: Logger, machine: Arc<str>) -> Self {
        Self { console, log, machine }
    }
}

impl io::Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.console
            .write(bytes, |text| self.log.console(Event::Console { machine: self.machine.clone(), text }));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&str]) -> ConsoleLog {
        let console = ConsoleLog::default();
        for piece in pieces {
            console.write(piece.as_bytes(), |_| {});
        }
        console
    }

    #[test]
    fn lines_are_joined_across_writes_and_cleaned() {
        let console = written(&["a\r\nb", "c\n\u{1b}[1;32mgreen\u{1b}[0m\u{7}\n", "par"]);
        assert_eq!(console.text(), "a\nbc\ngreen");
        assert_eq!(console.tail(), ["a", "bc", "green", "par"]);
    }

    #[test]
    fn the_kernels_last_words_are_kept() {
        let console = written(&[
            "a\n[ 2.0] Kernel panic - not syncing: boom\n",
            "[ 3.0] ---[ end Kernel panic - not syncing: x\n",
        ]);
        assert_eq!(console.panic().as_deref(), Some("Kernel panic - not syncing: boom"));
    }

    #[test]
    fn escape_sequences_cannot_reach_a_terminal() {
        for (raw, cleaned) in [
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]0;title\u{1b}\\x", "x"),
            ("\u{1b}(Bx", "x"),
            ("\u{1b}cx", "x"),
            ("x\u{1b}", "x"),
            ("x\u{1b}[", "x"),
            ("\u{9b}31mx", "31mx"),
        ] {
            assert_eq!(clean(raw.as_bytes()), cleaned, "{raw:?}");
        }
        assert_eq!(clean(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
    }

    #[test]
    fn a_line_without_end_is_broken_up() {
        let console = ConsoleLog::default();
        console.write(&vec![b'x'; 5 * LINE_CAP], |_| {});
        assert_eq!(console.text().lines().count(), 4);
        assert!(lock(&console.state).partial.len() <= LINE_CAP);
    }

    #[test]
    fn unasked_lines_and_text_are_bounded() {
        let console = ConsoleLog::default();
        let chunk = "0123456789abcde\n".repeat(1 << 16);
        for _ in 0..80 {
            console.write(chunk.as_bytes(), |_| {});
        }
        assert!(console.text().contains("more lines were not kept"));
        assert!(console.text().len() < LOG_CAP + 200);
        assert!(console.take_queued().len() <= QUEUE_CAP);
    }

    #[test]
    fn lines_given_back_come_again_in_order() {
        let console = written(&["a\nb\nc\n"]);
        let lines = console.take_queued();
        console.give_back(lines.into_iter().skip(1));
        console.write(b"d\n", |_| {});
        assert_eq!(console.take_queued(), ["b", "c", "d"]);
    }
}
