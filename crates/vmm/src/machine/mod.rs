//! A machine: assembled by a [`Builder`], run by its own threads, ended by its guest or by its owner.
//!
//! ```text
//!  built ──start()──► running ⇄ paused
//!    │                   │         │
//!    └──stop()──► ended ◄┴─────────┘  the guest, stop(), a fault
//! ```
//!
//! Each vCPU has a thread, each disk and share has one (they may take their time), and one serves all other devices and takes the
//! machine down at its end. A thread that panics ends its machine with [`Outcome::Fault`], never the process.

mod builder;
mod disks;
mod helpers;
mod platform;
mod pmem;
mod shares;
mod vhost_user;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use snowboot_bus::IrqLine;
use snowboot_devices::console::ConsoleControl;
use snowboot_devices::net::NetControl;
use snowboot_devices::serial::SerialInput;

pub use self::builder::Builder;
pub use self::disks::TemporaryDisks;
pub(crate) use self::platform::Platform;
use crate::Error;
use crate::io::EventLoop;
use crate::stats::{Counters, Stats};
use crate::timeline::Timeline;
use crate::vcpu::{self, Control, Processor};

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset: a reboot, or a kernel panic with `panic=` set.
    Reset,
    /// The guest's CPU shut down after a triple fault.
    TripleFault,
    /// KVM cannot go on with this guest, in words.
    Fault(String),
    /// [`Machine::stop`].
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("powered off"),
            Self::Reset => f.write_str("reset"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Fault(what) => write!(f, "fault: {what}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// What is called when a machine ends.
pub type EndCallback = Box<dyn FnOnce(&Outcome) + Send>;

/// A virtual machine. Dropping it stops it and waits for its threads.
pub struct Machine {
    name: String,
    control: Arc<Control>,
    life: Arc<Life>,
    /// Whether it is paused; held while that changes. Taken before `life`.
    paused: Mutex<bool>,
    handles: Handles,
    counters: Option<Counters>,
}

/// Ways into a running machine's devices.
pub(crate) struct Handles {
    pub(crate) serial: SerialInput,
    pub(crate) power_button: Arc<dyn IrqLine>,
    pub(crate) nics: Vec<NetControl>,
    pub(crate) console: Option<ConsoleControl>,
    pub(crate) timeline: Timeline,
}

/// What is shared with the machine's supervising thread.
struct Life {
    stage: Mutex<Stage>,
    changed: Condvar,
}

struct Stage {
    phase: Phase,
    /// While the supervisor is to be waited for.
    supervisor: Option<JoinHandle<()>>,
    callbacks: Vec<EndCallback>,
}

enum Phase {
    Built {
        vcpus: Vec<Processor>,
        platform: Arc<Platform>,
    },
    /// `platform` is gone once the machine is being taken down.
    Running {
        platform: Option<Arc<Platform>>,
        supervisor: ThreadId,
    },
    Ended(Outcome),
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the outcome known to all who wait for it. The first one counts.
    fn conclude(&self, outcome: &Outcome) {
        let callbacks = {
            let mut stage = self.lock();
            if matches!(stage.phase, Phase::Ended(_)) {
                return;
            }
            stage.phase = Phase::Ended(outcome.clone());
            self.changed.notify_all();
            std::mem::take(&mut stage.callbacks)
        };
        for callback in callbacks {
            callback(outcome);
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Machine {
    fn assembled(
        name: String,
        platform: Platform,
        vcpus: Vec<Processor>,
        handles: Handles,
        counters: Option<Counters>,
    ) -> Result<Self, Error> {
        let phase = Phase::Built { vcpus, platform: Arc::new(platform) };
        let stage = Stage { phase, supervisor: None, callbacks: Vec::new() };
        let life = Arc::new(Life { stage: Mutex::new(stage), changed: Condvar::new() });
        let control = Arc::new(Control::new(handles.timeline.clone())?);
        Ok(Self { name, control, life, paused: Mutex::new(false), handles, counters })
    }

    /// Enters the guest.
    ///
    /// # Errors
    /// When the machine was started before, or the host has no more threads or descriptors; the machine has ended then.
    pub fn start(&self) -> Result<(), Error> {
        let mut stage = self.life.lock();
        let Phase::Built { vcpus, platform } = &mut stage.phase else {
            return Err(Error::State { what: "start it", state: "was started before" });
        };
        let (vcpus, platform) = (std::mem::take(vcpus), Arc::clone(platform));
        let mut threads = Threads { machine: self, handles: Vec::new() };
        let supervisor = match threads.spawn_all(vcpus, &platform) {
            Ok(supervisor) => supervisor,
            Err(error) => {
                // Nothing has run yet; the threads that are there end before they enter the guest.
                let outcome = Outcome::Fault(format!("the machine could not be started: {error}"));
                self.control.end(outcome.clone());
                threads.join();
                drop((stage, platform));
                self.life.conclude(&outcome);
                return Err(error);
            }
        };
        let id = supervisor.thread().id();
        stage.phase = Phase::Running { platform: Some(platform), supervisor: id };
        stage.supervisor = Some(supervisor);
        self.control.resume();
        Ok(())
    }

    /// Holds the machine: its vCPUs stop with no access half done, then its devices with no request half done.
    ///
    /// # Errors
    /// When the machine is not running, or the caller is one of its vCPUs' threads.
    pub fn pause(&self) -> Result<(), Error> {
        let mut paused = self.lock_paused("pause it")?;
        drop(self.running("pause it")?);
        if *paused {
            return Ok(());
        }
        // Without the lock: a vCPU may be busy outside of the guest, and others may wait for the machine's end.
        if !self.control.pause() {
            return Err(Error::State { what: "pause it", state: "has ended" });
        }
        let stage = self.running("pause it")?;
        if let Phase::Running { platform: Some(platform), .. } = &stage.phase {
            platform.pause();
        }
        *paused = true;
        Ok(())
    }

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// When the machine is not there any more, or the caller is one of its vCPUs' threads.
    pub fn resume(&self) -> Result<(), Error> {
        let mut paused = self.lock_paused("resume it")?;
        let stage = self.running("resume it")?;
        if std::mem::take(&mut *paused) {
            if let Phase::Running { platform: Some(platform), .. } = &stage.phase {
                platform.resume();
            }
            self.control.resume();
        }
        Ok(())
    }

    /// A vCPU's thread could wait here for one that waits for it to stop.
    fn lock_paused(&self, what: &'static str) -> Result<MutexGuard<'_, bool>, Error> {
        if self.control.is_vcpu_thread() {
            return Err(Error::State {
                what,
                state: "cannot wait for the caller, which is one of its vCPUs' threads",
            });
        }
        Ok(self.paused.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn running(&self, what: &'static str) -> Result<MutexGuard<'_, Stage>, Error> {
        let stage = self.life.lock();
        match stage.phase {
            Phase::Running { .. } => Ok(stage),
            Phase::Built { .. } => Err(Error::State { what, state: "was not started" }),
            Phase::Ended(_) => Err(Error::State { what, state: "has ended" }),
        }
    }

    /// Cuts the power: returns when the vCPUs have ended and the devices are closed. What the guest had flushed is on
    /// its disks. A machine that had ended keeps its outcome.
    ///
    /// On one of the machine's own threads (an end callback, the writer of the serial port's output) this begins the end
    /// and returns at once.
    pub fn stop(&self) {
        self.end(Outcome::Stopped);
    }

    /// Presses the reset button, which ends the machine as a reset by its guest does: with [`Outcome::Reset`], for the
    /// caller to build it anew. All else is as for [`Self::stop`].
    pub fn reset(&self) {
        self.end(Outcome::Reset);
    }

    fn end(&self, outcome: Outcome) {
        self.control.end(outcome);
        let supervisor = {
            let mut stage = self.life.lock();
            let is_own = match &stage.phase {
                Phase::Running { supervisor, .. } => {
                    *supervisor == thread::current().id() || self.control.is_vcpu_thread()
                }
                Phase::Built { .. } => {
                    drop(stage);
                    return self.life.conclude(&Outcome::Stopped);
                }
                Phase::Ended(_) => {
                    stage.supervisor.as_ref().is_some_and(|it| it.thread().id() == thread::current().id())
                }
            };
            if is_own {
                return;
            }
            stage.supervisor.take()
        };
        if supervisor.is_some_and(|supervisor| supervisor.join().is_err()) {
            tracing::error!(machine = self.name, "a callback at the machine's end panicked");
        }
        let _ = self.wait(None);
    }

    /// Presses the ACPI power button; what happens is the guest's decision.
    pub fn press_power_button(&self) {
        self.handles.power_button.trigger();
    }

    /// Types into ttyS0. Returns how many bytes were taken; a guest that reads nothing for long fills the queue.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        self.handles.serial.push(bytes)
    }

    /// Plugs or unplugs the cable of network card `nic` (its index in the configuration).
    ///
    /// # Errors
    /// When there is no such card.
    pub fn set_link(&self, nic: usize, up: bool) -> Result<(), Error> {
        let count = self.handles.nics.len();
        let control = self.handles.nics.get(nic).ok_or_else(|| {
            Error::Config(format!("{} has {count} network cards; there is no card {nic}", self.name))
        })?;
        control.set_link(up);
        Ok(())
    }

    /// Tells the guest the size of the terminal behind console `port`.
    pub fn resize_console(&self, port: usize, columns: u16, rows: u16) {
        if let Some(console) = &self.handles.console {
            console.resize(port, columns, rows);
        }
    }

    /// How far its boot has come, and when.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.handles.timeline
    }

    /// Waits for the machine's end; `None` when `timeout` passed first.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut stage = self.life.lock();
        loop {
            if let Phase::Ended(outcome) = &stage.phase {
                return Some(outcome.clone());
            }
            stage = match deadline {
                None => self.life.changed.wait(stage).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    self.life.changed.wait_timeout(stage, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.life.lock().phase {
            Phase::Ended(outcome) => Some(outcome.clone()),
            Phase::Built { .. } | Phase::Running { .. } => None,
        }
    }

    /// What its vCPUs came out of the guest for so far; `None` unless [`Builder::count_exits`] was asked for.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        self.counters.as_ref().map(Counters::read)
    }

    /// Calls `callback` when the machine ends, on one of its threads; at once when it has ended.
    pub fn on_end(&self, callback: EndCallback) {
        let mut stage = self.life.lock();
        if let Phase::Ended(outcome) = &stage.phase {
            let outcome = outcome.clone();
            drop(stage);
            return callback(&outcome);
        }
        stage.callbacks.push(callback);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The threads of a machine that is being started; none enters the guest before all are there.
struct Threads<'a> {
    machine: &'a Machine,
    handles: Vec<JoinHandle<()>>,
}

impl Threads<'_> {
    /// Returns the supervisor, which waits for all others.
    fn spawn_all(
        &mut self,
        vcpus: Vec<Processor>,
        platform: &Arc<Platform>,
    ) -> Result<JoinHandle<()>, Error> {
        let control = &self.machine.control;
        let devices = EventLoop::new(platform.shared_thread(), control.ended())?;
        for (index, (name, device)) in (0..).zip(platform.own_threads()) {
            let event_loop = EventLoop::new(vec![device], control.ended())?;
            let (index, control): (u32, _) = (index, Arc::clone(control));
            self.spawn(&format!("{name}{index}"), move || serve_devices(event_loop, &control))?;
        }
        for (index, vcpu) in (0..).zip(vcpus) {
            let (platform, control) = (Arc::clone(platform), Arc::clone(control));
            self.spawn(&format!("vcpu{index}"), move || vcpu::run(index, vcpu, &platform, &control))?;
        }
        let (life, control) = (Arc::clone(&self.machine.life), Arc::clone(control));
        let (send, others) = mpsc::sync_channel(1);
        let supervisor = spawn(&self.machine.name, "io", move || {
            // Nobody sends when there is no supervisor to hear it.
            supervise(devices, others.recv().unwrap_or_default(), &life, &control);
        })?;
        let _ = send.send(std::mem::take(&mut self.handles));
        Ok(supervisor)
    }

    fn spawn(&mut self, what: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        self.handles.push(spawn(&self.machine.name, what, body)?);
        Ok(())
    }

    fn join(self) {
        self.handles.into_iter().for_each(join);
    }
}

fn spawn(machine: &str, what: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    // Linux shows the first 15 bytes.
    thread::Builder::new().name(format!("{what}:{machine}")).spawn(body).map_err(Error::host(format!(
        "start a thread of {machine} (`ulimit -u` says how many a user may have)"
    )))
}

fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    if thread.join().is_err() {
        tracing::error!(thread = name, "a thread of a machine panicked");
    }
}

/// Serves devices until the machine ends, and ends it where that goes wrong.
fn serve_devices(mut event_loop: EventLoop, control: &Control) {
    let served = catch_unwind(AssertUnwindSafe(|| event_loop.run()));
    // A loop that ended for good was told to, so that the outcome is there already.
    control.end(Outcome::Fault(match served {
        Ok(()) => "the event loop of its devices failed".to_owned(),
        Err(_) => "one of its devices panicked".to_owned(),
    }));
}

/// The body of a machine's own thread: serve devices, and when the machine ends, take it down in order: vCPUs, devices
/// (which flush and close), memory, and only then tell.
fn supervise(devices: EventLoop, others: Vec<JoinHandle<()>>, life: &Life, control: &Control) {
    serve_devices(devices, control);
    others.into_iter().for_each(join);
    let taken_down = catch_unwind(AssertUnwindSafe(|| {
        let platform = match &mut life.lock().phase {
            Phase::Running { platform, .. } => platform.take(),
            Phase::Built { .. } | Phase::Ended(_) => None,
        };
        if let Some(platform) = platform {
            platform.pause();
        }
    }));
    if taken_down.is_err() {
        tracing::error!("a device panicked at its machine's end");
    }
    life.conclude(&control.outcome());
}
