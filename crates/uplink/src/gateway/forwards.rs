//! Ports of the host that lead to a guest.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use snowboot_config::{ForwardProtocol, PortForward};
use snowboot_network::gateway::{ForwardId, Gateway};

use super::events::{Events, Source};
use super::sockets::AT_ONCE;
use super::streams::{self, Socket, Streams};
use crate::named::{Named, Unnamed};

/// What the guest sees those who come by a Unix socket at: ports of the host's loopback that Linux gives to nobody by itself. One that
/// is in use is passed over.
const UNIX_PEER: u16 = 61_000;

/// Connections that wait to be taken; as many as the standard library asks for.
const BACKLOG: i32 = 128;

/// The host's end of a forward.
#[derive(Debug)]
pub(super) enum Door {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Unix(Named),
}

impl Door {
    /// A Unix socket at `path`.
    pub(super) fn open_socket(path: &Path) -> Result<Self, Unnamed> {
        Named::listen(path).map(Self::Unix)
    }

    /// Opens it; the address has the port that it got.
    pub(super) fn open(forward: &PortForward) -> std::io::Result<(Self, SocketAddr)> {
        match forward.protocol {
            ForwardProtocol::Tcp => {
                let socket = bound(SocketType::STREAM, forward.host)?;
                listen(&socket, BACKLOG)?;
                let listener = TcpListener::from(socket);
                let at = listener.local_addr()?;
                Ok((Self::Tcp(listener), at))
            }
            ForwardProtocol::Udp => {
                let socket = UdpSocket::from(bound(SocketType::DGRAM, forward.host)?);
                let at = socket.local_addr()?;
                Ok((Self::Udp(socket), at))
            }
        }
    }
}

/// A socket at `address`. One at `[::]` is for IPv6 alone, whatever the host's `net.ipv6.bindv6only` says: `0.0.0.0` is there for
/// IPv4, and both may have the same port.
fn bound(kind: SocketType, address: SocketAddr) -> std::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // As the standard library does it for listeners: who listened here before may have connections that end slowly.
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

#[derive(Debug)]
struct Forward {
    door: Door,
    guest: SocketAddr,
    ready: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    forwards: BTreeMap<u64, Forward>,
    next: u64,
}

impl Forwards {
    pub(super) fn add(&mut self, door: Door, guest: SocketAddr, events: &Events) -> std::io::Result<()> {
        let number = self.next;
        match &door {
            Door::Tcp(listener) => events.watch(listener, Source::Forward(number))?,
            Door::Udp(socket) => events.watch(socket, Source::Forward(number))?,
            Door::Unix(named) => events.watch(&named.listener, Source::Forward(number))?,
        }
        self.next = number.wrapping_add(1);
        self.forwards.insert(number, Forward { door, guest, ready: true });
        Ok(())
    }

    pub(super) fn happened(&mut self, number: u64) {
        if let Some(forward) = self.forwards.get_mut(&number) {
            forward.ready = true;
        }
    }

    /// Takes who has come; whether there was anybody.
    pub(super) fn serve(
        &mut self,
        now: Duration,
        buffer: &mut [u8],
        gateway: &mut Gateway,
        streams: &mut Streams,
        events: &Events,
    ) -> bool {
        let mut moved = false;
        for (number, forward) in self.forwards.iter_mut().filter(|(_, forward)| forward.ready) {
            for _ in 0..AT_ONCE {
                let served = match &forward.door {
                    Door::Tcp(listener) => {
                        let come = listener.accept().map(|(socket, peer)| (Socket::Tcp(socket), peer));
                        accept(now, come, forward.guest, gateway, streams, events)
                    }
                    Door::Unix(named) => {
                        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, UNIX_PEER));
                        let come = named.listener.accept().map(|(socket, _)| (Socket::Unix(socket), peer));
                        accept(now, come, forward.guest, gateway, streams, events)
                    }
                    Door::Udp(_) if !gateway.wants_frames() => break,
                    Door::Udp(socket) => {
                        receive(now, ForwardId(*number), socket, forward.guest, buffer, gateway)
                    }
                };
                forward.ready = served;
                moved |= served;
                if !served {
                    break;
                }
            }
        }
        moved
    }

    /// Sends what a guest answers somebody.
    pub(super) fn answer(&self, forward: ForwardId, peer: SocketAddr, data: &[u8]) {
        if let Some(Forward { door: Door::Udp(socket), .. }) = self.forwards.get(&forward.0) {
            let _ = socket.send_to(data, peer);
        }
    }
}

/// Takes one connection; whether to look for another one.
fn accept(
    now: Duration,
    come: std::io::Result<(Socket, SocketAddr)>,
    guest: SocketAddr,
    gateway: &mut Gateway,
    streams: &mut Streams,
    events: &Events,
) -> bool {
    let (socket, peer) = match come {
        Ok(come) => come,
        Err(error) => return error.kind() == ErrorKind::Interrupted,
    };
    match gateway.accept(now, guest, peer) {
        Some(flow) => {
            if streams.accepted(flow, socket, events).is_err() {
                gateway.host_reset(flow);
            }
        }
        None => streams::reset(&socket),
    }
    true
}

/// Takes one datagram; whether to look for another one.
fn receive(
    now: Duration,
    id: ForwardId,
    socket: &UdpSocket,
    guest: SocketAddr,
    buffer: &mut [u8],
    gateway: &mut Gateway,
) -> bool {
    match socket.recv_from(buffer) {
        Ok((length, peer)) => {
            gateway.forwarded(now, id, guest, peer, buffer.get(..length).unwrap_or_default());
            true
        }
        // A peer that does not want an answer is told of here; the next datagram may be another's.
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}
