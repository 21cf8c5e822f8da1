//! The gateway with a guest that is made of single frames, and a host that is made of answers to its actions.

mod floods;
mod hostile;
mod tables;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::emit::{self, Pair};
use super::packet::{self, ICMP_V6, Incoming, TCP, UDP};
use super::*;
use crate::checksum::Sum;
use crate::{Checksum, Offload, Segmentation, SegmentationKind};

const NOW: Duration = Duration::from_secs(1000);
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH_ACK: u8 = 0x18;
const ACK: u8 = 0x10;

fn gateway() -> Gateway {
    Gateway::new(Config::default(), 1)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn guest(port: u16) -> SocketAddr {
    SocketAddr::from((GUEST_V4, port))
}

fn frames(pair: Pair, protocol: u8, payload: &[u8]) -> Vec<Frame> {
    let frame = |packet: &Vec<u8>| emit::frame(GATEWAY_MAC, MAC, emit::ether_type(pair.to), packet);
    emit::packets(pair, protocol, payload, 9).iter().map(frame).map(Frame::new).collect()
}

fn udp_frames(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<Frame> {
    frames(Pair { from: from.ip(), to: to.ip() }, UDP, &emit::udp(from, to, data).unwrap())
}

fn icmp_frame(from: &str, to: &str, kind: [u8; 2], rest: [u8; 4], data: &[u8]) -> Frame {
    let pair = Pair { from: from.parse().unwrap(), to: to.parse().unwrap() };
    frames(pair, emit::icmp_of(pair.from), &emit::icmp(pair, kind, rest, data)).pop().unwrap()
}

/// A TCP segment without options.
fn segment(from: SocketAddr, to: SocketAddr, numbers: (u32, u32), flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    bytes.extend(numbers.0.to_be_bytes());
    bytes.extend(numbers.1.to_be_bytes());
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(data);
    let pair = Pair { from: from.ip(), to: to.ip() };
    let sum = pair.sum(TCP, bytes.len()).add(&bytes).finish();
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn tcp_frame(from: SocketAddr, to: SocketAddr, numbers: (u32, u32), flags: u8, data: &[u8]) -> Frame {
    let pair = Pair { from: from.ip(), to: to.ip() };
    frames(pair, TCP, &segment(from, to, numbers, flags, data)).pop().unwrap()
}

fn outgoing(gateway: &mut Gateway) -> Vec<Frame> {
    std::iter::from_fn(|| gateway.next_frame()).collect()
}

/// Flags, sequence number and payload length of a TCP frame for the guest.
fn seen(frame: &Frame) -> (u8, u32, usize) {
    let headers = crate::headers::Headers::find(&frame.bytes).unwrap();
    let at = headers.transport_at;
    let sequence = u32::from_be_bytes(frame.bytes[at + 4..at + 8].try_into().unwrap());
    (frame.bytes[at + 13], sequence, frame.bytes.len() - headers.payload_at)
}

/// Opens a connection; gives it and the gateway's next sequence number. The guest's is 101.
fn open(gateway: &mut Gateway, from: SocketAddr, to: SocketAddr) -> (FlowId, u32) {
    gateway.receive(NOW, &tcp_frame(from, to, (100, 0), SYN, b""));
    let actions = gateway.actions();
    let Some(Action::Connect { flow, .. }) = actions.last() else { panic!("{actions:?}") };
    assert!(outgoing(gateway).is_empty(), "the answer waits for the host");
    gateway.connected(NOW, *flow);
    gateway.poll(NOW);
    let frames = outgoing(gateway);
    let (flags, sequence, _) = seen(frames.first().unwrap());
    assert_eq!(flags, SYN | ACK);
    gateway.receive(NOW, &tcp_frame(from, to, (101, sequence + 1), ACK, b""));
    (*flow, sequence + 1)
}

#[test]
fn arp_is_answered_for_the_gateways_addresses_alone() {
    for (asked, answers) in
        [("10.0.2.2", true), ("10.0.2.3", true), ("10.0.2.15", false), ("10.0.2.99", false)]
    {
        let mut gateway = gateway();
        let target: Ipv4Addr = asked.parse().unwrap();
        let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &[10, 0, 2, 15], &[0; 6], &target.octets()].concat();
        gateway.receive(NOW, &Frame::new(emit::frame([0xff; 6], MAC, [8, 6], &body)));
        let frames = outgoing(&mut gateway);
        assert_eq!(frames.len(), usize::from(answers), "{asked}");
        if let Some(frame) = frames.first() {
            assert_eq!(frame.bytes[..12], [MAC, GATEWAY_MAC].concat());
            assert_eq!(frame.bytes[22..28], GATEWAY_MAC);
            assert_eq!(frame.bytes[28..32], target.octets());
        }
    }
}

#[test]
fn the_gateway_answers_pings_of_itself_and_has_others_pinged() {
    let mut gateway = gateway();
    for (from, to, request, reply) in [
        ("10.0.2.15", "10.0.2.2", [8, 0], [0, 0]),
        ("10.0.2.15", "10.0.2.3", [8, 0], [0, 0]),
        ("fec0::15", "fec0::2", [128, 0], [129, 0]),
    ] {
        gateway.receive(NOW, &icmp_frame(from, to, request, [1, 2, 3, 4], b"data"));
        let frames = outgoing(&mut gateway);
        let mut expected = icmp_frame(to, from, reply, [1, 2, 3, 4], b"data");
        expected.bytes[..12].copy_from_slice(&[MAC, GATEWAY_MAC].concat());
        assert_eq!(frames, [expected], "{to}");
        assert_eq!(gateway.actions(), []);
    }
    gateway.receive(NOW, &icmp_frame("10.0.2.15", "192.0.2.1", [8, 0], [1, 2, 3, 4], b"data"));
    let actions = gateway.actions();
    let [Action::Ping { socket, to, sequence: 0x304, data }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!((*to, data.as_slice()), ("192.0.2.1".parse::<IpAddr>().unwrap(), &b"data"[..]));
    gateway.ponged(NOW, *socket, 0x304, b"back");
    let frame = outgoing(&mut gateway).pop().unwrap();
    assert_eq!(
        frame.bytes[34..],
        emit::icmp(Pair { from: *to, to: GUEST_V4.into() }, [0, 0], [1, 2, 3, 4], b"back")
    );
}

#[test]
fn routers_and_neighbours_of_ipv6_are_found() {
    let mut gateway = gateway();
    gateway.receive(NOW, &icmp_frame("fe80::1", "ff02::2", [133, 0], [0; 4], b""));
    let frame = outgoing(&mut gateway).pop().unwrap();
    let message = &frame.bytes[54..];
    assert_eq!((message[0], &message[4..8]), (134, &[64, 0, 0x23, 0x28][..]));
    let prefix = message.windows(8).any(|window| window == [0xfe, 0xc0, 0, 0, 0, 0, 0, 0]);
    let resolver = message.windows(16).any(|window| window == RESOLVER_V6.octets());
    assert!(prefix && resolver);

    for (address, answers) in [("fec0::2", true), ("fec0::3", true), ("fe80::2", true), ("fec0::15", false)] {
        let target: Ipv6Addr = address.parse().unwrap();
        let data = [&target.octets()[..], &[1, 1], &MAC].concat();
        gateway.receive(NOW, &icmp_frame("fec0::15", "ff02::1:ff00:2", [135, 0], [0; 4], &data));
        assert_eq!(outgoing(&mut gateway).len(), usize::from(answers), "{address}");
        // One who looks whether the address is free has none.
        gateway.receive(NOW, &icmp_frame("::", "ff02::1:ff00:2", [135, 0], [0; 4], &target.octets()));
        assert_eq!(outgoing(&mut gateway).len(), usize::from(answers), "{address}");
    }
    let mut restricted = Gateway::new(Config { restrict: true, ..Config::default() }, 1);
    restricted.receive(NOW, &icmp_frame("fe80::1", "ff02::2", [133, 0], [0; 4], b""));
    let frame = outgoing(&mut restricted).pop().unwrap();
    assert_eq!(frame.bytes[58..62], [64, 0, 0, 0], "no router, but a prefix");
}

#[test]
fn datagrams_go_out_and_answers_come_from_where_they_were_sent() {
    let mut gateway = gateway();
    let at = address("10.0.2.2:7");
    for frame in udp_frames(guest(5000), at, b"hello") {
        gateway.receive(NOW, &frame);
    }
    let actions = gateway.actions();
    let [Action::Send { socket, target, data }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((*target, data.as_slice()), (Target::Address(address("127.0.0.1:7")), &b"hello"[..]));
    gateway.answered(NOW, *socket, address("127.0.0.1:7"), b"back");
    let mut expected = udp_frames(at, guest(5000), b"back").pop().unwrap();
    expected.bytes[..12].copy_from_slice(&[MAC, GATEWAY_MAC].concat());
    assert_eq!(outgoing(&mut gateway), [expected]);
    // The wrong IP's answers, and those of sockets that nobody knows, go nowhere.
    gateway.answered(NOW, *socket, address("[::1]:7"), b"back");
    gateway.answered(NOW, SocketId(99), address("127.0.0.1:7"), b"back");
    assert_eq!(outgoing(&mut gateway), []);
}

#[test]
fn long_datagrams_come_and_go_in_fragments() {
    let mut gateway = gateway();
    let data: Vec<u8> = (0..9000u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for (from, to) in
        [(guest(5000), address("10.0.2.2:7")), (address("[fec0::15]:5000"), address("[fec0::2]:7"))]
    {
        let frames = udp_frames(from, to, &data);
        assert!(frames.len() > 6);
        frames.iter().rev().for_each(|frame| gateway.receive(NOW, frame));
        let actions = gateway.actions();
        let [Action::Send { socket, data: sent, target: Target::Address(at) }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
        assert!(*sent == data);
        gateway.answered(NOW, *socket, *at, &data);
        let frames = outgoing(&mut gateway);
        assert!(frames.iter().all(|frame| frame.bytes.len() <= 1514));
        assert_eq!(frames.len(), 7);
    }
}

#[test]
fn datagrams_that_nobody_takes_are_told_of() {
    let mut gateway = gateway();
    for frame in udp_frames(guest(5000), address("10.0.2.3:99"), b"x") {
        gateway.receive(NOW, &frame);
    }
    let frame = outgoing(&mut gateway).pop().unwrap();
    assert_eq!(frame.bytes[34..36], [3, 3]);
    for frame in udp_frames(guest(5000), address("10.0.2.3:53"), b"x") {
        gateway.receive(NOW, &frame);
    }
    let actions = gateway.actions();
    let [Action::Send { socket, target: Target::Resolver, .. }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    gateway.unanswered(NOW, *socket);
    let frame = outgoing(&mut gateway).pop().unwrap();
    assert_eq!(frame.bytes[34..36], [3, 3]);
    // The ports of what was asked: those that the guest knows its question by.
    assert_eq!(frame.bytes[62..66], [5000u16.to_be_bytes(), 53u16.to_be_bytes()].concat());
}

#[test]
fn a_damaged_packet_is_lost_and_an_unfinished_one_is_not() {
    let mut gateway = gateway();
    let mut frame = udp_frames(guest(5000), address("10.0.2.2:7"), b"hello").pop().unwrap();
    let last = frame.bytes.len() - 1;
    frame.bytes[last] ^= 1;
    gateway.receive(NOW, &frame);
    assert_eq!(gateway.actions(), []);
    frame.offload.checksum = Some(Checksum { start: 34, offset: 6 });
    gateway.receive(NOW, &frame);
    assert_eq!(gateway.actions().len(), 1);
}

#[test]
fn a_refused_connection_is_reset_and_one_without_a_way_is_told_of() {
    let mut gateway = gateway();
    for (why, check) in [(Refusal::Refused, 6u8), (Refusal::Unreachable, 1)] {
        gateway.receive(NOW, &tcp_frame(guest(5000), address("192.0.2.1:80"), (100, 0), SYN, b""));
        let actions = gateway.actions();
        let [Action::Connect { flow, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        gateway.refused(NOW, *flow, why);
        let frame = outgoing(&mut gateway).pop().unwrap();
        assert_eq!(frame.bytes[23], check, "the protocol");
        if why == Refusal::Refused {
            assert_eq!(seen(&frame).0, RST | ACK);
        } else {
            assert_eq!(frame.bytes[34..36], [3, 1]);
        }
        assert_eq!(gateway.tcp.counts(), (0, 0));
    }
}

#[test]
fn a_guest_that_gives_up_while_the_host_connects_is_done_with() {
    let mut gateway = gateway();
    let to = address("10.0.2.2:80");
    gateway.receive(NOW, &tcp_frame(guest(5000), to, (100, 0), SYN, b""));
    gateway.receive(NOW, &tcp_frame(guest(5000), to, (100, 0), SYN, b""));
    gateway.receive(NOW, &tcp_frame(guest(5000), to, (101, 0), RST, b""));
    let actions = gateway.actions();
    assert!(matches!(actions.as_slice(), [Action::Connect { .. }, Action::Reset { .. }]), "{actions:?}");
    assert_eq!(gateway.tcp.counts(), (0, 0));
}

#[test]
fn long_segments_are_taken_whole_and_sent_whole() {
    let mut gateway = gateway();
    let (from, to) = (guest(5000), address("10.0.2.2:80"));
    let (flow, sequence) = open(&mut gateway, from, to);
    let data = vec![7; 60_000];
    let mut bytes = segment(from, to, (101, sequence), PSH_ACK, &data);
    bytes[16..18].fill(0); // open
    // What the guest's kernel sends: one packet, longer than the network's.
    let length = u16::try_from(bytes.len() + 20).unwrap().to_be_bytes();
    let mut head =
        [&[0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, TCP, 0, 0][..], &[10, 0, 2, 15], &[10, 0, 2, 2]]
            .concat();
    let sum = Sum::default().add(&head).finish();
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    let bytes = emit::frame(GATEWAY_MAC, MAC, [8, 0], &[head, bytes].concat());
    let checksum = Some(Checksum { start: 34, offset: 16 });
    let kind = SegmentationKind::Tcp4;
    let segmentation = Some(Segmentation { kind, ecn: false, size: 1460, header_length: 54 });
    gateway.receive(NOW, &Frame { bytes, offload: Offload { checksum, data_valid: false, segmentation } });
    assert_eq!(gateway.flow(flow).unwrap().for_host, data.len());
    assert_eq!(gateway.take(NOW, flow, |bytes| bytes.len()), data.len());

    gateway.fill(NOW, flow, |room| room.len());
    gateway.poll(NOW);
    let frames = outgoing(&mut gateway);
    let longest = frames.iter().max_by_key(|frame| frame.bytes.len()).unwrap();
    assert!(longest.bytes.len() > 30_000, "{}", longest.bytes.len());
    assert_eq!(longest.offload.segmentation.map(|it| it.kind), Some(SegmentationKind::Tcp4));
    // And the switch takes them for what they are.
    for mut frame in frames {
        assert!(crate::finish::check(&mut frame).is_some());
    }
}

#[test]
fn ends_and_resets_are_passed_on() {
    const FIN_ACK: u8 = 0x11;
    let mut gateway = gateway();
    let to = address("10.0.2.2:80");
    // The guest ends, then the host.
    let (flow, sequence) = open(&mut gateway, guest(5000), to);
    gateway.receive(NOW, &tcp_frame(guest(5000), to, (101, sequence), FIN_ACK, b"bye"));
    assert_eq!(gateway.flow(flow).unwrap(), FlowState { for_host: 3, guest_done: false, room: 131_072 });
    gateway.take(NOW, flow, |bytes| bytes.len());
    assert!(gateway.flow(flow).unwrap().guest_done);
    gateway.host_done(flow);
    gateway.poll(NOW);
    let fin = outgoing(&mut gateway).pop().unwrap();
    assert_eq!(seen(&fin).0 & 1, 1);
    gateway.receive(NOW, &tcp_frame(guest(5000), to, (105, sequence + 1), ACK, b""));
    gateway.poll(NOW);
    assert_eq!(gateway.actions(), [Action::Close { flow }]);
    assert_eq!(gateway.tcp.counts(), (0, 0));

    // The guest resets.
    let (flow, sequence) = open(&mut gateway, guest(5001), to);
    gateway.receive(NOW, &tcp_frame(guest(5001), to, (101, sequence), RST, b""));
    gateway.poll(NOW);
    assert_eq!(gateway.actions(), [Action::Reset { flow }]);

    // The host resets.
    let (flow, _) = open(&mut gateway, guest(5002), to);
    gateway.host_reset(flow);
    gateway.poll(NOW);
    assert_eq!(seen(&outgoing(&mut gateway).pop().unwrap()).0 & RST, RST);
    assert_eq!((gateway.actions(), gateway.tcp.counts()), (vec![], (0, 0)));
}

#[test]
fn who_comes_through_a_forward_is_the_gateway_to_the_guest() {
    let mut gateway = gateway();
    gateway.accept(NOW, guest(80), address("127.0.0.1:4444")).unwrap();
    gateway.accept(NOW, guest(80), address("127.0.0.1:4444")).unwrap();
    gateway.poll(NOW);
    // Nobody knows where the guest is.
    let question = outgoing(&mut gateway).pop().unwrap();
    assert_eq!(question.bytes[..14], [&[0xff; 6][..], &GATEWAY_MAC, &[8, 6]].concat());
    gateway.receive(NOW, &icmp_frame("10.0.2.15", "10.0.2.2", [8, 0], [0; 4], b""));
    outgoing(&mut gateway);
    let later = NOW + Duration::from_secs(3);
    gateway.poll(later);
    let mut ports: Vec<u16> = outgoing(&mut gateway)
        .iter()
        .map(|frame| {
            assert_eq!(seen(frame).0, SYN);
            assert_eq!(frame.bytes[26..30], [10, 0, 2, 2]);
            u16::from_be_bytes(frame.bytes[34..36].try_into().unwrap())
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [4444, 65535], "two peers may have the same port");

    // Datagrams, with answers through the same door.
    gateway.forwarded(NOW, ForwardId(3), guest(53), address("127.0.0.1:999"), b"q");
    let frame = outgoing(&mut gateway).pop().unwrap();
    assert_eq!(frame.bytes[42..], *b"q");
    for frame in udp_frames(guest(53), address("10.0.2.2:999"), b"a") {
        gateway.receive(NOW, &frame);
    }
    let peer = address("127.0.0.1:999");
    assert_eq!(gateway.actions(), [Action::Answer { forward: ForwardId(3), peer, data: b"a".to_vec() }]);
}

#[test]
fn a_restricted_guest_makes_the_host_do_nothing() {
    let mut gateway = Gateway::new(Config { restrict: true, ..Config::default() }, 1);
    for to in ["10.0.2.2:80", "10.0.2.3:53", "192.0.2.1:80"] {
        gateway.receive(NOW, &tcp_frame(guest(5000), address(to), (100, 0), SYN, b""));
        let reset = outgoing(&mut gateway).pop().unwrap();
        assert_eq!(seen(&reset).0, RST | ACK);
        for frame in udp_frames(guest(5000), address(to), b"x") {
            gateway.receive(NOW, &frame);
        }
        assert_eq!(outgoing(&mut gateway), []);
    }
    gateway.receive(NOW, &icmp_frame("10.0.2.15", "192.0.2.1", [8, 0], [0; 4], b""));
    gateway.receive(NOW, &icmp_frame("10.0.2.15", "10.0.2.2", [8, 0], [0; 4], b""));
    assert_eq!(outgoing(&mut gateway).len(), 1, "the gateway itself answers");
    assert_eq!(gateway.actions(), []);
}

#[test]
fn packets_of_nobodys_and_for_others_are_ignored() {
    let mut gateway = gateway();
    let frame = |from: &str, to: &str| udp_frames(address(from), address(to), b"x").pop().unwrap();
    for from in ["192.0.2.1:1", "10.0.2.2:1", "10.0.2.255:1", "127.0.0.1:1"] {
        gateway.receive(NOW, &frame(from, "10.0.2.2:7"));
    }
    let mut other = frame("10.0.2.15:1", "10.0.2.2:7");
    other.bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    gateway.receive(NOW, &other);
    let tagged = frame("10.0.2.15:1", "10.0.2.2:7").bytes;
    let tagged = [&tagged[..12], &[0x81, 0, 0, 5], &tagged[12..]].concat();
    gateway.receive(NOW, &Frame::new(tagged));
    assert_eq!((gateway.actions(), outgoing(&mut gateway)), (vec![], vec![]));
}
