//! Machines that end, hang or lack something, and runs that end meanwhile.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::control::TICK;

#[test]
fn a_console_wait_starts_what_was_never_started() {
    let (together, _) = driver(&[("a", ""), ("b", "")], 600);
    together.start_together();
    let a = together.machine("a").unwrap();
    a.wait_for_console_text("x", Some(Duration::ZERO)).unwrap_err();
    assert!(a.is_booted() && together.machine("b").unwrap().is_booted());

    let (alone, machine) = one();
    machine.wait_for_console_text("x", Some(Duration::ZERO)).unwrap_err();
    assert!(machine.is_booted());
    machine.crash().unwrap();
    let error = machine.wait_for_console_text("x", Some(LONG)).unwrap_err().to_string();
    assert!(error.contains("`x` did not appear on the console before the machine ended"), "{error}");
    assert!(!machine.is_booted());
    drop(alone);
}

#[test]
fn a_console_wait_sees_a_last_line_without_end() {
    let (driver, machine) = one();
    machine.start().unwrap();
    machine.send_console("half a li").unwrap();
    machine.crash().unwrap();
    machine.wait_for_console_text("half a li", Some(LONG)).unwrap();
    assert_eq!(machine.console().text(), "half a li");
    drop(driver);
}

#[test]
fn a_console_wait_asks_for_interrupts_at_intervals_only() {
    let (driver, machine) = one();
    machine.start().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    driver.set_interrupt_hook(Some(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    })));
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                machine.send_console("x").unwrap();
                machine.send_console("\n").unwrap();
            }
            machine.send_console("done\n").unwrap();
        });
        machine.wait_for_console_text("done", Some(LONG)).unwrap();
    });
    let ticks = began.elapsed().as_millis() / TICK.as_millis();
    // One at the start of each pause and of each call that waits.
    assert!(asked.load(Ordering::Relaxed) as u128 <= ticks + 10, "{asked:?} in {ticks} ticks");
}

#[test]
fn a_console_wait_keeps_to_its_time_however_much_the_guest_says() {
    let (driver, machine) = one();
    machine.start().unwrap();
    let (sender, over) = mpsc::channel::<()>();
    let error = thread::scope(|scope| {
        let machine = &machine;
        scope.spawn(move || {
            let lines = "just a line\n".repeat(10_000);
            while over.try_recv() == Err(mpsc::TryRecvError::Empty) {
                machine.send_console(&lines).unwrap();
            }
        });
        let slow = |_: &str| {
            thread::sleep(Duration::from_micros(100));
            false
        };
        let error = machine.wait_for_console("x", Some(Duration::from_millis(200)), slow).unwrap_err();
        sender.send(()).unwrap();
        error
    });
    assert!(error.to_string().contains("within 0.2 s"), "{error}");
    drop(driver);
}
