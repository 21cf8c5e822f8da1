//! The driver over real shells: everything but a kernel.

mod power;
mod reports;
mod starting;
mod timeline;
mod trouble;
mod waits;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use snowboot_config::Manifest;

use crate::control::lock;
use crate::testing::FakeLauncher;
use crate::{Driver, Error, ErrorKind, Event, Execute, Launcher, MachineHandle, Options, Record, Sink};

const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Keep(pub(crate) Arc<Mutex<Vec<Event>>>);

impl Sink for Keep {
    fn record(&mut self, record: &Record) {
        lock(&self.0).push(record.event.clone());
    }
}

pub(crate) fn driver(cmdlines: &[(&str, &str)], timeout: u64) -> (Driver, Arc<Mutex<Vec<Event>>>) {
    driver_on(Arc::new(FakeLauncher), cmdlines, timeout)
}

fn driver_on(
    launcher: Arc<dyn Launcher>,
    cmdlines: &[(&str, &str)],
    timeout: u64,
) -> (Driver, Arc<Mutex<Vec<Event>>>) {
    let mut text = format!("name = \"t\"\ntest-script = \"\"\nglobal-timeout = {timeout}\n");
    for (name, cmdline) in cmdlines {
        text.push_str(&format!("[machines.{name}]\nkernel = \"k\"\ncmdline = \"{cmdline}\"\n"));
    }
    let manifest = Manifest::parse(Path::new("t.toml"), &text).unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let options = Options {
        launcher,
        sinks: vec![Box::new(Keep(events.clone()))],
        on_global_timeout: None,
        seed: None,
    };
    (Driver::new(&manifest, options).unwrap(), events)
}

pub(crate) fn one() -> (Driver, MachineHandle) {
    let (driver, _) = driver(&[("a", "")], 600);
    let machine = driver.machines()[0].clone();
    (driver, machine)
}

#[test]
fn commands_start_the_machine_and_give_status_and_output() {
    let (_driver, machine) = one();
    let reply = machine.execute("echo hi; exit 3", Execute::default()).unwrap();
    assert_eq!((reply.status, reply.output.as_str()), (3, "hi\n"));
    assert_eq!(machine.succeed(&["printf a", "printf 'b c'"], None).unwrap(), "ab c");
    assert_eq!(machine.fail(&["false", "echo x; false"], None).unwrap(), "x\n");
    assert!(machine.is_up());
}

#[test]
fn pipelines_fail_as_a_whole_and_unset_variables_are_errors() {
    let (_driver, machine) = one();
    assert_eq!(machine.execute("false | true", Execute::default()).unwrap().status, 1);
    assert_ne!(machine.execute("echo $nothing_of_the_kind", Execute::default()).unwrap().status, 0);
}

#[test]
fn big_and_binary_answers_pass_whole() {
    let (_driver, machine) = one();
    let output = machine.succeed(&["head -c 3000000 /dev/zero | tr '\\0' x"], None).unwrap();
    assert_eq!((output.len(), output.trim_matches('x')), (3_000_000, ""));
    assert_eq!(machine.succeed(&["printf '\\377ok'"], None).unwrap(), "\u{fffd}ok");
    // Over the kernel's limit of one argument, and with every kind of quote.
    let long = "it's \"so\" $HOME ".repeat(30_000);
    let output = machine.succeed(&[&format!("printf %s {}", crate::quote(&long))], Some(LONG)).unwrap();
    assert_eq!(output, long);
    assert_eq!(machine.execute(&format!("false {long:?}; true"), Execute::default()).unwrap().status, 1);
    assert_eq!(machine.succeed(&["echo on"], None).unwrap(), "on\n");
}

#[test]
fn a_failed_check_tells_command_status_and_output() {
    let (_driver, machine) = one();
    let error = machine.succeed(&["echo some output; exit 7"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequestedAssertionFailed);
    let text = error.to_string();
    assert!(text.contains("command `echo some output; exit 7` failed (exit code 7)"), "{text}");
    assert!(text.contains("\n    some output"), "{text}");
    let text = machine.fail(&["true"], None).unwrap_err().to_string();
    assert!(text.contains("`true` unexpectedly succeeded"), "{text}");
    let text = machine.succeed(&["sleep 60"], Some(Duration::from_millis(200))).unwrap_err().to_string();
    assert!(text.contains("exit code 124: not done within 0.2 s"), "{text}");
}

#[test]
fn what_is_not_asked_for_is_not_waited_for_and_does_not_mix_up_answers() {
    let (_driver, machine) = one();
    let nothing = Execute { check_output: false, ..Execute::default() };
    let reply = machine.execute("sleep 0.3; echo late", nothing).unwrap();
    assert_eq!((reply.status, reply.output.as_str()), (-2, ""));
    let no_status = Execute { check_return: false, ..Execute::default() };
    let reply = machine.execute("echo now; false", no_status).unwrap();
    assert_eq!((reply.status, reply.output.as_str()), (-1, "now\n"));
    assert_eq!(machine.succeed(&["echo then"], None).unwrap(), "then\n");
}

#[test]
fn the_end_of_a_machine_is_told_and_the_next_command_starts_it_again() {
    let (_driver, machine) = one();
    machine.succeed(&["true"], None).unwrap();
    let error = machine.succeed(&["kill $PPID"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoShell);
    assert!(error.to_string().contains("the machine has ended (command `kill $PPID`)"), "{error}");
    assert!(error.to_string().contains("machine: a powered off"), "{error}");
    assert!(!machine.is_booted());
    machine.succeed(&["true"], None).unwrap();
    machine.shutdown().unwrap();
    assert!(!machine.is_booted());
    machine.shutdown().unwrap();
    machine.succeed(&["true"], None).unwrap();
    machine.crash().unwrap();
    assert_eq!(machine.report().starts, 3);
    assert_eq!(machine.report().outcome.as_deref(), Some("was stopped by the driver"));
}

#[test]
fn waits_end_soon_after_the_fact() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x");
    let name = file.to_str().unwrap();
    machine.execute(&format!("(sleep 0.2; touch {name}) >&2 &"), Execute::default()).unwrap();
    machine.wait_for_file(&format!("{}/?", folder.path().display()), LONG).unwrap();
    machine.wait_until_fails(&format!("rm {name}; test -e {name}"), LONG).unwrap();
    let error = machine.wait_for_file(name, Duration::from_millis(100)).unwrap_err().to_string();
    assert!(error.contains("did not appear within 0.1 s (looked "), "{error}");
    assert!(error.contains(&format!("nearest folder is {}:", folder.path().display())), "{error}");
    let error = machine.wait_until_succeeds("echo no; false", Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("output:\n    no"), "{error}");
    assert!(error.to_string().contains("within 0.05 s (last exit code 1, looked "), "{error}");
    machine.sleep(Duration::from_millis(10)).unwrap();
}

#[test]
fn console_waits_find_a_prompt_which_is_a_line_without_end() {
    let (_driver, machine) = one();
    machine.start().unwrap();
    machine.send_console("hello\nlogin: ").unwrap();
    machine.wait_for_console_text("hello.*login: $", Some(LONG)).unwrap();
    let error = machine.wait_for_console_text("login", Some(Duration::from_millis(500))).unwrap_err();
    assert!(error.to_string().contains("did not appear"), "it comes once: {error}");
    machine.send_console("alice\nPassword: ").unwrap();
    machine.wait_for_console_text("^alice", Some(LONG)).unwrap();
    machine.wait_for_console_text("Password: $", Some(LONG)).unwrap();
    machine.send_console("\n").unwrap();
    assert_eq!(machine.console().text(), "hello\nlogin: alice\nPassword: ");
}

#[test]
fn console_waits_consume_what_they_saw() {
    let (_driver, machine) = one();
    machine.start().unwrap();
    machine.send_console("one\ntwo\nthree\n").unwrap();
    machine.wait_for_console_text("t[w]o", Some(LONG)).unwrap();
    machine.wait_for_console_text("three", Some(LONG)).unwrap();
    let error = machine.wait_for_console_text("one", Some(Duration::from_millis(50))).unwrap_err();
    assert!(error.to_string().contains("`one` did not appear on the console within 0.05 s"), "{error}");
    assert!(error.to_string().contains("    three"), "{error}");
    assert!(
        machine
            .wait_for_console_text("(", None)
            .unwrap_err()
            .to_string()
            .contains("not a regular expression")
    );
    machine.crash().unwrap();
    machine.wait_for_console_text("one", None).unwrap_err();
}

#[test]
fn links_are_those_of_the_node() {
    let (_driver, machine) = one();
    assert!(machine.block().unwrap_err().to_string().contains("it is not running"));
    machine.start().unwrap();
    machine.block().unwrap();
    machine.unblock().unwrap();
}

#[test]
fn all_machines_start_and_every_failure_is_named() {
    let (good, _) = driver(&[("a", "chatty"), ("b", "")], 600);
    good.start_all().unwrap();
    assert!(good.machines().iter().all(MachineHandle::is_booted));
    good.machine("a").unwrap().succeed(&["true"], None).unwrap();
    let (bad, _) = driver(&[("a", "refuse"), ("b", ""), ("c", "refuse")], 600);
    let error = bad.start_all().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MachineError);
    assert!(
        error.to_string().contains("a: cannot be started") && error.to_string().contains("c: "),
        "{error}"
    );
    assert!(bad.machine("b").unwrap().is_booted());
}

#[test]
fn a_test_that_starts_nothing_finds_all_machines_at_its_first_command() {
    let (together, _) = driver(&[("a", ""), ("b", "")], 600);
    together.start_together();
    together.machine("b").unwrap().succeed(&["true"], None).unwrap();
    assert!(together.machine("a").unwrap().is_booted());
    together.machine("a").unwrap().crash().unwrap();
    together.machine("b").unwrap().succeed(&["true"], None).unwrap();
    assert!(!together.machine("a").unwrap().is_booted());

    let (explicit, _) = driver(&[("a", ""), ("b", "")], 600);
    explicit.start_together();
    explicit.machine("a").unwrap().start().unwrap();
    explicit.machine("a").unwrap().succeed(&["true"], None).unwrap();
    assert!(!explicit.machine("b").unwrap().is_booted());
}

#[test]
fn what_a_guest_says_before_its_greeting_is_logged() {
    let (driver, events) = driver(&[("a", "chatty")], 600);
    driver.machines()[0].connect().unwrap();
    driver.log().flush();
    let said =
        |event: &Event| matches!(event, Event::Line { text, .. } if text == "guest shell says: hello there");
    assert!(lock(&events).iter().any(said));
}

#[test]
fn an_interrupt_ends_a_wait_and_the_shell_works_on() {
    let (driver, machine) = one();
    machine.connect().unwrap();
    let stop = Arc::new(AtomicBool::new(true));
    let asked = stop.clone();
    driver.set_interrupt_hook(Some(Arc::new(move || asked.load(Ordering::Relaxed))));
    let error = machine.execute("sleep 0.5; echo old", Execute::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    stop.store(false, Ordering::Relaxed);
    assert_eq!(machine.succeed(&["echo new"], None).unwrap(), "new\n");
}

#[test]
fn the_global_time_limit_ends_everything() {
    let (driver, _) = driver(&[("a", ""), ("b", "mute")], 1);
    let began = Instant::now();
    let error = driver.machines()[0].succeed(&["sleep 30"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GlobalTimeout);
    assert!(matches!(driver.machines()[1].connect(), Err(Error::GlobalTimeout(_))));
    assert!(began.elapsed() < LONG);
}

#[test]
fn a_finished_run_does_nothing_more() {
    let (driver, machine) = one();
    machine.connect().unwrap();
    driver.finish();
    assert!(!machine.is_booted());
    assert!(machine.start().unwrap_err().to_string().contains("finished"));
}

#[test]
fn retry_asks_once_more_when_the_time_is_up() {
    let (driver, _) = one();
    let mut calls = Vec::new();
    let result = driver.retry(Duration::from_millis(30), |last| {
        calls.push(last);
        Ok(false)
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::RequestedAssertionFailed);
    assert!(calls.len() > 2 && calls.pop() == Some(true) && calls.iter().all(|last| !last), "{calls:?}");
    driver.retry(LONG, |_| Ok(true)).unwrap();
}

#[test]
fn the_global_time_limit_counts_only_between_start_and_stop() {
    let (driver, _) = driver(&[("a", "")], 1);
    driver.stop_timer();
    let machine = driver.machines()[0].clone();
    std::thread::sleep(Duration::from_millis(1300));
    machine.succeed(&["true"], None).unwrap();
    driver.start_timer().unwrap();
    driver.stop_timer();
    std::thread::sleep(Duration::from_millis(1300));
    machine.succeed(&["true"], None).unwrap();
    driver.start_timer().unwrap();
    let error = machine.succeed(&["sleep 60"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GlobalTimeout);
}

#[test]
fn machines_made_during_the_run_end_with_it() {
    let (driver, _) = driver(&[("a", "")], 60);
    let node = driver.machines()[0].node().clone();
    let extra = driver.create_machine("extra", node.clone()).unwrap();
    assert_eq!((extra.number(), driver.machines().len()), (2, 1));
    extra.succeed(&["true"], None).unwrap();
    assert_eq!(driver.report().machines.len(), 2);
    let error = driver.create_machine("extra", node.clone()).unwrap_err().to_string();
    assert!(error.contains("extra: there is a machine of this name"), "{error}");
    let numbered = |number| snowboot_config::NodeConfig { number: Some(number), ..node.clone() };
    assert_eq!(driver.create_machine("far", numbered(9)).unwrap().number(), 9);
    assert_eq!(driver.create_machine("next", node.clone()).unwrap().number(), 3);
    let error = driver.create_machine("same", numbered(9)).unwrap_err().to_string();
    assert!(error.contains("same: far has the number 9 already"), "{error}");
    driver.finish();
    assert!(!extra.is_booted());
    assert!(extra.start().is_err());
}

#[test]
fn a_hook_is_called_before_every_command_and_may_give_commands_itself() {
    let (driver, machine) = one();
    let (calls, inner) = (Arc::new(Mutex::new(0)), machine.clone());
    let counted = calls.clone();
    driver.set_command_hook(Some(Arc::new(move |name: &str| {
        assert_eq!(name, "a");
        let nth = {
            let mut calls = lock(&counted);
            *calls += 1;
            *calls
        };
        // The second call is that of its own command.
        nth == 1 && inner.succeed(&["true"], None).is_err()
    })));
    machine.succeed(&["true"], None).unwrap();
    assert_eq!(*lock(&calls), 2);
    driver.set_command_hook(Some(Arc::new(|_: &str| true)));
    assert_eq!(machine.succeed(&["true"], None).unwrap_err().kind(), ErrorKind::Interrupted);
    driver.set_command_hook(None);
    machine.succeed(&["true"], None).unwrap();
}
