//! Captures, read back by a reader of the format that shares nothing with the writer.

use std::time::Duration;

use proptest::prelude::*;

use super::record::{Record, Records};
use super::{CaptureLimits, What, WhenFull};
use crate::faults::{Crossing, Reason};
use crate::tests::{BROADCAST, START, address, drain, frame, introduce, ports};
use crate::{Impairment, Port, Switch};

const MS: Duration = Duration::from_millis(1);
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// A packet as it is in a file.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    interface: String,
    at: Duration,
    bytes: Vec<u8>,
    length: usize,
    outbound: bool,
    comments: Vec<String>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

/// Code and value of each option.
fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let (code, length) = (u16_at(bytes, 0), usize::from(u16_at(bytes, 2)));
        if code == 0 {
            assert_eq!((length, bytes.len()), (0, 4), "the end is at the end");
            return all;
        }
        all.push((code, bytes[4..4 + length].to_vec()));
        bytes = &bytes[4 + length.next_multiple_of(4)..];
    }
}

/// The packets of a file, and the names of its interfaces.
fn read(mut file: &[u8]) -> (Vec<Packet>, Vec<String>) {
    let (mut packets, mut names) = (Vec::new(), Vec::new());
    assert_eq!((u32_at(file, 0), u32_at(file, 8)), (0x0a0d_0d0a, 0x1a2b_3c4d));
    while !file.is_empty() {
        let (kind, length) = (u32_at(file, 0), u32_at(file, 4));
        assert_eq!((length % 4, u32_at(file, length - 4)), (0, length));
        let body = &file[8..length - 4];
        file = &file[length..];
        match kind {
            1 => {
                let all = options(&body[8..]);
                assert_eq!((u16_at(body, 0), all.last()), (1, Some(&(9, vec![9]))));
                assert_eq!(all[0].0, 2);
                names.push(String::from_utf8(all[0].1.clone()).unwrap());
            }
            6 => packets.push(packet(body, &names)),
            other => assert_eq!(other, 0x0a0d_0d0a),
        }
    }
    (packets, names)
}

fn packet(body: &[u8], names: &[String]) -> Packet {
    let (high, low) = (u64::try_from(u32_at(body, 4)).unwrap(), u64::try_from(u32_at(body, 8)).unwrap());
    let kept = u32_at(body, 12);
    let all = options(&body[20 + kept.next_multiple_of(4)..]);
    let text = |value: &Vec<u8>| String::from_utf8(value.clone()).unwrap();
    Packet {
        interface: names[u32_at(body, 0)].clone(),
        at: Duration::from_nanos(high << 32 | low),
        bytes: body[20..20 + kept].to_vec(),
        length: u32_at(body, 16),
        outbound: all.iter().any(|(code, value)| *code == 2 && value[0] == 2),
        comments: all.iter().filter(|(code, _)| *code == 1).map(|(_, value)| text(value)).collect(),
    }
}

fn network(count: usize) -> (Switch, Vec<Port>) {
    let switch = Switch::new();
    let ports = ports(&switch, count);
    introduce(&ports, START);
    (switch, ports)
}

#[test]
fn a_file_says_what_its_interfaces_are_on() {
    let (switch, _ports) = network(2);
    let capture = switch.capture(CaptureLimits::whole(), EPOCH).describe("backbone");
    for file in [capture.file(), capture.take()] {
        let named = |text: &str| file.windows(text.len()).filter(|part| *part == text.as_bytes()).count();
        // The option `if_description` of each interface: its code, the length, and the text up to a multiple of four.
        assert_eq!((read(&file).1.len(), named("\u{3}\0\u{8}\0backbone")), (2, 2));
    }
}

#[test]
fn frames_have_their_interface_time_and_bytes() {
    let (switch, ports) = network(2);
    let capture = switch.capture(CaptureLimits::whole(), EPOCH);
    let sent = frame(address(1), address(0), b"hello");
    ports[0].send(Duration::from_nanos(1_500_000_001), sent.clone()).unwrap();
    let (packets, names) = read(&capture.file());
    assert_eq!(names, ["port 0", "port 1"]);
    let expected = Packet {
        interface: "port 0".to_owned(),
        at: EPOCH + Duration::from_nanos(1_500_000_001),
        length: sent.bytes.len(),
        bytes: sent.bytes,
        outbound: true,
        comments: Vec::new(),
    };
    assert_eq!(packets, [expected]);
    assert_eq!(drain(&ports[1]).len(), 1);
}

#[test]
fn drops_and_faults_are_comments_where_the_frame_was_to_arrive() {
    let (switch, ports) = network(3);
    let capture = switch.capture(CaptureLimits::whole(), EPOCH);
    let name = |number: usize| format!("port {number}");
    let set = |impairment| switch.impair(START, &name(0), &name(1), Some(impairment)).unwrap();
    let send = |at| ports[0].send(MS * at, frame(address(1), address(0), b"x")).unwrap();
    set(Impairment { loss: 1.0, ..Impairment::default() });
    send(1);
    set(Impairment { delay: MS * 5, duplicate: 1.0, ..Impairment::default() });
    send(2);
    switch.advance(MS * 9);
    set(Impairment { corrupt: 1.0, ..Impairment::default() });
    send(10);
    switch.heal();
    switch.partition(&[vec![name(0)], vec![name(1)]]);
    send(11);
    switch.heal();
    ports[1].set_link(false);
    ports[0].send(MS * 12, frame(BROADCAST, address(0), b"x")).unwrap();
    ports[1].set_link(true);
    let (packets, _) = read(&capture.file());
    let told = packets.iter().filter(|packet| !packet.outbound).map(|packet| {
        assert_eq!((packet.interface.as_str(), packet.comments.len()), ("port 1", 1));
        let at = packet.at - EPOCH;
        (at.as_millis(), packet.comments[0].split(" flipped").next().unwrap().split(", bit").next().unwrap())
    });
    let expected = [
        (1, "dropped on its way from port 0: loss"),
        (9, "arrived as frame 0 from port 0"),
        (9, "arrived as frame 0 from port 0, a duplicate"),
        (10, "arrived as frame 0 from port 0"),
        (11, "dropped on its way from port 0: the way is cut"),
        (12, "dropped on its way from port 0: the receiver's link is down"),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert!(packets.iter().any(|packet| packet.comments.iter().any(|comment| comment.ends_with(" flipped"))));
}

#[test]
fn a_full_inbox_is_told() {
    let (switch, ports) = network(3);
    let capture = switch.capture(CaptureLimits::whole(), EPOCH);
    for _ in 0..300 {
        ports[0].send(START, frame(BROADCAST, address(0), b"x")).unwrap();
    }
    let (packets, _) = read(&capture.file());
    let full = packets
        .iter()
        .filter(|packet| packet.comments == ["dropped on its way from port 0: the receiver's queue is full"]);
    // Of each of the two queues one sender's broadcasts fill 192 places.
    assert_eq!(full.count(), 2 * (300 - 192));
}

#[test]
fn a_ring_keeps_the_last_frames_and_their_beginnings() {
    let (switch, ports) = network(2);
    let limits = CaptureLimits { of_frame: 20, bytes: 1000, when_full: WhenFull::Oldest };
    let capture = switch.capture(limits, EPOCH);
    for number in 0..100u8 {
        ports[0].send(START, frame(address(1), address(0), &[number; 50])).unwrap();
        drain(&ports[1]);
    }
    let (packets, _) = read(&capture.file());
    let numbers: Vec<u8> = packets.iter().map(|packet| packet.bytes[14]).collect();
    assert_eq!(
        numbers,
        (100 - capture.frames()..100).map(|at| u8::try_from(at).unwrap()).collect::<Vec<_>>()
    );
    assert!(
        packets.len() > 10 && packets.iter().all(|packet| packet.bytes.len() == 20 && packet.length == 64)
    );
}

#[test]
fn parts_make_one_file_and_tell_what_they_miss() {
    let (switch, ports) = network(1);
    let limits = CaptureLimits { of_frame: usize::MAX, bytes: 300, when_full: WhenFull::Newest };
    let capture = switch.capture(limits, EPOCH);
    let mut file = capture.take();
    let send = |count: u32| {
        for _ in 0..count {
            ports[0].send(START, frame(BROADCAST, address(0), &[0; 50])).unwrap();
        }
    };
    send(5);
    file.extend(capture.take());
    assert!(capture.take().is_empty());
    let late = switch.attach("late");
    send(1);
    file.extend(capture.take());
    let (packets, names) = read(&file);
    assert_eq!(names, ["port 0", "late"]);
    let missed: Vec<&str> =
        packets.iter().flat_map(|packet| packet.comments.iter().map(String::as_str)).collect();
    assert_eq!(
        (packets.len(), missed),
        (3, vec!["3 frames before this one were not captured: they came too fast"])
    );
    drop(late);
}

#[test]
fn who_writes_is_woken_in_time_and_once() {
    let (switch, ports) = network(1);
    let limits = CaptureLimits { of_frame: usize::MAX, bytes: 1000, when_full: WhenFull::Newest };
    let capture = switch.capture(limits, EPOCH);
    let rung = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let bell = std::sync::Arc::clone(&rung);
    capture.set_waker(std::sync::Arc::new(move || {
        bell.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }));
    for _ in 0..20 {
        ports[0].send(START, frame(BROADCAST, address(0), &[0; 50])).unwrap();
    }
    assert_eq!(rung.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(capture);
    assert!(switch.lock().captures.is_none(), "nothing is recorded for nobody");
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        Just(What::Sent),
        Just(What::Full),
        Just(What::LinkDown),
        prop_oneof![Just(Reason::Cut), Just(Reason::Flap), Just(Reason::Loss), Just(Reason::Queue)]
            .prop_map(What::Dropped),
        (any::<u64>(), prop::option::of(0..1_000_000usize), any::<bool>()).prop_map(
            |(number, flipped, duplicate)| {
                What::Arrived(Crossing { number, due: Duration::ZERO, flipped, duplicate })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(
        records in prop::collection::vec(
            (any::<u64>(), any::<u16>(), any::<u16>(), what(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..100)),
            0..50,
        ),
        dropped in 0..60usize,
    ) {
        let mut kept = Records::default();
        for (at, from, to, what, missed, frame) in &records {
            let at = Duration::from_nanos(*at);
            kept.push(&Record { at, from: *from, to: *to, what: *what, missed: *missed, frame }, frame.len() + 1);
        }
        for number in 0..dropped {
            prop_assert_eq!(kept.drop_first(), number < records.len());
        }
        let left = records.get(dropped..).unwrap_or_default();
        prop_assert_eq!((kept.len(), kept.bytes() == 0), (left.len(), left.is_empty()));
        for (found, (at, from, to, what, missed, frame)) in kept.iter().zip(left) {
            prop_assert_eq!((found.at, found.from, found.to), (Duration::from_nanos(*at), *from, *to));
            prop_assert_eq!((found.what, found.missed, &found.frame), (*what, *missed, frame));
            prop_assert_eq!(usize::try_from(found.length).unwrap(), frame.len() + 1);
        }
    }
}
