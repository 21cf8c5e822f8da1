//! Carries frames between a port of a switch and something outside of the process.
//!
//! One thread for each: it polls what is outside, and is rung for by the port.
//!
//! # Invariants
//! * One frame each way is held at most; all others wait in the port, which bounds them, or outside.
//! * Neither way can starve the other, nor keep the thread from being stopped.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use snowboot_network::{Accepts, Frame, Full, Port};

use crate::wake::{Bell, now};

/// Frames that are taken each way in one turn, so that no direction starves the other.
const AT_ONCE: usize = 128;

/// The longest sleep; nothing depends on it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What frames are carried to and from.
pub(crate) trait Wire: Send + 'static {
    /// In words, for what is said of it.
    fn name(&self) -> String;

    /// What it takes unfinished.
    fn accepts(&self) -> Accepts;

    /// Sends a frame; `None` when it is through, or lost and counted. A frame that there is no room for comes back.
    ///
    /// # Errors
    /// When nothing can be sent any more.
    fn send(&mut self, now: Duration, frame: Frame) -> io::Result<Option<Frame>>;

    /// Receives a frame, if there is one.
    ///
    /// # Errors
    /// When nothing can be received any more.
    fn receive(&mut self, now: Duration) -> io::Result<Received>;

    /// What frames go through: readable when there are some, writable when there is room.
    fn data(&self) -> BorrowedFd<'_>;

    /// What is readable only when it has something to say about the wire itself.
    fn control(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Looks at what is said there.
    ///
    /// # Errors
    /// When that is the end.
    fn check(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Says once in a while what was lost.
    fn tell(&mut self, _: Duration) {}
}

/// What came in.
pub(crate) enum Received {
    Frame(Frame),
    /// It was none for the switch, and was counted.
    Dropped,
    Nothing,
}

/// A thread that carries frames. Dropping it ends the thread, and lets go of the wire and the port.
#[derive(Debug)]
pub(crate) struct Pump {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    stop: AtomicBool,
}

impl Pump {
    /// Begins to carry frames between `port` and `wire`.
    ///
    /// # Errors
    /// When the host has no more descriptors or threads.
    pub(crate) fn start(port: Port, wire: impl Wire) -> io::Result<Self> {
        let shared = Arc::new(Shared { bell: Bell::new()?, stop: AtomicBool::new(false) });
        let mut carrier = Carrier::new(port, wire, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("uplink".into()).spawn(move || carrier.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Carrier<W> {
    port: Port,
    wire: W,
    shared: Arc<Shared>,
    /// A frame that the wire has no room for.
    unsent: Option<Frame>,
    /// A frame that the switch has no room for, and when to try again.
    held: Option<(Frame, Duration)>,
}

impl<W: Wire> Carrier<W> {
    fn new(port: Port, wire: W, shared: Arc<Shared>) -> Self {
        let bell = Arc::downgrade(&shared);
        port.set_waker(Arc::new(move || {
            if let Some(shared) = bell.upgrade() {
                shared.bell.ring();
            }
        }));
        port.set_accepts(wire.accepts());
        port.set_ready(true);
        Self { port, wire, shared, unsent: None, held: None }
    }

    fn run(&mut self) {
        if let Err(error) = self.carry() {
            let name = self.wire.name();
            tracing::error!("{name} has gone, and what it led to is not reached any more: {error}");
        }
        self.port.set_ready(false);
    }

    fn carry(&mut self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = now();
            let busy = self.frames_out(now)? | self.frames_in(now)?;
            self.wire.tell(now);
            self.sleep(busy)?;
        }
        Ok(())
    }

    /// From this process; whether there may be more at once.
    fn frames_out(&mut self, now: Duration) -> io::Result<bool> {
        for _ in 0..AT_ONCE {
            let Some(frame) = self.unsent.take().or_else(|| self.port.receive()) else { return Ok(false) };
            self.unsent = self.wire.send(now, frame)?;
            if self.unsent.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// To this process; whether there may be more at once.
    fn frames_in(&mut self, now: Duration) -> io::Result<bool> {
        for _ in 0..AT_ONCE {
            let frame = match self.held.take() {
                Some((frame, _)) => frame,
                None => match self.wire.receive(now)? {
                    Received::Frame(frame) => frame,
                    Received::Dropped => continue,
                    Received::Nothing => return Ok(false),
                },
            };
            if let Err(Full { frame, retry_at }) = self.port.send(now, frame) {
                self.held = Some((frame, retry_at));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for something to do.
    fn sleep(&mut self, busy: bool) -> io::Result<()> {
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, self.held.is_none());
        wanted.set(PollFlags::OUT, self.unsent.is_some());
        let until_retry = self.held.as_ref().map(|(_, retry_at)| retry_at.saturating_sub(now()));
        let limit = if busy { Duration::ZERO } else { until_retry.unwrap_or(LONGEST_SLEEP) };
        let mut polled = vec![PollFd::new(&self.shared.bell, PollFlags::IN)];
        polled.push(PollFd::from_borrowed_fd(self.wire.data(), wanted));
        polled.extend(self.wire.control().map(|control| PollFd::from_borrowed_fd(control, PollFlags::IN)));
        match poll(&mut polled, Some(&timespec(limit))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_spoken = polled.get(2).is_some_and(|control| !control.revents().is_empty());
        self.shared.bell.quiet();
        if has_spoken { self.wire.check() } else { Ok(()) }
    }
}

/// Whether to try again later: the peer's queue is full, or there is nothing to read.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let no_buffers = rustix::io::Errno::NOBUFS.raw_os_error();
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(no_buffers)
}

fn timespec(time: Duration) -> Timespec {
    let time = time.min(LONGEST_SLEEP);
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(0), tv_nsec: i64::from(time.subsec_nanos()) }
}
