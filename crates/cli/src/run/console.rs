//! The guest's output on its way to the standard output.
//!
//! A vCPU hands over one byte at a time and must not wait for a terminal; a thread of its own writes what has gathered: a
//! line at a time, for a wake-up and a write of each byte would cost more than the guest's part in it.
//! When the reader is slower than the guest for long, the guest waits: a console that is kept in a file or read by a
//! program must be whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::Event;

/// Bytes that wait for the reader: a whole boot's messages.
const CAPACITY: usize = 1 << 20;

/// How long the beginning of a line waits for its end: longer than a guest takes to write a line, and nothing to someone
/// who reads a prompt or the echo of a key.
const REST_OF_LINE: Duration = Duration::from_millis(2);

/// The way from the guest to a writer.
#[derive(Debug)]
pub(crate) struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Nothing is taken any more.
    closed: bool,
    /// The last byte that was taken.
    last: Option<u8>,
}

impl State {
    /// Whether what waits is not to wait for the rest of a line.
    fn is_to_be_written(&self) -> bool {
        self.closed || self.waiting.len() >= CAPACITY || self.waiting.ends_with(b"\n")
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_line<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, limit, |state| !state.is_to_be_written());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Console {
    /// To the standard output, without the line buffer of [`io::Stdout`]: a prompt has no line end.
    pub(crate) fn to_stdout(events: Sender<Event>) -> Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned().context("Cannot use the standard output")?;
        Self::new(Patient(File::from(out)), events, REST_OF_LINE)
    }

    fn new(out: impl Write + Send + 'static, events: Sender<Event>, rest_of_line: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let pumped = Arc::clone(&shared);
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let event = match pump(&pumped, out, rest_of_line) {
                    Ok(()) => Event::Drained,
                    Err(error) => Event::OutputFailed(error),
                };
                let _ = events.send(event);
            })
            .context("Cannot start the console's thread")?;
        Ok(Self { shared })
    }

    /// What the guest writes to.
    pub(crate) fn guest_end(&self) -> GuestEnd {
        GuestEnd { shared: Arc::clone(&self.shared) }
    }

    /// What makes such ends, for machines that come after one another.
    pub(crate) fn guest_maker(&self) -> GuestMaker {
        GuestMaker { shared: Arc::clone(&self.shared) }
    }

    /// Takes no more; what was taken is still written, and then [`Event::Drained`] sent.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }

    /// Whether the guest's output ended with a whole line.
    pub(crate) fn is_at_line_start(&self) -> bool {
        self.shared.lock().last.is_none_or(|byte| byte == b'\n')
    }
}

/// Makes the machine's side, for one machine after another.
#[derive(Debug)]
pub(crate) struct GuestMaker {
    shared: Arc<Shared>,
}

impl GuestMaker {
    pub(crate) fn guest_end(&self) -> GuestEnd {
        GuestEnd { shared: Arc::clone(&self.shared) }
    }
}

/// The machine's side.
#[derive(Debug)]
pub(crate) struct GuestEnd {
    shared: Arc<Shared>,
}

impl Write for GuestEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        while !state.closed && state.waiting.len() >= CAPACITY {
            state = self.shared.wait(state);
        }
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let is_first = state.waiting.is_empty();
        state.waiting.extend_from_slice(bytes);
        state.last = bytes.last().copied().or(state.last);
        // Each call wakes somebody up or enters the host's kernel to find nobody.
        if is_first || state.is_to_be_written() {
            self.shared.changed.notify_all();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes until the console is closed and empty, or `out` fails.
fn pump(shared: &Shared, mut out: impl Write, rest_of_line: Duration) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        {
            let mut state = shared.lock();
            while state.waiting.is_empty() && !state.closed {
                state = shared.wait(state);
            }
            state = shared.wait_for_line(state, rest_of_line);
            std::mem::swap(&mut batch, &mut state.waiting);
        }
        if batch.len() >= CAPACITY {
            shared.changed.notify_all();
        }
        if batch.is_empty() {
            return out.flush();
        }
        if let Err(error) = out.write_all(&batch) {
            shared.lock().closed = true;
            shared.changed.notify_all();
            return Err(error);
        }
    }
}

/// A file that may be in non-blocking mode: the standard output's mode is that of all who share it.
struct Patient(File);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn all_output_arrives_in_order_and_then_the_end_is_told() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (sender, events) = mpsc::channel();
        let console = Console::new(writer, sender, REST_OF_LINE).unwrap();
        let mut guest = console.guest_end();
        let text: Vec<u8> = (0..=255).cycle().take(3 * CAPACITY).collect();
        let expected = text.clone();
        let writing = thread::spawn(move || text.iter().all(|byte| guest.write_all(&[*byte]).is_ok()));
        let mut found = vec![0; expected.len()];
        reader.read_exact(&mut found).unwrap();
        assert!(writing.join().unwrap());
        assert!(found == expected);
        console.close();
        assert!(matches!(events.recv_timeout(SOON), Ok(Event::Drained)));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(!console.is_at_line_start());
    }

    #[test]
    fn a_line_is_written_as_one_and_a_prompt_without_its_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        let console = Console::new(writer, mpsc::channel().0, SOON).unwrap();
        let mut guest = console.guest_end();
        let mut found = [0; 64];
        for byte in b"a line" {
            guest.write_all(&[*byte]).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        guest.write_all(b"\n").unwrap();
        assert_eq!(reader.read(&mut found).unwrap(), 7);

        let (mut reader, writer) = io::pipe().unwrap();
        let console = Console::new(writer, mpsc::channel().0, REST_OF_LINE).unwrap();
        console.guest_end().write_all(b"login: ").unwrap();
        assert_eq!(reader.read(&mut found).unwrap(), 7);
    }

    #[test]
    fn a_guest_that_waits_for_a_stuck_reader_is_let_go_by_closing() {
        let (_reader, writer) = io::pipe().unwrap();
        let (sender, _events) = mpsc::channel();
        let console = Console::new(writer, sender, REST_OF_LINE).unwrap();
        let mut guest = console.guest_end();
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            while guest.write(&[b'x'; 4096]).is_ok() {}
            done.send(()).unwrap();
        });
        assert!(finished.recv_timeout(Duration::from_millis(200)).is_err(), "the guest has to wait");
        console.close();
        finished.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn a_reader_that_left_is_told_and_the_guest_runs_on() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (sender, events) = mpsc::channel();
        let console = Console::new(writer, sender, REST_OF_LINE).unwrap();
        let mut guest = console.guest_end();
        guest.write_all(b"hello\n").unwrap();
        let Ok(Event::OutputFailed(error)) = events.recv_timeout(SOON) else { panic!("no event") };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(guest.write(b"x").is_err());
        assert!(console.is_at_line_start());
    }

    #[test]
    fn a_non_blocking_output_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let writing = thread::spawn(move || Patient(writer).write_all(&vec![7; 1 << 20]));
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        writing.join().unwrap().unwrap();
        assert_eq!(found.len(), 1 << 20);
    }
}
