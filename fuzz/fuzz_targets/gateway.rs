//! Frames that no guest's kernel sends, to the user network's gateway: ARP, DHCP, DNS, pings, datagrams, fragments, and TCP
//! segments out of turn, while the host's side answers, refuses and is gone.
#![no_main]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snowboot_network::gateway::{
    Action, Config, FlowId, ForwardId, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_V4, Gateway, RESOLVER_V4,
    RESOLVER_V6, Refusal, SocketId,
};
use snowboot_network::{Checksum, Frame, Offload};

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15);
const PORTS: &[u16] = &[53, 67, 68, 80, 7, 0];
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// An Ethernet header, the longest IP packet and two tags.
const LONGEST: usize = 65_535 + 14 + 8;
/// More than a gateway may ask for between two looks of the host.
const MOST_ACTIONS: usize = 4096;

/// Something that happens.
#[derive(Arbitrary, Debug)]
enum Step {
    Raw(u16, Vec<u8>),
    Arp { operation: u8, target: u8 },
    Dhcp { kind: u8, options: Vec<u8>, cut: u8 },
    Datagram { v6: bool, to: u8, ports: (u8, u8), data: Vec<u8> },
    Icmp { v6: bool, to: u8, kind: u8, code: u8, data: Vec<u8> },
    Fragment { v6: bool, protocol: u8, identification: u8, place: u16, data: Vec<u8> },
    Segment { v6: bool, to: u8, ports: (u8, u8), flags: u8, sequence: i8, window: u16, data: Vec<u8> },
    Host(u8, u8, Vec<u8>),
    Accept { v6: bool, port: u8 },
    Forwarded(u8, Vec<u8>),
    GuestGone,
    Wait(u16),
}

/// What the guest's side knows of a connection, by its ends: where its own numbers are, and the gateway's.
type Numbers = HashMap<(u16, u16), (u32, u32)>;

struct Network {
    gateway: Gateway,
    now: Duration,
    flows: Vec<FlowId>,
    sockets: Vec<SocketId>,
    numbers: Numbers,
}

fuzz_target!(|story: (bool, u64, Vec<Step>)| {
    let (restrict, seed, steps) = story;
    let config = Config { restrict, ..Config::default() };
    let mut network = Network {
        gateway: Gateway::new(config, seed),
        now: Duration::ZERO,
        flows: Vec::new(),
        sockets: Vec::new(),
        numbers: Numbers::new(),
    };
    for step in &steps {
        network.apply(step);
        network.look();
    }
});

impl Network {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Raw(kind, bytes) => self.send(*kind, bytes, false),
            Step::Arp { operation, target } => self.send(ARP, &arp(*operation, *target), false),
            Step::Dhcp { kind, options, cut } => self.dhcp(*kind, options, *cut),
            Step::Datagram { v6, to, ports, data } => {
                let (from, to_port) = (port(ports.0), port(ports.1));
                let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
                let head = [from, to_port, length, 0].map(u16::to_be_bytes).concat();
                self.ip(*v6, *to, UDP, &[&head, data.as_slice()].concat());
            }
            Step::Icmp { v6, to, kind, code, data } => {
                let message = [&[*kind, *code, 0, 0][..], data].concat();
                self.ip(*v6, *to, if *v6 { 58 } else { 1 }, &message);
            }
            Step::Fragment { v6, protocol, identification, place, data } => {
                self.fragment(*v6, *protocol, *identification, *place, data);
            }
            Step::Segment { v6, to, ports, flags, sequence, window, data } => {
                let segment = self.segment(*ports, *flags, *sequence, *window, data);
                self.ip(*v6, *to, TCP, &segment);
            }
            Step::Host(what, which, data) => self.host(*what, *which, data),
            Step::Accept { v6, port: number } => {
                let guest = SocketAddr::new(guest(*v6), port(*number).max(1));
                let peer = SocketAddr::from(([127, 0, 0, 1], 40_000 + u16::from(*number)));
                self.flows.extend(self.gateway.accept(self.now, guest, peer));
            }
            Step::Forwarded(number, data) => {
                let guest = SocketAddr::new(GUEST_V4.into(), port(*number).max(1));
                let peer = SocketAddr::from(([127, 0, 0, 1], 50_000 + u16::from(*number)));
                self.gateway.forwarded(self.now, ForwardId(u64::from(*number % 2)), guest, peer, data);
            }
            Step::GuestGone => self.gateway.guest_gone(),
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(u64::from(*milliseconds) * 8);
                self.gateway.poll(self.now);
            }
        }
    }

    /// Sends a frame; `open` leaves its transport checksum to the receiver.
    fn send(&mut self, kind: u16, payload: &[u8], open: bool) {
        let mut bytes = [&GATEWAY_MAC[..], &GUEST_MAC, &kind.to_be_bytes(), payload].concat();
        bytes.truncate(LONGEST);
        let checksum = open.then_some(Checksum { start: if kind == IPV6 { 54 } else { 34 }, offset: 6 });
        self.gateway.receive(self.now, &Frame { bytes, offload: Offload { checksum, ..Offload::default() } });
    }

    fn ip(&mut self, v6: bool, to: u8, protocol: u8, payload: &[u8]) {
        let packet =
            if v6 { packet_v6(to, protocol, payload) } else { packet_v4(to, protocol, (0, 0), payload) };
        self.send(if v6 { IPV6 } else { IPV4 }, &packet, true);
    }

    fn fragment(&mut self, v6: bool, protocol: u8, identification: u8, place: u16, data: &[u8]) {
        let protocol = [TCP, UDP, 1, 58][usize::from(protocol % 4)];
        let [high, low] = place.to_be_bytes();
        if v6 {
            let head = [protocol, 0, high, low, 0, 0, 0, identification];
            self.ip(true, 0, 44, &[&head, data].concat());
        } else {
            let packet = packet_v4(0, protocol, (u16::from(identification), place & 0x3fff), data);
            self.send(IPV4, &packet, true);
        }
    }

    fn dhcp(&mut self, kind: u8, options: &[u8], cut: u8) {
        let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
        message.resize(28, 0);
        message.extend(GUEST_MAC);
        message.resize(236, 0);
        message.extend([99, 130, 83, 99, 53, 1, kind % 9]);
        message.extend(options);
        message.push(255);
        message.truncate(message.len().saturating_sub(usize::from(cut % 64)));
        let length = u16::try_from(8 + message.len()).unwrap_or(u16::MAX);
        let head = [68, 67, length, 0].map(u16::to_be_bytes).concat();
        let mut packet = packet_v4(5, UDP, (0, 0), &[&head[..], &message].concat());
        packet[12..16].fill(0);
        put_checksum(&mut packet);
        self.send(IPV4, &packet, true);
    }

    /// A segment that is near what its connection expects.
    fn segment(&mut self, ports: (u8, u8), flags: u8, near: i8, window: u16, data: &[u8]) -> Vec<u8> {
        let ends = (1000 + u16::from(ports.0 % 4), port(ports.1));
        let (own, theirs) = *self.numbers.entry(ends).or_insert((1, 0));
        let sequence = own.wrapping_add_signed(near.into());
        let mut segment = [ends.0, ends.1].map(u16::to_be_bytes).concat();
        segment.extend(sequence.to_be_bytes());
        segment.extend(theirs.to_be_bytes());
        segment.extend([5 << 4, flags]);
        segment.extend([window, 0, 0].map(u16::to_be_bytes).concat());
        segment.extend(data);
        let taken = data.len() + usize::from(flags & 3 != 0);
        let next = sequence.wrapping_add(u32::try_from(taken).expect("short"));
        self.numbers.insert(ends, (next, theirs));
        segment
    }

    /// The host's side does something with a connection or a socket.
    fn host(&mut self, what: u8, which: u8, data: &[u8]) {
        let (now, gateway) = (self.now, &mut self.gateway);
        let pick = |length: usize| (length > 0).then(|| usize::from(which) % length);
        if let Some(flow) = pick(self.flows.len()).map(|at| self.flows[at]) {
            match what % 12 {
                0 | 1 => gateway.connected(now, flow),
                2 => gateway.refused(now, flow, Refusal::Refused),
                3 => gateway.refused(now, flow, Refusal::Unreachable),
                4 => _ = gateway.take(now, flow, |bytes| bytes.len().min(usize::from(which))),
                5 => {
                    gateway.fill(now, flow, |room| {
                        let length = room.len().min(data.len());
                        room[..length].copy_from_slice(&data[..length]);
                        length
                    });
                }
                6 => gateway.host_done(flow),
                7 => gateway.host_reset(flow),
                8 => gateway.host_closed(flow),
                _ => {}
            }
        }
        if let Some(socket) = pick(self.sockets.len()).map(|at| self.sockets[at]) {
            match what % 12 {
                9 => gateway.answered(now, socket, SocketAddr::from(([127, 0, 0, 1], 53)), data),
                10 => gateway.unanswered(now, socket),
                11 => gateway.ponged(now, socket, which.into(), data),
                _ => {}
            }
        }
        gateway.poll(now);
    }

    /// What the gateway has for both sides: it must be whole, and bounded.
    fn look(&mut self) {
        let actions = self.gateway.actions();
        assert!(actions.len() <= MOST_ACTIONS, "more for the host than it can be asked for");
        for action in actions {
            match action {
                Action::Connect { flow, .. } => self.flows.push(flow),
                Action::Send { socket, .. } | Action::Ping { socket, .. } => self.sockets.push(socket),
                _ => {}
            }
        }
        while let Some(frame) = self.gateway.next_frame() {
            self.check(&frame);
        }
        for flow in self.gateway.flows() {
            assert!(self.gateway.flow(flow).is_some(), "an open connection is unknown");
        }
    }

    fn check(&mut self, frame: &Frame) {
        let bytes = &frame.bytes;
        assert!((14..=LONGEST).contains(&bytes.len()), "a frame of no length of frames");
        assert_eq!(bytes[6..12], GATEWAY_MAC, "a frame of somebody else's");
        if let Some(Checksum { start, offset }) = frame.offload.checksum {
            assert!(usize::from(start + offset) + 2 <= bytes.len(), "a checksum behind its frame");
        }
        let transport = match bytes[12..14] {
            [0x08, 0x00] => {
                let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
                assert!(length <= bytes.len() - 14, "a packet that is longer than its frame");
                (bytes[23] == TCP).then(|| &bytes[34..])
            }
            [0x86, 0xdd] => (bytes[20] == TCP).then(|| &bytes[54..]),
            _ => None,
        };
        if let Some(segment) = transport.filter(|it| it.len() >= 20) {
            self.learn(segment);
        }
    }

    /// The guest acknowledges all that came.
    fn learn(&mut self, segment: &[u8]) {
        let half = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let word = |at: usize| (u32::from(half(at)) << 16) | u32::from(half(at + 2));
        let head = usize::from(segment[12] >> 4) * 4;
        let length = segment.len().saturating_sub(head) + usize::from(segment[13] & 3 != 0);
        let next = word(4).wrapping_add(u32::try_from(length).expect("short"));
        let (own, _) = self.numbers.get(&(half(2), half(0))).copied().unwrap_or((1, 0));
        self.numbers.insert((half(2), half(0)), (own, next));
    }
}

fn port(number: u8) -> u16 {
    PORTS.get(usize::from(number)).copied().unwrap_or(u16::from(number))
}

fn guest(v6: bool) -> IpAddr {
    if v6 { GUEST_V6.into() } else { GUEST_V4.into() }
}

fn address_v4(number: u8) -> Ipv4Addr {
    match number % 6 {
        0 => GATEWAY_V4,
        1 => RESOLVER_V4,
        2 => Ipv4Addr::new(192, 0, 2, number),
        3 => Ipv4Addr::LOCALHOST,
        4 => Ipv4Addr::new(10, 0, 2, number),
        _ => Ipv4Addr::BROADCAST,
    }
}

fn address_v6(number: u8) -> Ipv6Addr {
    match number % 5 {
        0 => GATEWAY_V6,
        1 => RESOLVER_V6,
        2 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
        3 => Ipv6Addr::LOCALHOST,
        _ => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
    }
}

fn arp(operation: u8, target: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation % 4];
    message.extend(GUEST_MAC);
    message.extend(GUEST_V4.octets());
    message.extend([0; 6]);
    message.extend(address_v4(target).octets());
    message
}

/// `place` is the identification, and flags and offset of a fragment.
fn packet_v4(to: u8, protocol: u8, place: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend([length, place.0, place.1].map(u16::to_be_bytes).concat());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(GUEST_V4.octets());
    packet.extend(address_v4(to).octets());
    packet.extend(payload);
    put_checksum(&mut packet);
    packet
}

fn packet_v6(to: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, 255]);
    packet.extend(GUEST_V6.octets());
    packet.extend(address_v6(to).octets());
    packet.extend(payload);
    packet
}

/// The checksum of an IPv4 header (RFC 1071).
fn put_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let words = packet[..20].as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!u16::try_from(sum).expect("folded")).to_be_bytes());
}
