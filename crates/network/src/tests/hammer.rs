//! Many threads at once: no frame is lost, reordered or left waiting. Time stands still, so nobody is ever given up, and
//! only wake-ups can end a wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::{BROADCAST, START, address, frame};
use crate::{Limits, Port, Switch};

const STATIONS: u8 = 4;
const FRAMES: u32 = 5_000;
/// Far longer than the test takes: only a lost wake-up waits this long, and fails.
const LOST: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    condition: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.condition.notify_one();
    }

    fn wait(&self) {
        let (mut rung, timeout) =
            self.condition.wait_timeout_while(self.rung.lock().unwrap(), LOST, |rung| !*rung).unwrap();
        assert!(!timeout.timed_out(), "a wake-up was lost");
        *rung = false;
    }
}

/// Sends `FRAMES` numbered frames to every other station and takes all that are meant for it.
fn station(number: u8, port: &Port, bell: &Bell) {
    let others: Vec<u8> = (0..STATIONS).filter(|other| *other != number).collect();
    let total = FRAMES * u32::try_from(others.len()).unwrap();
    let mut numbers = 0..total;
    let mut next = numbers.next();
    let mut expected: HashMap<u8, u32> = HashMap::new();
    let mut taken = 0;
    while next.is_some() || taken < total {
        let mut progress = false;
        while let Some(frame) = port.receive() {
            progress = true;
            if frame.bytes[..6] != address(number) {
                continue;
            }
            let from = frame.bytes[11];
            let sequence = u32::from_be_bytes(frame.bytes[14..18].try_into().unwrap());
            let expected = expected.entry(from).or_default();
            assert_eq!(sequence, *expected, "from {from} to {number}");
            *expected += 1;
            taken += 1;
        }
        while let Some(index) = next {
            let to = others[usize::try_from(index).unwrap() % others.len()];
            let sequence = index / u32::try_from(others.len()).unwrap();
            if port.send(START, frame(address(to), address(number), &sequence.to_be_bytes())).is_err() {
                break;
            }
            progress = true;
            next = numbers.next();
        }
        if !progress {
            bell.wait();
        }
    }
}

/// Comes and goes, and shouts.
fn visitor(switch: &Switch, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let port = switch.attach("visitor");
        port.set_ready(true);
        port.send(START, frame(BROADCAST, address(200), b"noise")).unwrap();
        port.receive();
        port.set_link(false);
        assert!(switch.counters().len() > usize::from(STATIONS));
    }
}

#[test]
fn threads_lose_nothing() {
    let switch = Switch::with_limits(Limits { queue_frames: 8, ..Limits::default() });
    let ports: Vec<Port> = (0..STATIONS).map(|number| switch.attach(&number.to_string())).collect();
    ports.iter().for_each(|port| port.set_ready(true));
    super::introduce(&ports, START);
    let barrier = Barrier::new(usize::from(STATIONS));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| visitor(&switch, &stop));
        let stations: Vec<_> = (0..STATIONS)
            .zip(&ports)
            .map(|(number, port)| {
                let bell = Arc::new(Bell::default());
                let ringer = Arc::clone(&bell);
                port.set_waker(Arc::new(move || ringer.ring()));
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    station(number, port, &bell);
                })
            })
            .collect();
        let results: Vec<_> = stations.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(ports.iter().any(|port| port.counters().held_back > 0), "nobody ever waited");
}
