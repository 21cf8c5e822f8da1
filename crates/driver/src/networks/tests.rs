use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use snowboot_config::{Manifest, NodeConfig};
use snowboot_network::{Burst, Flap, Frame, Impairment, Spread};

use super::{Direction, Networks, now, port_name};
use crate::control::lock;
use crate::testing::FakeLauncher;
use crate::tests::{Keep, driver};
use crate::{Driver, Event, Options};

fn slow(delay: u64) -> Impairment {
    Impairment { delay: Duration::from_millis(delay), seed: 7, ..Impairment::default() }
}

/// Two machines on VLAN 1, and what is logged.
fn pair() -> (Driver, Arc<Mutex<Vec<Event>>>) {
    driver(&[("a", ""), ("b", "")], 600)
}

/// Two machines on a network with a name, one of them on VLAN 1 too, and what is logged.
fn named() -> (Driver, Arc<Mutex<Vec<Event>>>) {
    let text = "name = 't'\ntest-script = ''\n[networks.backbone]\nvlan = 7\n[networks.spare]\n\
                [machines.a]\nkernel = 'k'\nvlans = ['backbone']\n[machines.b]\nkernel = 'k'\nvlans = [1, 'backbone']\n";
    let manifest = Manifest::parse("t.toml".as_ref(), text).unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let options = Options::new(FakeLauncher).sink(Keep(events.clone()));
    (Driver::new(&manifest, options).unwrap(), events)
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
fn a_network_is_told_of_by_its_name() {
    let (driver, events) = named();
    assert_eq!(driver.vlans().into_iter().collect::<Vec<_>>(), [1, 2, 7]);
    let vlan = driver.vlan(7);
    assert_eq!((vlan.name().as_str(), driver.vlan(1).name().as_str()), ("backbone", "vlan1"));
    vlan.impair("a", "b", Direction::There, &slow(20)).unwrap();
    vlan.partition(&[&["a"], &["b"]]).unwrap();
    driver.vlan(1).heal();
    let expected = [
        "backbone.impair(\"a\", \"b\", both=False, delay=0.02, seed=7)",
        "backbone.partition([\"a\"], [\"b\"])",
        "vlan1.heal()",
    ];
    assert_eq!(calls(&driver, &events), expected);
    let wrong = |result: Result<(), crate::Error>| result.unwrap_err().to_string();
    assert_eq!(
        wrong(vlan.impair("a", "c", Direction::Both, &slow(1))),
        "backbone: there is no machine c; those on it are a, b"
    );
    assert_eq!(
        wrong(driver.vlan(1).repair("a", "b", Direction::Both)),
        "vlan1: a is not on it, but on [\"backbone\"]: add 1 to its `vlans`"
    );
    assert_eq!(
        wrong(driver.vlan(2).repair("b", "a", Direction::Both)),
        "spare: b is not on it, but on [1, \"backbone\"]: add \"spare\" to its `vlans`"
    );
}

#[test]
fn captures_are_called_by_the_name_and_have_it_inside() {
    let (driver, _) = named();
    let folder = tempfile::tempdir().unwrap();
    let vlan = driver.vlan(7);
    let whole = vlan.capture(&folder.path().join("whole.pcapng")).unwrap();
    let ports = [("a", 1), ("b", 2)].map(|(name, card)| vlan.networks.attach(7, &port_name(name, card)));
    ports[0].send(now(), frame(1)).unwrap();
    whole.stop().unwrap();
    let saved = driver.save_last_frames(folder.path()).unwrap();
    assert_eq!(saved, [folder.path().join("backbone-last.pcapng")]);
    for file in [&saved[0], whole.path()] {
        let bytes = std::fs::read(file).unwrap();
        for text in [&b"a:eth1"[..], b"b:eth2", b"backbone"] {
            assert!(bytes.windows(text.len()).any(|part| part == text), "{}", file.display());
        }
    }
}

#[test]
fn a_topology_has_machines_that_the_test_has_made() {
    let (driver, _) = named();
    let text = "kernel = 'k'\nvlans = ['spare']";
    let node = NodeConfig::parse_within("c", "c.toml".as_ref(), text, driver.named_networks()).unwrap();
    driver.create_machine("c", node).unwrap();
    let members = driver.report().topology.networks.into_iter().map(|network| {
        let names: Vec<String> = network.members.into_iter().map(|member| member.machine).collect();
        (network.name, names.concat())
    });
    let expected = [("vlan1", "b"), ("spare", "c"), ("backbone", "ab")];
    assert!(members.eq(expected.map(|(name, members)| (name.to_owned(), members.to_owned()))));
}

#[test]
fn networks_are_apart() {
    let networks = Networks::default();
    let (a, b) = (networks.attach(1, "a:eth1"), networks.attach(2, "b:eth1"));
    a.send(now(), frame(1)).unwrap();
    assert!(b.receive().is_none());
}

#[test]
fn a_runs_seed_gives_the_same_seeds_again_and_is_told_once() {
    let text =
        "name = 't'\ntest-script = ''\nseed = 7\n[machines.a]\nkernel = 'k'\n[machines.b]\nkernel = 'k'\n";
    let manifest = Manifest::parse("t.toml".as_ref(), text).unwrap();
    let drawn = |seed: Option<u64>| {
        let events = Arc::new(Mutex::new(Vec::new()));
        let options = Options::new(FakeLauncher).sink(Keep(events.clone()));
        let driver = Driver::new(&manifest, Options { seed, ..options }).unwrap();
        assert!(!driver.is_seed_used());
        let vlan = driver.vlan(1);
        let seeds = [vlan.draw_seed("a", "b"), vlan.draw_seed("a", "b"), vlan.draw_seed("b", "a")];
        assert!(driver.is_seed_used());
        assert_eq!(driver.report().seed, driver.seed());
        driver.log().flush();
        let events = lock(&events);
        let told = events.iter().filter_map(|event| match event {
            Event::Line { text, .. } => Some(text.clone()),
            _ => None,
        });
        (driver.seed(), seeds, told.collect::<Vec<_>>())
    };
    let (seed, seeds, told) = drawn(None);
    assert_eq!((seed, drawn(None).1), (7, seeds), "the manifest's");
    assert_eq!(told, ["faults draw their seeds from the run's, 7: --seed 7 has the same ones again"]);
    let (seed, others, _) = drawn(Some(8));
    assert_eq!(seed, 8);
    assert!(seeds.iter().all(|seed| !others.contains(seed)));
}
