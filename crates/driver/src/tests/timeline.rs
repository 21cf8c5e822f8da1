//! How boots went.

use std::time::{Duration, Instant};

use super::{LONG, driver, lock, one};
use crate::{BootTimeline, Event, Execute, Start, Step};

fn numbers(timeline: &BootTimeline) -> Vec<u8> {
    timeline.marks.iter().map(|mark| mark.number).collect()
}

#[test]
fn a_timeline_has_what_was_reached_in_its_order() {
    let (driver, events) = driver(&[("a", "marks")], 600);
    let machine = driver.machines()[0].clone();
    let error = machine.boot_timeline().unwrap_err().to_string();
    assert!(error.contains("a: has no boot to tell of: it was never started"), "{error}");

    let began = Instant::now();
    machine.start().unwrap();
    let early = machine.boot_timeline().unwrap();
    assert_eq!((early.shell_ready, early.first_answer, early.guest_clock), (None, None, None));
    assert!(early.guest_entered.is_some());
    machine.connect().unwrap();
    machine.execute("sleep 0.05", Execute { check_output: false, ..Execute::default() }).unwrap();
    machine.succeed(&["true"], None).unwrap();
    let timeline = machine.boot_timeline().unwrap();
    assert!(timeline.guest_entered.unwrap() < timeline.shell_ready.unwrap(), "{timeline:?}");
    assert!(timeline.shell_ready.unwrap() < timeline.first_answer.unwrap(), "{timeline:?}");
    assert!(timeline.first_answer.unwrap() >= Duration::from_millis(50), "the first is asked for no answer");
    assert!(timeline.first_answer.unwrap() < began.elapsed());
    assert_eq!(timeline.init_started, timeline.guest_entered);
    assert_eq!(numbers(&timeline), [20, 20]);
    assert!(timeline.guest_clock.is_some());

    // What is reported has no more than there was then; a shell that comes back is no further boot.
    machine.set_connected(false);
    machine.shell_send(b"echo Spawning backdoor root shell...\n").unwrap();
    machine.connect().unwrap();
    driver.finish();
    let events = lock(&events);
    let booted: Vec<&BootTimeline> = events
        .iter()
        .filter_map(|event| match event {
            Event::Machine { step: Step::Booted { after, timeline }, .. } => {
                assert!(timeline.shell_ready.unwrap() <= *after && *after < LONG);
                Some(timeline.as_ref())
            }
            _ => None,
        })
        .collect();
    assert_eq!(booted.len(), 1);
    assert_eq!((booted[0].first_answer, booted[0].shell_ready), (None, timeline.shell_ready));
}

#[test]
fn it_outlives_the_machine_and_begins_anew_with_its_next_start() {
    let (driver, events) = driver(&[("a", "")], 600);
    let machine = driver.machines()[0].clone();
    machine.succeed(&["sleep 0.5"], None).unwrap();
    let first = machine.boot_timeline().unwrap();
    assert!(first.first_answer.unwrap() >= Duration::from_millis(500));
    machine.crash().unwrap();
    let after = machine.boot_timeline().unwrap();
    assert_eq!((after.shell_ready, after.first_answer), (first.shell_ready, first.first_answer));
    machine.start_with(Start { allow_reboot: true }).unwrap();
    let second = machine.boot_timeline().unwrap();
    assert_eq!((second.shell_ready, second.first_answer), (None, None));
    machine.succeed(&["sleep 0.5"], None).unwrap();
    machine.reset().unwrap();
    assert_eq!(machine.boot_timeline().unwrap().first_answer, None);
    machine.connect().unwrap();
    let third = machine.boot_timeline().unwrap();
    assert!(third.shell_ready.unwrap() < LONG && third.guest_entered < third.shell_ready, "{third:?}");
    driver.finish();
    let is_boot = |event: &&Event| matches!(event, Event::Machine { step: Step::Booted { .. }, .. });
    assert_eq!(lock(&events).iter().filter(is_boot).count(), 3);
}

#[test]
fn the_guest_is_asked_for_what_only_it_knows() {
    let (_driver, machine) = one();
    // Commands run in a shell below this one.
    let tools = "systemctl() { echo UserspaceTimestampMonotonic=1500000; echo FinishTimestampMonotonic=2500000; }; \
                 dmesg() { echo '[ 0.5] initcall slow+0x0/0x1 [mod] returned 0 after 700 usecs'; echo other; }; \
                 export -f systemctl dmesg\n";
    machine.connect().unwrap();
    machine.shell_send(tools.as_bytes()).unwrap();
    let timeline = machine.boot_timeline().unwrap();
    assert_eq!(timeline.systemd.get("userspace"), Some(&Duration::from_millis(1500)));
    let finish = timeline.guest_clock.unwrap() + timeline.systemd["finish"];
    assert_eq!(timeline.target_reached, Some(finish));
    let found: Vec<_> = timeline.initcalls.iter().map(|it| (it.name.as_str(), it.took)).collect();
    assert_eq!(found, [("slow [mod]", Duration::from_micros(700))]);
}
