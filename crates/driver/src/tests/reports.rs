//! Reports of a Rust test's run.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snowboot_config::Manifest;

use super::{driver, lock};
use crate::sinks::{Troubles, Wanted};
use crate::testing::FakeLauncher;
use crate::{Driver, Event, Execute, Options, RunError, Step};

#[test]
fn a_run_tells_its_beginning_its_machines_lives_and_its_end() {
    let (driver, events) = driver(&[("a", ""), ("b", "refuse")], 600);
    let a = driver.machine("a").unwrap();
    a.execute("true", Execute::default()).unwrap();
    a.shutdown().unwrap();
    // The end of a machine is told by a thread of its own, which may take its time.
    let ended = |event: &Event| matches!(event, Event::Machine { step: Step::Ended { .. }, .. });
    let until = Instant::now() + Duration::from_secs(60);
    while !lock(&events).iter().any(ended) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    driver.machine("b").unwrap().start().unwrap_err();
    driver.script_ended(Some(RunError::new("E", "why")));
    driver.finish();
    driver.run_ended(1, None);
    let events = lock(&events);
    assert!(
        matches!(&events[0], Event::RunBegin { name: Some(name), machines, .. } if name == "t" && machines.len() == 2)
    );
    let steps: Vec<(String, Step)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Machine { step: Step::Booted { .. }, .. } => None,
            Event::Machine { machine, step } => Some((machine.to_string(), step.clone())),
            _ => None,
        })
        .collect();
    let step = |name: &str, step| (name.to_owned(), step);
    assert_eq!(
        steps,
        [
            step("a", Step::Starting { start: 1 }),
            step("a", Step::Shell),
            step("a", Step::Ended { outcome: "powered off".into() }),
            step("b", Step::Starting { start: 1 }),
            step("b", Step::Ended { outcome: "could not be started".into() }),
        ]
    );
    let ends = events.iter().filter(|event| matches!(event, Event::ScriptEnd { error: Some(_) }));
    assert_eq!(ends.count(), 1);
    assert!(events.iter().any(|event| matches!(event, Event::RunEnd { status: 1, error: None })));
}

#[test]
fn a_test_that_panics_has_its_reports_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Some(folder.path().join(name));
    let wanted =
        Wanted { junit: at("j.xml"), html: at("r.html"), json: at("log.jsonl"), ..Wanted::default() };
    let troubles = Troubles::default();
    let manifest =
        Manifest::parse(Path::new("t.toml"), "name = 't'\ntest-script = ''\n[machines.a]\nkernel = 'k'\n")
            .unwrap();
    let sinks = wanted.open(&troubles).unwrap();
    let options = Options { launcher: Arc::new(FakeLauncher), sinks, on_global_timeout: None, seed: None };
    let driver = Driver::new(&manifest, options).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let mut subtest = driver.subtest("one");
        subtest.fail("on purpose");
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("j.xml").contains("test case failed\non purpose</failure>"), "{}", read("j.xml"));
    assert!(read("r.html").contains("\"failure\":\"on purpose\""));
    assert!(read("log.jsonl").lines().last().unwrap().contains("\"event\":\"block-end\""));
    assert!(troubles.take().is_empty());
}
