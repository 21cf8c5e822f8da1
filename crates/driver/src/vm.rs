//! What the driver needs of a virtual machine: the seam between it and the VMM.
//!
//! The KVM launcher implements these traits over `snowboot-vmm`; the fake guest of [`crate::testing`] over a host bash.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snowboot_config::{NodeConfig, PortForward, UplinkConfig};

use crate::console::ConsoleWriter;
use crate::networks::Networks;

/// An error of a launcher or VMM, kept whole so that its chain can be printed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a machine no longer runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself: a reboot, or a kernel panic under `panic=1`.
    Reset,
    /// The guest's CPU met a fault while delivering a double fault, which resets a real machine.
    TripleFault,
    /// KVM could not go on.
    Fault(String),
    /// The driver cut its power.
    Stopped,
}

impl Outcome {
    /// Whether a machine that is not switched off would start again.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        matches!(self, Self::Reset | Self::TripleFault)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("powered off"),
            Self::Reset => f.write_str("was reset by its guest (a reboot, or a kernel panic)"),
            Self::TripleFault => f.write_str("met a triple fault"),
            Self::Fault(what) => write!(f, "could not go on: {what}"),
            Self::Stopped => f.write_str("was stopped by the driver"),
        }
    }
}

/// What is called at a machine's end.
pub type EndCallback = Box<dyn FnOnce(&Outcome) + Send>;

/// A machine under way. Dropping it stops it and joins its threads.
pub trait Vm: Send + Sync {
    /// Lets it run.
    ///
    /// # Errors
    /// When the VMM cannot start it.
    fn start(&self) -> Result<(), BoxError>;
    /// Cuts its power and returns when it has ended.
    fn stop(&self);
    /// Presses its reset button and returns when it has ended, with [`Outcome::Reset`] if it had not ended before.
    fn reset(&self);
    /// Holds its CPUs and devices.
    ///
    /// # Errors
    /// When it does not run.
    fn pause(&self) -> Result<(), BoxError>;
    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    fn resume(&self) -> Result<(), BoxError>;
    /// Presses its power button; what comes of it is the guest's decision.
    fn press_power_button(&self);
    /// Types at its first serial port; returns how many bytes were taken.
    fn serial_input(&self, bytes: &[u8]) -> usize;
    /// Plugs or unplugs the cable of its n-th network card, from 0.
    ///
    /// # Errors
    /// When there is no such card.
    fn set_link(&self, nic: usize, up: bool) -> Result<(), BoxError>;
    /// Forwards a port of the host's to the guest, through its user network; the answer is where the host listens.
    ///
    /// # Errors
    /// When it has no user network, or the port cannot be had.
    fn forward(&self, forward: PortForward) -> Result<SocketAddr, BoxError>;
    /// Waits for its end; `None` when the time is up first.
    fn wait(&self, timeout: Option<Duration>) -> Option<Outcome>;
    /// How it ended, when it has.
    fn outcome(&self) -> Option<Outcome>;
    /// Calls back once at its end, at once when it has ended already.
    fn on_end(&self, callback: EndCallback);
}

/// The host's end of a machine's `/dev/hvc0`.
pub trait Channel: Send + Sync {
    /// Writes some bytes, waiting for room until the deadline.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `BrokenPipe` when the device is gone.
    fn write(&self, data: &[u8], deadline: Instant) -> io::Result<usize>;
    /// Reads some bytes, waiting for data until the deadline. 0 means that the device is gone.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize>;
}

/// The host's end of a channel that programs open and close on both sides. Reading gives 0, and writing `BrokenPipe`, once
/// the guest's program has closed its end.
pub trait Port: Channel {
    /// Begins a conversation: nothing of an earlier one is left.
    ///
    /// # Errors
    /// When the host has no room for it.
    fn open(&self) -> io::Result<()>;
    /// Nothing more will be written: the guest's program reads the end of the file after the last byte.
    fn finish(&self);
    /// Ends the conversation at once; what was on its way is thrown away.
    fn close(&self);
    /// Bash that sets the variable `port` to where the guest has its end: a path, or nothing when it has none.
    fn find(&self) -> String;
}

/// When a machine got where on its way to a running userland, as its VMM saw it.
#[derive(Clone, Debug, Default)]
pub struct VmTimes {
    /// Guest memory was there.
    pub memory_ready: Option<Instant>,
    /// Kernel, initrd and tables were in it.
    pub kernel_loaded: Option<Instant>,
    /// A vCPU entered the guest for the first time.
    pub guest_entered: Option<Instant>,
    /// The guest's first byte on a console.
    pub console_output: Option<Instant>,
    /// The guest's first byte on its shell's channel.
    pub shell_output: Option<Instant>,
    /// Its first program ran, as it said itself.
    pub init_started: Option<Instant>,
    /// Its userland was up, as it said itself.
    pub target_reached: Option<Instant>,
    /// Its own marks in their order.
    pub marks: Vec<(u8, Instant)>,
    /// How many more of them there were.
    pub marks_dropped: u64,
}

/// Tells a machine's times, also when it is gone.
pub type TellTimes = Arc<dyn Fn() -> VmTimes + Send + Sync>;

/// A machine that has been built and not yet started.
pub struct Launched {
    /// The machine.
    pub vm: Arc<dyn Vm>,
    /// Its shell.
    pub shell: Arc<dyn Channel>,
    /// What files go through.
    pub files: Arc<dyn Port>,
    /// How far its boot has come.
    pub times: TellTimes,
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Launched")
    }
}

/// Makes machines. Called again for every start of a machine, with the same description.
pub trait Launcher: Send + Sync {
    /// Builds a machine; `number` is its node number, `serial` takes what its guest writes to the serial port.
    ///
    /// # Errors
    /// When the machine cannot be built: a missing kernel, an unreadable disk, no KVM.
    fn launch(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError>;

    /// The networks that it plugs machines into. Without some of its own, machines are plugged into nothing.
    fn networks(&self) -> Networks {
        Networks::default()
    }

    /// Opens ports of those networks that lead to elsewhere, until the run's end.
    ///
    /// # Errors
    /// When one cannot be opened. Without networks of its own, any is one too many.
    fn open_uplinks(&self, uplinks: &[UplinkConfig]) -> Result<(), BoxError> {
        if uplinks.is_empty() {
            Ok(())
        } else {
            Err("there is no network that could lead to elsewhere".into())
        }
    }

    /// Resident bytes of this process that are guest memory of its machines, when the launcher can tell.
    fn guest_resident(&self) -> Option<u64> {
        None
    }
}
