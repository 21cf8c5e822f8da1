//! Checksums and cutting, judged by code that shares nothing with the one under test.

use proptest::prelude::*;

use super::{START, address, frame, ports};
use crate::{Accepts, Checksum, Frame, Offload, Port, Segmentation, SegmentationKind, Switch};

const EVERYTHING: Accepts = Accepts { checksum: true, tcp4: true, tcp6: true, ecn: true, udp_segments: true };

/// A packet to be cut, and what the test knows about it.
#[derive(Clone, Debug)]
struct Packet {
    tags: usize,
    v6: bool,
    udp: bool,
    /// Of IP: options of IPv4, or extension headers of IPv6, in units of 4 or 8 bytes.
    ip_options: usize,
    tcp_options: usize,
    flags: u8,
    identification: u16,
    sequence: u32,
    size: u16,
    ecn: bool,
    payload: Vec<u8>,
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

impl Packet {
    fn network_at(&self) -> usize {
        14 + 4 * self.tags
    }

    fn transport_at(&self) -> usize {
        self.network_at() + if self.v6 { 40 + 8 * self.ip_options } else { 20 + 4 * self.ip_options }
    }

    fn payload_at(&self) -> usize {
        self.transport_at() + if self.udp { 8 } else { 20 + 4 * self.tcp_options }
    }

    fn checksum_at(&self) -> usize {
        self.transport_at() + if self.udp { 6 } else { 16 }
    }

    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    fn kind(&self) -> SegmentationKind {
        match (self.udp, self.v6) {
            (true, _) => SegmentationKind::UdpSegment,
            (false, true) => SegmentationKind::Tcp6,
            (false, false) => SegmentationKind::Tcp4,
        }
    }

    /// Addresses, protocol and length, as the transport checksum counts them.
    fn pseudo_header(&self, bytes: &[u8]) -> Vec<u8> {
        let at = self.network_at();
        let addresses = if self.v6 { &bytes[at + 8..at + 40] } else { &bytes[at + 12..at + 20] };
        let length = u32::try_from(bytes.len() - self.transport_at()).unwrap();
        [addresses, &u32::from(self.protocol()).to_be_bytes(), &length.to_be_bytes()].concat()
    }

    fn network_header(&self) -> Vec<u8> {
        let rest = self.payload_at() - self.network_at() + self.payload.len();
        if self.v6 {
            let next = if self.ip_options > 0 { 60 } else { self.protocol() };
            let length = u16::try_from(rest - 40).unwrap().to_be_bytes();
            let mut header = [&[0x60, 1, 2, 3][..], &length, &[next, 64], &[0x20; 16], &[0x21; 16]].concat();
            for left in (0..self.ip_options).rev() {
                let next = if left > 0 { 60 } else { self.protocol() };
                header.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
            return header;
        }
        let first = 0x45 + u8::try_from(self.ip_options).unwrap();
        let length = u16::try_from(rest).unwrap().to_be_bytes();
        let [high, low] = self.identification.to_be_bytes();
        let fixed = [first, 0, length[0], length[1], high, low, 0x40, 0, 64, self.protocol(), 0, 0];
        let mut header = [&fixed[..], &[192, 168, 1, 1, 192, 168, 1, 2]].concat();
        header.resize(20 + 4 * self.ip_options, 1);
        let checksum = !sum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn frame(&self) -> Frame {
        let mut bytes = [[0x52, 0, 0, 0, 0, 2], [0x52, 0, 0, 0, 0, 1]].concat();
        for _ in 0..self.tags {
            bytes.extend([0x81, 0, 0, 5]);
        }
        bytes.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0] });
        bytes.extend(self.network_header());
        bytes.extend([0x12, 0x34, 0, 80]);
        if self.udp {
            let length = u16::try_from(8 + self.payload.len()).unwrap();
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0]);
        } else {
            bytes.extend(self.sequence.to_be_bytes());
            let offset = u8::try_from(5 + self.tcp_options).unwrap() << 4;
            bytes.extend([9, 9, 9, 9, offset, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            bytes.resize(self.payload_at(), 1);
        }
        bytes.extend(&self.payload);
        let partial = sum(&self.pseudo_header(&bytes));
        bytes[self.checksum_at()..][..2].copy_from_slice(&partial.to_be_bytes());
        Frame { bytes, offload: self.offload() }
    }

    fn offload(&self) -> Offload {
        let start = self.transport_at();
        let checksum = Checksum {
            start: u16::try_from(start).unwrap(),
            offset: u16::try_from(self.checksum_at() - start).unwrap(),
        };
        let segmentation =
            Segmentation { kind: self.kind(), ecn: self.ecn, size: self.size, header_length: 0 };
        Offload { checksum: Some(checksum), data_valid: false, segmentation: Some(segmentation) }
    }

    /// The number of packets that it has to be cut into.
    fn packets(&self) -> usize {
        self.payload.len().div_ceil(usize::from(self.size)).max(1)
    }

    /// Checks everything about one of the packets; its payload.
    fn judge<'a>(&self, index: usize, bytes: &'a [u8]) -> &'a [u8] {
        let network = self.network_at();
        let transport = self.transport_at();
        if self.v6 {
            assert_eq!(number(bytes, network + 4), bytes.len() - network - 40);
        } else {
            assert_eq!(number(bytes, network + 2), bytes.len() - network);
            assert_eq!(sum(&bytes[network..transport]), 0xffff, "header checksum of packet {index}");
            let step = u16::try_from(index).unwrap();
            assert_eq!(number(bytes, network + 4), usize::from(self.identification.wrapping_add(step)));
        }
        let covered = [self.pseudo_header(bytes), bytes[transport..].to_vec()].concat();
        assert_eq!(sum(&covered), 0xffff, "transport checksum of packet {index}");
        assert_ne!(number(bytes, self.checksum_at()), 0);
        if self.udp {
            assert_eq!(number(bytes, transport + 4), bytes.len() - transport);
        } else {
            self.judge_tcp(index, bytes);
        }
        &bytes[self.payload_at()..]
    }

    fn judge_tcp(&self, index: usize, bytes: &[u8]) {
        let at = self.transport_at();
        let before = u32::try_from(index * usize::from(self.size)).unwrap();
        assert_eq!(bytes[at + 4..at + 8], self.sequence.wrapping_add(before).to_be_bytes());
        let (first, last) = (index == 0, index + 1 == self.packets());
        let dropped = if first { 0 } else { 0x80 } | if last { 0 } else { 0x09 };
        assert_eq!(bytes[at + 13], self.flags & !dropped, "flags of packet {index}");
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let shape = (0..3usize, any::<bool>(), any::<bool>(), 0..4usize, 0..=10usize);
    let values = (any::<u8>(), any::<u16>(), any::<u32>(), any::<bool>());
    let payload = prop_oneof![0..20usize, 0..3000usize, 60_000..65_300usize];
    (shape, values, payload, any::<u8>(), 8..2000u16).prop_map(|(shape, values, length, seed, size)| {
        let (tags, v6, udp, ip_options, tcp_options) = shape;
        let (flags, identification, sequence, ecn) = values;
        let length = length.min(65_535 - 20 - 16 - 40 - 60);
        let payload =
            (0..length).map(|at| u8::try_from((at * 31 + usize::from(seed)) % 251).unwrap()).collect();
        let ecn = ecn && !udp;
        Packet { tags, v6, udp, ip_options, tcp_options, flags, identification, sequence, size, ecn, payload }
    })
}

/// Sends the frame to a port that accepts this; what comes out.
fn pass(frame: Frame, accepts: Accepts) -> (Vec<Frame>, Port) {
    let switch = Switch::new();
    let mut ports = ports(&switch, 2);
    ports[1].set_accepts(accepts);
    ports[0].send(START, frame).unwrap();
    let received: Vec<Frame> = std::iter::from_fn(|| ports[1].receive()).collect();
    assert!(!ports[1].waiting());
    (received, ports.remove(0))
}

/// Asserts that whoever takes the frame can rely on its metadata.
fn sane(frame: &Frame) {
    let Offload { checksum, segmentation, .. } = frame.offload;
    if let Some(checksum) = checksum {
        assert!(checksum.start >= 14);
        assert!(usize::from(checksum.start) + usize::from(checksum.offset) + 2 <= frame.bytes.len());
    }
    if let Some(Segmentation { size, header_length, .. }) = segmentation {
        assert!(size > 0 && usize::from(header_length) <= frame.bytes.len());
        assert!(checksum.is_some_and(|checksum| checksum.start < header_length));
    }
}

fn sample() -> Packet {
    Packet {
        tags: 0,
        v6: false,
        udp: false,
        ip_options: 0,
        tcp_options: 3,
        flags: 0x99,
        identification: 0xffff,
        sequence: u32::MAX - 1000,
        size: 1448,
        ecn: false,
        payload: vec![7; 5000],
    }
}

proptest! {
    #[test]
    fn packets_put_together_are_the_frame(packet in packet(), checksum in any::<bool>()) {
        let (received, sender) = pass(packet.frame(), Accepts { checksum, ..Accepts::default() });
        prop_assert_eq!(sender.counters().refused.total(), 0);
        prop_assert_eq!(received.len(), packet.packets());
        let mut payload = Vec::new();
        for (index, frame) in received.iter().enumerate() {
            prop_assert_eq!(frame.offload, Offload { data_valid: checksum, ..Offload::default() });
            prop_assert!(frame.bytes.len() <= packet.payload_at() + usize::from(packet.size));
            prop_assert_eq!(&frame.bytes[..packet.network_at()], &packet.frame().bytes[..packet.network_at()]);
            payload.extend_from_slice(packet.judge(index, &frame.bytes));
        }
        prop_assert_eq!(payload, packet.payload);
    }

    #[test]
    fn who_accepts_everything_gets_the_frame_whole(packet in packet()) {
        let sent = packet.frame();
        let (received, _) = pass(sent.clone(), EVERYTHING);
        prop_assert_eq!(received.len(), 1);
        prop_assert_eq!(&received[0].bytes, &sent.bytes);
        let length = received[0].offload.segmentation.unwrap().header_length;
        prop_assert_eq!(usize::from(length), packet.payload_at(), "the hint is set right");
    }

    #[test]
    fn a_checksum_is_completed(packet in packet()) {
        let mut frame = packet.frame();
        frame.offload.segmentation = None;
        let (received, _) = pass(frame, Accepts::default());
        prop_assert_eq!(received.len(), 1);
        prop_assert_eq!(received[0].offload, Offload::default());
        let bytes = &received[0].bytes;
        let covered = [packet.pseudo_header(bytes), bytes[packet.transport_at()..].to_vec()].concat();
        prop_assert_eq!(sum(&covered), 0xffff);
    }

    #[test]
    fn damaged_packets_and_metadata_do_no_harm(
        packet in packet(),
        damage in prop::collection::vec((0..150usize, any::<u8>()), 0..4),
        cut in 0..200usize,
        start in prop::option::of(any::<u16>()),
        size in prop_oneof![Just(0u16), Just(1), Just(u16::MAX), any::<u16>()],
        kind in prop_oneof![
            Just(SegmentationKind::Tcp4), Just(SegmentationKind::Tcp6),
            Just(SegmentationKind::Udp), Just(SegmentationKind::UdpSegment),
        ],
        whole in any::<bool>(),
    ) {
        let mut frame = packet.frame();
        for (at, value) in damage {
            if let Some(byte) = frame.bytes.get_mut(at) {
                *byte = value;
            }
        }
        frame.bytes.truncate(frame.bytes.len().saturating_sub(cut));
        if let (Some(start), Some(checksum)) = (start, frame.offload.checksum.as_mut()) {
            checksum.start = start;
        }
        if let Some(segmentation) = frame.offload.segmentation.as_mut() {
            (segmentation.size, segmentation.kind) = (size, kind);
        }
        let switch = Switch::new();
        let ports = ports(&switch, 2);
        if whole {
            ports[1].set_accepts(EVERYTHING);
        }
        ports[0].send(START, frame).unwrap();
        let received = std::iter::from_fn(|| ports[1].receive()).map(|frame| sane(&frame)).count();
        prop_assert!(received <= 8192);
        let (sent, got) = (ports[0].counters(), ports[1].counters());
        prop_assert_eq!(sent.refused.total() + got.received + got.lost.unfinished, 1);
        prop_assert_eq!(got.lost.total(), got.lost.unfinished);
        prop_assert!(!whole || got.lost.total() == 0, "what was checked can be taken whole");
        prop_assert!(got.segments == 0 || got.segments == u64::try_from(received).unwrap());
    }
}

#[test]
fn metadata_that_does_not_fit_is_refused() {
    type Change = fn(&mut Frame);
    let changes: &[(&str, Change)] = &[
        ("no checksum", |frame| frame.offload.checksum = None),
        ("checksum elsewhere", |frame| frame.offload.checksum = Some(Checksum { start: 35, offset: 16 })),
        ("another field", |frame| frame.offload.checksum = Some(Checksum { start: 34, offset: 6 })),
        ("beyond the end", |frame| frame.offload.checksum = Some(Checksum { start: 34, offset: u16::MAX })),
        ("in the addresses", |frame| {
            frame.offload.segmentation = None;
            frame.offload.checksum = Some(Checksum { start: 0, offset: 4 });
        }),
        ("size zero", |frame| frame.offload.segmentation.as_mut().unwrap().size = 0),
        ("another IP", |frame| frame.offload.segmentation.as_mut().unwrap().kind = SegmentationKind::Tcp6),
        ("another protocol", |frame| {
            frame.offload.segmentation.as_mut().unwrap().kind = SegmentationKind::UdpSegment;
        }),
        ("fragments", |frame| frame.offload.segmentation.as_mut().unwrap().kind = SegmentationKind::Udp),
        ("a fragment", |frame| frame.bytes[20] |= 0x20),
        ("no IP", |frame| frame.bytes[12] = 0x99),
        ("short TCP header", |frame| frame.bytes[46] = 0x40),
        ("long TCP header", |frame| frame.bytes.truncate(60)),
    ];
    for (name, change) in changes {
        let mut frame = sample().frame();
        change(&mut frame);
        for accepts in [Accepts::default(), EVERYTHING] {
            let (received, sender) = pass(frame.clone(), accepts);
            assert!(received.is_empty(), "{name}");
            assert_eq!(sender.counters().refused.malformed, 1, "{name}");
        }
    }
}

#[test]
fn a_frame_cannot_be_cut_into_dust() {
    let dust = Packet { size: 7, payload: vec![0; 65_000], ..sample() };
    assert!(pass(dust.frame(), Accepts::default()).0.is_empty());
    let small = Packet { size: 8, payload: vec![0; 65_000], ..sample() };
    assert_eq!(pass(small.frame(), Accepts::default()).0.len(), 8125);
}

#[test]
fn each_kind_has_its_own_acceptance() {
    let tcp4 = sample();
    let tcp6 = Packet { v6: true, ..sample() };
    let udp = Packet { udp: true, tcp_options: 0, ..sample() };
    let ecn = Packet { ecn: true, ..sample() };
    let checksum = Accepts { checksum: true, ..Accepts::default() };
    let cases = [
        (&tcp4, Accepts { tcp4: true, ..checksum }, true),
        (&tcp4, Accepts { tcp4: true, ..Accepts::default() }, false),
        (&tcp4, Accepts { tcp6: true, ..checksum }, false),
        (&tcp6, Accepts { tcp6: true, ..checksum }, true),
        (&udp, Accepts { udp_segments: true, ..checksum }, true),
        (&udp, Accepts { udp_segments: false, ..EVERYTHING }, false),
        (&ecn, Accepts { tcp4: true, ..checksum }, false),
        (&ecn, Accepts { tcp4: true, ecn: true, ..checksum }, true),
    ];
    for (packet, accepts, whole) in cases {
        let (received, _) = pass(packet.frame(), accepts);
        assert_eq!(received.len() == 1, whole, "{accepts:?}");
    }
}

#[test]
fn a_packet_has_to_fit_its_length_field() {
    let packet = Packet { udp: true, size: u16::MAX, payload: vec![0; 60_000], ..sample() };
    for (length, passes) in [(65_535 + 14, 1), (65_535 + 15, 0)] {
        let mut frame = packet.frame();
        frame.bytes.resize(length, 0);
        let (received, sender) = pass(frame, Accepts::default());
        assert_eq!(received.len(), passes, "{length} bytes");
        assert_eq!(sender.counters().refused.malformed, u64::from(passes == 0), "{length} bytes");
    }
}

#[test]
fn what_cannot_be_cut_goes_to_those_who_take_it_whole() {
    let rerouted = Packet { v6: true, ip_options: 1, ..sample() };
    let mut frame = rerouted.frame();
    frame.bytes[20] = 43;
    for (segments_left, packets) in [(0, rerouted.packets()), (1, 0)] {
        frame.bytes[57] = segments_left;
        assert_eq!(pass(frame.clone(), Accepts::default()).0.len(), packets, "{segments_left} segments left");
        let (whole, _) = pass(frame.clone(), EVERYTHING);
        assert_eq!(whole.len(), 1);
        sane(&whole[0]);
        assert_eq!(usize::from(whole[0].offload.segmentation.unwrap().header_length), rerouted.payload_at());
    }
    // Of two receivers, one needs it cut. What comes after it is delivered all the same.
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    ports[2].set_accepts(EVERYTHING);
    ports[0].send(START, frame).unwrap();
    ports[0].send(START, super::frame(address(1), address(0), b"next")).unwrap();
    assert_eq!(ports[1].receive().unwrap().bytes[14..], *b"next");
    assert_eq!(std::iter::from_fn(|| ports[2].receive()).count(), 2);
    let lost = |port: &Port| (port.counters().received, port.counters().lost.unfinished);
    assert_eq!((lost(&ports[1]), lost(&ports[2])), ((1, 1), (2, 0)));
    assert_eq!(ports[0].counters().refused.total(), 0);
}

#[test]
fn where_a_routing_header_leads_does_not_excuse_wrong_metadata() {
    let mut frame = Packet { v6: true, ip_options: 1, ..sample() }.frame();
    (frame.bytes[20], frame.bytes[57]) = (43, 1);
    frame.offload.checksum.as_mut().unwrap().start -= 8;
    let (received, sender) = pass(frame, EVERYTHING);
    assert!(received.is_empty());
    assert_eq!(sender.counters().refused.malformed, 1);
}

#[test]
fn headers_are_bounded_because_each_packet_repeats_them() {
    let packet = Packet { v6: true, udp: true, ip_options: 1, payload: vec![0; 2000], ..sample() };
    for (units, passes) in [(55u16, true), (57, false)] {
        let mut frame = packet.frame();
        frame.bytes[55] = u8::try_from(units - 1).unwrap();
        frame.offload.checksum = Some(Checksum { start: 54 + 8 * units, offset: 6 });
        assert_eq!(pass(frame.clone(), EVERYTHING).0.len(), 1);
        assert_eq!(!pass(frame, Accepts::default()).0.is_empty(), passes, "{units} units of 8 bytes");
    }
}

#[test]
fn a_frame_is_cut_as_its_receiver_asks_and_what_is_left_ends_with_driver_or_link() {
    let ends: [fn(&Port); 2] = [|port| port.set_ready(false), |port| port.set_link(false)];
    for end in ends {
        let switch = Switch::new();
        let ports = ports(&switch, 2);
        ports[0].send(START, sample().frame()).unwrap();
        ports[0].send(START, frame(address(1), address(0), b"next")).unwrap();
        ports[1].receive().unwrap();
        assert!(ports[1].waiting());
        assert_eq!((ports[1].counters().received, ports[1].counters().segments), (1, 4));
        end(&ports[1]);
        assert!(!ports[1].waiting());
        assert!(ports[1].receive().is_none());
    }
}

#[test]
fn data_valid_is_told_only_to_those_who_know_it() {
    let valid = Offload { data_valid: true, ..Offload::default() };
    let sent = Frame { offload: valid, ..frame(address(1), address(0), &[0; 46]) };
    assert_eq!(pass(sent.clone(), EVERYTHING).0[0].offload, valid);
    assert_eq!(pass(sent, Accepts::default()).0[0].offload, Offload::default());
}
