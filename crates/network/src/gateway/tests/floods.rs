//! A guest of which one program talks to the host in good order, while another one floods the gateway.
//!
//! Nothing is timed: a turn is one of those in which the gateway's thread takes frames, and in each of them the flood comes behind
//! the good frames, so that it can push out whatever those have made.

use std::collections::VecDeque;

use smoltcp::wire::DhcpMessageType;

use super::super::dhcp::tests::message_of;
use super::super::{dhcp, neighbors, outbox, tcp, udp};
use super::*;

const TURNS: u32 = 100;
/// Frames that the flood has in a turn; with the good ones it is what the gateway's thread takes in one.
const FLOOD: usize = 120;
/// Frames of the guest's that are taken in a turn.
const TAKEN: usize = 128;
/// Frames that the guest takes in a turn: its ring.
const RING: usize = 256;
const TURN: Duration = Duration::from_millis(1);
/// Bytes of each segment and datagram of the good programs.
const SIZE: usize = 1000;

const STREAM: u16 = 5000;
const QUESTIONS: u16 = 5001;

/// What the host does with connections of the flood.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    /// Nobody answers there.
    Silent,
    Refuses,
    Accepts,
}

type Flood = fn(u32) -> Vec<Frame>;

/// What got through.
#[derive(Debug, Default)]
struct Outcome {
    to_host: usize,
    to_guest: usize,
    answers: usize,
    leases: usize,
}

struct Network {
    gateway: Gateway,
    host: Host,
    now: Duration,
    stream: FlowId,
    /// The next numbers of the stream: the guest's and the gateway's.
    numbers: (u32, u32),
    ring: VecDeque<Frame>,
    /// Datagrams that the host has not answered yet: those of this turn, and those of the one before.
    asked: [Vec<SocketId>; 2],
    outcome: Outcome,
}

impl Network {
    fn new(host: Host) -> Self {
        let mut gateway = gateway();
        let (stream, next) = open(&mut gateway, guest(STREAM), address("10.0.2.2:80"));
        let mut network = Self {
            gateway,
            host,
            now: NOW,
            stream,
            numbers: (101, next),
            ring: VecDeque::new(),
            asked: [Vec::new(), Vec::new()],
            outcome: Outcome::default(),
        };
        network.ring.push_back(lease(0, DhcpMessageType::Request));
        network.turn(Vec::new());
        network
    }

    /// The good programs' frames of one turn.
    fn good(&mut self) {
        let to = address("10.0.2.2:80");
        for _ in 0..2 {
            let (own, theirs) = self.numbers;
            self.ring.push_back(tcp_frame(guest(STREAM), to, (own, theirs), PSH_ACK, &[7; SIZE]));
            self.numbers.0 = own.wrapping_add(u32::try_from(SIZE).unwrap());
        }
        self.ring.extend(udp_frames(guest(QUESTIONS), address("10.0.2.2:7"), b"question"));
        self.ring.push_back(lease(0, DhcpMessageType::Request));
    }

    /// One turn of the gateway's thread, in its order.
    fn turn(&mut self, flood: Vec<Frame>) {
        self.ring.extend(flood);
        for _ in 0..TAKEN {
            if !self.gateway.wants_frames() {
                break;
            }
            let Some(frame) = self.ring.pop_front() else { break };
            self.gateway.receive(self.now, &frame);
            self.act();
        }
        self.outcome.to_host += self.gateway.take(self.now, self.stream, |bytes| bytes.len());
        self.gateway.fill(self.now, self.stream, |room| room.len().min(2 * SIZE));
        self.gateway.poll(self.now);
        self.act();
        for _ in 0..RING {
            let Some(frame) = self.gateway.next_frame() else { break };
            self.guest_takes(&frame);
        }
        let [now, before] = &mut self.asked;
        for socket in std::mem::replace(before, std::mem::take(now)) {
            self.gateway.answered(self.now, socket, address("127.0.0.1:7"), b"answer");
        }
        self.check();
        self.now += TURN;
    }

    fn act(&mut self) {
        for action in self.gateway.actions() {
            match action {
                Action::Connect { flow, .. } => match self.host {
                    Host::Silent => {}
                    Host::Refuses => self.gateway.refused(self.now, flow, Refusal::Refused),
                    Host::Accepts => self.gateway.connected(self.now, flow),
                },
                Action::Send { socket, data, .. } if data == b"question" => self.asked[0].push(socket),
                // Its socket is closed: nothing comes in there any more.
                Action::Forget { socket } => {
                    self.asked.iter_mut().for_each(|turn| turn.retain(|asked| *asked != socket));
                }
                _ => {}
            }
        }
    }

    fn guest_takes(&mut self, frame: &Frame) {
        let port = |at: usize| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
        if frame.bytes[12..14] != [8, 0] {
            return;
        }
        match (frame.bytes[23], port(36)) {
            (TCP, STREAM) => {
                let (_, sequence, length) = seen(frame);
                if sequence == self.numbers.1 {
                    self.numbers.1 = sequence.wrapping_add(u32::try_from(length).unwrap());
                    self.outcome.to_guest += length;
                }
            }
            (UDP, QUESTIONS) => self.outcome.answers += 1,
            (UDP, dhcp::CLIENT_PORT) => {
                self.outcome.leases += usize::from(frame.bytes[58..62] == GUEST_V4.octets())
            }
            _ => {}
        }
    }

    /// All that a guest can make grow.
    fn check(&self) {
        let (flows, connecting) = self.gateway.tcp.counts();
        assert!(flows <= tcp::MOST_FLOWS && connecting <= tcp::MOST_CONNECTING);
        assert!(self.gateway.datagrams.count() <= udp::MOST_FLOWS);
        assert!(self.gateway.neighbors.count() <= neighbors::MOST_OF_GUEST);
        assert!(self.gateway.leases.count() <= usize::from(dhcp::MOST_LEASES));
        assert!(self.gateway.fragments.count() <= fragments::MOST_PACKETS);
        let (frames, bytes) = self.gateway.outbox.size();
        assert!(frames <= outbox::MOST_FRAMES && bytes <= outbox::MOST_BYTES);
        assert!(self.gateway.actions.len() <= MOST_ACTIONS);
    }
}

fn talk(host: Host, flood: Flood) -> Outcome {
    let mut network = Network::new(host);
    let mut number = 0;
    for _ in 0..TURNS {
        network.good();
        let mut frames = Vec::new();
        while frames.len() < FLOOD {
            number += 1;
            let next = flood(number);
            if next.is_empty() {
                break;
            }
            frames.extend(next);
        }
        network.turn(frames);
    }
    network.outcome
}

fn lease(number: u32, kind: DhcpMessageType) -> Frame {
    let [a, b, c, d] = number.to_be_bytes();
    let mac = if number == 0 { MAC } else { [2, 0, a, b, c, d] };
    let wanted = (number == 0).then_some(GUEST_V4);
    let message = message_of(mac, kind, wanted);
    let mut frame = udp_frames(address("0.0.0.0:68"), address("255.255.255.255:67"), &message).pop().unwrap();
    frame.bytes[6..12].copy_from_slice(&mac);
    frame
}

/// Somebody of the network who is not the guest: number 0 to 199.
fn somebody(number: u32) -> SocketAddr {
    let last = u8::try_from(number % 200).unwrap() + 20;
    SocketAddr::from(([10, 0, 2, last], 4000))
}

fn port(number: u32) -> u16 {
    u16::try_from(number % 50_000).unwrap() + 6000
}

fn syns(number: u32) -> Vec<Frame> {
    vec![tcp_frame(guest(port(number)), address("192.0.2.1:80"), (100, 0), SYN, b"")]
}

fn segments_of_no_connection(number: u32) -> Vec<Frame> {
    vec![tcp_frame(guest(port(number)), address("10.0.2.2:80"), (100, 7), PSH_ACK, &[0; 1000])]
}

fn datagrams(number: u32) -> Vec<Frame> {
    udp_frames(guest(port(number)), address("10.0.2.2:9"), b"flood")
}

fn names(number: u32) -> Vec<Frame> {
    udp_frames(guest(port(number)), address("10.0.2.3:53"), b"flood")
}

fn refused_datagrams(number: u32) -> Vec<Frame> {
    udp_frames(guest(port(number)), address("10.0.2.3:99"), &[0; 1000])
}

fn pings(number: u32) -> Vec<Frame> {
    let [.., c, d] = number.to_be_bytes();
    vec![icmp_frame("10.0.2.15", &format!("198.51.{c}.{d}"), [8, 0], [0; 4], b"ping")]
}

fn echoes(_: u32) -> Vec<Frame> {
    vec![icmp_frame("10.0.2.15", "10.0.2.2", [8, 0], [0; 4], &[0; 1400])]
}

fn echoes_of_others(number: u32) -> Vec<Frame> {
    vec![icmp_frame(&somebody(number).ip().to_string(), "10.0.2.2", [8, 0], [0; 4], b"ping")]
}

fn announcements(number: u32) -> Vec<Frame> {
    let IpAddr::V4(ip) = somebody(number).ip() else { panic!("it is IPv4") };
    let [.., a, b] = number.to_be_bytes();
    let mac = [2, 0, 0, 0, a, b];
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &ip.octets(), &[0; 6], &[10, 0, 2, 2]].concat();
    vec![Frame::new(emit::frame([0xff; 6], mac, [8, 6], &body))]
}

fn solicitations(number: u32) -> Vec<Frame> {
    let data = [&GATEWAY_V6.octets()[..], &[1, 1], &MAC].concat();
    vec![icmp_frame(&format!("fec0::{number:x}"), "fec0::2", [135, 0], [0; 4], &data)]
}

fn discoveries(number: u32) -> Vec<Frame> {
    vec![lease(number, DhcpMessageType::Discover)]
}

fn requests(number: u32) -> Vec<Frame> {
    vec![lease(number, DhcpMessageType::Request)]
}

fn first_fragments(number: u32) -> Vec<Frame> {
    let mut frames = udp_frames(guest(port(number)), address("10.0.2.2:9"), &[0; 2000]);
    frames.truncate(1);
    let [.., a, b] = number.to_be_bytes();
    frames[0].bytes[18..20].copy_from_slice(&[a, b]);
    frames[0].bytes[24..26].fill(0);
    let sum = Sum::default().add(&frames[0].bytes[14..34]).finish();
    frames[0].bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    frames
}

const FLOODS: &[(&str, Host, Flood)] = &[
    ("connections that nobody answers", Host::Silent, syns),
    ("connections that are refused", Host::Refuses, syns),
    ("connections that the guest leaves half open", Host::Accepts, syns),
    ("segments of no connection", Host::Silent, segments_of_no_connection),
    ("datagrams from all ports", Host::Silent, datagrams),
    ("questions from all ports", Host::Silent, names),
    ("datagrams that are refused", Host::Silent, refused_datagrams),
    ("pings of everybody", Host::Silent, pings),
    ("long pings of the gateway", Host::Silent, echoes),
    ("pings of everybody who is not there", Host::Silent, echoes_of_others),
    ("ARP of everybody", Host::Silent, announcements),
    ("neighbours of IPv6", Host::Silent, solicitations),
    ("clients of DHCP", Host::Silent, discoveries),
    ("clients of DHCP that take what they get", Host::Silent, requests),
    ("datagrams of which the rest never comes", Host::Silent, first_fragments),
];

/// A guest that is in nobody's way.
fn nothing(_: u32) -> Vec<Frame> {
    Vec::new()
}

#[test]
fn a_flood_leaves_half_to_those_who_behave_and_no_table_grows() {
    let base = talk(Host::Silent, nothing);
    let turns = usize::try_from(TURNS).unwrap();
    assert!(
        base.to_host >= (turns - 2) * 2 * SIZE && base.answers >= turns - 3 && base.leases >= turns - 2,
        "{base:?}"
    );
    for (name, host, flood) in FLOODS {
        let got = talk(*host, *flood);
        assert!(got.to_host >= base.to_host / 2, "{name}: {got:?} of {base:?}");
        assert!(got.to_guest >= base.to_guest / 2, "{name}: {got:?} of {base:?}");
        assert!(got.answers >= base.answers / 2, "{name}: {got:?} of {base:?}");
        assert!(got.leases >= base.leases / 2, "{name}: {got:?} of {base:?}");
    }
}
