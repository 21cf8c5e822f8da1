//! The log on a terminal, in the style of the NixOS test driver.
//!
//! Blocks are indented. Every line names its machine, also the second line of a text, so that those of machines that work
//! at the same time can be told apart.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::console::clean;
use crate::event::{Event, Level, Record, Sink};
use crate::sinks::tail::Tail;

/// Lines of the log that a quiet terminal shows when the run fails.
const CONTEXT_LINES: usize = 200;

/// Console lines that it shows with them.
const CONTEXT_CONSOLE: usize = 60;

/// Bytes of either, at most: a command may be long.
const CONTEXT_BYTES: usize = 256 * 1024;

/// Deeper blocks are not indented further.
const DEEPEST: usize = 12;

const HEADER: &str = "\x1b[1;32m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";

/// How the log looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Events below it are left out; console lines count as [`Level::Info`].
    pub level: Level,
    /// Colours.
    pub colour: bool,
    /// Seconds since the run's beginning in front of every line.
    pub times: bool,
    /// Nothing at all, unless the run fails: then the last lines before that.
    pub quiet: bool,
}

impl Look {
    /// For the standard error: times on a terminal, and colours as the environment wants them.
    #[must_use]
    pub fn of_stderr(level: Level) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let colour = wants_colour(|name| std::env::var_os(name), is_terminal);
        Self { level, colour, times: is_terminal, quiet: false }
    }
}

/// `NO_COLOR` (no-color.org), then `CLICOLOR_FORCE` and `CLICOLOR` (bixense.com/clicolors), then the terminal.
fn wants_colour(variable: impl Fn(&str) -> Option<OsString>, is_terminal: bool) -> bool {
    let value = |name| variable(name).filter(|value| !value.is_empty());
    if value("NO_COLOR").is_some() {
        return false;
    }
    if value("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    let is_off = value("CLICOLOR").is_some_and(|value| value == "0");
    let is_dumb = value("TERM").is_some_and(|value| value == "dumb");
    is_terminal && !is_off && !is_dumb
}

/// Writes events as lines.
#[derive(Debug)]
pub struct Terminal<W> {
    output: W,
    look: Look,
    buffer: Vec<u8>,
    /// What a quiet one would show.
    context: Option<Context>,
}

/// Lines by the order in which they came.
#[derive(Debug)]
struct Context {
    count: u64,
    log: Tail<(u64, String)>,
    console: Tail<(u64, String)>,
    /// Where the newest subtest that failed began.
    failed_from: Option<u64>,
    /// Where those began that are under way.
    subtests: Vec<(u64, u64)>,
}

impl Terminal<io::Stderr> {
    /// On the standard error, as the environment wants it.
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        Self::new(io::stderr(), Look::of_stderr(level))
    }
}

impl<W: Write> Terminal<W> {
    /// On any output.
    #[must_use]
    pub fn new(output: W, look: Look) -> Self {
        let context = look.quiet.then(Context::new);
        Self { output, look, buffer: Vec::new(), context }
    }

    fn put(&mut self, record: &Record) {
        let is_shown = |level: Level| level >= self.look.level;
        match &record.event {
            Event::Begin(block) if is_shown(Level::Info) => {
                let line = Line::new(record, block.depth, block.machine.as_deref());
                self.lines(&line, HEADER, &block.title());
            }
            Event::End { block, took, failure } if is_shown(Level::Info) => {
                let line = Line::new(record, block.depth, block.machine.as_deref());
                let title = block.title();
                let mut parts = title.lines();
                let first = parts.next().unwrap_or_default();
                let more = if parts.next().is_some() { " ..." } else { "" };
                let style = if failure.is_some() { RED } else { "" };
                let seconds = took.as_secs_f64();
                self.lines(&line, style, &format!("(finished: {first}{more}, in {seconds:.2} seconds)"));
            }
            Event::Line { level, machine, block, text } if is_shown(*level) => {
                let depth = block.as_ref().map_or(0, |block| block.depth.saturating_add(1));
                let line = Line::new(record, depth, machine.as_deref());
                match level {
                    Level::Error => self.lines(&line, RED, &format!("!!! {text}")),
                    Level::Warning => self.lines(&line, YELLOW, &format!("??? {text}")),
                    Level::Info | Level::Debug => self.lines(&line, "", text),
                }
            }
            Event::Console { machine, text } if record.serial && is_shown(Level::Info) => {
                let styled = self.styled(DIM, &format!("{machine} # {text}"));
                let time = self.time(record.since);
                self.line(format!("{time}{styled}"), true);
            }
            _ => {}
        }
    }

    fn lines(&mut self, line: &Line<'_>, style: &str, text: &str) {
        let time = self.time(line.since);
        let indent = "  ".repeat(line.depth.min(DEEPEST));
        let name = line.machine.map_or_else(String::new, |name| format!("{name}: "));
        for (number, part) in text.split('\n').enumerate() {
            let more = if number == 0 { "" } else { "    " };
            // Guests and commands have a part in it.
            let styled = self.styled(style, &clean(part.as_bytes()));
            self.line(format!("{time}{indent}{name}{more}{styled}"), false);
        }
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.look.colour && !style.is_empty() { format!("{style}{text}\x1b[0m") } else { text.to_owned() }
    }

    fn time(&self, since: Duration) -> String {
        if !self.look.times {
            return String::new();
        }
        self.styled(DIM, &format!("[{:8.2}] ", since.as_secs_f64()))
    }

    fn line(&mut self, line: String, is_console: bool) {
        match &mut self.context {
            Some(context) => context.keep(line, is_console),
            None => {
                self.buffer.extend_from_slice(line.as_bytes());
                self.buffer.push(b'\n');
            }
        }
        if self.buffer.len() > 64 * 1024 {
            self.write();
        }
    }

    /// Shows what a quiet terminal has kept, and only troubles from now on: the machines' end is of no interest.
    fn speak(&mut self) {
        let Some(context) = self.context.take() else { return };
        for line in context.shown() {
            self.line(line, false);
        }
        self.look.level = Level::Warning;
    }

    fn write(&mut self) {
        // A log that cannot be written must not fail the test.
        let _ = self.output.write_all(&self.buffer).and_then(|()| self.output.flush());
        self.buffer.clear();
    }
}

impl<W: Write + Send> Sink for Terminal<W> {
    fn record(&mut self, record: &Record) {
        if let Some(context) = &mut self.context {
            context.follow(&record.event);
        }
        match &record.event {
            Event::ScriptEnd { error: Some(_) } => self.speak(),
            Event::RunEnd { status, .. } if *status != 0 => self.speak(),
            _ => self.put(record),
        }
    }

    fn flush(&mut self) {
        self.write();
    }

    fn may_stall(&self) -> bool {
        true
    }
}

/// What stands in front of a line.
struct Line<'a> {
    since: Duration,
    depth: usize,
    machine: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(record: &Record, depth: usize, machine: Option<&'a str>) -> Self {
        Self { since: record.since, depth, machine }
    }
}

impl Context {
    fn new() -> Self {
        Self {
            count: 0,
            log: Tail::new(CONTEXT_LINES, CONTEXT_BYTES),
            console: Tail::new(CONTEXT_CONSOLE, CONTEXT_BYTES),
            failed_from: None,
            subtests: Vec::new(),
        }
    }

    fn keep(&mut self, line: String, is_console: bool) {
        let kept = if is_console { &mut self.console } else { &mut self.log };
        let size = line.len();
        kept.push((self.count, line), size);
        self.count = self.count.saturating_add(1);
    }

    fn follow(&mut self, event: &Event) {
        match event {
            Event::Begin(block) if block.subtest => self.subtests.push((block.id, self.count)),
            Event::End { block, failure, .. } if block.subtest => {
                let began = self.subtests.iter().position(|(id, _)| *id == block.id);
                let began = began.map(|at| self.subtests.remove(at).1);
                if failure.is_some() {
                    // The innermost of nested ones ends first and tells most.
                    self.failed_from = self.failed_from.filter(|from| Some(*from) >= began).or(began);
                }
            }
            _ => {}
        }
    }

    /// From the failed subtest's beginning on, or what is kept.
    fn shown(self) -> Vec<String> {
        let from = self.failed_from.unwrap_or_default();
        let has_all = self.log.cut() == 0 || self.log.iter().next().is_some_and(|(at, _)| *at <= from);
        let mut lines: Vec<&(u64, String)> =
            self.log.iter().chain(self.console.iter()).filter(|(at, _)| *at >= from).collect();
        lines.sort_by_key(|(at, _)| *at);
        let mut shown = Vec::new();
        if !has_all {
            shown.push(format!("[the last {} lines of the log, with the last of the consoles]", lines.len()));
        }
        shown.extend(lines.into_iter().map(|(_, line)| line.clone()));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::tests::{Story, block};

    fn shown(look: Look, story: &Story) -> String {
        let mut output = Vec::new();
        let mut terminal = Terminal::new(&mut output, look);
        story.records.iter().for_each(|record| terminal.record(record));
        terminal.flush();
        String::from_utf8(output).unwrap()
    }

    fn plain(level: Level) -> Look {
        Look { level, colour: false, times: false, quiet: false }
    }

    fn story() -> Story {
        let mut story = Story::default();
        let outer = block(1, None, true, None, "one");
        let inner = block(2, Some(&outer), false, Some("server"), "must succeed: a\nb");
        story.add(Event::Begin(outer.clone()));
        story.add(Event::Begin(inner.clone()));
        story.console("server", "[    0.0] Linux");
        story.line(Level::Warning, Some(&inner), "odd\u{1b}[31m");
        story.end(&inner, Some("no"));
        story.end(&outer, Some("no"));
        story.line(Level::Error, None, "bad");
        story
    }

    #[test]
    fn looks_like_the_reference_with_blocks_indented_and_machines_named() {
        assert_eq!(
            shown(plain(Level::Info), &story()),
            "subtest: one\n  server: must succeed: a\n  server:     b\nserver # [    0.0] Linux\n    ??? odd\n  \
             server: (finished: must succeed: a ..., in 1.23 seconds)\n(finished: subtest: one, in 1.23 seconds)\n\
             !!! bad\n"
        );
    }

    #[test]
    fn colours_and_times_are_added_where_they_are_wanted() {
        let look = Look { colour: true, times: true, ..plain(Level::Info) };
        let shown = shown(look, &story());
        assert!(
            shown.contains("\x1b[2m[    0.02] \x1b[0m\x1b[2mserver # [    0.0] Linux\x1b[0m\n"),
            "{shown}"
        );
        assert!(shown.contains("\x1b[0m  server: \x1b[1;32mmust succeed: a\x1b[0m\n"), "{shown}");
        assert!(shown.contains("\x1b[1;31m!!! bad\x1b[0m\n") && shown.contains("\x1b[1;33m??? odd\x1b[0m"));
    }

    #[test]
    fn serial_and_level_hide_lines() {
        assert_eq!(shown(plain(Level::Warning), &story()), "    ??? odd\n!!! bad\n");
        let mut story = story();
        story.records.iter_mut().for_each(|record| record.serial = false);
        assert!(!shown(plain(Level::Info), &story).contains("Linux"));
    }

    #[test]
    fn a_quiet_one_says_nothing_unless_the_run_fails() {
        let quiet = Look { quiet: true, ..plain(Level::Info) };
        let mut story = Story::default();
        let early = block(7, None, true, None, "early");
        story.add(Event::Begin(early.clone()));
        story.end(&early, None);
        story.records.append(&mut self::story().records);
        story.add(Event::ScriptEnd { error: None });
        story.add(Event::RunEnd { status: 0, error: None });
        assert_eq!(shown(quiet, &story), "");

        story.records.truncate(9);
        story.fail("why");
        story.line(Level::Info, None, "cleanup");
        let text = shown(quiet, &story);
        assert!(text.starts_with("subtest: one\n") && text.ends_with("!!! bad\n"), "{text}");
        assert!(text.contains("server # [    0.0] Linux\n"), "{text}");
    }

    #[test]
    fn a_quiet_one_keeps_no_more_than_the_last_lines() {
        let quiet = Look { quiet: true, ..plain(Level::Info) };
        let mut story = Story::default();
        for number in 0..CONTEXT_LINES * 3 {
            story.line(Level::Info, None, &format!("line {number}"));
            story.console("m", "x");
        }
        story.fail("why");
        let text = shown(quiet, &story);
        assert!(text.starts_with("[the last 260 lines of the log"), "{text}");
        assert!(text.contains("line 599\n") && !text.contains("line 399\n"), "{text}");
    }

    #[test]
    fn the_environment_decides_on_colours() {
        let decide = |set: &[(&str, &str)], is_terminal| {
            let variable = |name: &str| set.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into());
            wants_colour(variable, is_terminal)
        };
        assert!(decide(&[], true) && !decide(&[], false));
        assert!(decide(&[("NO_COLOR", "")], true) && !decide(&[("NO_COLOR", "1")], true));
        assert!(decide(&[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], false));
        assert!(!decide(&[("CLICOLOR_FORCE", "0")], false));
        assert!(!decide(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], true));
        assert!(!decide(&[("TERM", "dumb")], true) && !decide(&[("CLICOLOR", "0")], true));
    }
}
