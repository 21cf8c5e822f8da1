//! A guest that sends whatever it likes, as fast as it can, beside two that only want to talk to each other.
//!
//! Nothing is timed: in each turn whoever sends does so, and a receiver takes [`TAKEN`] frames of whatever has come. The attackers go
//! first in every turn, and send until they have sent [`FLOOD`] frames or must wait. What counts is how many frames the orderly
//! receiver gets of its partner.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::{BROADCAST, START, address, bell, frame, introduce, ports, rung};
use crate::{Frame, Full, Limits, Port, Switch};

const TURNS: usize = 100;
/// Frames that a guest takes in a turn: a quarter of a queue.
const TAKEN: usize = 128;
/// Frames that an attacker has in a turn: more than a queue holds.
const FLOOD: usize = 640;
const TURN: Duration = Duration::from_millis(1);

/// Who is at which port.
const ALICE: usize = 0;
const BOB: usize = 1;
const MALLORY: usize = 2;
const TRENT: usize = 3;
const STATIONS: usize = 4;

/// Frame number `n` of an attacker, who may also do something else in its turn.
type Attack = fn(usize) -> Frame;

/// An address that is no station's.
fn made_up(number: usize) -> [u8; 6] {
    let [.., a, b, c, d] = number.to_be_bytes();
    [0x02, 0xee, a, b, c, d]
}

fn station(number: usize) -> [u8; 6] {
    address(u8::try_from(number).unwrap())
}

/// Sends until there is no more, or the sender must wait: what it waits with, and until when.
struct Sender<'a> {
    port: &'a Port,
    told: Arc<AtomicUsize>,
    held: Option<Full>,
}

impl<'a> Sender<'a> {
    fn new(port: &'a Port) -> Self {
        Self { port, told: bell(port), held: None }
    }

    /// Sends `most` frames at most; whether it goes on at a full receiver is what the switch says.
    fn send(&mut self, now: Duration, most: usize, mut next: impl FnMut() -> Frame) {
        let told = rung(&self.told) > 0;
        if self.held.as_ref().is_some_and(|full| !told && full.retry_at > now) {
            return;
        }
        for _ in 0..most {
            let frame = self.held.take().map_or_else(&mut next, |full| full.frame);
            self.held = self.port.send(now, frame).err();
            if self.held.is_some() {
                return;
            }
        }
    }
}

/// What Alice got through to Bob, and the most that ever waited for him.
#[derive(Debug)]
struct Outcome {
    bob_got: usize,
    most_waiting: usize,
}

/// Alice sends to Bob all that he takes, by `say`, while the attackers do what they do.
fn talk(attacks: &[Attack], say: fn() -> Frame) -> Outcome {
    let switch = Switch::new();
    let ports = ports(&switch, STATIONS + attacks.len());
    introduce(&ports, START);
    let mut alice = Sender::new(&ports[ALICE]);
    let mut attackers: Vec<_> =
        attacks.iter().enumerate().map(|(at, it)| (Sender::new(&ports[port_of(at)]), *it)).collect();
    let mut outcome = Outcome { bob_got: 0, most_waiting: 0 };
    let mut number = 0;
    for turn in 0..TURNS {
        let now = TURN * u32::try_from(turn).unwrap();
        for (sender, attack) in &mut attackers {
            sender.send(now, FLOOD, || {
                number += 1;
                attack(number)
            });
        }
        alice.send(now, FLOOD, say);
        let counters = ports[BOB].counters();
        let waiting = usize::try_from(counters.arrived - counters.received - counters.lost.flushed).unwrap();
        outcome.most_waiting = outcome.most_waiting.max(waiting);
        outcome.bob_got += take(&ports[BOB], say);
        take(&ports[TRENT], say);
    }
    outcome
}

/// Mallory first, then those who help.
fn port_of(attacker: usize) -> usize {
    if attacker == 0 { MALLORY } else { STATIONS + attacker }
}

fn take(port: &Port, wanted: fn() -> Frame) -> usize {
    let wanted = wanted();
    (0..TAKEN).filter_map(|_| port.receive()).filter(|frame| *frame == wanted).count()
}

fn to_bob() -> Frame {
    frame(station(BOB), station(ALICE), b"orderly")
}

fn to_everybody() -> Frame {
    frame(BROADCAST, station(ALICE), b"who has it?")
}

fn addresses_made_up(number: usize) -> Frame {
    frame(made_up(number + 1), made_up(number), b"flood")
}

fn broadcasts(_: usize) -> Frame {
    frame(BROADCAST, station(MALLORY), b"storm")
}

fn long_broadcasts(_: usize) -> Frame {
    frame(BROADCAST, station(MALLORY), &[0; 60_000])
}

fn unicasts(_: usize) -> Frame {
    frame(station(BOB), station(MALLORY), b"flood")
}

fn long_unicasts(_: usize) -> Frame {
    frame(station(BOB), station(MALLORY), &[0; 60_000])
}

fn both(number: usize) -> Frame {
    if number.is_multiple_of(2) { broadcasts(number) } else { unicasts(number) }
}

fn to_nobody_there(number: usize) -> Frame {
    frame(made_up(number), station(MALLORY), b"scan")
}

/// What one guest may do, and the longest frames that it does it with.
const ATTACKS: &[(&str, Attack)] = &[
    ("addresses made up", addresses_made_up),
    ("broadcasts", broadcasts),
    ("long broadcasts", long_broadcasts),
    ("as much as it can to Bob", unicasts),
    ("the same in long frames", long_unicasts),
    ("both at once", both),
    ("stations that are not there", to_nobody_there),
];

#[test]
fn who_floods_leaves_half_of_a_receiver_to_another_and_queues_stay_bounded() {
    let limits = Limits::default();
    for say in [to_bob as fn() -> Frame, to_everybody] {
        let base = talk(&[], say).bob_got;
        assert_eq!(base, TURNS * TAKEN);
        for (name, attack) in ATTACKS {
            let outcome = talk(&[*attack], say);
            assert!(outcome.bob_got >= half(base), "{name}: {outcome:?} of {base}");
            assert!(outcome.most_waiting <= limits.queue_frames, "{name}: {outcome:?}");
        }
    }
}

/// Half but for two turns of a hundred: until the queue of who was first is shared.
fn half(all: usize) -> usize {
    all * 48 / 100
}

#[test]
fn several_who_flood_leave_an_equal_part() {
    let attacks: [Attack; 3] = [broadcasts, addresses_made_up, unicasts];
    let outcome = talk(&attacks, to_bob);
    assert!(outcome.bob_got >= half(TURNS * TAKEN) / 2, "{outcome:?}");
}

#[test]
fn a_flood_of_addresses_does_not_make_others_unicast_a_broadcast() {
    let switch = Switch::new();
    let ports = ports(&switch, STATIONS);
    introduce(&ports, START);
    let known = Limits::default().learned;
    for number in 0..known * 4 {
        ports[MALLORY].send(START, addresses_made_up(number)).unwrap();
        if number.is_multiple_of(64) {
            ports[ALICE].send(START, to_bob()).unwrap();
        }
        ports.iter().for_each(|port| while port.receive().is_some() {});
    }
    assert_eq!(switch.lock().stations_known(), known + STATIONS - 1, "and hers is full");
    let before = ports[TRENT].counters().received;
    for _ in 0..100 {
        ports[ALICE].send(START, to_bob()).unwrap();
        assert!(ports[BOB].receive().is_some());
    }
    assert_eq!(ports[TRENT].counters().received, before);
}

#[test]
fn a_guest_that_never_takes_its_frames_costs_its_neighbours_a_tenth_at_most() {
    let switch = Switch::new();
    let ports = ports(&switch, STATIONS);
    introduce(&ports, START);
    let mut alice = Sender::new(&ports[ALICE]);
    let (mut bob_got, mut number) = (0, 0usize);
    let turns = 10_000;
    for turn in 0..turns {
        // One frame in four is for who does not take it.
        alice.send(TURN * turn, TAKEN, || {
            number += 1;
            if number.is_multiple_of(4) { frame(station(TRENT), station(ALICE), b"dead") } else { to_bob() }
        });
        bob_got += take(&ports[BOB], to_bob);
    }
    let all = usize::try_from(turns).unwrap() * TAKEN * 3 / 4;
    assert!(bob_got >= all / 10 * 8, "{bob_got} of {all}");
    let lost = ports[TRENT].counters();
    assert!(lost.arrived - lost.received <= 512 && lost.lost.full > 0, "{lost:?}");
}
