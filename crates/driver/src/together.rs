//! Machines that start at the same time, asked for by a script or left to the driver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::error::{Error, ErrorKind};
use crate::log::Logger;
use crate::machine::MachineHandle;

/// Starts them all, and tells what became of each.
pub(crate) fn start_all(machines: &[MachineHandle]) -> Result<(), Error> {
    let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = machines.iter().map(|machine| scope.spawn(move || machine.start())).collect();
        let panicked = || Err(Error::setup("A thread that starts a machine panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    // The end of the run is no trouble of the machines.
    let is_end = |error: &Error| matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::GlobalTimeout);
    if let Some(end) = errors.iter().position(is_end) {
        return Err(errors.swap_remove(end));
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Error::Several(errors)),
    }
}

/// Has the first use of a machine start all, and the first command wait for the shells of all.
pub(crate) fn arrange(control: &Arc<Control>, machines: &[MachineHandle], log: &Logger) {
    let (machines, log, later) = (machines.to_vec(), log.clone(), control.clone());
    control.set_first_use(Some(Box::new(move || {
        let _block = log.block(None, "start all VMs");
        start_all(&machines)?;
        later.set_first_shell(Some(Box::new(move |took| wait_for_shells(&machines, took))));
        Ok(())
    })));
}

/// Drops what was arranged: it holds the machines.
pub(crate) fn forget(control: &Control) {
    control.set_first_use(None);
    control.set_first_shell(None);
}

/// Waits for shells, all in all no longer than `limit`. A machine that has none then, or ended, is left to the script: it
/// may have no shell to give.
fn wait_for_shells(machines: &[MachineHandle], limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    for machine in machines.iter().filter(|machine| machine.is_booted()) {
        let left = deadline.saturating_duration_since(Instant::now());
        match machine.connect_within(left) {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::GlobalTimeout) => {
                return Err(error);
            }
            Err(_) if machine.is_booted() => machine.log("no shell yet: the script goes on without it"),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}
