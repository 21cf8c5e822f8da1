//! The standard input on its way to the guest.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender, TrySendError};
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

/// How many reads of the keyboard may wait for a serial port that takes nothing at all.
const TYPED: usize = 64;

/// What is typed at.
pub(crate) trait TypedAt: Send + Sync {
    /// Types at its first serial port; how many bytes were taken.
    fn serial_input(&self, bytes: &[u8]) -> usize;
    /// Presses its power button.
    fn press_power_button(&self);
    /// Whether it takes no more, ever.
    fn has_ended(&self) -> bool;
}

impl TypedAt for Machine {
    fn serial_input(&self, bytes: &[u8]) -> usize {
        Self::serial_input(self, bytes)
    }

    fn press_power_button(&self) {
        Self::press_power_button(self);
    }

    fn has_ended(&self) -> bool {
        self.outcome().is_some()
    }
}

/// Starts to read: a terminal's keys with their commands, or a pipe's bytes as they are.
///
/// The thread is never joined: nothing ends a read of the standard input but input.
pub(crate) fn start(machine: &Arc<dyn TypedAt>, is_terminal: bool, events: Sender<Event>) -> Result<()> {
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
    if is_terminal {
        let port = Arc::clone(&machine);
        let typist = Typist::new(move |text| port.serial_input(text))?;
        return spawn("input", move || keyboard(&*machine, &typist, &events));
    }
    spawn("input", move || pipe(&*machine))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body).context("Cannot start the input's thread")?;
    Ok(())
}

fn keyboard(machine: &dyn TypedAt, typist: &Typist, events: &Sender<Event>) {
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
                    typist.type_in(std::mem::take(&mut text));
                    obey(command, machine, events);
                }
            }
        }
        typist.type_in(text);
    }
}

/// Types at the serial port on a thread of its own. The port cannot be typed at while the guest waits to write there,
/// which it does when nobody reads its output; the commands have to be obeyed all the same, to stop it above all.
struct Typist(SyncSender<Vec<u8>>);

impl Typist {
    /// `port` takes bytes and tells how many it took.
    fn new(port: impl Fn(&[u8]) -> usize + Send + 'static) -> Result<Self> {
        let (sender, texts) = mpsc::sync_channel::<Vec<u8>>(TYPED);
        spawn("typist", move || {
            for text in texts {
                lose(text.len().saturating_sub(port(&text)));
            }
        })?;
        Ok(Self(sender))
    }

    /// Never waits: a guest that does not read for long loses what is typed, as on a real line.
    fn type_in(&self, text: Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(text)) = self.0.try_send(text) {
            lose(text.len());
        }
    }
}

fn lose(bytes: usize) {
    if bytes > 0 {
        tracing::warn!(bytes, "the guest does not read its serial port; what you typed is lost");
    }
}

fn obey(command: Command, machine: &dyn TypedAt, events: &Sender<Event>) {
    match command {
        Command::Quit => {
            let _ = events.send(Event::Quit);
        }
        Command::PowerButton => machine.press_power_button(),
        Command::Help => say::line(HELP),
    }
}

fn pipe(machine: &dyn TypedAt) {
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
                if machine.has_ended() {
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[test]
    fn typing_never_waits_for_the_port_and_keeps_its_order() {
        let (taken, arrived) = mpsc::channel();
        let busy = Arc::new(Mutex::new(()));
        let lock = Arc::clone(&busy);
        let typist = Typist::new(move |text| {
            let _port = lock.lock().unwrap_or_else(PoisonError::into_inner);
            taken.send(text.to_vec()).unwrap();
            text.len()
        })
        .unwrap();
        let held = busy.lock().unwrap();
        typist.type_in(Vec::new());
        // More than may wait: the rest is lost, and none of it holds this thread up.
        for number in 0..=255 {
            typist.type_in(vec![number]);
        }
        drop(held);
        drop(typist);
        let arrived: Vec<u8> = arrived.into_iter().flatten().collect();
        assert!(arrived.len() >= TYPED && arrived.len() <= TYPED + 1, "{}", arrived.len());
        assert!(arrived.is_sorted() && arrived.starts_with(&[0, 1]), "{arrived:?}");
    }
}
