//! How a device tells its machine's owner what a guest cannot: that the host fails it.

use std::fmt;
use std::sync::Arc;

/// Takes one line at a time, without the machine's name. Called on the device's thread: it must be quick. Cheap to clone.
#[derive(Clone)]
pub struct Warnings(Arc<dyn Fn(&str) + Send + Sync>);

impl Warnings {
    /// Passes lines to `tell`.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The same, with what it is about before each line.
    #[must_use]
    pub fn about(&self, subject: &str) -> Self {
        let (warnings, subject) = (self.clone(), subject.to_owned());
        Self::new(move |line| warnings.tell(&format!("{subject}: {line}")))
    }

    /// Tells a line. Devices see to it that no guest can have many told.
    pub fn tell(&self, line: &str) {
        (self.0)(line);
    }
}

impl Default for Warnings {
    /// Passes lines to the log.
    fn default() -> Self {
        Self::new(|line| tracing::warn!("{line}"))
    }
}

impl fmt::Debug for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Warnings")
    }
}
