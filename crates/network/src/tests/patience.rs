//! For whom a sender waits as long as it takes, and for whom it does not.

use std::time::Duration;

use super::{START, address, bell, drain, frame, introduce, ports, rung};
use crate::{Full, Limits, Port, Switch};

/// Half of this queue, once every 250 ms, is 128 frames per second.
const LIMITS: Limits = Limits {
    learned: 16,
    ageing: Duration::from_secs(300),
    queue_frames: 64,
    queue_bytes: 1 << 20,
    stalled_after: Duration::from_millis(100),
    patience: Duration::from_secs(1),
};

const MINUTE: u64 = 60_000;

/// A minute of a sender with more frames than the receiver takes, which does `step` every millisecond: how many of them
/// the sender spent waiting, and how many frames were lost.
fn minute(mut step: impl FnMut(u64, &Port)) -> (u64, u64) {
    let switch = Switch::with_limits(LIMITS);
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    let [sender, receiver, _] = &ports[..] else { panic!("there are three") };
    let woken = bell(sender);
    let mut held: Option<Full> = None;
    let mut waited = 0;
    for millisecond in 0..MINUTE {
        let now = Duration::from_millis(millisecond);
        step(millisecond, receiver);
        let mut due = rung(&woken) > 0;
        for _ in 0..10 {
            let next = match held.take() {
                Some(full) if !due && full.retry_at > now => {
                    held = Some(full);
                    break;
                }
                Some(full) => full.frame,
                None => frame(address(1), address(0), b""),
            };
            due = false;
            held = sender.send(now, next).err();
        }
        waited += u64::from(held.is_some());
    }
    (waited, receiver.counters().lost.full)
}

fn take(port: &Port, count: usize) {
    for _ in 0..count {
        port.receive();
    }
}

#[test]
fn a_receiver_that_keeps_draining_loses_nothing() {
    let (waited, lost) = minute(|now, port| take(port, usize::from(now % 5 == 0)));
    assert_eq!(lost, 0);
    assert!(waited > MINUTE * 9 / 10, "{waited} ms: it was no slow receiver");
    // It is off the processor now and then.
    let (_, lost) = minute(|now, port| take(port, if now % 80 == 0 { 40 } else { 0 }));
    assert_eq!(lost, 0);
}

#[test]
fn an_interruption_is_made_up_for() {
    let interrupted = |now| (30_000..30_300).contains(&now);
    let mut lost_after = 0;
    minute(|now, port| {
        take(port, usize::from(now % 2 == 0 && !interrupted(now)));
        if now == 30_400 {
            lost_after = port.counters().lost.full;
        } else if now > 30_400 {
            assert_eq!(port.counters().lost.full, lost_after, "{now} ms");
        }
    });
    assert!(lost_after > 0, "nothing is waited for without any sign of life");
}

#[test]
fn a_receiver_that_stalls_its_senders_again_and_again_is_given_up() {
    // It shows signs of life for nearly all the patience, and then does its duty.
    let trickle = minute(|now, port| match now % 900 {
        0 => drop(drain(port)),
        rest => take(port, usize::from(rest % 90 == 0)),
    });
    let silent = minute(|now, port| take(port, usize::from(now % 190 == 0)));
    let reset = minute(|now, port| {
        if now % 90 == 0 {
            port.set_ready(false);
            port.set_ready(true);
        }
    });
    for (name, (waited, _)) in [("trickle", trickle), ("silent", silent), ("reset", reset)] {
        eprintln!("{name} {waited}");
        assert!(waited <= MINUTE / 10 + 1_500, "{name}: {waited} ms");
    }
}

#[test]
fn it_is_trusted_again_when_it_is_empty_and_time_has_passed() {
    let switch = Switch::with_limits(LIMITS);
    let ports = ports(&switch, 2);
    introduce(&ports, START);
    let send = |now| ports[0].send(now, frame(address(1), address(0), b""));
    let fill = |now| (0..LIMITS.queue_frames).try_for_each(|_| send(now)).and_then(|()| send(now));
    let mut now = START;
    let mut full = fill(now).unwrap_err();
    while full.retry_at > now {
        now = full.retry_at;
        take(&ports[1], 1);
        match ports[0].send(now, full.frame) {
            Ok(()) => break,
            Err(again) => full = again,
        }
    }
    assert_eq!(now, LIMITS.patience);
    take(&ports[1], LIMITS.queue_frames * 3 / 4);
    fill(now).unwrap();
    assert!(ports[1].counters().lost.full > 0, "it has not been empty");
    drain(&ports[1]);
    now += Duration::from_millis(500);
    assert_eq!(fill(now).unwrap_err().retry_at, now + Duration::from_millis(50), "a tenth of the time");
    drain(&ports[1]);
    now += Duration::from_secs(10);
    assert_eq!(fill(now).unwrap_err().retry_at, now + LIMITS.stalled_after);
}
