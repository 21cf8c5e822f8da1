//! What a guest shows: its virtual terminals, and its windows.
//!
//! All of it is asked for in the guest: `/dev/vcsN` is the text on virtual terminal N (`vcs(4)`), and the X server tells of
//! its windows. The text is there whatever the machine's display is, or without any.

use std::ops::ControlFlow;
use std::time::Duration;

use regex::Regex;

use crate::error::Error;
use crate::machine::{Execute, MachineHandle};
use crate::shell::quote;

/// How the guest says that it has no such terminal, or cannot tell of it.
const NO_TERMINAL: i32 = 113;

/// Bytes of a terminal or of window names that the error of a wait shows, at most, from the end.
const SHOWN: usize = 4 * 1024;

impl MachineHandle {
    /// The text on a virtual terminal, in lines as wide as it is. `tty` is its number.
    ///
    /// # Errors
    /// When the guest has no such terminal, or the machine is in trouble.
    pub fn get_tty_text(&self, tty: &str) -> Result<String, Error> {
        self.terminal(tty, &format!("fold -b -w \"$(width)\" {}", vcs(tty)))
    }

    /// Waits until the text on a virtual terminal matches a regular expression.
    ///
    /// # Errors
    /// When the expression is wrong, the guest has no such terminal, the time is up, or the machine is in trouble.
    pub fn wait_until_tty_matches(&self, tty: &str, pattern: &str, timeout: Duration) -> Result<(), Error> {
        let regex = expression(pattern)?;
        self.wait_until_tty(pattern, tty, timeout, |text| regex.is_match(text))
    }

    /// The same with any test of the text instead of a regular expression; `what` names it in errors.
    ///
    /// # Errors
    /// When the guest has no such terminal, the time is up, or the machine is in trouble.
    pub fn wait_until_tty(
        &self,
        what: &str,
        tty: &str,
        timeout: Duration,
        mut found: impl FnMut(&str) -> bool,
    ) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for {what} to appear on tty {tty}"));
        let looked = self.watch(timeout, |_| {
            let text = self.get_tty_text(tty)?;
            Ok(if found(&text) { ControlFlow::Break(()) } else { ControlFlow::Continue(text) })
        })?;
        looked.map_err(|missed| {
            let message = format!("`{what}` did not appear on tty {tty} {}", missed.within(""));
            self.check_failed_showing(&message, without_blanks(&missed.last))
        })
    }

    /// Writes the text on a virtual terminal into the guest's journal, which test guests show on the console.
    ///
    /// # Errors
    /// When the guest has no such terminal, or the machine is in trouble.
    pub fn dump_tty_contents(&self, tty: &str) -> Result<(), Error> {
        let command = format!("fold -b -w 80 {} | systemd-cat -t {}", vcs(tty), quote(&format!("tty{tty}")));
        self.terminal(tty, &command).map(drop)
    }

    /// Waits for the X server: a graphical session has begun, and the socket of display 0 is there.
    ///
    /// # Errors
    /// When the time is up, or the machine is in trouble.
    pub fn wait_for_x(&self, timeout: Duration) -> Result<(), Error> {
        let _block = self.nested("waiting for the X11 server");
        let command = "test -e /tmp/.X11-unix/X0 || { echo 'there is no /tmp/.X11-unix/X0'; exit 1; }; \
                       journalctl -b SYSLOG_IDENTIFIER=systemd --no-pager -o cat | \
                       grep -qE 'Reached target (Current graphical|graphical-session.target)' || { echo 'the socket is \
                       there, and the journal has no \"Reached target Current graphical\"'; exit 1; }";
        let looked = self.watch(timeout, |_| {
            let reply = self.execute(command, Execute::default())?;
            Ok(if reply.status == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(reply.output) })
        })?;
        looked.map_err(|missed| {
            let message = format!("the X11 server did not come up {}", missed.within(""));
            self.check_failed_showing(&message, missed.last)
        })
    }

    /// The names of the windows on display 0.
    ///
    /// # Errors
    /// When the X server cannot be asked: the guest needs `xwininfo` and a `DISPLAY`.
    pub fn get_window_names(&self) -> Result<Vec<String>, Error> {
        let tree = self.succeed(&["xwininfo -root -tree"], None)?;
        Ok(tree.lines().filter_map(window_name).map(ToOwned::to_owned).collect())
    }

    /// Waits until the name of a window matches a regular expression.
    ///
    /// # Errors
    /// When the expression is wrong, the X server cannot be asked, the time is up, or the machine is in trouble.
    pub fn wait_for_window(&self, pattern: &str, timeout: Duration) -> Result<(), Error> {
        let regex = expression(pattern)?;
        self.wait_for_window_that(pattern, timeout, |name| regex.is_match(name))
    }

    /// The same with any test of a name instead of a regular expression; `what` names it in errors.
    ///
    /// # Errors
    /// When the X server cannot be asked, the time is up, or the machine is in trouble.
    pub fn wait_for_window_that(
        &self,
        what: &str,
        timeout: Duration,
        mut found: impl FnMut(&str) -> bool,
    ) -> Result<(), Error> {
        let _block = self.nested(&format!("waiting for a window named {what}"));
        let looked = self.watch(timeout, |_| {
            let names = self.get_window_names()?;
            let is_there = names.iter().any(|name| found(name));
            Ok(if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(names) })
        })?;
        looked.map_err(|missed| {
            let message = format!("no window named `{what}` appeared {}", missed.within(""));
            self.check_failed_showing(&message, without_blanks(&missed.last.join("\n")))
        })
    }

    /// Runs a command about a virtual terminal.
    fn terminal(&self, tty: &str, command: &str) -> Result<String, Error> {
        let device = vcs(tty);
        let terminal = quote(&format!("/dev/tty{tty}"));
        let whole = format!(
            "[ -r {device} ] || exit {NO_TERMINAL}; width() {{ local size; size=$(stty -F {terminal} size); echo \
             ${{size#* }}; }}; {command}"
        );
        let reply = self.execute(&whole, Execute::default())?;
        match reply.status {
            0 => Ok(reply.output),
            NO_TERMINAL => {
                let message = format!(
                    "the guest has no text of virtual terminal `{tty}`: there is no {device}; its kernel needs CONFIG_VT, \
                     and the terminal must be in use"
                );
                Err(self.check_failed(&message, None, None))
            }
            status => {
                let message = format!("virtual terminal {tty} cannot be read (exit code {status})");
                Err(self.check_failed(&message, Some(command), Some(reply)))
            }
        }
    }
}

fn vcs(tty: &str) -> String {
    quote(&format!("/dev/vcs{tty}"))
}

fn expression(pattern: &str) -> Result<Regex, Error> {
    Regex::new(pattern)
        .map_err(|error| Error::setup(format!("`{pattern}` is not a regular expression: {error}")))
}

/// The end of a text, without blanks at the ends of lines and without empty lines.
fn without_blanks(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let text = lines.join("\n");
    let start = text.ceil_char_boundary(text.len().saturating_sub(SHOWN));
    text.get(start..).unwrap_or_default().to_owned()
}

/// The name in a line of `xwininfo -tree`: `0x1400003 "A name": ("class" "Class") 80x24+0+0`. Windows without a name have
/// none between quotes there.
fn window_name(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("0x")?;
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()).strip_prefix(" \"")?;
    let end = rest.find("\": (").or_else(|| rest.rfind('"'))?;
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_with_a_name_are_found_in_the_tree() {
        let tree = "\nxwininfo: Window id: 0x50d (the root window) (has no name)\n\n  Root window id: 0x50d (the root window) \
                    (has no name)\n     2 children:\n     0x1400003 \"say \"hi\" 0x2\": (\"xterm\" \"XTerm\")  484x316+0+0\n     \
                    0x1200001 (has no name): ()  10x10+0+0\n     0x600001 \"i3\": ()  1x1+-1+-1";
        let names: Vec<&str> = tree.lines().filter_map(window_name).collect();
        assert_eq!(names, ["say \"hi\" 0x2", "i3"]);
    }

    #[test]
    fn a_shown_terminal_has_no_blanks_and_an_end() {
        assert_eq!(without_blanks("login:   \n     \n\nPassword:\n"), "login:\nPassword:");
        assert_eq!(without_blanks(&"x".repeat(SHOWN * 2)).len(), SHOWN);
    }
}
