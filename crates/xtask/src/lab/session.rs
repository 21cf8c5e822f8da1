//! One run on the emulated host, seen from the machine: output out, input in, and how it ended.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::emulator::Emulator;
use super::frame::{Frame, PAYLOAD_MAX};

/// The emulated host is up after some 6 s; a machine that is busy with much else may take several times that.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a command may take to end once it was told that its time is up.
const GRACE: Duration = Duration::from_secs(3);
/// timeout(1) has this status for "its time was up".
const TIMED_OUT: u8 = 124;
/// What a shell reports of a program that wrote to a closed pipe.
const CLOSED_PIPE: u8 = 128 + 13;
/// The console's last bytes that are kept for an error report.
const CONSOLE_KEPT: usize = 1 << 20;

enum Event {
    Started,
    Exit(u8),
    Failed(String),
    /// Nobody reads the command's output any more.
    OutputClosed,
    /// QEMU is gone, or the port carries something else.
    Lost(io::Error),
}

/// The last of what the emulated host's console and QEMU itself said.
#[derive(Clone, Default)]
pub(crate) struct Console(Arc<Mutex<VecDeque<u8>>>);

impl Console {
    /// What was said so far.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn follow(&self, mut from: UnixStream) {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(buffer.iter().take(count));
            let surplus = kept.len().saturating_sub(CONSOLE_KEPT);
            kept.drain(..surplus);
        }
    }
}

/// Wait for the command's end and return its exit status; what the console says goes to `console`.
///
/// # Errors
/// The emulated host did not come up, or ended before the command did.
pub(crate) fn run(emulator: &Emulator, time_limit: Option<Duration>, console: &Console) -> Result<u8> {
    let (events, event) = sync_channel(1);
    let (port, log, logged) = (emulator.port.try_clone()?, emulator.console.try_clone()?, console.clone());
    thread::spawn(move || logged.follow(log));
    thread::spawn(move || carry_output(port, &events));

    let progress = progress();
    let boot = next(&event, Some(Instant::now() + BOOT_LIMIT));
    progress.finish_and_clear();
    match boot {
        Some(Event::Started) => {}
        Some(other) => return ending(other),
        None => bail!("The emulated host is not up after {} s", BOOT_LIMIT.as_secs()),
    }
    let input = emulator.port.try_clone()?;
    thread::spawn(move || carry_input(input));
    if let Some(end) = next(&event, time_limit.map(|limit| Instant::now() + limit)) {
        return ending(end);
    }
    terminate(&emulator.port)?;
    // However it ends now, its time was up.
    next(&event, Some(Instant::now() + GRACE));
    Ok(TIMED_OUT)
}

fn next(event: &Receiver<Event>, deadline: Option<Instant>) -> Option<Event> {
    let lost = || Event::Lost(io::ErrorKind::UnexpectedEof.into());
    match deadline {
        None => Some(event.recv().unwrap_or_else(|_| lost())),
        Some(deadline) => match event.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(lost()),
        },
    }
}

fn ending(event: Event) -> Result<u8> {
    match event {
        Event::Exit(status) => Ok(status),
        Event::OutputClosed => Ok(CLOSED_PIPE),
        Event::Failed(reason) => Err(anyhow!(reason)),
        Event::Started => Err(anyhow!("The emulated host started twice")),
        Event::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(anyhow!("The emulated host ended before the command did"))
        }
        Event::Lost(error) => Err(anyhow!(error).context("The emulated host's port carries something else")),
    }
}

/// The command's input may wait in the same stream, unread: so this may not arrive, and must not wait either.
fn terminate(port: &UnixStream) -> Result<()> {
    let port = port.try_clone()?;
    thread::spawn(move || Frame::Terminate.write(port));
    Ok(())
}

fn carry_output(port: UnixStream, events: &SyncSender<Event>) {
    let mut port = BufReader::with_capacity(PAYLOAD_MAX, port);
    loop {
        let written = match Frame::read(&mut port) {
            Ok(Frame::Output(bytes)) => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            Ok(Frame::Error(bytes)) => io::stderr().write_all(&bytes),
            Ok(Frame::Started) => events.send(Event::Started).map_err(io::Error::other),
            Ok(Frame::Exit(status)) => return drop(events.send(Event::Exit(status))),
            Ok(Frame::Failed(reason)) => return drop(events.send(Event::Failed(reason))),
            Ok(other) => return drop(events.send(Event::Lost(io::Error::other(format!("{other:?}"))))),
            Err(error) => return drop(events.send(Event::Lost(error))),
        };
        if written.is_err() {
            return drop(events.send(Event::OutputClosed));
        }
    }
}

/// Ends with the input, or when the port is gone.
fn carry_input(mut port: UnixStream) {
    let mut buffer = vec![0; PAYLOAD_MAX];
    loop {
        // A failing standard input, such as a closed one, is an empty one.
        let count = io::stdin().read(&mut buffer).unwrap_or(0);
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        if Frame::Input(bytes).write(&mut port).is_err() || count == 0 {
            return;
        }
    }
}

/// A line on standard error where that is a terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("lab: starting the emulated host ... {elapsed}") {
        line.set_style(style);
    }
    line.enable_steady_tick(Duration::from_secs(1));
    line
}
