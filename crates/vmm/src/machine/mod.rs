//! A machine: assembled by a [`Builder`], run by its own threads, ended by its guest or by its owner.

mod builder;
mod platform;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use snowboot_bus::IrqLine;
use snowboot_devices::console::ConsoleControl;
use snowboot_devices::net::NetControl;
use snowboot_devices::serial::SerialInput;

pub use self::builder::Builder;
pub(crate) use self::platform::Platform;
use crate::Error;
use crate::io::EventLoop;
use crate::kvm::Vcpu;
use crate::vcpu::{self, Control};

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
    handles: Handles,
}

/// Ways into a running machine's devices.
pub(crate) struct Handles {
    pub(crate) serial: SerialInput,
    pub(crate) power_button: Arc<dyn IrqLine>,
    pub(crate) nics: Vec<NetControl>,
    pub(crate) console: Option<ConsoleControl>,
}

/// What is shared with the machine's supervising thread.
struct Life {
    stage: Mutex<Stage>,
    changed: Condvar,
}

struct Stage {
    /// Taken when the machine starts.
    vcpus: Vec<Vcpu>,
    /// Until the machine has ended.
    platform: Option<Arc<Platform>>,
    supervisor: Option<JoinHandle<()>>,
    paused: bool,
    outcome: Option<Outcome>,
    callbacks: Vec<EndCallback>,
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
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
        vcpus: Vec<Vcpu>,
        handles: Handles,
    ) -> Result<Self, Error> {
        let stage = Stage {
            vcpus,
            platform: Some(Arc::new(platform)),
            supervisor: None,
            paused: false,
            outcome: None,
            callbacks: Vec::new(),
        };
        let life = Arc::new(Life { stage: Mutex::new(stage), changed: Condvar::new() });
        Ok(Self { name, control: Arc::new(Control::new()?), life, handles })
    }

    /// Enters the guest.
    ///
    /// # Errors
    /// When the machine was started before, or a thread cannot be created.
    pub fn start(&self) -> Result<(), Error> {
        let mut stage = self.life.lock();
        let vcpus = std::mem::take(&mut stage.vcpus);
        let Some(platform) = stage.platform.clone().filter(|_| !vcpus.is_empty()) else {
            return Err(Error::State { what: "start it", state: "was started before" });
        };
        let event_loop = EventLoop::new(platform.transports(), self.control.ended())?;
        let mut threads = Vec::new();
        for (index, vcpu) in (0..).zip(vcpus) {
            let (platform, control) = (Arc::clone(&platform), Arc::clone(&self.control));
            let thread =
                self.spawn(&format!("vcpu{index}"), move || vcpu::run(index, vcpu, &platform, &control));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.control.end(Outcome::Stopped);
                    return Err(error);
                }
            }
        }
        drop(platform);
        let (life, control) = (Arc::clone(&self.life), Arc::clone(&self.control));
        stage.supervisor = Some(self.spawn("io", move || supervise(event_loop, threads, &life, &control))?);
        Ok(())
    }

    fn spawn(&self, what: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
        // Linux shows the first 15 bytes.
        thread::Builder::new()
            .name(format!("{what}:{}", self.name))
            .spawn(body)
            .map_err(Error::host(format!("start a thread of {}", self.name)))
    }

    /// Holds the machine: its vCPUs stop with no access half done, then its devices with no request half done.
    ///
    /// # Errors
    /// When the machine is not running.
    pub fn pause(&self) -> Result<(), Error> {
        let mut stage = self.running("pause it")?;
        if stage.paused {
            return Ok(());
        }
        if !self.control.pause() {
            return Err(Error::State { what: "pause it", state: "has ended" });
        }
        if let Some(platform) = &stage.platform {
            platform.pause();
        }
        stage.paused = true;
        Ok(())
    }

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// When the machine is not there any more.
    pub fn resume(&self) -> Result<(), Error> {
        let mut stage = self.running("resume it")?;
        if std::mem::take(&mut stage.paused) {
            if let Some(platform) = &stage.platform {
                platform.resume();
            }
            self.control.resume();
        }
        Ok(())
    }

    fn running(&self, what: &'static str) -> Result<MutexGuard<'_, Stage>, Error> {
        let stage = self.life.lock();
        if stage.outcome.is_some() {
            return Err(Error::State { what, state: "has ended" });
        }
        if stage.supervisor.is_none() {
            return Err(Error::State { what, state: "was not started" });
        }
        Ok(stage)
    }

    /// Cuts the power: returns when the vCPUs have ended and the devices are closed. What the guest had flushed is on
    /// its disks. A machine that had ended keeps its outcome.
    pub fn stop(&self) {
        self.control.end(Outcome::Stopped);
        let supervisor = {
            let mut stage = self.life.lock();
            if stage.supervisor.is_none() && stage.outcome.is_none() {
                // Never started: there is nobody else to take it down.
                stage.vcpus.clear();
                stage.platform = None;
                stage.outcome = Some(Outcome::Stopped);
                self.life.changed.notify_all();
            }
            stage.supervisor.take()
        };
        // Called from an end callback, the supervisor is this very thread.
        let supervisor = supervisor.filter(|it| it.thread().id() != thread::current().id());
        if supervisor.is_some_and(|supervisor| supervisor.join().is_err()) {
            tracing::error!(machine = self.name, "the supervising thread panicked");
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

    /// Waits for the machine's end; `None` when `timeout` passed first.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut stage = self.life.lock();
        while stage.outcome.is_none() {
            stage = match deadline {
                None => self.life.changed.wait(stage).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    self.life.changed.wait_timeout(stage, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        stage.outcome.clone()
    }

    /// How the machine ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.life.lock().outcome.clone()
    }

    /// Calls `callback` when the machine ends, on one of its threads; at once when it has ended.
    pub fn on_end(&self, callback: EndCallback) {
        let mut stage = self.life.lock();
        match stage.outcome.clone() {
            None => stage.callbacks.push(callback),
            Some(outcome) => {
                drop(stage);
                callback(&outcome);
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The body of a machine's own thread: serve devices, and when the machine ends, take it down in order: vCPUs, devices
/// (which flush and close), memory, and only then tell.
fn supervise(mut event_loop: EventLoop, vcpus: Vec<JoinHandle<()>>, life: &Life, control: &Control) {
    event_loop.run();
    // An event loop that failed leaves a machine without devices.
    control.end(Outcome::Fault("the event loop failed".to_owned()));
    for vcpu in vcpus {
        if vcpu.join().is_err() {
            tracing::error!("a vCPU thread panicked");
        }
    }
    drop(event_loop);
    let platform = life.lock().platform.take();
    if let Some(platform) = &platform {
        platform.pause();
    }
    drop(platform);
    let outcome = control.outcome();
    let callbacks = {
        let mut stage = life.lock();
        stage.outcome = Some(outcome.clone());
        life.changed.notify_all();
        std::mem::take(&mut stage.callbacks)
    };
    for callback in callbacks {
        callback(&outcome);
    }
}
