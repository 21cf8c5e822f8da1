//! The standard input on its way to the guest.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use snowboot_vmm::Machine;

use super::Event;
use super::escape::{Command, Escape, HELP, Key};
use crate::say;

/// How often a full queue is tried again; it holds a megabyte, so this is about input from files.
const FULL: Duration = Duration::from_millis(20);

/// Starts to read: a terminal's keys with their commands, or a pipe's bytes as they are.
///
/// The thread is never joined: nothing ends a read of the standard input but input.
pub(super) fn start(machine: &Arc<Machine>, is_terminal: bool, events: Sender<Event>) -> Result<()> {
    let background = !is_terminal && rustix::termios::isatty(io::stdin());
    if background {
        // Reading would stop this program (SIGTTIN).
        tracing::info!("the keyboard is another program's: the guest gets no input");
        return Ok(());
    }
    if is_terminal {
        say::line("snowboot: Ctrl-a x stops the machine, Ctrl-a h lists all commands");
    }
    let machine = Arc::clone(machine);
    let body = move || match is_terminal {
        true => keyboard(&machine, &events),
        false => pipe(&machine),
    };
    thread::Builder::new().name("input".to_owned()).spawn(body).context("Cannot start the input's thread")?;
    Ok(())
}

fn keyboard(machine: &Machine, events: &Sender<Event>) {
    let mut escape = Escape::default();
    let mut buffer = [0; 4096];
    loop {
        let typed = read(&mut buffer);
        if typed.is_empty() {
            return;
        }
        let mut text = Vec::new();
        for byte in typed {
            match escape.feed(*byte) {
                Key::Send(byte) => text.push(byte),
                Key::Nothing => {}
                Key::Do(command) => {
                    type_in(machine, &std::mem::take(&mut text));
                    obey(command, machine, events);
                }
            }
        }
        type_in(machine, &text);
    }
}

/// A guest that does not read for a megabyte loses what is typed, as on a real line: waiting would hold up the commands.
fn type_in(machine: &Machine, text: &[u8]) {
    let lost = text.len().saturating_sub(machine.serial_input(text));
    if lost > 0 {
        tracing::warn!(bytes = lost, "the guest does not read its serial port; what you typed is lost");
    }
}

fn obey(command: Command, machine: &Machine, events: &Sender<Event>) {
    match command {
        Command::Quit => {
            let _ = events.send(Event::Quit);
        }
        Command::PowerButton => machine.press_power_button(),
        Command::Help => say::line(HELP),
    }
}

fn pipe(machine: &Machine) {
    let mut buffer = [0; 4096];
    loop {
        let mut rest = read(&mut buffer);
        if rest.is_empty() {
            return;
        }
        while !rest.is_empty() {
            let taken = machine.serial_input(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if taken == 0 {
                if machine.outcome().is_some() {
                    return;
                }
                thread::sleep(FULL);
            }
        }
    }
}

/// The next bytes; none at the end of the input, which is where an error ends it too.
fn read(buffer: &mut [u8]) -> &[u8] {
    let mut stdin = io::stdin().lock();
    loop {
        match stdin.read(buffer) {
            Ok(length) => return buffer.get(..length).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], None);
            }
            Err(error) => {
                tracing::warn!("the guest gets no more input: {error}");
                return &[];
            }
        }
    }
}
