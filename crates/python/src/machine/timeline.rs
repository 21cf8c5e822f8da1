//! How a machine's boot went. Times are seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use pyo3::prelude::*;
use snowboot_driver::{BootTimeline, MachineHandle};

use super::Machine;

/// Phases, marks and how many were dropped, the guest's clock, systemd's times, initcalls.
type Told = (
    BTreeMap<&'static str, Option<f64>>,
    Vec<(u8, f64)>,
    u64,
    Option<f64>,
    BTreeMap<&'static str, f64>,
    Vec<(String, f64)>,
);

fn told(timeline: BootTimeline) -> Told {
    let seconds = |time: Duration| time.as_secs_f64();
    let phases = timeline.phases().into_iter().map(|(name, at)| (name, at.map(seconds))).collect();
    let marks = timeline.marks.iter().map(|mark| (mark.number, seconds(mark.at))).collect();
    let systemd = timeline.systemd.iter().map(|(name, at)| (*name, seconds(*at))).collect();
    let initcalls = timeline.initcalls.into_iter().map(|it| (it.name, seconds(it.took))).collect();
    (phases, marks, timeline.marks_dropped, timeline.guest_clock.map(seconds), systemd, initcalls)
}

#[pymethods]
impl Machine {
    fn boot_timeline(&self, py: Python<'_>) -> PyResult<Told> {
        self.call(py, MachineHandle::boot_timeline).map(told)
    }
}
