//! A port to switches of other hosts: VXLAN (RFC 7348), Ethernet frames in UDP datagrams.
//!
//! The other ends are known by their addresses. Which of them a station is behind is learnt from what they send; a frame for one
//! that is not known goes to all, and so do broadcasts and multicasts. What comes from one end is never sent to another: each has to
//! know all others (RFC 7348, 4.2, with unicast in the place of a multicast group).
//!
//! # Invariants
//! * Frames that leave are finished: the port accepts no offloads.
//! * A datagram of whoever is not named, or that is not of this network, changes nothing but a count.

mod packet;
mod peers;

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg_addr, sockopt};
use snowboot_config::VxlanConfig;
use snowboot_network::{Accepts, Frame, Port, Station};

use self::peers::{Peers, Whom};
use crate::losses::{Losses, Teller};
use crate::pump::{Pump, Received, Wire, is_full};

pub use self::packet::{Unfit, frame_of, header};

/// Room for the longest UDP datagram.
const ROOM: usize = 1 << 16;

/// Bytes that may wait in the socket each way, as far as the host allows: a window of TCP or two.
const SOCKET_BUFFER: usize = 4 << 20;

const REASONS: &[&str] = &[
    "from an address that is no peer's",
    "not VXLAN",
    "of another network",
    "too short",
    "a peer could not be sent to",
];
const STRANGER: usize = 0;
const NOT_VXLAN: usize = 1;
const OTHER_NETWORK: usize = 2;
const RUNT: usize = 3;
const UNSENT: usize = 4;

/// A VXLAN end cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("Cannot open an end of VXLAN {vni} at {local}: {why}: {source}")]
pub struct Error {
    /// The network's identifier.
    pub vni: u32,
    /// Where its socket was to be.
    pub local: SocketAddr,
    /// What is wrong, and what to do.
    pub why: &'static str,
    /// Why.
    pub source: io::Error,
}

/// One end of a VXLAN network. Dropping it closes its socket.
#[derive(Debug)]
pub struct Tunnel {
    _pump: Pump,
    losses: Losses,
}

impl Tunnel {
    /// Connects `port` with a VXLAN network.
    ///
    /// # Errors
    /// When the host has no such address, its port is taken, or there are no more descriptors or threads.
    pub fn open(config: &VxlanConfig, port: Port) -> Result<Self, Error> {
        let failed = |why| move |source| Error { vni: config.vni(), local: config.local(), why, source };
        let socket = UdpSocket::bind(config.local()).map_err(|source| {
            let why = match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program has that port, or the kernel for a VXLAN of its own"
                }
                io::ErrorKind::AddrNotAvailable => "this host has no such address",
                _ => "the host refuses it",
            };
            failed(why)(source)
        })?;
        socket.set_nonblocking(true).map_err(failed("the socket cannot be polled"))?;
        // More is better, and less works.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER);
        let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER);
        let losses = Losses::new(REASONS);
        let wire = VxlanWire {
            socket,
            vni: config.vni(),
            peers: Peers::new(config.peers().to_vec()),
            sent_to: 0,
            buffer: vec![0; ROOM],
            losses: losses.clone(),
            teller: Teller::new(losses.clone()),
        };
        let pump = Pump::start(port, wire).map_err(failed("no descriptor or thread is left"))?;
        Ok(Self { _pump: pump, losses })
    }

    /// How many datagrams and frames were dropped here, and why.
    #[must_use]
    pub fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.losses.all()
    }
}

struct VxlanWire {
    socket: UdpSocket,
    vni: u32,
    peers: Peers,
    /// How many of the peers have the frame that is being sent.
    sent_to: usize,
    buffer: Vec<u8>,
    losses: Losses,
    teller: Teller,
}

impl VxlanWire {
    /// Sends to one peer; `false` when the socket has no room.
    fn send_to(&self, peer: SocketAddr, frame: &Frame) -> bool {
        let header = header(self.vni);
        let parts = [IoSlice::new(&header), IoSlice::new(&frame.bytes)];
        let control = &mut SendAncillaryBuffer::default();
        match sendmsg_addr(&self.socket, &peer, &parts, control, SendFlags::empty()) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // A way that is not there now may be there later.
            Err(_) => self.losses.count(UNSENT),
        }
        true
    }

    fn take(&mut self, now: Duration, length: usize, from: SocketAddr) -> Received {
        let losses = &self.losses;
        let drop = |reason| {
            losses.count(reason);
            Received::Dropped
        };
        let Some(peer) = self.peers.find(from) else { return drop(STRANGER) };
        let datagram = self.buffer.get(..length).unwrap_or_default();
        let frame = match frame_of(datagram, self.vni) {
            Ok(frame) => frame,
            Err(Unfit::NotVxlan) => return drop(NOT_VXLAN),
            Err(Unfit::OtherNetwork) => return drop(OTHER_NETWORK),
            Err(Unfit::Runt) => return drop(RUNT),
        };
        if let Some((_, station)) = Station::of(frame) {
            self.peers.learn(station, peer, now);
        }
        Received::Frame(Frame::new(frame.to_vec()))
    }
}

impl Wire for VxlanWire {
    fn name(&self) -> String {
        format!("VXLAN {}", self.vni)
    }

    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    fn send(&mut self, now: Duration, frame: Frame) -> io::Result<Option<Frame>> {
        let Some((to, _)) = Station::of(&frame.bytes) else { return Ok(None) };
        let (peers, have_it) = match self.peers.whom(to, now) {
            Whom::One(peer) => (std::slice::from_ref(peer), 0),
            Whom::All(peers) => (peers, self.sent_to),
        };
        for peer in peers.iter().skip(have_it) {
            if !self.send_to(*peer, &frame) {
                return Ok(Some(frame));
            }
            self.sent_to = self.sent_to.saturating_add(1);
        }
        self.sent_to = 0;
        Ok(None)
    }

    fn receive(&mut self, now: Duration) -> io::Result<Received> {
        match self.socket.recv_from(&mut self.buffer) {
            Ok((length, from)) => Ok(self.take(now, length, from)),
            Err(error) if is_full(&error) => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    fn data(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn tell(&mut self, now: Duration) {
        if let Some(line) = self.teller.line(now) {
            tracing::warn!("{}: {line}", self.name());
        }
    }
}
