//! The host's end of guests' TCP connections: sockets that never wait.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use snowboot_network::gateway::{FlowId, Gateway, Refusal};

use super::events::{Events, Happened, Source};
use crate::named::reach;

/// Pieces of one connection that are moved in one turn, so that a busy one does not keep the others waiting. A piece is what
/// lies in one piece in a ring of 128 KiB.
const PIECES_AT_ONCE: usize = 4;

/// Where a guest's connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Address(SocketAddr),
    /// A Unix socket.
    Path(PathBuf),
}

/// A connection's socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Unix(socket) => socket.shutdown(how),
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(socket) => socket.take_error(),
            Self::Unix(socket) => socket.take_error(),
        }
    }

    /// As it has to be here.
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                // Whoever writes small pieces has waited for more already: the guest's own stack.
                let _ = socket.set_nodelay(true);
                socket.set_nonblocking(true)
            }
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(room),
            Self::Unix(socket) => socket.read(room),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Stream {
    flow: FlowId,
    socket: Socket,
    connecting: bool,
    readable: bool,
    writable: bool,
    failed: bool,
    /// The host has sent all that it will.
    ended: bool,
    /// So has the guest, and the host knows.
    shut: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: BTreeMap<u64, Stream>,
    by_flow: BTreeMap<FlowId, u64>,
    next: u64,
}

impl Streams {
    /// Begins to connect.
    pub(super) fn connect(
        &mut self,
        now: Duration,
        flow: FlowId,
        to: Option<&Place>,
        events: &Events,
        gateway: &mut Gateway,
    ) {
        let result = to.ok_or(Refusal::Unreachable).and_then(|to| {
            let (socket, connecting) = open(to).map_err(refusal)?;
            let number = self.add(flow, socket, connecting, events).map_err(|_| Refusal::Unreachable)?;
            Ok((number, connecting))
        });
        match result {
            Ok((_, true)) => {}
            Ok((_, false)) => gateway.connected(now, flow),
            Err(why) => gateway.refused(now, flow, why),
        }
    }

    /// Takes a connection that somebody made to a forward.
    pub(super) fn accepted(&mut self, flow: FlowId, socket: Socket, events: &Events) -> io::Result<()> {
        self.add(flow, socket, false, events).map(drop)
    }

    fn add(&mut self, flow: FlowId, socket: Socket, connecting: bool, events: &Events) -> io::Result<u64> {
        socket.prepare()?;
        let number = self.next;
        events.watch(&socket, Source::Stream(number))?;
        self.next = number.wrapping_add(1);
        let (readable, writable) = (!connecting, !connecting);
        let stream =
            Stream { flow, socket, connecting, readable, writable, failed: false, ended: false, shut: false };
        self.streams.insert(number, stream);
        self.by_flow.insert(flow, number);
        Ok(number)
    }

    /// Something happened to one of them.
    pub(super) fn happened(&mut self, now: Duration, number: u64, what: Happened, gateway: &mut Gateway) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.connecting {
            match connection(&stream.socket) {
                None => return,
                Some(Ok(())) => {
                    stream.connecting = false;
                    gateway.connected(now, stream.flow);
                }
                Some(Err(error)) => {
                    gateway.refused(now, stream.flow, refusal(error));
                    return self.forget(number);
                }
            }
        }
        (stream.readable, stream.writable) = (true, true);
        stream.failed |= what.failed && stream.socket.take_error().is_ok_and(|error| error.is_some());
    }

    /// Moves bytes both ways; whether there were any.
    pub(super) fn pump(&mut self, now: Duration, gateway: &mut Gateway) -> bool {
        let mut moved = false;
        for flow in gateway.flows() {
            let Some(number) = self.by_flow.get(&flow).copied() else { continue };
            let Some(stream) = self.streams.get_mut(&number) else { continue };
            moved |= stream.feed_host(now, gateway);
            moved |= stream.feed_guest(now, gateway);
            if stream.failed {
                gateway.host_reset(flow);
                self.forget(number);
            } else if stream.ended && stream.shut {
                gateway.host_closed(flow);
                self.forget(number);
            }
        }
        moved
    }

    /// Both sides have ended it.
    pub(super) fn close(&mut self, flow: FlowId) {
        if let Some(number) = self.by_flow.get(&flow) {
            self.forget(*number);
        }
    }

    /// The guest has reset it: the host's peer is to see that too.
    pub(super) fn reset(&mut self, flow: FlowId) {
        if let Some(stream) = self.by_flow.get(&flow).and_then(|number| self.streams.get(number)) {
            reset(&stream.socket);
        }
        self.close(flow);
    }

    fn forget(&mut self, number: u64) {
        if let Some(stream) = self.streams.remove(&number) {
            self.by_flow.remove(&stream.flow);
        }
    }
}

/// Has the peer see a reset when the socket is closed; that of a Unix socket sees its end.
pub(super) fn reset(socket: &Socket) {
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

impl Stream {
    fn feed_host(&mut self, now: Duration, gateway: &mut Gateway) -> bool {
        let mut moved = false;
        for _ in 0..PIECES_AT_ONCE {
            let waits = gateway.flow(self.flow).is_some_and(|state| state.for_host > 0);
            if !waits || !self.writable || self.failed {
                break;
            }
            moved |= gateway.take(now, self.flow, |bytes| self.write(bytes)) > 0;
        }
        if !self.shut && gateway.flow(self.flow).is_some_and(|state| state.guest_done) {
            self.shut = true;
            self.failed |= self.socket.shutdown(Shutdown::Write).is_err();
            moved = true;
        }
        moved
    }

    fn feed_guest(&mut self, now: Duration, gateway: &mut Gateway) -> bool {
        let mut moved = false;
        for _ in 0..PIECES_AT_ONCE {
            let room = gateway.flow(self.flow).is_some_and(|state| state.room > 0);
            if !room || !self.readable || self.ended || self.failed {
                break;
            }
            moved |= gateway.fill(now, self.flow, |room| self.read(room)) > 0;
        }
        if self.ended && gateway.flow(self.flow).is_some_and(|state| state.room > 0) {
            gateway.host_done(self.flow);
            moved = true;
        }
        moved
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.socket.write(bytes) {
            Ok(written) => written,
            Err(error) => {
                match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    _ => self.failed = true,
                }
                0
            }
        }
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        match self.socket.read(room) {
            Ok(0) => {
                self.ended = !room.is_empty();
                0
            }
            Ok(read) => read,
            Err(error) => {
                match error.kind() {
                    ErrorKind::WouldBlock => self.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => self.failed = true,
                }
                0
            }
        }
    }
}

/// A socket that is connected, or will be.
fn open(to: &Place) -> Result<(Socket, bool), Errno> {
    match to {
        Place::Address(to) => {
            let socket = stream(if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
            match connect(&socket, to) {
                Ok(()) => Ok((Socket::Tcp(socket.into()), false)),
                Err(Errno::INPROGRESS) => Ok((Socket::Tcp(socket.into()), true)),
                Err(error) => Err(error),
            }
        }
        Place::Path(path) => Ok((Socket::Unix(reach(path)?.into()), false)),
    }
}

fn stream(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// What came of connecting, when something has.
fn connection(socket: &Socket) -> Option<Result<(), Errno>> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => match rustix::net::getpeername(socket) {
            Ok(_) => Some(Ok(())),
            Err(_) => None,
        },
        Ok(Err(error)) | Err(error) => Some(Err(error)),
    }
}

fn refusal(error: Errno) -> Refusal {
    // That of a Unix socket that is not there.
    if matches!(error, Errno::CONNREFUSED | Errno::NOENT) { Refusal::Refused } else { Refusal::Unreachable }
}
