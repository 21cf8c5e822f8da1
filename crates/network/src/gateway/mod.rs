//! A way out of the switch for guests: the user-mode network that QEMU has (slirp), without its privileges or its process.
//!
//! A [`Gateway`] is the other end of a guest's wire. It answers ARP, DHCP, neighbour discovery and pings of itself; TCP, UDP and
//! pings of others it takes apart into what a host's program can do with sockets. It has none: whoever runs it carries out its
//! [`Action`]s, tells it what came of them, and moves bytes with [`Gateway::take`] and [`Gateway::fill`].
//!
//! ```text
//!  guest ──frames──► receive ─► dhcp, neighbors          ┌─► Action: connect, send, ping
//!                       └─────► tcp (smoltcp), udp ──────┤
//!  guest ◄─frames── next_frame ◄──────────────────────── ┴◄─ connected, fill, answered
//! ```
//!
//! | address | is |
//! | --- | --- |
//! | 10.0.2.2, `fec0::2` | the gateway; its ports are those of the host's loopback |
//! | 10.0.2.3, `fec0::3` | the host's resolver, port 53 |
//! | 10.0.2.15 on | guests, by DHCP; over IPv6 they choose within `fec0::/64` |
//!
//! Time is an argument, as everywhere in this crate. All that a guest can make grow has a bound: `MOST_FLOWS` connections, as
//! many sockets, the frames that wait for it, and the actions that wait for the host.

mod addresses;
mod dhcp;
mod emit;
mod fragments;
mod neighbors;
mod outbox;
mod packet;
mod shares;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub use self::addresses::{
    GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_V4, Protocol, RESOLVER_V4, RESOLVER_V6, Target,
};
use self::dhcp::Leases;
use self::emit::Pair;
use self::fragments::Fragments;
use self::neighbors::Neighbors;
use self::outbox::Outbox;
use self::packet::{ICMP, ICMP_V6, Incoming, Packet, TCP, UDP};
pub use self::tcp::FlowState;
use self::tcp::Tcp;
use self::udp::{Datagrams, Owner};
use crate::{Accepts, Frame};

/// Actions that may wait for the host: it does them after each frame, so that more is a flood.
const MOST_ACTIONS: usize = 512;
/// Data of packets that are told of as undeliverable: what fits into the smallest packets that both IPs have (RFC 1812, 4.3.2.3;
/// RFC 4443, 3.1).
const MOST_QUOTED_V4: usize = 548;
const MOST_QUOTED_V6: usize = 1232;

const ECHO_REQUEST_V4: [u8; 2] = [8, 0];
const ECHO_REPLY_V4: [u8; 2] = [0, 0];
const ECHO_REQUEST_V6: [u8; 2] = [128, 0];
const ECHO_REPLY_V6: [u8; 2] = [129, 0];
const NEIGHBOR_ADVERTISEMENT: [u8; 2] = [136, 0];

/// What a gateway lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Guests reach nothing but the gateway itself and its guest forwards, and answer host forwards: QEMU's `restrict=on`.
    pub restrict: bool,
    /// Several machines are guests: each has an address that follows from its number, and no more than its part of a full table.
    pub shared: bool,
    /// Addresses of the network that lead to something of the host's.
    pub guest_forwards: Vec<GuestForward>,
}

/// A TCP port of the network that leads to a socket of the host's: QEMU's `guestfwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestForward {
    /// What the guest connects to, in 10.0.2.0/24 or `fec0::/64`.
    pub guest: SocketAddr,
    /// Where that leads.
    pub host: Target,
}

/// Whom a frame counts for where guests share a gateway. Who is one guest, whoever runs the gateway says: it should be what a guest
/// cannot make up, such as the port of a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guest(pub u64);

impl Guest {
    /// All of whom nothing better is known.
    pub const UNKNOWN: Self = Self(u64::MAX);
}

/// Names a TCP connection for as long as the gateway lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

/// Names a socket of the host's for a guest's datagrams or pings, for as long as the gateway lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u64);

/// Names a forward of UDP; whoever runs the gateway counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardId(pub u64);

/// What the host's side is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect, and say what came of it: [`Gateway::connected`] or [`Gateway::refused`].
    Connect {
        /// The connection.
        flow: FlowId,
        /// Where to.
        target: Target,
    },
    /// Reset the connection, or stop opening it. It is unknown from now on.
    Reset {
        /// The connection.
        flow: FlowId,
    },
    /// Close the connection: both sides have ended it. It is unknown from now on.
    Close {
        /// The connection.
        flow: FlowId,
    },
    /// Send a datagram from the socket of this name, to be opened if there is none; what comes in there goes to
    /// [`Gateway::answered`].
    Send {
        /// The socket.
        socket: SocketId,
        /// Where to.
        target: Target,
        /// The datagram.
        data: Vec<u8>,
    },
    /// Send an echo request; the reply goes to [`Gateway::ponged`].
    Ping {
        /// The socket.
        socket: SocketId,
        /// Whom.
        to: IpAddr,
        /// The request's number.
        sequence: u16,
        /// Its data.
        data: Vec<u8>,
    },
    /// Send a datagram from a forward's socket.
    Answer {
        /// The forward.
        forward: ForwardId,
        /// Where to.
        peer: SocketAddr,
        /// The datagram.
        data: Vec<u8>,
    },
    /// Close the socket of this name, if there is one.
    Forget {
        /// The socket.
        socket: SocketId,
    },
}

/// Why the host could not do what a guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
}

/// The gateway.
pub struct Gateway {
    config: Config,
    leases: Leases,
    neighbors: Neighbors,
    fragments: Fragments,
    tcp: Tcp,
    datagrams: Datagrams,
    outbox: Outbox,
    actions: Vec<Action>,
    /// Of the last packet that was sent in fragments.
    identification: u16,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Gateway {
    /// What a gateway takes unfinished of a switch's frames.
    pub const ACCEPTS: Accepts =
        Accepts { checksum: true, tcp4: true, tcp6: true, ecn: true, udp_segments: false };

    /// A gateway that knows of no guest. Sequence numbers begin at what `seed` makes of them: nobody should know it.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let taken = config.guest_forwards.iter().map(|forward| forward.guest.ip()).collect();
        Self {
            leases: Leases::new(config.shared, taken),
            config,
            neighbors: Neighbors::default(),
            fragments: Fragments::default(),
            tcp: Tcp::new(seed),
            datagrams: Datagrams::default(),
            outbox: Outbox::default(),
            actions: Vec::new(),
            identification: 0,
        }
    }

    /// Whether to hand it more frames: not while what came of others waits.
    #[must_use]
    pub fn wants_frames(&self) -> bool {
        self.outbox.has_room() && self.actions.len() < MOST_ACTIONS / 2
    }

    /// Takes a frame of the guest's, where there is only one.
    pub fn receive(&mut self, now: Duration, frame: &Frame) {
        self.receive_from(now, Guest::default(), frame);
    }

    /// Takes a frame of `guest`'s.
    pub fn receive_from(&mut self, now: Duration, guest: Guest, frame: &Frame) {
        match packet::read(frame, guest) {
            Some(Incoming::Arp(bytes)) => {
                let is_own = |address: Ipv4Addr| addresses::answers(&self.config, address.into());
                if let Some(answer) = self.neighbors.arp(bytes, guest, is_own) {
                    self.outbox.push(Frame::new(answer));
                }
            }
            Some(Incoming::Ip(packet)) => self.ip(now, packet),
            None => {}
        }
        self.frame_segments(now);
    }

    /// Sends what is due at `now`, and forgets what is over.
    pub fn poll(&mut self, now: Duration) {
        self.tcp.wire.closed = !self.outbox.has_room();
        self.tcp.poll(now, &mut self.actions);
        self.frame_segments(now);
        for socket in self.datagrams.expire(now) {
            self.actions.push(Action::Forget { socket });
        }
    }

    /// When to call [`Gateway::poll`], if nothing else happens before.
    pub fn deadline(&mut self, now: Duration) -> Option<Duration> {
        let due = [self.tcp.deadline(now), self.datagrams.deadline()];
        due.into_iter().flatten().min()
    }

    /// The next frame for the guest.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.outbox.next()
    }

    /// What the host's side is to do now, in this order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The guest is another one from now on, as after a reset: what was known of it is forgotten, but its address.
    pub fn guest_gone(&mut self) {
        self.tcp.clear(&mut self.actions);
        for socket in self.datagrams.clear() {
            self.actions.push(Action::Forget { socket });
        }
        self.fragments = Fragments::default();
        self.neighbors = Neighbors::default();
        self.outbox = Outbox::default();
    }

    /// The host has connected.
    pub fn connected(&mut self, now: Duration, flow: FlowId) {
        self.tcp.connected(now, flow);
        self.frame_segments(now);
    }

    /// The host could not connect.
    pub fn refused(&mut self, now: Duration, flow: FlowId, why: Refusal) {
        let syn = self.tcp.refused(now, flow, why == Refusal::Refused);
        if let (Some(syn), Refusal::Unreachable) = (syn, why) {
            self.undeliverable(now, &syn, Refusal::Unreachable);
        }
        self.frame_segments(now);
    }

    /// Somebody at `peer` has connected to a forward that leads to `guest`. `None`: there is no room, reset it.
    pub fn accept(&mut self, now: Duration, guest: SocketAddr, peer: SocketAddr) -> Option<FlowId> {
        let seen = addresses::as_seen_by_guest(peer, guest.ip());
        let share = self.neighbors.guest_at(guest.ip());
        self.tcp.connect(now, (share, guest), seen, &mut self.actions)
    }

    /// Lets `take` have bytes of a connection for the host; it returns how many it took.
    pub fn take(&mut self, now: Duration, flow: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        self.tcp.take(now, flow, take)
    }

    /// Lets `fill` put bytes of a connection for the guest into the room that there is; it returns how many it put there.
    pub fn fill(&mut self, now: Duration, flow: FlowId, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.tcp.fill(now, flow, fill)
    }

    /// How a connection stands; `None` while the host is connecting, and when it is unknown.
    #[must_use]
    pub fn flow(&self, flow: FlowId) -> Option<FlowState> {
        self.tcp.state(flow)
    }

    /// The connections that are open and that the host has not let go of.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowId> {
        self.tcp.open_flows()
    }

    /// The host has no more to send on a connection.
    pub fn host_done(&mut self, flow: FlowId) {
        self.tcp.host_done(flow);
    }

    /// The host's connection was reset, or failed. Nothing more is told of it.
    pub fn host_reset(&mut self, flow: FlowId) {
        self.tcp.host_reset(flow);
    }

    /// The host's connection has ended on both sides. Nothing more is told of it.
    pub fn host_closed(&mut self, flow: FlowId) {
        self.tcp.host_closed(flow);
    }

    /// A datagram has come in for a socket.
    pub fn answered(&mut self, now: Duration, socket: SocketId, from: SocketAddr, data: &[u8]) {
        let (guest, seen) = match self.datagrams.owner(now, socket) {
            Some(Owner::Socket(guest)) => (guest, addresses::as_seen(from)),
            Some(Owner::Resolver(guest, asked)) => (guest, asked),
            _ => return,
        };
        self.send_udp(now, seen, guest, data);
    }

    /// Nobody takes what was sent from a socket, which is to be for one address.
    pub fn unanswered(&mut self, now: Duration, socket: SocketId) {
        if let Some(Owner::Resolver(guest, asked)) = self.datagrams.owner(now, socket)
            && let Some(datagram) = emit::udp(guest, asked, &[])
        {
            let pair = Pair { from: guest.ip(), to: asked.ip() };
            for packet in emit::packets(pair, UDP, &datagram, 0) {
                self.undeliverable(now, &packet, Refusal::Refused);
            }
        }
    }

    /// An echo reply has come in for a socket.
    pub fn ponged(&mut self, now: Duration, socket: SocketId, sequence: u16, data: &[u8]) {
        if let Some(Owner::Ping(guest, pinged, identifier)) = self.datagrams.owner(now, socket) {
            let kind = if guest.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
            let pair = Pair { from: pinged, to: guest };
            let [a, b] = identifier.to_be_bytes();
            let [c, d] = sequence.to_be_bytes();
            self.send_icmp(now, pair, kind, [a, b, c, d], data);
        }
    }

    /// Somebody at `peer` has sent a datagram to a forward that leads to `guest`.
    pub fn forwarded(
        &mut self,
        now: Duration,
        forward: ForwardId,
        guest: SocketAddr,
        peer: SocketAddr,
        data: &[u8],
    ) {
        let seen = addresses::as_seen_by_guest(peer, guest.ip());
        let share = self.neighbors.guest_at(guest.ip());
        let placed = self.datagrams.forwarded(now, guest, seen, (forward, peer), share);
        let Some((seen, evicted)) = placed else { return };
        self.actions.extend(evicted.map(|socket| Action::Forget { socket }));
        self.send_udp(now, seen, guest, data);
    }

    fn ip(&mut self, now: Duration, packet: Packet<'_>) {
        if packet.protocol == UDP && packet.piece.is_none() && self.dhcp(now, &packet) {
            return;
        }
        if packet.pair.from == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            return self.discovery(&packet); // It looks whether an address is free.
        }
        if !addresses::is_guest(packet.pair.from) {
            return;
        }
        self.neighbors.learn(packet.pair.from, packet.mac, packet.sender);
        if let Some(piece) = packet.piece {
            let Packet { sender, pair, protocol, payload, .. } = packet;
            if let Some(payload) = self.fragments.add(now, (sender, pair), protocol, piece, payload) {
                self.transport(now, &Packet { payload: &payload, piece: None, trusted: false, ..packet });
            }
        } else {
            self.transport(now, &packet);
        }
    }

    fn transport(&mut self, now: Duration, packet: &Packet<'_>) {
        match (packet.protocol, packet.pair.from) {
            // A segment in pieces is nobody's: TCP finds the right length (RFC 9293, 3.7.1).
            (TCP, _) if packet.whole.ends_with(packet.payload) => {
                let Some(segment) = packet.tcp() else { return };
                let target = || addresses::target(&self.config, Protocol::Tcp, segment.remote);
                self.tcp.receive(now, segment, packet.whole, target, &mut self.actions);
            }
            (UDP, _) => self.udp(now, packet),
            (ICMP, IpAddr::V4(_)) => self.echo(now, packet, ECHO_REQUEST_V4, ECHO_REPLY_V4),
            (ICMP_V6, IpAddr::V6(_)) => {
                self.discovery(packet);
                self.echo(now, packet, ECHO_REQUEST_V6, ECHO_REPLY_V6);
            }
            _ => {}
        }
    }

    /// Answers clients of DHCP; whether it was one.
    fn dhcp(&mut self, now: Duration, packet: &Packet<'_>) -> bool {
        let nobody = packet::is_nobody(packet.pair.from);
        let Some((from, to, data)) = packet.udp() else { return nobody };
        if !to.is_ipv4() || (from.port(), to.port()) != (dhcp::CLIENT_PORT, dhcp::SERVER_PORT) {
            return nobody;
        }
        if let Some(answer) = self.leases.answer(now, packet.sender, self.config.restrict, data) {
            if let (Some(address), false) = (answer.granted, packet.mac[0] & 1 != 0) {
                self.neighbors.learn(address.into(), packet.mac, packet.sender);
            }
            let from = SocketAddr::from((GATEWAY_V4, dhcp::SERVER_PORT));
            let to = SocketAddr::from((Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT));
            if let Some(datagram) = emit::udp(from, to, &answer.message) {
                self.send_to(answer.mac, Pair { from: from.ip(), to: to.ip() }, UDP, &datagram);
            }
        }
        true
    }

    fn udp(&mut self, now: Duration, packet: &Packet<'_>) {
        let Some((from, to, data)) = packet.udp() else { return };
        if from.port() == 0 || self.actions.len() >= MOST_ACTIONS {
            return;
        }
        if let Some((forward, peer)) = self.datagrams.peer(now, Owner::Forward(from, to)) {
            return self.actions.push(Action::Answer { forward, peer, data: data.to_vec() });
        }
        let Some(target) = addresses::target(&self.config, Protocol::Udp, to) else {
            if addresses::is_own(to.ip()) && !self.config.restrict {
                self.undeliverable(now, packet.whole, Refusal::Refused);
            }
            return;
        };
        let owner = match target {
            Target::Resolver => Owner::Resolver(from, to),
            Target::Address(_) | Target::Socket(_) => Owner::Socket(from),
        };
        let (socket, evicted) = self.datagrams.of(now, owner, packet.sender);
        self.actions.extend(evicted.map(|socket| Action::Forget { socket }));
        self.actions.push(Action::Send { socket, target, data: data.to_vec() });
    }

    fn echo(&mut self, now: Duration, packet: &Packet<'_>, request: [u8; 2], reply: [u8; 2]) {
        let Some((kind, rest, data)) = packet.icmp() else { return };
        if kind != request || self.actions.len() >= MOST_ACTIONS {
            return;
        }
        let Pair { from, to } = packet.pair;
        if addresses::is_own(to) {
            return self.send_icmp(now, packet.pair.reversed(), reply, rest, data);
        }
        if let Some(to) = addresses::ping_target(&self.config, to) {
            let [a, b, c, d] = rest;
            let owner = Owner::Ping(from, to, u16::from_be_bytes([a, b]));
            let (socket, evicted) = self.datagrams.of(now, owner, packet.sender);
            self.actions.extend(evicted.map(|socket| Action::Forget { socket }));
            let sequence = u16::from_be_bytes([c, d]);
            self.actions.push(Action::Ping { socket, to, sequence, data: data.to_vec() });
        }
    }

    /// Neighbour discovery of IPv6.
    fn discovery(&mut self, packet: &Packet<'_>) {
        let IpAddr::V6(from) = packet.pair.from else { return };
        if packet.protocol != ICMP_V6 {
            return;
        }
        let Some((kind, _, data)) = packet.icmp() else { return };
        let answer = match kind {
            neighbors::ROUTER_SOLICITATION => {
                neighbors::router_advertisement(self.config.restrict, packet.mac)
            }
            neighbors::NEIGHBOR_SOLICITATION => packet::solicited(data)
                .filter(|address| addresses::answers(&self.config, (*address).into()))
                .and_then(|address| neighbors::advertisement(address, from, packet.mac)),
            NEIGHBOR_ADVERTISEMENT => {
                let address = packet::solicited(data).map(IpAddr::V6);
                if let Some(address) = address.filter(|address| addresses::is_guest(*address)) {
                    self.neighbors.learn(address, packet.mac, packet.sender);
                }
                None
            }
            _ => None,
        };
        if let Some(answer) = answer {
            self.outbox.push(Frame::new(answer));
        }
    }

    /// Tells a guest that its packet went nowhere (RFC 792, RFC 4443, 3.1).
    fn undeliverable(&mut self, now: Duration, packet: &[u8], why: Refusal) {
        let Some(pair) = packet::pair(packet) else { return };
        let (kind, most) = match (pair.from, why) {
            (IpAddr::V4(_), Refusal::Unreachable) => ([3, 1], MOST_QUOTED_V4),
            (IpAddr::V4(_), Refusal::Refused) => ([3, 3], MOST_QUOTED_V4),
            (IpAddr::V6(_), Refusal::Unreachable) => ([1, 3], MOST_QUOTED_V6),
            (IpAddr::V6(_), Refusal::Refused) => ([1, 4], MOST_QUOTED_V6),
        };
        let quoted = packet.get(..packet.len().min(most)).unwrap_or_default();
        self.send_icmp(now, pair.reversed(), kind, [0; 4], quoted);
    }

    fn send_udp(&mut self, now: Duration, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        if from.is_ipv4() == to.is_ipv4()
            && let Some(datagram) = emit::udp(from, to, data)
        {
            self.send(now, Pair { from: from.ip(), to: to.ip() }, UDP, &datagram);
        }
    }

    fn send_icmp(&mut self, now: Duration, pair: Pair, kind: [u8; 2], rest: [u8; 4], data: &[u8]) {
        self.send(now, pair, emit::icmp_of(pair.to), &emit::icmp(pair, kind, rest, data));
    }

    /// Sends to a guest whose Ethernet address is known; otherwise asks for that, and the packet is lost.
    fn send(&mut self, now: Duration, pair: Pair, protocol: u8, payload: &[u8]) {
        if let Some(mac) = self.neighbors.find(pair.to) {
            return self.send_to(mac, pair, protocol, payload);
        }
        if let Some(question) = self.neighbors.ask(now, pair.to) {
            self.outbox.push(Frame::new(question));
        }
    }

    fn send_to(&mut self, mac: [u8; 6], pair: Pair, protocol: u8, payload: &[u8]) {
        self.identification = self.identification.wrapping_add(1);
        for packet in emit::packets(pair, protocol, payload, self.identification) {
            let bytes = emit::frame(mac, GATEWAY_MAC, emit::ether_type(pair.to), &packet);
            self.outbox.push(Frame::new(bytes));
        }
    }

    /// Puts the TCP stack's packets into frames.
    fn frame_segments(&mut self, now: Duration) {
        while let Some(outgoing) = self.tcp.wire.next() {
            let Some(pair) = packet::pair(outgoing.packet()) else { continue };
            match self.neighbors.find(pair.to) {
                Some(mac) => self.outbox.push_segment(mac, pair, outgoing),
                None => {
                    if let Some(question) = self.neighbors.ask(now, pair.to) {
                        self.outbox.push(Frame::new(question));
                    }
                }
            }
        }
    }
}
