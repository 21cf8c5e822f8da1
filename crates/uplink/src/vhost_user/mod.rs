//! A port that machines of other VMMs plug their network cards into: a back end of vhost-user (QEMU's `vhost-user.rst`), for one
//! front end at a time. When that goes away, the next one may come.
//!
//! The front end shares its guest's memory, and the card's rings are served there, by the same code as those of Snowboot's own
//! machines: what a hostile driver puts into them is answered as there. The front end itself, the other VMM, is trusted not to cut
//! the file of its memory, as it is the user's own program; else it can ask for what it likes.
//!
//! # Invariants
//! * A message is read when all of it is there, so that no front end holds the thread up with half of one.
//! * Everything that a front end gave is let go of when its connection ends.
//! * The socket's file goes away with the back end.

mod early;
mod front_end;
mod memory;
mod ring;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use snowboot_network::Port;
use vhost::vhost_user::{BackendReqHandler, Error as VhostError, VhostUserBackendReqHandlerMut};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use self::early::Enable;
use self::front_end::{FrontEnd, RINGS};
use self::ring::Ring;
use crate::losses::Pace;
use crate::named::Named;
use crate::wake::{Bell, now};

/// Length of a message's header: request, flags, and the size of what follows (vhost-user, "Header").
const HEADER: usize = 12;
/// The most that may follow, as the library has it.
const LONGEST_BODY: usize = 0x1000;
/// How long the rest of a message may take; front ends write them in one go.
const WHOLE_WITHIN: Duration = Duration::from_secs(1);
/// How long to wait before the next look for a connection that cannot be taken, or the rest of a message.
const REST_PAUSE: Duration = Duration::from_millis(5);

/// What the thread waits for.
const BELL: u64 = 0;
const LISTENER: u64 = 1;
const CONNECTION: u64 = 2;
const KICKS: u64 = 16;
const DOORBELLS: u64 = 32;
const SOURCES: u64 = 64;
/// Events that are looked at in one turn: all that there are.
const EVENTS: usize = 16;

/// The back end cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("Cannot listen for vhost-user front ends at {}: {why}: {source}", .socket.display())]
pub struct Error {
    /// The socket's path.
    pub socket: PathBuf,
    /// What is wrong, and what to do.
    pub why: &'static str,
    /// Why.
    pub source: io::Error,
}

/// Listens for front ends. Dropping it ends the connection and removes the socket.
#[derive(Debug)]
pub struct Backend {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    stop: AtomicBool,
    /// The connection, to be cut when the thread waits in it.
    connection: Mutex<Option<UnixStream>>,
}

impl Backend {
    /// Has front ends that connect to `socket` plugged into `port`, one at a time. Only this user can connect. A socket that a
    /// program has left behind is replaced.
    ///
    /// # Errors
    /// When something else is there, another program listens there, its folder cannot be written, or there are no more
    /// descriptors or threads.
    pub fn listen(socket: &Path, port: Port) -> Result<Self, Error> {
        let failed = |why| move |source| Error { socket: socket.to_owned(), why, source };
        let listener = Named::listen(socket).map_err(|(why, source)| failed(why)(source))?;
        let only_us = fs::Permissions::from_mode(0o600);
        fs::set_permissions(socket, only_us).map_err(failed("its socket cannot be set up"))?;
        let out = failed("no descriptor or thread is left");
        let bell = Bell::new().map_err(&out)?;
        let shared = Arc::new(Shared { bell, stop: AtomicBool::new(false), connection: Mutex::default() });
        let mut server = Server::new(listener, port, Arc::clone(&shared), socket).map_err(&out)?;
        let thread = std::thread::Builder::new().name("vhost-user".into()).spawn(move || server.run());
        let thread = Some(thread.map_err(&out)?);
        Ok(Self { shared, thread })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(connection) = &*lock(&self.shared.connection) {
            let _ = shutdown(connection, Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread has.
struct Server {
    listener: Named,
    front_end: Arc<Mutex<FrontEnd>>,
    connection: Option<Connection>,
    /// The kicks that are watched. They are descriptors of their own: what a message closes could not be unwatched any more, and would be
    /// readable for as long as the front end has it open.
    kicks: [Option<File>; RINGS],
    epoll: Epoll,
    shared: Arc<Shared>,
    socket: PathBuf,
    pace: Pace,
}

struct Connection {
    handler: BackendReqHandler<Mutex<FrontEnd>>,
    stream: UnixStream,
    /// Since when a part of a message has been there.
    partly_since: Option<Duration>,
}

/// Whether a message can be read.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// It may be one to enable a ring.
    Whole(Option<Enable>),
    Part,
    Nothing,
}

impl Server {
    fn new(listener: Named, port: Port, shared: Arc<Shared>, socket: &Path) -> io::Result<Self> {
        let front_end = FrontEnd::new(port)?;
        let epoll = Epoll::new()?;
        let watch = |token, fd| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token));
        watch(BELL, shared.bell.as_fd().as_raw_fd())?;
        watch(LISTENER, listener.listener.as_raw_fd())?;
        for (token, source) in front_end.sources() {
            watch(SOURCES.saturating_add(token.into()), source)?;
        }
        for (index, ring) in (0..).zip(&front_end.rings) {
            watch(DOORBELLS.saturating_add(index), ring.doorbell.as_raw_fd())?;
        }
        Ok(Self {
            listener,
            front_end: Arc::new(Mutex::new(front_end)),
            connection: None,
            kicks: Default::default(),
            epoll,
            shared,
            socket: socket.to_owned(),
            pace: Pace::default(),
        })
    }

    fn run(&mut self) {
        if let Err(error) = self.serve() {
            tracing::error!(
                "no vhost-user front end is served at {} any more: {error}",
                self.socket.display()
            );
        }
        self.hang_up();
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::default(); EVENTS];
        while !self.shared.stop.load(Ordering::Acquire) {
            let count = match self.epoll.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                count => count?,
            };
            for event in events.iter().take(count) {
                self.handle(event.data())?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, token: u64) -> io::Result<()> {
        match token {
            BELL => self.shared.bell.quiet(),
            LISTENER => self.accept()?,
            CONNECTION => self.message()?,
            SOURCES.. => lock(&self.front_end).source_ready(number(token, SOURCES)),
            DOORBELLS.. => lock(&self.front_end).kicked(index(token, DOORBELLS)),
            _ => lock(&self.front_end).kicked(index(token, KICKS)),
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let (stream, _) = match self.listener.listener.accept() {
            Ok(accepted) => accepted,
            // It went away before it was taken, or there are no descriptors for it now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => {
                self.say(&format!("cannot be let in: {error}"));
                std::thread::sleep(REST_PAUSE);
                return Ok(());
            }
        };
        stream.set_nonblocking(false)?;
        *lock(&self.shared.connection) = Some(stream.try_clone()?);
        let handler = BackendReqHandler::from_stream(stream.try_clone()?, Arc::clone(&self.front_end));
        // One at a time: others wait in the listener's queue.
        self.unwatch(self.listener.listener.as_raw_fd());
        self.watch(CONNECTION, stream.as_raw_fd())?;
        self.connection = Some(Connection { handler, stream, partly_since: None });
        Ok(())
    }

    fn message(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let handled = match connection.look() {
            Ok(Message::Whole(Some(enable))) if !lock(&self.front_end).has_begun() => {
                self.front_end_enables(enable)
            }
            Ok(Message::Whole(_)) => connection.handler.handle_request(),
            Ok(Message::Part) => {
                std::thread::sleep(REST_PAUSE);
                return Ok(());
            }
            Ok(Message::Nothing) => Err(VhostError::Disconnected),
            Err(error) => Err(VhostError::SocketBroken(error)),
        };
        match handled {
            Ok(()) => self.watch_kicks(),
            Err(error) => {
                let said = lock(&self.front_end).complaint();
                if !matches!(error, VhostError::Disconnected) {
                    let why = said.unwrap_or_else(|| error.to_string());
                    self.say(&format!("is cut off: {why}"));
                }
                self.hang_up();
                self.watch(LISTENER, self.listener.listener.as_raw_fd())
            }
        }
    }

    /// Does what the library refuses before features are acknowledged.
    fn front_end_enables(&self, enable: Enable) -> Result<(), VhostError> {
        let Some(Connection { stream, .. }) = &self.connection else { return Ok(()) };
        let broken = VhostError::SocketBroken;
        Enable::take(stream).map_err(broken)?;
        let done = match enable.value {
            0 | 1 => lock(&self.front_end).set_vring_enable(enable.ring, enable.value == 1),
            _ => Err(VhostError::InvalidParam),
        };
        enable.answer(stream, done.is_ok()).map_err(broken)?;
        done
    }

    /// Watches the kicks that there are now.
    fn watch_kicks(&mut self) -> io::Result<()> {
        self.unwatch_kicks();
        let own = |ring: &Ring| ring.kick.as_ref().map(File::try_clone).transpose();
        let [receive, send] = lock(&self.front_end).rings.each_ref().map(own);
        self.kicks = [receive?, send?];
        for (token, kick) in (KICKS..).zip(&self.kicks) {
            if let Some(kick) = kick {
                self.watch(token, kick.as_raw_fd())?;
            }
        }
        Ok(())
    }

    fn unwatch_kicks(&mut self) {
        for kick in std::mem::take(&mut self.kicks).into_iter().flatten() {
            self.unwatch(kick.as_raw_fd());
        }
    }

    /// Says what has become of a front end, but not as often as it can connect.
    fn say(&mut self, what: &str) {
        if self.pace.may_speak(now()) {
            tracing::warn!("{}: a vhost-user front end {what}", self.socket.display());
        }
    }

    fn hang_up(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.unwatch(connection.stream.as_raw_fd());
        self.unwatch_kicks();
        lock(&self.shared.connection).take();
        lock(&self.front_end).gone();
    }

    fn watch(&self, token: u64, descriptor: i32) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, descriptor, EpollEvent::new(EventSet::IN, token))
    }

    fn unwatch(&self, descriptor: i32) {
        let _ = self.epoll.ctl(ControlOperation::Delete, descriptor, EpollEvent::default());
    }
}

impl Connection {
    /// Looks at what has come, without taking it.
    fn look(&mut self) -> io::Result<Message> {
        let mut bytes = [0; HEADER + LONGEST_BODY];
        let there = match recv(&self.stream, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, there)) => there,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Message::Part),
            Err(error) => return Err(error.into()),
        };
        let message = judge(bytes.get(..there).unwrap_or_default());
        if message == Message::Part {
            let since = *self.partly_since.get_or_insert_with(now);
            if now().saturating_sub(since) > WHOLE_WITHIN {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the rest of a message does not come"));
            }
        } else {
            self.partly_since = None;
        }
        Ok(message)
    }
}

/// Whether all of a message is there. One that is too long is whole with its header: it will be refused.
fn judge(there: &[u8]) -> Message {
    if there.is_empty() {
        return Message::Nothing;
    }
    let Some([_, _, _, _, _, _, _, _, a, b, c, d]) = there.first_chunk::<HEADER>() else {
        return Message::Part;
    };
    let body = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    if body > LONGEST_BODY || there.len().saturating_sub(HEADER) >= body {
        Message::Whole(Enable::of(there))
    } else {
        Message::Part
    }
}

fn number(token: u64, from: u64) -> u32 {
    u32::try_from(token.saturating_sub(from)).unwrap_or(u32::MAX)
}

fn index(token: u64, from: u64) -> usize {
    usize::try_from(token.saturating_sub(from)).unwrap_or(usize::MAX)
}
