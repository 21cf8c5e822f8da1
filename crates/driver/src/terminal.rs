//! The log on a terminal, in the style of the NixOS test driver.

use std::io::{self, IsTerminal, Write};

use crate::log::{Event, Level, Sink};

/// Writes events as lines; coloured when told so.
#[derive(Debug)]
pub struct Terminal<W> {
    output: W,
    colour: bool,
    level: Level,
    buffer: Vec<u8>,
}

impl Terminal<io::Stderr> {
    /// On standard error: coloured when that is a terminal and `NO_COLOR` is unset or empty (no-color.org).
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::new(io::stderr(), io::stderr().is_terminal() && !plain, level)
    }
}

impl<W: Write> Terminal<W> {
    /// On any output; events below the level are left out.
    #[must_use]
    pub fn new(output: W, colour: bool, level: Level) -> Self {
        Self { output, colour, level, buffer: Vec::new() }
    }

    fn styled(&mut self, style: &str, prefix: &str, text: &str) {
        let (on, off) = if self.colour && !style.is_empty() { (style, "\x1b[0m") } else { ("", "") };
        // Writing to a Vec cannot fail.
        let _ = writeln!(self.buffer, "{prefix}{on}{text}{off}");
    }

    fn line(&mut self, level: Level, machine: Option<&str>, text: &str) {
        let name = machine.map_or_else(String::new, |name| format!("{name}: "));
        match level {
            Level::Error => self.styled("\x1b[1;31m", &name, &format!("!!! {text}")),
            Level::Warning => self.styled("\x1b[1;33m", &name, &format!("??? {text}")),
            Level::Info | Level::Debug => self.styled("", &name, text),
        }
    }
}

impl<W: Write + Send> Sink for Terminal<W> {
    fn event(&mut self, event: &Event, serial: bool) {
        match event {
            Event::Begin { machine, text, .. } if self.level <= Level::Info => {
                let name = machine.as_ref().map_or_else(String::new, |name| format!("{name}: "));
                self.styled("\x1b[1;32m", &name, text);
            }
            Event::End { text, took, .. } if self.level <= Level::Info => {
                let seconds = took.as_secs_f64();
                self.styled("", "", &format!("(finished: {text}, in {seconds:.2} seconds)"));
            }
            Event::Line { level, machine, text } if *level >= self.level => {
                self.line(*level, machine.as_deref(), text);
            }
            Event::Console { machine, text } if serial => {
                self.styled("\x1b[2m", "", &format!("{machine} # {text}"));
            }
            _ => {}
        }
        if self.buffer.len() > 64 * 1024 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // A log that cannot be written must not fail the test.
        let _ = self.output.write_all(&self.buffer).and_then(|()| self.output.flush());
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn shown(colour: bool, serial: bool, level: Level) -> String {
        let mut output = Vec::new();
        let mut terminal = Terminal::new(&mut output, colour, level);
        let events = [
            Event::Begin {
                id: 1,
                parent: None,
                subtest: false,
                machine: Some("server".into()),
                text: "must succeed: true".into(),
                at: SystemTime::UNIX_EPOCH,
            },
            Event::Console { machine: "server".into(), text: "[    0.0] Linux".into() },
            Event::End {
                id: 1,
                text: "must succeed: true".into(),
                took: Duration::from_millis(1234),
                failure: None,
            },
            Event::Line { level: Level::Error, machine: None, text: "bad".into() },
        ];
        events.iter().for_each(|event| terminal.event(event, serial));
        terminal.flush();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn looks_like_the_reference() {
        assert_eq!(
            shown(false, true, Level::Info),
            "server: must succeed: true\nserver # [    0.0] Linux\n\
             (finished: must succeed: true, in 1.23 seconds)\n!!! bad\n"
        );
        assert!(shown(true, true, Level::Info).contains("\x1b[2mserver # [    0.0] Linux\x1b[0m\n"));
    }

    #[test]
    fn serial_and_level_hide_lines() {
        assert_eq!(shown(false, false, Level::Warning), "!!! bad\n");
    }
}
