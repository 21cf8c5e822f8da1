//! A port of a `vde_switch`: a cable between a switch of this process and one of another program.
//!
//! VDE's plug protocol, version 3 (`libvdeplug` of vde-2, its `datasock.c` on the switch's side): on the stream socket `ctl` in
//! the switch's folder the plug says where its own datagram socket is; the answer is the address of the switch's. From then on
//! one datagram is one Ethernet frame, and the stream socket is the cable: whoever closes it has unplugged.
//!
//! # Invariants
//! * One frame each way is held at most; all others wait in the port, which bounds them, or in the sockets.
//! * Frames that leave are finished: the port accepts no offloads.
//! * The file of the own socket goes away with the plug.

mod handshake;

use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use snowboot_network::{Accepts, Frame, Full, Port};

use self::handshake::Cable;
use crate::wake::{Bell, now};

/// The longest frame that a `vde_switch` passes on: its buffers hold a header of 14 bytes and 1504 more, an MTU of 1500
/// with a VLAN tag (`switch.h`).
const LONGEST: usize = 1518;

/// Room for a frame of a peer's; what is longer than the switch of this process takes is refused there.
const ROOM: usize = 1 << 16;

/// Frames that are taken each way in one turn, so that no direction starves the other.
const AT_ONCE: usize = 128;

/// The longest sleep; nothing depends on it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The plug cannot be put in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The switch does not answer as one does.
    #[error("Cannot plug into the VDE switch {}: {what}: {source}", .switch.display())]
    Plug {
        /// The switch's folder.
        switch: PathBuf,
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A cable to a `vde_switch`. Dropping it unplugs.
#[derive(Debug)]
pub struct Plug {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    stop: AtomicBool,
}

impl Plug {
    /// Connects `port` with the switch whose control folder is `switch` (`vde_switch --sock`). `description` is what
    /// its management console shows.
    ///
    /// # Errors
    /// When there is no such switch, it answers nothing within 10 s or something else, or the host has no more descriptors or
    /// threads.
    pub fn connect(switch: &Path, description: &str, port: Port) -> Result<Self, Error> {
        let host = |what| move |source| Error::Plug { switch: switch.to_owned(), what, source };
        let cable = Cable::plug(switch, description).map_err(|(what, source)| Error::Plug {
            switch: switch.to_owned(),
            what,
            source,
        })?;
        let bell = Bell::new().map_err(host("no descriptor is left"))?;
        let shared = Arc::new(Shared { bell, stop: AtomicBool::new(false) });
        let mut pump = Pump::new(cable, port, Arc::clone(&shared), switch);
        let name = format!("vde:{description}");
        let thread = std::thread::Builder::new().name(name).spawn(move || pump.run());
        Ok(Self { shared, thread: Some(thread.map_err(host("no thread is left"))?) })
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries frames both ways.
struct Pump {
    cable: Cable,
    port: Port,
    shared: Arc<Shared>,
    switch: PathBuf,
    /// A frame that the other switch has no room for.
    unsent: Option<Frame>,
    /// A frame that this switch has no room for, and when to try again.
    held: Option<(Frame, Duration)>,
    buffer: Vec<u8>,
    /// Frames that were too long for the other switch.
    too_long: u64,
}

impl Pump {
    fn new(cable: Cable, port: Port, shared: Arc<Shared>, switch: &Path) -> Self {
        let bell = Arc::downgrade(&shared);
        port.set_waker(Arc::new(move || {
            if let Some(shared) = bell.upgrade() {
                shared.bell.ring();
            }
        }));
        port.set_accepts(Accepts::default());
        port.set_ready(true);
        Self {
            cable,
            port,
            shared,
            switch: switch.to_owned(),
            unsent: None,
            held: None,
            buffer: vec![0; ROOM],
            too_long: 0,
        }
    }

    fn run(&mut self) {
        if let Err(error) = self.carry() {
            let switch = self.switch.display();
            tracing::error!(
                "the VDE switch {switch} has gone, and a network card has nobody behind it: {error}"
            );
        }
        self.port.set_ready(false);
    }

    fn carry(&mut self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Acquire) {
            let busy = self.frames_out()? | self.frames_in()?;
            self.sleep(busy)?;
        }
        Ok(())
    }

    /// From this process; whether there may be more at once.
    fn frames_out(&mut self) -> io::Result<bool> {
        for _ in 0..AT_ONCE {
            let Some(frame) = self.unsent.take().or_else(|| self.port.receive()) else { return Ok(false) };
            if frame.bytes.len() > LONGEST {
                self.lose(frame.bytes.len());
                continue;
            }
            match self.cable.data.send(&frame.bytes) {
                Ok(_) => {}
                Err(error) if is_full(&error) => {
                    self.unsent = Some(frame);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// To this process; whether there may be more at once.
    fn frames_in(&mut self) -> io::Result<bool> {
        let now = now();
        for _ in 0..AT_ONCE {
            let frame = match self.held.take() {
                Some((frame, _)) => frame,
                None => match self.cable.data.recv(&mut self.buffer) {
                    Ok(length) => Frame::new(self.buffer.get(..length).unwrap_or_default().to_vec()),
                    Err(error) if is_full(&error) => return Ok(false),
                    Err(error) => return Err(error),
                },
            };
            if let Err(Full { frame, retry_at }) = self.port.send(now, frame) {
                self.held = Some((frame, retry_at));
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lose(&mut self, length: usize) {
        // Said once: a guest could send them without end.
        if self.too_long == 0 {
            tracing::warn!(
                "a guest sends frames of {length} bytes to the VDE switch {}, which carries {LONGEST} at most: \
                 they are lost",
                self.switch.display()
            );
        }
        self.too_long = self.too_long.saturating_add(1);
    }

    /// Waits for something to do.
    fn sleep(&self, busy: bool) -> io::Result<()> {
        let mut wanted = PollFlags::empty();
        if self.held.is_none() {
            wanted |= PollFlags::IN;
        }
        if self.unsent.is_some() {
            wanted |= PollFlags::OUT;
        }
        let until_retry = self.held.as_ref().map(|(_, retry_at)| retry_at.saturating_sub(now()));
        let limit = if busy { Duration::ZERO } else { until_retry.unwrap_or(LONGEST_SLEEP) };
        let mut polled = [
            PollFd::new(&self.shared.bell, PollFlags::IN),
            PollFd::new(&self.cable.data, wanted),
            PollFd::new(&self.cable.control, PollFlags::IN),
        ];
        match poll(&mut polled, Some(&timespec(limit))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, _, control] = &polled;
        let has_spoken = !control.revents().is_empty();
        self.shared.bell.quiet();
        if has_spoken { self.cable.check() } else { Ok(()) }
    }
}

/// Whether to try again later: the peer's queue is full, or there is nothing to read.
fn is_full(error: &io::Error) -> bool {
    let no_buffers = rustix::io::Errno::NOBUFS.raw_os_error();
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(no_buffers)
}

fn timespec(time: Duration) -> Timespec {
    let time = time.min(LONGEST_SLEEP);
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(0), tv_nsec: i64::from(time.subsec_nanos()) }
}
