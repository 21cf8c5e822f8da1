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
