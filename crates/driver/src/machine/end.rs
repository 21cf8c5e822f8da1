//! A machine's end: asked for, waited for, or brought about.

use std::time::{Duration, Instant};

use super::{MachineHandle, Running, STARTING_LIMIT};
use crate::control::lock;
use crate::error::Error;
use crate::vm::Outcome;

impl MachineHandle {
    /// Asks the guest to power off, and waits until it has. Nothing happens when it does not run.
    ///
    /// # Errors
    /// When its shell cannot be reached.
    pub fn shutdown(&self) -> Result<(), Error> {
        if !self.is_booted() {
            return Ok(());
        }
        self.connect()?;
        let _block = self.nested("shutdown");
        {
            let _turn = self.0.turn.take(&self.0.control)?;
            let running = self.running("is not running")?;
            lock(&running.shell).send(&self.link(&running), "poweroff\n", None, None).map_err(|error| {
                self.shell_trouble(&running, "cannot be shut down", Some("poweroff"), error)
            })?;
        }
        self.wait_for_end(None)
    }

    /// Waits for its end, however that comes; does not ask for it.
    ///
    /// # Errors
    /// When the time is up first.
    pub fn wait_for_shutdown(&self, timeout: Option<Duration>) -> Result<(), Error> {
        if !self.is_booted() {
            return self.check_reboot();
        }
        let _block = self.nested("waiting for the VM to power off");
        self.wait_for_end(timeout)
    }

    pub(crate) fn wait_for_end(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let start = self.starts();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let running = lock(&self.0.life).running.clone();
            let Some(running) = running.filter(|_| self.starts() == start) else {
                return self.check_reboot();
            };
            let left =
                deadline.map_or(crate::TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if let Some(outcome) = running.vm.wait(Some(left.min(crate::TICK))) {
                if !self.comes_back(&running, &outcome) {
                    self.ended(&running, outcome);
                    continue;
                }
                // Until the next one has its place.
                self.0.control.pause(left.min(crate::TICK))?;
            }
            self.0.control.check()?;
            if self.0.console.stands_still() {
                return Err(self.stands_still(None));
            }
            if left.is_zero() {
                let seconds = timeout.unwrap_or_default().as_secs_f64();
                return Err(self.check_failed(&format!("did not power off within {seconds} s"), None, None));
            }
        }
    }

    /// Cuts its power. What the guest had flushed is on its disks; nothing else is promised.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// web.start()?;
    /// web.crash()?;
    /// assert!(!web.is_booted());
    /// web.start()?;
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the run has ended.
    pub fn crash(&self) -> Result<(), Error> {
        if !self.is_booted() {
            return Ok(());
        }
        let _block = self.nested("forced crash");
        self.0.control.check()?;
        // Nothing is half built afterwards, and has the disks open.
        let _one_at_a_time = self.0.starting.take(&self.0.control)?;
        self.stop();
        Ok(())
    }

    /// Cuts its power without a word.
    pub(crate) fn stop(&self) {
        let Some(running) = lock(&self.0.life).running.clone() else { return };
        running.vm.stop();
        self.ended(&running, running.vm.outcome().unwrap_or(Outcome::Stopped));
    }

    /// The same once the run has ended, so that it does not run again: a start under way comes to its end first, and a
    /// later one sees that the run has ended. So does one that hangs, should it ever go on.
    pub(crate) fn stop_for_good(&self) {
        let _turn = self.0.starting.take_within(STARTING_LIMIT);
        self.stop();
    }

    /// Notes the end of a start of the machine: its next command starts it anew. Nothing happens when that was noted
    /// before, or the machine is on a later start.
    pub(super) fn ended(&self, running: &Running, outcome: Outcome) {
        let was_now = {
            let mut life = lock(&self.0.life);
            let is_now = life.is_now(running);
            if is_now {
                life.last_outcome = Some(outcome.clone());
            }
            is_now
        };
        if was_now {
            self.log(&format!("the machine {outcome}"));
            self.tell_end(running, &outcome, false);
            self.forget(running);
        }
    }

    pub(super) fn forget(&self, running: &Running) {
        let forgotten = {
            let mut life = lock(&self.0.life);
            let is_now = life.is_now(running);
            life.connected &= !is_now;
            if is_now { life.running.take() } else { None }
        };
        // A machine that came back after a reset has the console of the one before.
        if forgotten.is_some() {
            running.serial.end();
        }
        // Outside of the lock: dropping a machine joins its threads.
        drop(forgotten);
    }
}
