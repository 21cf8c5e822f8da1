//! Machines that end, hang or lack something, and runs that end meanwhile.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::control::TICK;

const NO_STATUS: Execute = Execute { check_return: false, check_output: true, timeout: Some(LONG) };

#[test]
fn a_command_that_takes_the_machine_down_is_none_that_failed() {
    let (_driver, machine) = one();
    let reply = machine.execute("kill -KILL 0", Execute { timeout: None, ..NO_STATUS }).unwrap();
    assert_eq!((reply.status, reply.output.as_str()), (-1, ""));
    assert!(machine.is_booted());
    machine.wait_for_shutdown(Some(LONG)).unwrap();
    assert!(!machine.is_booted());
    assert_eq!(machine.report().outcome.as_deref(), Some("powered off"));
    machine.succeed(&["true"], None).unwrap();
}

#[test]
fn a_shell_that_does_not_come_up_is_told_from_other_trouble() {
    let (driver, _) = driver(&[("a", "mute")], 600);
    let machine = &driver.machines()[0];
    machine.start().unwrap();
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(TICK);
            machine.crash().unwrap();
        });
        machine.connect().unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::NoShell);
    assert_eq!(error.failure().unwrap().machine, "a");
}

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

#[test]
fn a_kernel_that_panicked_and_stands_still_ends_waits() {
    let (driver, _) = driver(&[("a", "")], 60);
    let machine = &driver.machines()[0];
    machine.connect().unwrap();
    machine.send_console("[    2.0] Kernel panic - not syncing: boom\n").unwrap();
    let error = machine.succeed(&["sleep 600"], None).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::MachineError);
    assert!(text.contains("kernel panicked and stands still (its command line has no panic=...)"), "{text}");
    assert!(text.contains("kernel: Kernel panic - not syncing: boom"), "{text}");
    for error in [
        machine.wait_for_console_text("never", None).unwrap_err(),
        machine.wait_for_shutdown(None).unwrap_err(),
    ] {
        assert!(error.to_string().contains("stands still"), "{error}");
    }
    machine.crash().unwrap();
    machine.succeed(&["true"], None).unwrap();
}
