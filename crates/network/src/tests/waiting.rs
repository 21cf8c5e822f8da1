//! Back-pressure: who waits, for how long, and who is woken.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{BROADCAST, START, address, bell, drain, frame, introduce, ports, rung};
use crate::{Full, Limits, Port, Switch};

const SMALL: Limits = Limits {
    learned: 16,
    ageing: Duration::from_secs(300),
    queue_frames: 4,
    queue_bytes: 10_000,
    stalled_after: Duration::from_millis(100),
    patience: Duration::from_secs(1),
};

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Small queues, `count` ports that know each other.
fn network(count: usize) -> (Switch, Vec<Port>) {
    let switch = Switch::with_limits(SMALL);
    let ports = ports(&switch, count);
    introduce(&ports, START);
    (switch, ports)
}

/// Fills the queue of station `to`; the answer to the first frame that does not fit.
fn fill(port: &Port, to: u8, from: u8, now: Duration) -> Full {
    for number in 0..SMALL.queue_frames {
        port.send(now, frame(address(to), address(from), &[u8::try_from(number).unwrap()])).unwrap();
    }
    port.send(now, frame(address(to), address(from), b"too much")).unwrap_err()
}

#[test]
fn the_frame_comes_back_and_the_sender_is_woken_when_half_is_taken() {
    let (_switch, ports) = network(2);
    let woken = bell(&ports[0]);
    let full = fill(&ports[0], 1, 0, START);
    assert_eq!(full.frame, frame(address(1), address(0), b"too much"));
    assert_eq!(full.retry_at, milliseconds(100));
    ports[1].receive().unwrap();
    assert_eq!(rung(&woken), 0);
    ports[1].receive().unwrap();
    assert_eq!(rung(&woken), 1);
    ports[0].send(milliseconds(1), full.frame).unwrap();
    let payloads: Vec<_> = drain(&ports[1]).into_iter().map(|bytes| bytes[14..].to_vec()).collect();
    assert_eq!(payloads, [&[2][..], &[3], b"too much"]);
    assert_eq!(rung(&woken), 0, "nobody was waiting any more");
    let counters = ports[0].counters();
    assert_eq!((counters.sent, counters.held_back), (6, 1), "introduction, four, and the one held back");
}

#[test]
fn bytes_are_bounded_too_but_one_frame_always_fits() {
    let (_switch, ports) = network(2);
    ports[0].send(START, frame(address(1), address(0), &[0; 60_000])).unwrap();
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap_err();
    drain(&ports[1]);
    ports[0].send(START, frame(address(1), address(0), &[0; 6_000])).unwrap();
    ports[0].send(START, frame(address(1), address(0), &[0; 6_000])).unwrap_err();
    let tiny = Switch::with_limits(Limits { queue_frames: 0, queue_bytes: 0, ..SMALL });
    let ports = super::ports(&tiny, 2);
    let woken = bell(&ports[0]);
    for _ in 0..3 {
        ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
        ports[0].send(START, frame(address(1), address(0), b"")).unwrap_err();
        assert_eq!(drain(&ports[1]).len(), 1);
        assert_eq!(rung(&woken), 1);
    }
}

#[test]
fn a_receiver_that_takes_nothing_is_given_up() {
    let (_switch, ports) = network(3);
    let full = fill(&ports[0], 2, 0, milliseconds(1000));
    assert_eq!(full.retry_at, milliseconds(1100));
    let early = ports[0].send(milliseconds(1099), full.frame).unwrap_err();
    assert_eq!(early.retry_at, milliseconds(1100));
    ports[0].send(early.retry_at, early.frame).unwrap();
    assert_eq!(ports[2].counters().lost.full, 1);
    // Nobody waits for it any more, and everybody else is reached.
    ports[1].send(milliseconds(1101), frame(address(2), address(1), b"")).unwrap();
    ports[0].send(milliseconds(1101), frame(address(1), address(0), b"")).unwrap();
    assert_eq!(drain(&ports[1]).len(), 1);
    // It is back: what it took makes it worth waiting for.
    drain(&ports[2]);
    let full = fill(&ports[0], 2, 0, milliseconds(1200));
    assert_eq!(full.retry_at, milliseconds(1300));
}

#[test]
fn a_receiver_that_only_trickles_is_given_up_later() {
    let switch = Switch::with_limits(Limits { queue_frames: 100, ..SMALL });
    let ports = ports(&switch, 2);
    introduce(&ports, START);
    for _ in 0..100 {
        ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    }
    let mut now = START;
    let mut waiting = frame(address(1), address(0), b"");
    let mut tries = 0;
    while let Err(Full { frame, retry_at }) = ports[0].send(now, waiting) {
        assert!(retry_at > now && retry_at <= SMALL.patience);
        (now, waiting) = (retry_at, frame);
        ports[1].receive().unwrap();
        tries += 1;
    }
    assert_eq!((now, tries), (SMALL.patience, 10));
    // What fits is still delivered: it was not lost, as there was room by then.
    assert_eq!(ports[1].counters().lost.full, 0);
}

#[test]
fn who_finds_a_receiver_stalled_releases_the_others() {
    let (_switch, ports) = network(3);
    let woken = bell(&ports[0]);
    let own = bell(&ports[1]);
    fill(&ports[0], 2, 0, START);
    let full = ports[1].send(milliseconds(50), frame(address(2), address(1), b"")).unwrap_err();
    assert_eq!(full.retry_at, milliseconds(100));
    ports[1].send(milliseconds(100), full.frame).unwrap();
    assert_eq!((rung(&woken), rung(&own)), (1, 0));
}

#[test]
fn senders_are_woken_in_the_order_they_came_and_none_pushes_in() {
    let (_switch, ports) = network(4);
    let order = Arc::new(Mutex::new(Vec::new()));
    for (number, port) in ports.iter().enumerate() {
        let order = Arc::clone(&order);
        port.set_waker(Arc::new(move || order.lock().unwrap().push(number)));
    }
    fill(&ports[2], 3, 2, START);
    ports[0].send(START, frame(address(3), address(0), b"")).unwrap_err();
    order.lock().unwrap().clear();
    ports[3].receive().unwrap();
    // There is room for one, but others were first.
    ports[1].send(START, frame(address(3), address(1), b"")).unwrap_err();
    ports[2].send(START, frame(address(3), address(2), b"")).unwrap_err();
    ports[3].receive().unwrap();
    // Who has nothing there yet is before who has filled it.
    assert_eq!(*order.lock().unwrap(), [0, 1]);
    while ports[3].receive().is_some() {}
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
}

#[test]
fn a_flooded_frame_waits_for_nobody_when_several_would_get_it() {
    let (_switch, ports) = network(3);
    fill(&ports[0], 2, 0, START);
    ports[0].send(START, frame(BROADCAST, address(0), b"")).unwrap();
    ports[0].send(START, frame(address(77), address(0), b"unknown")).unwrap();
    assert_eq!(drain(&ports[1]).len(), 2);
    assert_eq!(ports[2].counters().lost.full, 2);
}

#[test]
fn flooded_frames_leave_half_of_a_queue_to_unicast() {
    for length in [0, 2_400] {
        let (_switch, ports) = network(3);
        let half = if length == 0 { SMALL.queue_frames / 2 } else { 1 };
        for _ in 0..10 {
            ports[2].send(START, frame(BROADCAST, address(2), &vec![0; length])).unwrap();
        }
        assert_eq!(ports[1].counters().lost.full, u64::try_from(10 - half).unwrap());
        for _ in 0..2 {
            ports[0].send(START, frame(address(1), address(0), &vec![0; length])).unwrap();
        }
        assert_eq!(drain(&ports[1]).len(), half + 2);
    }
}

#[test]
fn unicast_leaves_flooded_frames_what_room_there_is() {
    let (_switch, ports) = network(3);
    for _ in 0..3 {
        ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    }
    ports[2].send(START, frame(BROADCAST, address(2), b"more than half, but not of its own kind")).unwrap();
    assert_eq!(drain(&ports[1]).len(), 4);
    // What was taken makes room again, for either.
    fill(&ports[0], 1, 0, START);
    drain(&ports[1]);
    for _ in 0..3 {
        ports[2].send(START, frame(BROADCAST, address(2), b"")).unwrap();
    }
    assert_eq!(drain(&ports[1]).len(), 2);
}

#[test]
fn a_flooded_frame_waits_for_a_single_receiver_and_is_not_sent_twice() {
    let switch = Switch::with_limits(SMALL);
    let ports = ports(&switch, 4);
    ports[2].set_ready(false);
    ports[3].set_link(false);
    for _ in 0..SMALL.queue_frames {
        ports[0].send(START, frame(BROADCAST, address(0), b"")).unwrap();
    }
    drain(&ports[2]);
    let full = ports[0].send(START, frame(BROADCAST, address(0), b"last")).unwrap_err();
    assert_eq!(drain(&ports[1]).len(), SMALL.queue_frames);
    ports[0].send(START, full.frame).unwrap();
    assert_eq!((drain(&ports[1]).len(), drain(&ports[2]).len()), (1, 1));
}

#[test]
fn what_ends_the_receiver_ends_the_waiting() {
    let ends: [fn(&mut Vec<Port>); 4] = [
        |ports| ports[1].set_ready(false),
        |ports| ports[1].rest(),
        |ports| ports[1].set_link(false),
        |ports| drop(ports.pop()),
    ];
    for end in ends {
        let (_switch, mut ports) = network(2);
        let woken = bell(&ports[0]);
        let full = fill(&ports[0], 1, 0, START);
        end(&mut ports);
        assert_eq!(rung(&woken), 1);
        ports[0].send(START, full.frame).unwrap();
    }
}

#[test]
fn a_receiver_at_rest_keeps_its_frames_and_is_not_waited_for() {
    let (_switch, ports) = network(2);
    let full = fill(&ports[0], 1, 0, START);
    ports[1].rest();
    ports[0].send(START, full.frame).unwrap();
    ports[1].set_ready(true);
    assert_eq!(drain(&ports[1]).len(), SMALL.queue_frames, "what did not fit is lost, the rest is there");
    assert!(ports[0].send(START, frame(address(1), address(0), b"")).is_ok());
    ports[1].rest();
    ports[1].set_ready(false);
    ports[1].set_ready(true);
    assert!(drain(&ports[1]).is_empty(), "a reset forgets them, also after a rest");
}

#[test]
fn a_sender_that_is_dropped_waits_no_more() {
    let (_switch, mut ports) = network(3);
    let woken = bell(&ports[2]);
    fill(&ports[2], 1, 2, START);
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap_err();
    drop(ports.remove(2));
    let other = bell(&ports[0]);
    assert_eq!(drain(&ports[1]).len(), SMALL.queue_frames);
    assert_eq!((rung(&woken), rung(&other)), (0, 1));
}

#[test]
fn a_waker_may_use_the_switch() {
    let (_switch, ports) = network(2);
    let [sender, receiver]: [Port; 2] = ports.try_into().unwrap();
    let full = fill(&sender, 1, 0, START);
    let sender = Arc::new(sender);
    let again = Mutex::new(Some(full.frame));
    let port = Arc::downgrade(&sender);
    sender.set_waker(Arc::new(move || {
        let frame = again.lock().unwrap().take();
        if let (Some(port), Some(frame)) = (port.upgrade(), frame) {
            port.send(START, frame).unwrap();
        }
    }));
    assert_eq!(drain(&receiver).len(), SMALL.queue_frames + 1);
}

#[test]
fn who_gets_frames_of_a_batch_is_told_once_at_its_end() {
    let (_switch, ports) = network(3);
    let bells = [bell(&ports[1]), bell(&ports[2])];
    let mut batch = ports[0].batch(START);
    batch.send(frame(address(1), address(0), b"one")).unwrap();
    assert_eq!(drain(&ports[1]).len(), 1, "whoever looks finds it");
    batch.send(frame(address(1), address(0), b"two")).unwrap();
    batch.send(frame(address(2), address(0), b"three")).unwrap();
    batch.send(frame(address(2), address(0), b"four")).unwrap();
    assert_eq!(bells.each_ref().map(|bell| rung(bell)), [0, 0]);
    drop(batch);
    assert_eq!(bells.each_ref().map(|bell| rung(bell)), [1, 1]);
}

#[test]
fn a_batch_that_finds_no_room_wakes_the_receiver_when_it_ends() {
    let (_switch, ports) = network(2);
    let (sender, receiver) = (bell(&ports[0]), bell(&ports[1]));
    let mut batch = ports[0].batch(START);
    let full = (0..).find_map(|_| batch.send(frame(address(1), address(0), b"more")).err()).unwrap();
    drop(batch);
    assert_eq!((rung(&sender), rung(&receiver)), (0, 1));
    assert_eq!(drain(&ports[1]).len(), SMALL.queue_frames);
    assert_eq!(rung(&sender), 1);
    ports[0].send(START, full.frame).unwrap();
}
