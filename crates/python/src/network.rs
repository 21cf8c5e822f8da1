//! The networks of a run. Times are seconds.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use snowboot_driver::{Burst, Direction, Error, FileCapture, Flap, Impairment, Spread};

use crate::errors::{Run, raised};
use crate::run::Driver;

/// What a script says about a way, checked for its types alone.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Faults {
    seed: Option<u64>,
    cut: bool,
    flap: Option<(f64, f64)>,
    loss: f64,
    burst: Option<(f64, f64, f64)>,
    duplicate: f64,
    corrupt: f64,
    rate: Option<u64>,
    queue: usize,
    delay: f64,
    jitter: f64,
    spread: String,
    reorder: f64,
    reorder_by: f64,
}

impl Faults {
    /// `any` gives a seed where the script does not.
    fn impairment(&self, any: impl FnOnce() -> u64) -> PyResult<Impairment> {
        let flap = self
            .flap
            .map(|(up, down)| Ok::<_, PyErr>(Flap { up: time("flap", up)?, down: time("flap", down)? }));
        Ok(Impairment {
            seed: self.seed.unwrap_or_else(any),
            cut: self.cut,
            flap: flap.transpose()?,
            loss: self.loss,
            burst: self.burst.map(|(enter, leave, loss)| Burst { enter, leave, loss }),
            duplicate: self.duplicate,
            corrupt: self.corrupt,
            rate: self.rate,
            queue: self.queue,
            delay: time("delay", self.delay)?,
            jitter: time("jitter", self.jitter)?,
            spread: spread(&self.spread)?,
            reorder: self.reorder,
            reorder_by: time("reorder_by", self.reorder_by)?,
        })
    }
}

fn time(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        PyValueError::new_err(format!("{name} is {seconds} s: a time is not negative, and finite"))
    })
}

fn spread(name: &str) -> PyResult<Spread> {
    match name {
        "uniform" => Ok(Spread::Uniform),
        "normal" => Ok(Spread::Normal),
        "pareto" => Ok(Spread::Pareto),
        _ => Err(PyValueError::new_err(format!("spread is {name:?}: it is one of uniform, normal, pareto"))),
    }
}

fn direction(both: bool) -> Direction {
    if both { Direction::Both } else { Direction::There }
}

/// The groups as the driver takes them.
fn with_groups<T>(groups: &[Vec<String>], work: impl FnOnce(&[&[&str]]) -> T) -> T {
    let names: Vec<Vec<&str>> =
        groups.iter().map(|group| group.iter().map(String::as_str).collect()).collect();
    work(&names.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

impl Driver {
    /// Calls the driver without holding the interpreter.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&snowboot_driver::Driver) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.run.check_here()?;
        py.detach(|| work(&self.native)).map_err(|error| raised(py, &self.run, &error))
    }
}

#[pymethods]
impl Driver {
    /// Makes the way between two machines worse.
    fn impair(&self, py: Python<'_>, vlan: u8, a: &str, b: &str, both: bool, faults: Faults) -> PyResult<()> {
        self.run.check_here()?;
        // Its first line is logged, which may have to wait for somebody who wants the interpreter.
        let any = || py.detach(|| self.native.vlan(vlan).draw_seed(a, b));
        let impairment = faults.impairment(any)?;
        self.call(py, |driver| driver.vlan(vlan).impair(a, b, direction(both), &impairment))
    }

    /// Takes the faults of a way away.
    fn repair(&self, py: Python<'_>, vlan: u8, a: &str, b: &str, both: bool) -> PyResult<()> {
        self.call(py, |driver| driver.vlan(vlan).repair(a, b, direction(both)))
    }

    /// Partitions one VLAN, or all.
    #[pyo3(signature = (vlan, groups))]
    fn partition(&self, py: Python<'_>, vlan: Option<u8>, groups: Vec<Vec<String>>) -> PyResult<()> {
        self.call(py, |driver| {
            with_groups(&groups, |groups| match vlan {
                Some(vlan) => driver.vlan(vlan).partition(groups),
                None => driver.partition(groups),
            })
        })
    }

    /// Takes all faults of one VLAN away, or of all.
    #[pyo3(signature = (vlan))]
    fn heal(&self, py: Python<'_>, vlan: Option<u8>) -> PyResult<()> {
        self.call(py, |driver| {
            match vlan {
                Some(vlan) => driver.vlan(vlan).heal(),
                None => driver.heal(),
            }
            Ok(())
        })
    }

    /// Writes all frames of a VLAN to a file from now on.
    fn capture(&self, py: Python<'_>, vlan: u8, file: PathBuf) -> PyResult<Capture> {
        let capture = self.call(py, |driver| driver.vlan(vlan).capture(&file))?;
        Ok(Capture { capture, run: self.run.clone() })
    }

    /// Writes the last frames of all VLANs that had some to a folder; returns the files.
    fn save_last_frames(&self, py: Python<'_>, folder: PathBuf) -> PyResult<Vec<PathBuf>> {
        self.call(py, |driver| driver.save_last_frames(&folder))
    }

    /// The machines that are plugged into a VLAN.
    fn machines_of(&self, vlan: u8) -> Vec<String> {
        self.native.vlan(vlan).machines()
    }
}

/// A capture under way.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Capture {
    capture: FileCapture,
    run: Run,
}

#[pymethods]
impl Capture {
    /// Ends it; all frames so far are in the file then.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.run.check_here()?;
        py.detach(|| self.capture.stop()).map_err(|error| raised(py, &self.run, &error))
    }
}
