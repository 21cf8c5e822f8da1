use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use snowboot_network::{Burst, Flap, Frame, Impairment, Spread};

use super::{Direction, Networks, Vlan, now, port_name};
use crate::control::lock;
use crate::tests::driver;
use crate::{Driver, Event};

fn slow(delay: u64) -> Impairment {
    Impairment { delay: Duration::from_millis(delay), seed: 7, ..Impairment::default() }
}

/// Two machines on VLAN 1, and what is logged.
fn pair() -> (Driver, Arc<Mutex<Vec<Event>>>) {
    driver(&[("a", ""), ("b", "")], 600)
}

/// The calls that the log has.
fn calls(driver: &Driver, events: &Mutex<Vec<Event>>) -> Vec<String> {
    driver.log().flush();
    let events = lock(events);
    let lines = events.iter().filter_map(|event| match event {
        Event::Line { text, .. } => text.strip_prefix("network: "),
        _ => None,
    });
    lines.map(str::to_owned).collect()
}

fn frame(from: u8) -> Frame {
    let mut bytes = vec![0xff; 6];
    bytes.extend([0x52, 0x54, 0, 0x12, 1, from, 0x88, 0xb5]);
    Frame::new(bytes)
}

#[test]
fn delayed_frames_arrive_by_the_clock() {
    let (driver, _) = pair();
    let vlan = driver.vlan(1);
    let [a, b] = ["a", "b"].map(|name| vlan.networks.attach(1, &port_name(name, 1)));
    let (sender, arrived) = mpsc::channel();
    b.set_waker(Arc::new(move || {
        let _ = sender.send(Instant::now());
    }));
    b.set_ready(true);
    vlan.impair("a", "b", Direction::There, &slow(50)).unwrap();
    let sent = Instant::now();
    a.send(now(), frame(1)).unwrap();
    assert!(b.receive().is_none());
    let took = arrived.recv_timeout(Duration::from_secs(60)).unwrap() - sent;
    assert!(took >= Duration::from_millis(50), "{took:?}");
    assert!(b.receive().is_some());
    // An end of the driver leaves no thread.
    driver.finish();
    a.send(now(), frame(1)).unwrap();
    assert!(arrived.recv_timeout(Duration::from_millis(200)).is_err());
}

#[test]
fn the_log_has_the_call_that_makes_a_change_again() {
    let (driver, events) = pair();
    let vlan = driver.vlan(1);
    let everything = Impairment {
        seed: 3,
        cut: true,
        flap: Some(Flap { up: Duration::from_secs(2), down: Duration::from_millis(500) }),
        loss: 0.1,
        burst: Some(Burst { enter: 0.01, leave: 0.25, loss: 1.0 }),
        duplicate: 0.2,
        corrupt: 0.3,
        rate: Some(1_000_000),
        queue: 5000,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        spread: Spread::Pareto,
        reorder: 0.4,
        reorder_by: Duration::from_millis(1),
    };
    vlan.impair("a", "b", Direction::Both, &everything).unwrap();
    vlan.impair("b", "a", Direction::There, &slow(20)).unwrap();
    vlan.repair("b", "a", Direction::There).unwrap();
    vlan.partition(&[&["a"], &["b"]]).unwrap();
    vlan.heal();
    let expected = [
        "vlan1.impair(\"a\", \"b\", cut=True, flap=(2, 0.5), loss=0.1, duplicate=0.2, corrupt=0.3, burst=(0.01, 0.25, 1), \
         rate=1000000, queue=5000, delay=0.02, jitter=0.005, spread=\"pareto\", reorder=0.4, reorder_by=0.001, seed=3)",
        "vlan1.impair(\"b\", \"a\", both=False, delay=0.02, seed=7)",
        "vlan1.heal(\"b\", \"a\", both=False)",
        "vlan1.partition([\"a\"], [\"b\"])",
        "vlan1.heal()",
    ];
    assert_eq!(calls(&driver, &events), expected);
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let (driver, events) = pair();
    let vlan = driver.vlan(1);
    let wrong = |result: Result<(), crate::Error>| result.unwrap_err().to_string();
    let lossy = Impairment { loss: 2.0, ..Impairment::default() };
    assert_eq!(
        wrong(vlan.impair("a", "b", Direction::Both, &lossy)),
        "vlan1: loss is 2: a probability is from 0 to 1"
    );
    assert_eq!(
        wrong(vlan.impair("a", "c", Direction::Both, &slow(1))),
        "vlan1: there is no machine c; those on it are a, b"
    );
    assert!(wrong(vlan.impair("a", "a", Direction::Both, &slow(1))).contains("both are a"));
    assert!(wrong(vlan.partition(&[&["a", "b"], &["a"]])).contains("a is named twice"));
    assert!(wrong(driver.vlan(2).repair("a", "b", Direction::Both)).contains("a is not on it, but on [1]"));
    assert!(wrong(driver.partition(&[&["a"], &["c"]])).contains("there is no machine c"));
    assert_eq!(calls(&driver, &events), [""; 0]);
}

#[test]
fn a_partition_of_the_run_is_one_of_each_network() {
    let (driver, events) = pair();
    driver.partition(&[&["a"], &["b"]]).unwrap();
    driver.heal();
    assert_eq!(calls(&driver, &events), ["vlan1.partition([\"a\"], [\"b\"])", "vlan1.heal()"]);
}

#[test]
fn seeds_differ_and_networks_are_apart() {
    assert_ne!(Vlan::any_seed(), Vlan::any_seed());
    let networks = Networks::default();
    let (a, b) = (networks.attach(1, "a:eth1"), networks.attach(2, "b:eth1"));
    a.send(now(), frame(1)).unwrap();
    assert!(b.receive().is_none());
}
