//! A machine's power: ends, resets, reboots, and what a monitor can do to it.
//!
//! A machine that was started with [`Start::allow_reboot`] comes back after a reset. The VMM's machine has ended then; a
//! thread of its own builds the next one and puts it in the place of the old one:
//! * It holds the `starting` turn meanwhile, as every start does. The run's end waits for that turn, and nothing is
//!   started once the run has ended.
//! * It acts on the start whose end it saw. Whoever cut that machine's power meanwhile has the last word.
//! * [`MachineHandle::join_reboots`] waits for such threads at the end of a run.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::{MachineHandle, Running};
use crate::control::{TICK, lock};
use crate::error::Error;
use crate::event::{Level, Step};
use crate::shell::Shell;
use crate::vm::{Outcome, Vm};
use crate::waits::DEFAULT_TIMEOUT;
use crate::{Execute, Reply};

/// Power events that nobody has asked for yet; older ones are dropped. A test causes a few.
const EVENT_CAP: usize = 1000;

/// How a machine is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// A reset by the guest (or the triple fault of its CPU) starts the machine again, with the same disks, instead of
    /// ending it.
    pub allow_reboot: bool,
}

/// Something that happened to a machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEventKind {
    /// It was switched off, by itself or by the driver.
    Shutdown,
    /// It was reset, and starts again.
    Reset,
    /// Its power button was pressed.
    Powerdown,
    /// It was paused.
    Stop,
    /// It went on after a pause.
    Resume,
}

/// A power event with its time and cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerEvent {
    /// What happened.
    pub kind: PowerEventKind,
    /// When.
    pub at: SystemTime,
    /// Whether the guest did it.
    pub by_guest: bool,
    /// The cause as QEMU names it (its `ShutdownCause`), such as `guest-reset`.
    pub reason: &'static str,
}

/// A machine's power besides what is in its life.
#[derive(Default)]
pub(super) struct Power {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<PowerEvent>,
    paused: bool,
    /// The driver pressed the reset button, and the machine has not ended from it yet.
    reset_by_host: bool,
    reboots: Vec<JoinHandle<()>>,
}

impl Power {
    /// The machine is started: what happened before is history.
    pub(super) fn begin(&self) {
        let mut state = lock(&self.state);
        state.events.clear();
        (state.paused, state.reset_by_host) = (false, false);
    }

    /// Keeps a thread of a reboot for the run's end. Those that are done are let go: a guest may reset itself without end.
    fn keep(&self, thread: JoinHandle<()>) {
        let mut state = lock(&self.state);
        state.reboots.retain(|reboot| !reboot.is_finished());
        state.reboots.push(thread);
    }

    fn happened(&self, kind: PowerEventKind, by_guest: bool, reason: &'static str) {
        let mut state = lock(&self.state);
        if state.events.len() >= EVENT_CAP {
            state.events.pop_front();
        }
        state.events.push_back(PowerEvent { kind, at: SystemTime::now(), by_guest, reason });
        drop(state);
        self.changed.notify_all();
    }

    /// The machine has ended for good, or to come back.
    fn ended(&self, outcome: &Outcome, comes_back: bool) {
        let by_host = std::mem::take(&mut lock(&self.state).reset_by_host);
        let kind = if comes_back { PowerEventKind::Reset } else { PowerEventKind::Shutdown };
        let (by_guest, reason) = match outcome {
            Outcome::Reset if by_host => (false, "host-qmp-system-reset"),
            Outcome::Reset | Outcome::TripleFault => (true, "guest-reset"),
            Outcome::PowerOff => (true, "guest-shutdown"),
            Outcome::Fault(_) => (false, "host-error"),
            Outcome::Stopped => (false, "host-qmp-quit"),
        };
        self.happened(kind, by_guest, reason);
    }
}

impl MachineHandle {
    /// What is done when the VMM's machine has ended; whether another takes its place.
    pub(super) fn vm_ended(&self, vm: &Arc<dyn Vm>, outcome: &Outcome) -> bool {
        let running = lock(&self.0.life).running.clone().filter(|running| Arc::ptr_eq(&running.vm, vm));
        let Some(running) = running else { return false };
        let comes_back = self.comes_back(&running, outcome);
        self.tell_end(&running, outcome, comes_back);
        if !comes_back {
            return false;
        }
        let machine = self.clone();
        let name = format!("reboot:{}", self.name());
        let old = running.clone();
        match std::thread::Builder::new().name(name).spawn(move || machine.come_back(&old)) {
            Ok(thread) => self.0.power.keep(thread),
            Err(error) => {
                self.stays_off(
                    &running,
                    &Error::setup_because("Cannot start a thread for the reboot", error),
                );
            }
        }
        true
    }

    /// Notes the end as a power event, once: whoever waits for the end may see it before the callback is called.
    pub(super) fn tell_end(&self, running: &Running, outcome: &Outcome, comes_back: bool) {
        if !running.end_told.swap(true, Ordering::Relaxed) {
            self.0.power.ended(outcome, comes_back);
        }
    }

    /// Whether this end of the machine is that of a reset after which it starts again by itself.
    pub(super) fn comes_back(&self, running: &Running, outcome: &Outcome) -> bool {
        let life = lock(&self.0.life);
        life.allow_reboot
            && life.is_now(running)
            && outcome.is_reset()
            && self.0.control.check_ended().is_ok()
    }

    /// Builds the machine anew in the place of `old`, which was reset.
    fn come_back(&self, old: &Running) {
        let _one_at_a_time = loop {
            if self.0.control.check_ended().is_err() {
                return;
            }
            if let Some(turn) = self.0.starting.take_within(TICK) {
                break turn;
            }
        };
        if !lock(&self.0.life).is_now(old) {
            return;
        }
        self.log("the guest was reset: the machine starts again");
        self.0.console.restarts();
        let new = match self.launch_on(old.serial.clone()) {
            Ok(new) => new,
            Err(error) => return self.stays_off(old, &error),
        };
        let replaced = {
            let mut life = lock(&self.0.life);
            if !life.is_now(old) {
                return;
            }
            life.connected = false;
            life.boot = Some(new.boot.clone());
            life.running.replace(new.clone())
        };
        lock(&self.0.power.state).paused = false;
        // Outside of the lock: dropping a machine joins its threads.
        drop(replaced);
        if let Err(error) = new.vm.start() {
            self.stays_off(&new, &self.trouble_because("cannot be started", error));
        }
    }

    /// The machine does not come back from a reset; whoever waits for it is told why.
    fn stays_off(&self, running: &Running, error: &Error) {
        let outcome = {
            let mut life = lock(&self.0.life);
            // The run has ended, or somebody cut the power: nobody waits for it.
            if !life.is_now(running) || self.0.control.check_ended().is_err() {
                return;
            }
            let text = error.chain();
            let text = text.strip_prefix(&format!("{}: ", self.name())).unwrap_or(&text).to_owned();
            life.no_reboot = Some(text);
            "did not come back from a reset".to_owned()
        };
        self.0.log.line(
            Level::Error,
            Some(&self.0.name),
            format!("the machine {outcome}: {}", error.chain()),
        );
        self.note(Step::Ended { outcome });
        self.forget(running);
    }

    /// Fails when the machine did not come back from a reset.
    pub(super) fn check_reboot(&self) -> Result<(), Error> {
        let why = lock(&self.0.life).no_reboot.clone();
        why.map_or(Ok(()), |why| Err(self.trouble(&format!("did not come back from a reset: {why}"))))
    }

    /// Waits until another machine has the place of this one, which has ended; false when none will.
    pub(super) fn wait_for_next(&self, running: &Running, deadline: Instant) -> Result<bool, Error> {
        let Some(outcome) = running.vm.wait(Some(super::trouble::ENDING_LIMIT)) else { return Ok(false) };
        while self.comes_back(running, &outcome) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.0.control.pause(TICK)?;
        }
        self.check_reboot()?;
        let life = lock(&self.0.life);
        Ok(life.running.is_some() && !life.is_now(running))
    }

    /// Waits for threads that start the machine again, after the run has ended.
    pub(crate) fn join_reboots(&self) {
        let reboots = std::mem::take(&mut lock(&self.0.power.state).reboots);
        for reboot in reboots {
            // One that panicked said so itself.
            drop(reboot.join());
        }
    }

    /// Asks the guest to reboot, as ctrl-alt-delete does, and returns at once. The next command waits for the new shell;
    /// without [`Start::allow_reboot`] the machine ends.
    ///
    /// What the kernel does at ctrl-alt-delete is to send process 1 the signal SIGINT (`kernel/reboot.c`); the shell does
    /// the same.
    ///
    /// # Errors
    /// When its shell cannot be reached.
    pub fn reboot(&self) -> Result<(), Error> {
        self.connect()?;
        let _block = self.nested("reboot");
        let _turn = self.0.turn.take(&self.0.control)?;
        let running = self.running("is not running")?;
        let line = "kill -INT 1\n";
        lock(&running.shell)
            .send(&self.link(&running), line, None, None)
            .map_err(|error| self.shell_trouble(&running, "cannot be rebooted", Some(line.trim()), error))?;
        self.set_connected(false);
        Ok(())
    }

    /// For guests that have a backdoor in their initrd, too: leaves stage 1 and connects to the shell of stage 2.
    ///
    /// # Errors
    /// When stage 1 does not get ready, or the shell of stage 2 does not come up within 300 s.
    pub fn switch_root(&self) -> Result<(), Error> {
        self.wait_for_unit("initrd.target", None, DEFAULT_TIMEOUT)?;
        let _block = self.nested("switching to the root");
        let isolate = "systemctl isolate --no-block initrd-switch-root.target >/dev/null 2>&1";
        let alone = Execute { check_return: false, check_output: false, timeout: None };
        let Reply { .. } = self.execute(isolate, alone)?;
        self.set_connected(false);
        self.connect()
    }

    /// Says whether its shell is there. After `false` the next command waits for a new greeting: for tests in which the
    /// guest starts another kernel by itself.
    pub fn set_connected(&self, connected: bool) {
        let mut life = lock(&self.0.life);
        life.connected = connected && life.running.is_some();
    }

    /// Ends it without a word; nothing happens when it does not run.
    ///
    /// # Errors
    /// When the run has ended.
    pub fn release(&self) -> Result<(), Error> {
        let _one_at_a_time = self.0.starting.take(&self.0.control)?;
        self.stop();
        Ok(())
    }

    /// Whether it runs or comes back from a reset, as far as its VMM knows at this moment.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let running = lock(&self.0.life).running.clone();
        running.is_some_and(|running| {
            running.vm.outcome().is_none_or(|outcome| self.comes_back(&running, &outcome))
        })
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        lock(&self.0.life).starts
    }

    /// Holds it, as a debugger would: nothing in the guest goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), Error> {
        let vm = self.running("cannot be paused: it is not running")?.vm;
        vm.pause().map_err(|error| self.trouble_because("cannot be paused", error))?;
        if !std::mem::replace(&mut lock(&self.0.power.state).paused, true) {
            self.0.power.happened(PowerEventKind::Stop, false, "");
        }
        Ok(())
    }

    /// Lets it go on after [`Self::pause`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), Error> {
        let vm = self.running("cannot go on: it is not running")?.vm;
        vm.resume().map_err(|error| self.trouble_because("cannot go on", error))?;
        if std::mem::replace(&mut lock(&self.0.power.state).paused, false) {
            self.0.power.happened(PowerEventKind::Resume, false, "");
        }
        Ok(())
    }

    /// Whether it is held by [`Self::pause`].
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_booted() && lock(&self.0.power.state).paused
    }

    /// Presses its power button; what comes of it is the guest's decision.
    ///
    /// # Errors
    /// When it does not run.
    pub fn press_power_button(&self) -> Result<(), Error> {
        let vm = self.running("has no power button to press: it is not running")?.vm;
        self.0.power.happened(PowerEventKind::Powerdown, false, "");
        vm.press_power_button();
        Ok(())
    }

    /// Presses its reset button. With [`Start::allow_reboot`] this returns when it starts again; without it has ended.
    ///
    /// # Errors
    /// When it does not run, or does not come back.
    pub fn reset(&self) -> Result<(), Error> {
        let running = self.running("cannot be reset: it is not running")?;
        lock(&self.0.power.state).reset_by_host = true;
        running.vm.reset();
        self.set_connected(false);
        let outcome = running.vm.outcome().unwrap_or(Outcome::Reset);
        if !self.comes_back(&running, &outcome) {
            self.ended(&running, outcome);
            return self.check_reboot();
        }
        self.wait_for_next(&running, Instant::now() + super::CONNECT_LIMIT).map(drop)
    }

    /// The oldest power event since its start that was not asked for yet; `None` when the time is up first.
    ///
    /// # Errors
    /// When the run ends meanwhile.
    pub fn next_power_event(&self, timeout: Duration) -> Result<Option<PowerEvent>, Error> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.0.control.check()?;
            let mut state = lock(&self.0.power.state);
            if let Some(event) = state.events.pop_front() {
                return Ok(Some(event));
            }
            let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.0.power.changed.wait_timeout(state, left.min(TICK));
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Writes bytes to its shell as they are, outside of the protocol of commands. The next command first has the shell
    /// say a new word, and skips everything up to it.
    ///
    /// # Errors
    /// When it does not run or ends.
    pub fn shell_send(&self, bytes: &[u8]) -> Result<(), Error> {
        self.with_shell("cannot be written to", |shell, link| shell.send_raw(link, bytes))
    }

    /// Reads up to `most` bytes from its shell; `None` when the time is up first, none at all when the machine has ended.
    ///
    /// # Errors
    /// When it does not run, or the run ends.
    pub fn shell_receive(&self, most: usize, timeout: Option<Duration>) -> Result<Option<Vec<u8>>, Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.with_shell("cannot be read", |shell, link| shell.receive_raw(link, most, deadline))
    }

    /// Shows console lines of the run on the screen, or not; gives what was so before.
    #[must_use]
    pub fn show_console_lines(&self, on: bool) -> bool {
        self.0.log.set_serial(on)
    }

    fn with_shell<T>(
        &self,
        what: &str,
        work: impl FnOnce(&mut Shell, &crate::shell::Link<'_>) -> Result<T, crate::shell::ShellError>,
    ) -> Result<T, Error> {
        let _turn = self.0.turn.take(&self.0.control)?;
        let running = self.running("has no shell: it is not running")?;
        let link = self.link(&running);
        let done = work(&mut lock(&running.shell), &link);
        done.map_err(|error| self.shell_trouble(&running, &format!("its shell {what}"), None, error))
    }
}
