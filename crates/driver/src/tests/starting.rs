//! Machines are built at the same time: what one spends on its kernel and its disks is not added to the next one's.

use std::sync::{Condvar, PoisonError};

use snowboot_config::NodeConfig;

use super::*;
use crate::console::ConsoleWriter;
use crate::vm::{BoxError, Launched};

const NODES: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

/// Builds no machine before all of them are being built.
struct AllAtOnce {
    machines: usize,
    begun: Mutex<usize>,
    changed: Condvar,
}

impl AllAtOnce {
    fn of(machines: usize) -> Arc<Self> {
        Arc::new(Self { machines, begun: Mutex::default(), changed: Condvar::new() })
    }
}

impl Launcher for AllAtOnce {
    fn launch(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError> {
        let mut begun = lock(&self.begun);
        *begun += 1;
        self.changed.notify_all();
        let others_miss = |begun: &mut usize| *begun < self.machines;
        let (begun, waited) = self
            .changed
            .wait_timeout_while(begun, LONG / 4, others_miss)
            .unwrap_or_else(PoisonError::into_inner);
        drop(begun);
        if waited.timed_out() {
            return Err("it is built alone".into());
        }
        FakeLauncher.launch(name, number, node, serial)
    }
}

#[test]
fn all_machines_are_built_at_the_same_time() {
    let (driver, _) = driver_on(AllAtOnce::of(3), &NODES, 600);
    driver.start_all().unwrap();
    assert!(driver.machines().iter().all(MachineHandle::is_booted));
}

#[test]
fn the_first_command_has_all_machines_built_at_the_same_time() {
    let (driver, _) = driver_on(AllAtOnce::of(3), &NODES, 600);
    driver.start_together();
    driver.machine("b").unwrap().succeed(&["true"], None).unwrap();
    assert!(driver.machines().iter().all(MachineHandle::is_booted));
}

#[test]
fn the_first_command_waits_for_the_shells_of_all() {
    let (driver, events) = driver_on(Arc::new(FakeLauncher), &[("a", ""), ("b", ""), ("c", "mute")], 600);
    driver.start_together();
    driver.machine("a").unwrap().succeed(&["true"], None).unwrap();
    let up: Vec<bool> = driver.machines().iter().map(MachineHandle::is_up).collect();
    assert_eq!(up, [true, true, false]);
    driver.log().flush();
    let is_told =
        |event: &Event| matches!(event, Event::Line { text, .. } if text.starts_with("no shell yet"));
    assert_eq!(lock(&events).iter().filter(|event| is_told(event)).count(), 1);

    let (driver, _) = driver_on(Arc::new(FakeLauncher), &NODES, 600);
    driver.start_all().unwrap();
    driver.machine("a").unwrap().succeed(&["true"], None).unwrap();
    assert!(
        !driver.machine("b").unwrap().is_up(),
        "a script that starts machines decides itself what to wait for"
    );
}

/// Keeps the folders of the shares of what it is to build.
#[derive(Default)]
struct SharesAlone(Mutex<Vec<std::path::PathBuf>>);

impl Launcher for SharesAlone {
    fn launch(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError> {
        lock(&self.0).extend(node.shares.iter().map(|share| share.path.clone()));
        FakeLauncher.launch(name, number, node, serial)
    }
}

#[test]
fn shares_that_are_given_by_variables_are_of_the_run() {
    let launcher = Arc::new(SharesAlone::default());
    let (driver, _) = driver_on(launcher.clone(), &NODES, 600);
    let make = |name: &str, paths: &[&str]| {
        let share = |(index, path): (usize, &&str)| format!("{{ tag = 't{index}', path = '{path}' }}");
        let shares: Vec<String> = paths.iter().enumerate().map(share).collect();
        let text = format!("kernel = 'k'\nshares = [{}]\n", shares.join(", "));
        driver.create_machine(name, NodeConfig::parse(name, Path::new("m.toml"), &text).unwrap()).unwrap()
    };
    let machine = make("m", &["\"$TMPDIR\"/xchg", "\"${SHARED_DIR:-$TMPDIR/xchg}\"", "/plain"]);
    machine.start().unwrap();
    let (state, shared) = (machine.state_folder().unwrap(), machine.shared_folder().unwrap());
    assert_eq!(*lock(&launcher.0), [state.join("xchg"), shared, "/plain".into()]);
    assert!(state.join("xchg").is_dir());
    let error = make("n", &["$NONE"]).start().unwrap_err().to_string();
    assert!(error.contains("the share `t0` is of `$NONE`") && error.contains("`NONE` is not set"), "{error}");
    driver.finish();
    assert!(!state.exists());
}
