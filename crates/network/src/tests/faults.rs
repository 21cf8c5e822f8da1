//! Faults between the ports of a switch.

use std::time::Duration;

use super::{BROADCAST, START, address, bell, drain, frame, introduce, ports, rung};
use crate::{Accepts, Checksum, Frame, Impairment, Offload, Port, Segmentation, SegmentationKind, Switch};

const MS: Duration = Duration::from_millis(1);

fn name(number: usize) -> String {
    format!("port {number}")
}

fn impair(switch: &Switch, from: usize, to: usize, impairment: Impairment) {
    switch.impair(START, &name(from), &name(to), Some(impairment)).unwrap();
}

/// A switch with ports that know each other.
fn network(count: usize) -> (Switch, Vec<Port>) {
    let switch = Switch::new();
    let ports = ports(&switch, count);
    introduce(&ports, START);
    (switch, ports)
}

#[test]
fn a_delay_is_one_way_and_rings_for_its_end() {
    let (switch, ports) = network(2);
    impair(&switch, 0, 1, Impairment { delay: MS * 20, ..Impairment::default() });
    let (timer, count) = counter();
    switch.set_timer(timer);
    let bell = bell(&ports[1]);
    ports[0].send(START, frame(address(1), address(0), b"slow")).unwrap();
    ports[0].send(MS, frame(address(1), address(0), b"next")).unwrap();
    ports[1].send(START, frame(address(0), address(1), b"fast")).unwrap();
    assert_eq!(drain(&ports[0]).len(), 1);
    assert_eq!((rung(&count), switch.deadline(), switch.in_flight()), (1, Some(MS * 20), 2));
    switch.advance(MS * 19);
    assert_eq!((ports[1].waiting(), rung(&bell)), (false, 0));
    switch.advance(MS * 20);
    assert_eq!((drain(&ports[1]).len(), rung(&bell)), (1, 1));
    assert_eq!(switch.deadline(), Some(MS * 21));
    switch.heal();
    assert_eq!(switch.deadline(), Some(MS * 21), "what is under way arrives");
    switch.advance(MS * 30);
    assert_eq!((drain(&ports[1]).len(), switch.deadline()), (1, None));
}

fn counter() -> (crate::Waker, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&count);
    let waker = move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    };
    (std::sync::Arc::new(waker), count)
}

#[test]
fn a_partition_has_groups_and_those_in_none() {
    let (switch, ports) = network(4);
    switch.partition(&[vec![name(0), name(1)], vec![name(2)]]);
    ports[0].send(START, frame(BROADCAST, address(0), b"who")).unwrap();
    ports[0].send(START, frame(address(2), address(0), b"you")).unwrap();
    let got: Vec<usize> = ports.iter().map(|port| drain(port).len()).collect();
    assert_eq!(got, [0, 1, 0, 1]);
    assert_eq!(ports[2].counters().lost.faults, 2);
    ports[3].send(START, frame(BROADCAST, address(3), b"all")).unwrap();
    assert!(ports[..3].iter().all(|port| drain(port).len() == 1));
    switch.heal();
    ports[0].send(START, frame(address(2), address(0), b"you")).unwrap();
    assert_eq!(drain(&ports[2]).len(), 1);
}

#[test]
fn a_cut_may_be_one_way_and_takes_what_is_under_way() {
    let (switch, ports) = network(2);
    impair(&switch, 0, 1, Impairment { delay: MS, ..Impairment::default() });
    ports[0].send(START, frame(address(1), address(0), b"late")).unwrap();
    impair(&switch, 0, 1, Impairment { cut: true, ..Impairment::default() });
    ports[1].send(START, frame(address(0), address(1), b"back")).unwrap();
    switch.advance(MS);
    assert_eq!((drain(&ports[1]).len(), drain(&ports[0]).len()), (0, 1));
    assert_eq!((ports[1].counters().lost.faults, switch.in_flight()), (1, 0));
}

#[test]
fn faults_outlive_a_port_of_the_same_name() {
    let (switch, mut ports) = network(2);
    impair(&switch, 0, 1, Impairment { delay: MS, ..Impairment::default() });
    ports[0].send(START, frame(address(1), address(0), b"lost")).unwrap();
    ports.remove(1);
    assert_eq!(switch.in_flight(), 0);
    let again = switch.attach(&name(1));
    again.set_ready(true);
    ports[0].send(START, frame(address(1), address(0), b"late")).unwrap();
    assert_eq!((again.waiting(), switch.in_flight()), (false, 1));
    switch.advance(MS);
    assert_eq!(drain(&again).len(), 1);
}

#[test]
fn a_receiver_without_room_is_waited_for_in_order() {
    let (switch, ports) = network(2);
    impair(&switch, 0, 1, Impairment { delay: MS, ..Impairment::default() });
    let count: u16 = 1000;
    for number in 0..count {
        ports[0].send(START, frame(address(1), address(0), &number.to_be_bytes())).unwrap();
    }
    let mut got = Vec::new();
    for tick in 1..10 {
        switch.advance(MS * tick);
        got.extend(drain(&ports[1]).into_iter().map(|bytes| u16::from_be_bytes([bytes[14], bytes[15]])));
    }
    assert_eq!(got, (0..count).collect::<Vec<_>>());
}

#[test]
fn a_receiver_that_takes_nothing_loses_what_was_under_way() {
    let (switch, ports) = network(2);
    impair(&switch, 0, 1, Impairment { delay: MS, ..Impairment::default() });
    for _ in 0..600 {
        ports[0].send(START, frame(address(1), address(0), b"x")).unwrap();
    }
    switch.advance(MS);
    assert_eq!(switch.in_flight(), 88);
    switch.advance(MS * 1500);
    assert_eq!((switch.in_flight(), ports[1].counters().lost.full, switch.deadline()), (0, 88, None));
}

/// 4000 bytes of TCP over IPv4 in one frame, to be cut into packets of 1000.
fn large(to: [u8; 6], from: [u8; 6]) -> Frame {
    let mut bytes = [&to[..], &from, &[0x08, 0x00]].concat();
    bytes.extend([0x45, 0, 0x0f, 0xc8, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 255, 255, 0, 0, 0, 0]);
    bytes.extend((0..4000u32).map(|at| u8::try_from(at % 251).unwrap()));
    let segmentation =
        Segmentation { kind: SegmentationKind::Tcp4, ecn: false, size: 1000, header_length: 54 };
    let offload = Offload {
        checksum: Some(Checksum { start: 34, offset: 16 }),
        data_valid: false,
        segmentation: Some(segmentation),
    };
    Frame { bytes, offload }
}

#[test]
fn frames_of_several_packets_meet_faults_as_packets() {
    let (switch, ports) = network(2);
    let all = Accepts { checksum: true, tcp4: true, tcp6: true, ecn: true, udp_segments: true };
    ports[1].set_accepts(all);
    ports[0].send(START, large(address(1), address(0))).unwrap();
    assert_eq!(ports[1].receive().unwrap().bytes.len(), 4054);
    impair(&switch, 0, 1, Impairment { seed: 1, loss: 0.5, ..Impairment::default() });
    let mut sizes = Vec::new();
    for _ in 0..20 {
        ports[0].send(START, large(address(1), address(0))).unwrap();
        sizes.push(drain(&ports[1]).len());
    }
    assert!(sizes.iter().any(|packets| (1..4).contains(packets)), "{sizes:?}");
    let counters = ports[1].counters();
    assert_eq!((counters.added, counters.lost.faults + counters.arrived), (60, 82));
}

#[test]
fn a_flipped_bit_breaks_a_checksum_that_was_left_to_others() {
    let (switch, ports) = network(2);
    ports[1].set_accepts(Accepts { checksum: true, ..Accepts::default() });
    impair(&switch, 0, 1, Impairment { seed: 1, corrupt: 1.0, ..Impairment::default() });
    let mut sent = large(address(1), address(0));
    sent.offload.segmentation = None;
    ports[0].send(START, sent.clone()).unwrap();
    let got = ports[1].receive().unwrap();
    assert_eq!(got.offload, Offload::default());
    switch.heal();
    ports[1].set_accepts(Accepts::default());
    ports[0].send(START, sent).unwrap();
    let whole = ports[1].receive().unwrap();
    let differing: u32 = whole.bytes.iter().zip(&got.bytes).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(differing, 1);
}

#[test]
fn a_way_holds_so_many_frames_and_no_more() {
    let (switch, ports) = network(2);
    impair(&switch, 0, 1, Impairment { delay: MS, ..Impairment::default() });
    for _ in 0..9000 {
        ports[0].send(START, frame(address(1), address(0), b"x")).unwrap();
    }
    assert_eq!((switch.in_flight(), ports[1].counters().lost.faults), (8192, 808));
}

/// A sender that repeats what was not acknowledged after 50 ms, and a receiver: what went through the switch, with its times.
fn transfer(seed: u64) -> Vec<(Duration, usize, Vec<u8>)> {
    let (switch, ports) = network(2);
    let faults = Impairment {
        seed,
        loss: 0.2,
        delay: MS * 7,
        jitter: MS * 5,
        duplicate: 0.1,
        reorder: 0.1,
        ..Impairment::default()
    };
    impair(&switch, 0, 1, faults.clone());
    impair(&switch, 1, 0, faults);
    let (mut log, mut now, mut sent_at) = (Vec::new(), START, None);
    let mut next: u8 = 0;
    while next < 100 {
        assert!(now < Duration::from_secs(60), "the transfer gets nowhere");
        if sent_at.is_none_or(|at| now >= at + MS * 50) {
            ports[0].send(now, frame(address(1), address(0), &[next])).unwrap();
            sent_at = Some(now);
        }
        now = switch.deadline().unwrap_or(Duration::MAX).min(sent_at.unwrap() + MS * 50);
        switch.advance(now);
        for bytes in drain(&ports[1]) {
            let answer = frame(address(0), address(1), &[bytes[14]]);
            log.push((now, 1, bytes));
            ports[1].send(now, answer).unwrap();
        }
        for bytes in drain(&ports[0]) {
            if bytes[14] == next {
                (next, sent_at) = (next + 1, None);
            }
            log.push((now, 0, bytes));
        }
    }
    log
}

#[test]
fn a_seed_repeats_a_whole_transfer() {
    assert_eq!(transfer(7), transfer(7));
    assert_ne!(transfer(7), transfer(8));
}
