//! The guest's `/dev/hvc0` and the socket that it is connected to, over resets of the guest.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use snowboot_devices::stream::{self, DeviceEnd, HostEnd};
use snowboot_qemu::Refusal;

/// Bytes on their way, each way. More than a page, so that a guest writes on while the host's thread is being woken.
const CAPACITY: usize = 256 * 1024;

/// What the kernel does at ctrl-alt-delete is to send process 1 the signal SIGINT (`kernel/reboot.c`); the shell of a test
/// machine does the same.
const REBOOT: &[u8] = b"kill -INT 1\n";

pub(super) struct Shell {
    /// What the guest writes goes here.
    socket: UnixStream,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The console of the machine that there is.
    host: Option<HostEnd>,
    /// Whether the guest has said something: somebody reads there.
    has_spoken: bool,
    /// Whether what was written last is a whole line.
    at_line_start: bool,
}

impl Shell {
    /// On a socket. Nothing is read before there is a machine.
    pub(super) fn new(socket: UnixStream) -> Result<Self> {
        let state = Arc::new(Mutex::new(State { host: None, has_spoken: false, at_line_start: true }));
        let shell = Self { socket, state };
        let input = shell.socket.try_clone().context("Cannot use the socket of /dev/hvc0")?;
        let state = Arc::clone(&shell.state);
        spawn("hvc0 input", move || read(input, &state)).context("Cannot start the thread of /dev/hvc0")?;
        Ok(shell)
    }

    /// The device's end for a machine that is being built, which has the socket from now on.
    pub(super) fn next_machine(&self) -> io::Result<DeviceEnd> {
        let (host, device) = stream::pair(CAPACITY)?;
        let output = self.socket.try_clone()?;
        {
            let mut state = lock(&self.state);
            *state = State { host: Some(host.clone()), has_spoken: false, at_line_start: true };
        }
        let state = Arc::clone(&self.state);
        spawn("hvc0 output", move || write(&host, output, &state))?;
        Ok(device)
    }

    /// Has the guest reboot.
    pub(super) fn reboot(&self) -> Result<(), Refusal> {
        let state = lock(&self.state);
        let Some(host) = state.host.as_ref().filter(|_| state.has_spoken) else {
            return Err(Refusal::new(
                "no shell of the guest's has said anything yet that could be told to reboot",
            ));
        };
        if !state.at_line_start {
            return Err(Refusal::new(
                "the guest's shell is in the middle of a command; send it when that is whole",
            ));
        }
        write_all(host, REBOOT)
            .map_err(|error| Refusal::new(format!("the guest's shell takes no command: {error}")))
    }
}

/// Takes what comes on the socket to the machine that there is. What comes while there is none is lost, as on a line.
fn read(mut socket: UnixStream, state: &Mutex<State>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::info!("/dev/hvc0 gets no more input: {error}"),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let host = {
            let mut state = lock(state);
            state.at_line_start = bytes.ends_with(b"\n");
            state.host.clone()
        };
        if let Some(host) = host {
            // The machine may have ended meanwhile.
            let _ = write_all(&host, bytes);
        }
    }
}

fn write_all(host: &HostEnd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = host.write(bytes, None)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Takes what the guest writes to the socket, until the machine is gone. When nobody reads there any more the guest goes on.
fn write(host: &HostEnd, mut socket: UnixStream, state: &Mutex<State>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_read = true;
    while let Ok(length) = host.read(&mut buffer, None) {
        if length == 0 {
            return;
        }
        lock(state).has_spoken = true;
        let bytes = buffer.get(..length).unwrap_or_default();
        if is_read && let Err(error) = socket.write_all(bytes) {
            tracing::info!("nobody reads the guest's /dev/hvc0 any more: {error}");
            is_read = false;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(body)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// What the device is given, up to a number of bytes.
    fn given(device: &DeviceEnd, length: usize) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut found = Vec::new();
        while found.len() < length {
            assert!(Instant::now() < deadline, "{found:?}");
            device.read_to(&mut found, length).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        found
    }

    fn said(mut driver: &UnixStream, length: usize) -> Vec<u8> {
        let mut found = vec![0; length];
        driver.read_exact(&mut found).unwrap();
        found
    }

    #[test]
    fn both_ways_also_for_the_machine_after_a_reset() {
        let (driver, socket) = UnixStream::pair().unwrap();
        let shell = Shell::new(socket).unwrap();
        for text in ["one", "two"] {
            let device = shell.next_machine().unwrap();
            device.write_from(&mut text.as_bytes(), 3).unwrap();
            assert_eq!(said(&driver, 3), text.as_bytes());
            (&driver).write_all(b"ls\n").unwrap();
            assert_eq!(given(&device, 3), b"ls\n");
        }
        let error = shell.reboot().unwrap_err().to_string();
        assert!(!error.is_empty(), "the machine is gone");
    }

    #[test]
    fn a_reboot_is_a_line_of_its_own_or_refused() {
        let (driver, socket) = UnixStream::pair().unwrap();
        let shell = Shell::new(socket).unwrap();
        let device = shell.next_machine().unwrap();
        assert!(shell.reboot().unwrap_err().0.contains("has said anything yet"));
        device.write_from(&mut &b"hello"[..], 5).unwrap();
        said(&driver, 5);
        (&driver).write_all(b"echo half").unwrap();
        assert_eq!(given(&device, 9), b"echo half");
        assert!(shell.reboot().unwrap_err().0.contains("in the middle of a command"));
        (&driver).write_all(b" whole\n").unwrap();
        assert_eq!(given(&device, 7), b" whole\n");
        shell.reboot().unwrap();
        assert_eq!(given(&device, REBOOT.len()), REBOOT);
    }
}
