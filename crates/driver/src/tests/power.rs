//! Resets, reboots, pauses, and what is told of them.

use std::sync::atomic::AtomicUsize;
use std::thread;

use snowboot_config::NodeConfig;

use super::*;
use crate::console::ConsoleWriter;
use crate::vm::{BoxError, Launched};
use crate::{PowerEventKind, Start};

const REBOOTS: Start = Start { allow_reboot: true };
const RESET: &str = "kill -USR2 $PPID";
const ALONE: Execute = Execute { check_return: false, check_output: true, timeout: None };

fn shell_pid(machine: &MachineHandle) -> String {
    machine.succeed(&["echo $PPID"], None).unwrap()
}

/// Has the guest reset itself, and waits until it has.
fn reset(machine: &MachineHandle) {
    machine.execute(RESET, ALONE).unwrap();
    while machine.next_power_event(LONG).unwrap().unwrap().kind != PowerEventKind::Reset {}
}

#[test]
fn a_reset_ends_a_machine_that_may_not_reboot() {
    let (_driver, machine) = one();
    machine.execute(RESET, ALONE).unwrap();
    machine.wait_for_shutdown(Some(LONG)).unwrap();
    assert!(!machine.is_booted());
    let event = machine.next_power_event(LONG).unwrap().unwrap();
    assert_eq!((event.kind, event.by_guest, event.reason), (PowerEventKind::Shutdown, true, "guest-reset"));
}

#[test]
fn a_reset_starts_a_machine_again_that_may_reboot() {
    let (_driver, machine) = one();
    machine.start_with(REBOOTS).unwrap();
    let first = shell_pid(&machine);
    machine.send_console("before\n").unwrap();
    machine.execute(RESET, ALONE).unwrap();
    let event = machine.next_power_event(LONG).unwrap().unwrap();
    assert_eq!((event.kind, event.by_guest, event.reason), (PowerEventKind::Reset, true, "guest-reset"));
    // Without a word of the test: the next command waits for the new shell.
    let second = shell_pid(&machine);
    assert_ne!(first, second);
    machine.send_console("after\n").unwrap();
    assert_eq!(machine.console().text(), "before\nafter");
    assert_eq!(machine.report().starts, 1);

    thread::scope(|scope| {
        let waits = scope.spawn(|| machine.wait_for_shutdown(Some(LONG)));
        reset(&machine);
        assert_ne!(shell_pid(&machine), second);
        assert!(!waits.is_finished());
        machine.shutdown().unwrap();
        waits.join().unwrap().unwrap();
    });
    assert!(!machine.is_booted());
    // The next start is one without the option.
    machine.execute(RESET, ALONE).unwrap();
    machine.wait_for_shutdown(Some(LONG)).unwrap();
    assert_eq!(machine.report().starts, 2);
}

#[test]
fn a_command_under_a_reset_is_lost_and_says_so() {
    let (_driver, machine) = one();
    machine.start_with(REBOOTS).unwrap();
    machine.connect().unwrap();
    let error = machine.succeed(&["kill -USR2 $PPID; exec sleep 0"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoShell);
    assert!(error.to_string().contains("the guest was reset and the command is lost"), "{error}");
    machine.succeed(&["true"], None).unwrap();
}

#[test]
fn reboot_is_sent_and_not_waited_for() {
    let (_driver, machine) = one();
    machine.start_with(REBOOTS).unwrap();
    let first = shell_pid(&machine);
    machine.reboot().unwrap();
    assert!(!machine.is_up());
    assert_ne!(shell_pid(&machine), first);

    machine.crash().unwrap();
    machine.reboot().unwrap();
    machine.wait_for_shutdown(Some(LONG)).unwrap();
    assert_eq!(
        machine.report().outcome.as_deref(),
        Some("was reset by its guest (a reboot, or a kernel panic)")
    );
}

/// Lets the first launch pass; the next ones wait for a word, or fail.
struct Second {
    launches: AtomicUsize,
    go_on: Mutex<std::sync::mpsc::Receiver<()>>,
    fails: bool,
}

impl Launcher for Second {
    fn launch(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError> {
        if self.launches.fetch_add(1, Ordering::SeqCst) > 0 {
            if self.fails {
                return Err("the disk is gone".into());
            }
            let _ = lock(&self.go_on).recv();
        }
        FakeLauncher.launch(name, number, node, serial)
    }
}

fn second(fails: bool) -> (Driver, MachineHandle, std::sync::mpsc::Sender<()>) {
    let (send, receive) = std::sync::mpsc::channel();
    let launcher = Second { launches: AtomicUsize::new(0), go_on: Mutex::new(receive), fails };
    let (driver, _) = driver_on(Arc::new(launcher), &[("a", "")], 600);
    let machine = driver.machines()[0].clone();
    machine.start_with(REBOOTS).unwrap();
    machine.execute(RESET, ALONE).unwrap();
    (driver, machine, send)
}

#[test]
fn a_machine_that_cannot_come_back_says_why() {
    let (_driver, machine, _send) = second(true);
    let error = machine.wait_for_shutdown(Some(LONG)).unwrap_err().to_string();
    assert!(error.contains("a: did not come back from a reset: cannot be started"), "{error}");
    assert!(error.contains("the disk is gone"), "{error}");
    assert!(!machine.is_booted());
}

#[test]
fn the_power_is_cut_for_good_while_a_machine_comes_back() {
    let (_driver, machine, send) = second(false);
    thread::sleep(2 * crate::TICK);
    thread::scope(|scope| {
        let crash = scope.spawn(|| machine.crash());
        thread::sleep(2 * crate::TICK);
        assert!(!crash.is_finished());
        send.send(()).unwrap();
        crash.join().unwrap().unwrap();
    });
    assert!(!machine.is_booted());
    machine.wait_for_shutdown(None).unwrap();
}

#[test]
fn a_run_that_ends_while_a_machine_comes_back_leaves_nothing() {
    let (driver, machine, send) = second(false);
    thread::sleep(2 * crate::TICK);
    thread::scope(|scope| {
        let finish = scope.spawn(|| driver.finish());
        thread::sleep(2 * crate::TICK);
        assert!(!finish.is_finished());
        drop(send);
    });
    assert!(!machine.is_booted());
    assert!(machine.start().is_err());
}

#[test]
fn a_shell_said_to_be_gone_is_waited_for_again() {
    let (_driver, machine) = one();
    machine.succeed(&["true"], None).unwrap();
    machine.set_connected(false);
    assert!(!machine.is_up());
    // What a new kernel's backdoor says.
    machine.shell_send(format!("sleep 0.3; echo {}\n", crate::GREETING).as_bytes()).unwrap();
    let began = Instant::now();
    assert_eq!(machine.succeed(&["echo new"], None).unwrap(), "new\n");
    assert!(began.elapsed() >= Duration::from_millis(250));
}

#[test]
fn switch_root_leaves_the_first_shell_for_the_second() {
    let (driver, _) = driver(&[("a", "stage-1")], 600);
    let machine = &driver.machines()[0];
    machine.succeed(&["true"], None).unwrap();
    machine.switch_root().unwrap();
    assert!(machine.is_up());
    assert_eq!(machine.succeed(&["echo $stage"], None).unwrap(), "2\n");
}

#[test]
fn power_events_are_told_in_order_with_their_causes() {
    let (_driver, machine) = one();
    assert!(machine.pause().is_err() && machine.press_power_button().is_err() && machine.reset().is_err());
    machine.start_with(REBOOTS).unwrap();
    machine.connect().unwrap();
    machine.pause().unwrap();
    machine.pause().unwrap();
    assert!(machine.is_paused());
    machine.resume().unwrap();
    assert!(!machine.is_paused());
    machine.reset().unwrap();
    machine.succeed(&["true"], None).unwrap();
    machine.press_power_button().unwrap();
    machine.wait_for_shutdown(Some(LONG)).unwrap();
    let mut told = Vec::new();
    while let Some(event) = machine.next_power_event(Duration::ZERO).unwrap() {
        told.push((event.kind, event.by_guest, event.reason));
    }
    assert_eq!(
        told,
        [
            (PowerEventKind::Stop, false, ""),
            (PowerEventKind::Resume, false, ""),
            (PowerEventKind::Reset, false, "host-qmp-system-reset"),
            (PowerEventKind::Powerdown, false, ""),
            (PowerEventKind::Shutdown, true, "guest-shutdown"),
        ]
    );
    machine.start().unwrap();
    machine.crash().unwrap();
    let event = machine.next_power_event(Duration::ZERO).unwrap().unwrap();
    assert_eq!((event.kind, event.reason), (PowerEventKind::Shutdown, "host-qmp-quit"));
}

#[test]
fn raw_bytes_reach_the_shell_and_do_not_mix_up_answers() {
    let (_driver, machine) = one();
    machine.connect().unwrap();
    machine.shell_send(b"echo raw\n").unwrap();
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(machine.shell_receive(2, Some(LONG)).unwrap().unwrap());
    }
    assert_eq!(got, b"raw\n");
    assert_eq!(machine.shell_receive(2, Some(Duration::ZERO)).unwrap(), None);
    machine.shell_send(b"echo unread; echo more\n").unwrap();
    assert_eq!(machine.succeed(&["echo then"], None).unwrap(), "then\n");
    machine.shell_send(b"exit\n").unwrap();
    assert_eq!(machine.shell_receive(9, Some(LONG)).unwrap().unwrap(), b"");
}
