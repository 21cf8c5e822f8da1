//! What a run tells about itself, as data.

use serde::Serialize;
use snowboot_config::Topology;

use crate::memory::MemoryUse;

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The test's name.
    pub name: String,
    /// What faults without a seed of their own drew theirs from.
    pub seed: u64,
    /// Seconds since the driver was made.
    pub seconds: f64,
    /// The machines, sorted by name.
    pub machines: Vec<MachineReport>,
    /// Memory of the process; `None` where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryUse>,
    /// How the machines are connected.
    pub topology: Topology,
}

/// A machine of a run. Times count from its last start.
#[derive(Clone, Debug, Serialize)]
pub struct MachineReport {
    /// Its name.
    pub name: String,
    /// How often it was started.
    pub starts: u32,
    /// Seconds to its first console line.
    pub console_seconds: Option<f64>,
    /// Seconds until its shell answered.
    pub shell_seconds: Option<f64>,
    /// How it last ended, in words.
    pub outcome: Option<String>,
}
