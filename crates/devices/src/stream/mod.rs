//! A bounded two-way byte stream between a device and the host program.
//!
//! The host side blocks with a deadline; the device side never blocks and is told through a descriptor when the host
//! wrote, made room or left. Both sides only copy bytes under one lock. Wake-ups are coalesced: the host's threads are
//! woken only when one waits, the device only when it was not told yet, and about room only when it had run out and
//! half of the capacity is free again. The stream must never lose or reorder a byte while both ends are there.

mod first_output;
mod programs;
mod ring;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::first_output::FirstOutput;
pub use self::programs::HostView;
use self::programs::Programs;
use self::ring::Ring;
use crate::wake::Wake;

/// A stream that holds at most `capacity` bytes each way (at least one).
///
/// # Errors
/// When the process has no more file descriptors.
pub fn pair(capacity: usize) -> io::Result<(HostEnd, DeviceEnd)> {
    let capacity = capacity.max(1);
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            to_device: Ring::new(capacity),
            to_host: Ring::new(capacity),
            host_open: true,
            device_open: true,
            programs: Programs::default(),
            first_output: FirstOutput::default(),
            told: false,
            wants_room: false,
            readers: 0,
            writers: 0,
        }),
        readable: Condvar::new(),
        writable: Condvar::new(),
        wake: Wake::new()?,
    });
    let host = HostEnd { side: Arc::new(HostSide(Arc::clone(&shared))) };
    Ok((host, DeviceEnd { shared }))
}

/// The host program's end. Clones share it; it closes when the last one is dropped.
#[derive(Clone, Debug)]
pub struct HostEnd {
    side: Arc<HostSide>,
}

impl HostEnd {
    /// Writes some of `data`, at least one byte unless it is empty, waiting for room until `deadline` (`None`: for ever).
    ///
    /// # Errors
    /// `BrokenPipe` when the device is gone or the guest's program has closed its end, `TimedOut` at the deadline.
    pub fn write(&self, data: &[u8], deadline: Option<Instant>) -> io::Result<usize> {
        let shared = &self.side.0;
        let mut state = shared.lock();
        while state.is_taken() && state.to_device.room() == 0 && !data.is_empty() {
            state.writers += 1;
            let (guard, late) = wait(&shared.writable, state, deadline);
            state = guard;
            state.writers -= 1;
            if late && state.is_taken() && state.to_device.room() == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        if !state.is_taken() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = state.to_device.fill_from(&mut &*data, data.len())?;
        if written > 0 {
            shared.tell_device(&mut state);
        }
        Ok(written)
    }

    /// Reads as much as is there, waiting for the first byte until `deadline` (`None`: for ever). `Ok(0)` means that the
    /// device is gone, or the guest's program has closed its end, and everything it wrote has been read (or that `buffer`
    /// is empty).
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn read(&self, mut buffer: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        let shared = &self.side.0;
        let mut state = shared.lock();
        while state.is_taken() && state.to_host.is_empty() && !buffer.is_empty() {
            state.readers += 1;
            let (guard, late) = wait(&shared.readable, state, deadline);
            state = guard;
            state.readers -= 1;
            if late && state.is_taken() && state.to_host.is_empty() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let limit = buffer.len();
        let read = state.to_host.drain_to(&mut buffer, limit)?;
        if state.wants_room && state.to_host.room() >= state.to_host.capacity().div_ceil(2) {
            state.wants_room = false;
            shared.tell_device(&mut state);
        }
        Ok(read)
    }
}

/// The device's end. Nothing here blocks.
#[derive(Debug)]
pub struct DeviceEnd {
    shared: Arc<Shared>,
}

impl DeviceEnd {
    /// Moves up to `limit` bytes that the host wrote into `sink`; 0 when there are none.
    ///
    /// # Errors
    /// Those of `sink`; the bytes it did not take stay in the stream.
    pub fn read_to(&self, sink: &mut dyn Write, limit: usize) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let moved = state.to_device.drain_to(sink, limit);
        if state.writers > 0 && state.to_device.room() > 0 {
            self.shared.writable.notify_all();
        }
        moved
    }

    /// Moves up to `limit` bytes from `source` to the host, as many as fit now. When they do not all fit, the descriptor
    /// becomes readable once the host has made room. Without a host end everything is taken and thrown away, so that a
    /// guest that logs to nobody runs on.
    ///
    /// # Errors
    /// Those of `source`; the bytes before the error are in the stream.
    pub fn write_from(&self, source: &mut dyn Read, limit: usize) -> io::Result<usize> {
        self.put(self.shared.lock(), source, limit)
    }

    fn put(
        &self,
        mut state: MutexGuard<'_, State>,
        source: &mut dyn Read,
        limit: usize,
    ) -> io::Result<usize> {
        if !state.host_open {
            let moved = discard(source, limit)?;
            if moved > 0 {
                state.first_output.came();
            }
            return Ok(moved);
        }
        let before = state.to_host.len();
        let moved = state.to_host.fill_from(source, limit);
        if state.to_host.len() > before {
            state.first_output.came();
            if state.readers > 0 {
                self.shared.readable.notify_all();
            }
        }
        state.wants_room |= state.to_host.room() == 0;
        moved
    }

    /// Bytes from the host that wait for the device.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.shared.lock().to_device.len()
    }

    /// A copy of the bytes from the host that wait for the device, for a saved state.
    #[must_use]
    pub fn peek(&self) -> Vec<u8> {
        self.shared.lock().to_device.copy()
    }

    /// Makes the descriptor quiet; call before looking for news, so that none is missed.
    pub fn drain(&self) {
        let mut state = self.shared.lock();
        self.shared.wake.drain();
        state.told = false;
    }

    /// Whether a host end is left.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.lock().host_open
    }
}

/// Readable when the host wrote, made room, or left.
impl AsFd for DeviceEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

impl Drop for DeviceEnd {
    fn drop(&mut self) {
        self.shared.lock().device_open = false;
        self.shared.readable.notify_all();
        self.shared.writable.notify_all();
    }
}

#[derive(Debug)]
struct HostSide(Arc<Shared>);

impl Drop for HostSide {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.host_open = false;
        self.0.tell_device(&mut state);
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    readable: Condvar,
    writable: Condvar,
    wake: Wake,
}

#[derive(Debug)]
struct State {
    to_device: Ring,
    to_host: Ring,
    host_open: bool,
    device_open: bool,
    programs: Programs,
    first_output: FirstOutput,
    /// The descriptor was signalled and the device has not drained it yet.
    told: bool,
    /// The device left a full ring behind and waits for room.
    wants_room: bool,
    /// Host threads that wait for data and for room; nobody is woken in vain.
    readers: usize,
    writers: usize,
}

impl State {
    /// Whether there is somebody at the other end, as the host sees it.
    fn is_taken(&self) -> bool {
        self.device_open && !self.programs.guest_has_left()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_device(&self, state: &mut State) {
        if !state.told {
            state.told = true;
            self.wake.signal();
        }
    }
}

/// Takes up to `limit` bytes and throws them away.
fn discard(source: &mut dyn Read, limit: usize) -> io::Result<usize> {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let moved = io::copy(&mut source.take(limit), &mut io::sink())?;
    Ok(usize::try_from(moved).unwrap_or(usize::MAX))
}

/// Waits once; the flag says whether the deadline has passed.
fn wait<'a>(
    condition: &Condvar,
    guard: MutexGuard<'a, State>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, State>, bool) {
    let Some(deadline) = deadline else {
        return (condition.wait(guard).unwrap_or_else(PoisonError::into_inner), false);
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let (guard, _) = condition.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
    (guard, deadline <= Instant::now())
}
