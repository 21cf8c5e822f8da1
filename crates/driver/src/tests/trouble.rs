//! Machines that end, hang or lack something, and runs that end meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use snowboot_config::{NodeConfig, PortForward};

use super::*;
use crate::console::ConsoleWriter;
use crate::control::TICK;
use crate::vm::{BoxError, EndCallback, Launched, Outcome, Vm};

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
    let (_driver, machine) = one();
    machine.start().unwrap();
    machine.send_console("first\n").unwrap();
    let mut flood = Some(format!("{}the last one\n", "just a line\n".repeat(30_000)));
    let began = Instant::now();
    let slow = |_: &str| {
        if let Some(flood) = flood.take() {
            machine.send_console(&flood).unwrap();
        }
        thread::sleep(Duration::from_millis(1));
        false
    };
    let error = machine.wait_for_console("x", Some(Duration::from_millis(200)), slow).unwrap_err();
    assert!(error.to_string().contains("within 0.2 s"), "{error}");
    // Looking at all of it takes over 30 s; what was not looked at is there for the next wait.
    assert!(began.elapsed() < Duration::from_secs(15));
    machine.wait_for_console_text("the last one", Some(LONG)).unwrap();
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

#[test]
fn a_guest_without_netcat_has_no_closed_ports() {
    let (driver, _) = driver(&[("a", "no-nc")], 600);
    let machine = &driver.machines()[0];
    for error in [
        machine.wait_for_open_port(80, "localhost", LONG).unwrap_err(),
        machine.wait_for_closed_port(80, "localhost", LONG).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::RequestedAssertionFailed);
        assert!(error.to_string().contains("the guest has no `nc`"), "{error}");
    }
}

#[test]
fn a_failed_unit_shows_systemds_words_and_not_its_status() {
    let (driver, _) = driver(&[("a", "bad-unit")], 600);
    let error = driver.machines()[0].wait_for_unit("x.service", None, LONG).unwrap_err();
    let failure = error.failure().unwrap();
    assert!(failure.message.contains("reached state \"failed\""), "{error}");
    assert!(failure.output.as_deref().unwrap().starts_with("broken\n"), "{error}");
    assert_eq!(failure.status, None);
}

#[test]
fn a_wait_without_time_looks_once_and_does_not_hang() {
    let (_driver, machine) = one();
    machine.wait_until_succeeds("true", Duration::ZERO).unwrap();
    machine.wait_until_succeeds("sleep 60", Duration::ZERO).unwrap_err();
    assert_eq!(machine.succeed(&["sleep 0.1; echo x"], Some(Duration::ZERO)).unwrap(), "x\n");
}

#[test]
fn a_machine_without_shell_does_not_hold_up_the_others() {
    let (driver, _) = driver(&[("a", "mute"), ("b", "")], 30);
    driver.start_together();
    driver.machine("b").unwrap().succeed(&["true"], None).unwrap();
    let a = driver.machine("a").unwrap();
    assert!(a.is_booted() && !a.is_up());
}

/// Makes fakes whose building and stopping the test watches.
struct Watched {
    building: Mutex<mpsc::Receiver<()>>,
    stops: Arc<Stops>,
}

#[derive(Default)]
struct Stops {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct WatchedVm(Arc<dyn Vm>, Arc<Stops>);

impl Launcher for Watched {
    fn launch(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError> {
        // Goes on at a message, and when no more can come.
        let _ = lock(&self.building).recv();
        let launched = FakeLauncher.launch(name, number, node, serial)?;
        Ok(Launched { vm: Arc::new(WatchedVm(launched.vm, self.stops.clone())), ..launched })
    }
}

impl Vm for WatchedVm {
    fn start(&self) -> Result<(), BoxError> {
        self.0.start()
    }

    fn stop(&self) {
        let now = self.1.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.1.most.fetch_max(now, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(300));
        self.1.now.fetch_sub(1, Ordering::SeqCst);
        self.0.stop();
    }

    fn reset(&self) {
        self.0.reset();
    }

    fn pause(&self) -> Result<(), BoxError> {
        self.0.pause()
    }

    fn resume(&self) -> Result<(), BoxError> {
        self.0.resume()
    }

    fn press_power_button(&self) {
        self.0.press_power_button();
    }

    fn serial_input(&self, bytes: &[u8]) -> usize {
        self.0.serial_input(bytes)
    }

    fn set_link(&self, nic: usize, up: bool) -> Result<(), BoxError> {
        self.0.set_link(nic, up)
    }

    fn forward(&self, forward: PortForward) -> Result<SocketAddr, BoxError> {
        self.0.forward(forward)
    }

    fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        self.0.wait(timeout)
    }

    fn outcome(&self) -> Option<Outcome> {
        self.0.outcome()
    }

    fn on_end(&self, callback: EndCallback) {
        self.0.on_end(callback);
    }
}

#[test]
fn what_is_being_started_when_the_run_ends_does_not_run_after_it() {
    let (go_on, building) = mpsc::channel();
    let watched = Watched { building: Mutex::new(building), stops: Arc::default() };
    let (driver, _) = driver_on(Arc::new(watched), &[("a", "")], 600);
    let machine = driver.machines()[0].clone();
    thread::scope(|scope| {
        let start = scope.spawn(|| machine.start());
        thread::sleep(2 * TICK);
        let finish = scope.spawn(|| driver.finish());
        thread::sleep(2 * TICK);
        assert!(!finish.is_finished());
        drop(go_on);
        finish.join().unwrap();
        assert!(!machine.is_booted());
        assert!(start.join().unwrap().unwrap_err().to_string().contains("finished"));
    });
    assert!(!machine.is_booted());
    assert!(machine.start().is_err());
}

#[test]
fn the_global_time_limit_stops_all_machines_at_once_and_calls_back_after_it() {
    let (go_on, building) = mpsc::channel();
    drop(go_on);
    let stops = Arc::<Stops>::default();
    let watched = Watched { building: Mutex::new(building), stops: stops.clone() };
    let (driver, _) = driver_on(Arc::new(watched), &[("a", ""), ("b", ""), ("c", "")], 1);
    driver.start_all().unwrap();
    let error = driver.machines()[0].wait_for_shutdown(None);
    assert!(matches!(error, Err(Error::GlobalTimeout(_)) | Ok(())), "{error:?}");
    driver.finish();
    assert!(stops.most.load(Ordering::SeqCst) > 1);
    assert!(driver.machines().iter().all(|machine| !machine.is_booted()));
}
