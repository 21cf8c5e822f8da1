//! Frames that no decent guest sends.

use proptest::prelude::*;

use super::super::{tcp, udp};
use super::*;

/// One of each kind of frame that the gateway looks into.
fn decent() -> Vec<Frame> {
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &[10, 0, 2, 15], &[0; 6], &[10, 0, 2, 2]].concat();
    let six = |kind, data: &[u8]| icmp_frame("fec0::15", "fec0::2", kind, [0; 4], data);
    let mut frames = vec![
        Frame::new(emit::frame([0xff; 6], MAC, [8, 6], &arp)),
        tcp_frame(guest(5000), address("10.0.2.2:80"), (100, 0), SYN, b""),
        tcp_frame(guest(5000), address("10.0.2.2:80"), (101, 1), PSH_ACK, b"data"),
        tcp_frame(address("[fec0::15]:5000"), address("[fec0::2]:80"), (100, 0), SYN, b""),
        icmp_frame("10.0.2.15", "10.0.2.2", [8, 0], [0; 4], b"ping"),
        six([128, 0], b"ping"),
        six([135, 0], &GATEWAY_V6.octets()),
        six([133, 0], b""),
        six([136, 0], &[0; 24]),
    ];
    frames.extend(udp_frames(guest(5000), address("10.0.2.2:7"), b"data"));
    frames.extend(udp_frames(guest(5000), address("10.0.2.3:53"), b"data"));
    frames.extend(udp_frames(address("[fec0::15]:1"), address("[fec0::2]:7"), &[0; 3000]));
    frames.extend(udp_frames(guest(5001), address("10.0.2.2:7"), &[0; 3000]));
    frames.extend(udp_frames(address("0.0.0.0:68"), address("255.255.255.255:67"), &[1; 300]));
    frames
}

/// Lets a host answer everything at once, and checks what a guest cannot pass.
fn check(gateway: &mut Gateway, now: Duration) {
    for action in gateway.actions() {
        match action {
            Action::Connect { flow, .. } => gateway.connected(now, flow),
            Action::Send { socket, .. } => gateway.answered(now, socket, address("127.0.0.1:7"), &[0; 2000]),
            Action::Ping { socket, sequence, data, .. } => gateway.ponged(now, socket, sequence, &data),
            Action::Answer { .. } | Action::Reset { .. } | Action::Close { .. } | Action::Forget { .. } => {}
        }
    }
    gateway.poll(now);
    for flow in gateway.flows() {
        gateway.take(now, flow, |bytes| bytes.len());
        gateway.fill(now, flow, |room| room.len().min(5000));
    }
    gateway.poll(now);
    for mut frame in outgoing(gateway) {
        assert!((14..=65_557).contains(&frame.bytes.len()));
        assert!(crate::finish::check(&mut frame).is_some(), "the switch would refuse it");
    }
    assert!(gateway.tcp.counts().0 <= tcp::MOST_FLOWS);
    assert!(gateway.datagrams.count() <= udp::MOST_FLOWS);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(
        frames in proptest::collection::vec((0usize..4, proptest::collection::vec(any::<u8>(), 0..200)), 1..20),
    ) {
        let mut gateway = gateway();
        for (kind, rest) in frames {
            let kind = [&[8, 0][..], &[8, 6], &[0x86, 0xdd], &[]][kind];
            let bytes = [&GATEWAY_MAC[..], &MAC, kind, &rest].concat();
            gateway.receive(NOW, &Frame::new(bytes));
            check(&mut gateway, NOW);
        }
    }

    /// Frames with a few bytes changed: those get far.
    #[test]
    fn no_damage_is_too_odd(
        frames in proptest::collection::vec(
            (any::<proptest::sample::Index>(), proptest::collection::vec((14usize..120, any::<u8>()), 0..4), any::<bool>(), 14usize..4000, 0u64..40),
            1..60,
        ),
    ) {
        let mut gateway = gateway();
        let mut now = NOW;
        for (which, changes, open, length, pause) in frames {
            let mut frame = which.get(&decent()).clone();
            for (at, value) in changes {
                if let Some(byte) = frame.bytes.get_mut(at) {
                    *byte = value;
                }
            }
            frame.bytes.truncate(length);
            // With its checksums open nothing is refused for them.
            if open {
                frame.offload.checksum = Some(Checksum { start: 34, offset: 16 });
            }
            now += Duration::from_secs(pause);
            gateway.receive(now, &frame);
            check(&mut gateway, now);
        }
    }

    /// Segments with any flags and numbers, which the stack must bear.
    #[test]
    fn no_segment_is_too_odd(
        segments in proptest::collection::vec((0u16..3, any::<u8>(), 90u32..130, any::<u32>(), 0usize..2000, 0u64..20), 1..80),
    ) {
        let mut gateway = gateway();
        let mut now = NOW;
        for (port, flags, sequence, acknowledged, length, pause) in segments {
            now += Duration::from_secs(pause);
            let (from, to) = (guest(5000 + port), address("10.0.2.2:80"));
            let frame = tcp_frame(from, to, (sequence, acknowledged), flags, &vec![0; length.min(1400)]);
            gateway.receive(now, &frame);
            check(&mut gateway, now);
        }
    }

    #[test]
    fn packets_are_read_as_they_are_written(data in proptest::collection::vec(any::<u8>(), 0..1400), ports: (u16, u16), six: bool) {
        let (from, to): (IpAddr, IpAddr) =
            if six { (GATEWAY_V6.into(), RESOLVER_V6.into()) } else { (GUEST_V4.into(), GATEWAY_V4.into()) };
        let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
        let frame = udp_frames(from, to, &data).pop().unwrap();
        let Some(Incoming::Ip(packet)) = packet::read(&frame, Guest(0)) else { return Err(TestCaseError::fail("unreadable")) };
        prop_assert_eq!(packet.udp(), Some((from, to, data.as_slice())));
        let kind = if six { ICMP_V6 } else { ICMP };
        prop_assert_eq!(emit::icmp_of(from.ip()), kind);
    }
}
