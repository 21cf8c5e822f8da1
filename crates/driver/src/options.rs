//! What a run needs besides its manifest.

use std::fmt;
#[cfg(feature = "kvm")]
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "kvm")]
use crate::KvmLauncher;
#[cfg(feature = "kvm")]
use crate::event::Level;
use crate::event::Sink;
#[cfg(feature = "kvm")]
use crate::sinks::Terminal;
use crate::vm::Launcher;

/// What a run needs besides its manifest.
///
/// ```
/// use snowboot_driver::{Options, testing::FakeLauncher};
///
/// let options = Options::new(FakeLauncher).on_global_timeout(|| eprintln!("that was long"));
/// assert!(options.sinks.is_empty());
/// ```
pub struct Options {
    /// Makes the machines.
    pub launcher: Arc<dyn Launcher>,
    /// Where the log goes.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Called once, on a thread of its own, when the global time limit is over and all machines are stopped.
    pub on_global_timeout: Option<Box<dyn FnOnce() + Send>>,
    /// What faults without a seed of their own draw theirs from. `None`: the manifest's, or another one each time.
    pub seed: Option<u64>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Options")
    }
}

impl Options {
    /// Machines by this launcher, and a log that goes nowhere.
    #[must_use]
    pub fn new(launcher: impl Launcher + 'static) -> Self {
        Self { launcher: Arc::new(launcher), sinks: Vec::new(), on_global_timeout: None, seed: None }
    }

    /// What `snowboot test` has: machines on this KVM device (`/dev/kvm` as a rule), and a log on the standard error.
    #[cfg(feature = "kvm")]
    #[must_use]
    pub fn on_kvm(device: impl AsRef<Path>) -> Self {
        Self::new(KvmLauncher::new(device.as_ref())).sink(Terminal::stderr(Level::Info))
    }

    /// The log goes there, too.
    #[must_use]
    pub fn sink(mut self, sink: impl Sink + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// The log goes to these, too: report files, as [`Wanted::open`](crate::sinks::Wanted::open) gives them.
    #[must_use]
    pub fn sinks(mut self, sinks: impl IntoIterator<Item = Box<dyn Sink>>) -> Self {
        self.sinks.extend(sinks);
        self
    }

    /// Faults without a seed of their own draw theirs from this number, as in a former run that had it.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Calls this once, on a thread of its own, when the global time limit is over and all machines are stopped.
    #[must_use]
    pub fn on_global_timeout(mut self, then: impl FnOnce() + Send + 'static) -> Self {
        self.on_global_timeout = Some(Box::new(then));
        self
    }
}
