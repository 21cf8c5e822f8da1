//! The host's end of guests' datagrams and pings.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use snowboot_network::gateway::{Gateway, SocketId};

use super::events::{Events, Source};

/// Datagrams of one socket that are taken in one turn.
pub(super) const AT_ONCE: usize = 32;
/// The longest datagram.
pub(super) const LONGEST: usize = 65_535;

/// Types of ICMP (RFC 792, RFC 4443). Ping sockets give what follows the IP header, and have their own identifiers.
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

#[derive(Debug)]
struct Socket {
    id: SocketId,
    /// Ping sockets are sent to and received from in the same way.
    socket: UdpSocket,
    kind: Kind,
    readable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Hears whoever answers.
    Open,
    /// Hears the resolver alone.
    Resolver,
    Ping,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    sockets: BTreeMap<u64, Socket>,
    by_id: BTreeMap<SocketId, u64>,
    next: u64,
}

impl Sockets {
    /// Sends a guest's datagram to `to`. What cannot be sent is lost, as datagrams are.
    pub(super) fn send(&mut self, id: SocketId, to: SocketAddr, data: &[u8], events: &Events) {
        let open = || {
            let any: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            UdpSocket::bind((any, 0))
        };
        if let Ok(socket) = self.get(id, Kind::Open, open, events) {
            let _ = socket.send_to(data, to);
        }
    }

    /// Asks the resolver at `to`.
    pub(super) fn ask(
        &mut self,
        now: Duration,
        id: SocketId,
        to: Option<SocketAddr>,
        data: &[u8],
        events: &Events,
        gateway: &mut Gateway,
    ) {
        let open = || {
            let to = to.ok_or(ErrorKind::NotFound)?;
            let any: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            Ok(socket)
        };
        let sent = self.get(id, Kind::Resolver, open, events).and_then(|socket| socket.send(data));
        if sent.is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
            gateway.unanswered(now, id);
        }
    }

    /// Pings `to`, where the host permits it (`net.ipv4.ping_group_range`).
    pub(super) fn ping(&mut self, id: SocketId, to: IpAddr, sequence: u16, data: &[u8], events: &Events) {
        let open = || {
            let (family, protocol) = match to {
                IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
                IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
            };
            let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
            let socket = UdpSocket::from(socket);
            socket.connect((to, 0))?;
            Ok(socket)
        };
        if let Ok(socket) = self.get(id, Kind::Ping, open, events) {
            let kind = if to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
            let message = [&[kind, 0, 0, 0, 0, 0][..], &sequence.to_be_bytes(), data].concat();
            let _ = socket.send(&message);
        }
    }

    fn get(
        &mut self,
        id: SocketId,
        kind: Kind,
        open: impl FnOnce() -> io::Result<UdpSocket>,
        events: &Events,
    ) -> io::Result<&UdpSocket> {
        let number = match self.by_id.get(&id) {
            Some(number) => *number,
            None => {
                let socket = open()?;
                socket.set_nonblocking(true)?;
                let number = self.next;
                events.watch(&socket, Source::Socket(number))?;
                self.next = number.wrapping_add(1);
                self.sockets.insert(number, Socket { id, socket, kind, readable: true });
                self.by_id.insert(id, number);
                number
            }
        };
        self.sockets.get(&number).map(|socket| &socket.socket).ok_or(ErrorKind::NotFound.into())
    }

    pub(super) fn happened(&mut self, number: u64) {
        if let Some(socket) = self.sockets.get_mut(&number) {
            socket.readable = true;
        }
    }

    /// Takes what has come in; whether there was anything.
    pub(super) fn receive(&mut self, now: Duration, buffer: &mut [u8], gateway: &mut Gateway) -> bool {
        let mut moved = false;
        for socket in self.sockets.values_mut().filter(|socket| socket.readable) {
            for _ in 0..AT_ONCE {
                if !gateway.wants_frames() {
                    return moved;
                }
                match socket.socket.recv_from(buffer) {
                    Ok((length, from)) => {
                        moved = true;
                        socket.received(now, from, buffer.get(..length).unwrap_or_default(), gateway);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        socket.readable = false;
                        break;
                    }
                    Err(_) => {
                        moved = true;
                        gateway.unanswered(now, socket.id);
                    }
                }
            }
        }
        moved
    }

    pub(super) fn forget(&mut self, id: SocketId) {
        if let Some(number) = self.by_id.remove(&id) {
            self.sockets.remove(&number);
        }
    }
}

impl Socket {
    fn received(&self, now: Duration, from: SocketAddr, data: &[u8], gateway: &mut Gateway) {
        if self.kind != Kind::Ping {
            return gateway.answered(now, self.id, from, data);
        }
        let Some((&[kind, _, _, _, _, _, high, low], data)) = data.split_first_chunk::<8>() else { return };
        if kind == if from.is_ipv4() { REPLY_V4 } else { REPLY_V6 } {
            gateway.ponged(now, self.id, u16::from_be_bytes([high, low]), data);
        }
    }
}
