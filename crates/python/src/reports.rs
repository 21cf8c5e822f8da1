//! Report files, opened before there is a driver, so that a test that cannot be run has them too.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use snowboot_driver::sinks::{Troubles, Wanted, not_started};
use snowboot_driver::{Error, RunError, Sink};

pyo3::import_exception!(snowboot.report, ReportError);

/// The reports that a run is to leave.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Reports {
    /// Until a driver takes them.
    sinks: Mutex<Vec<Box<dyn Sink>>>,
    troubles: Troubles,
}

impl Reports {
    /// The files, for a driver's log; given once.
    pub(crate) fn take(&self) -> Vec<Box<dyn Sink>> {
        std::mem::take(&mut *self.sinks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl Reports {
    /// Opens the files; `ReportError` when one cannot be written.
    #[new]
    #[pyo3(signature = (*, junit=None, html=None, json=None, xml=None, consoles=None))]
    fn new(
        junit: Option<PathBuf>,
        html: Option<PathBuf>,
        json: Option<PathBuf>,
        xml: Option<PathBuf>,
        consoles: Option<PathBuf>,
    ) -> PyResult<Self> {
        let troubles = Troubles::default();
        let wanted = Wanted { junit, html, json, xml, consoles };
        let opened = wanted.open(&troubles).map_err(|error: Error| ReportError::new_err(error.chain()))?;
        Ok(Self { sinks: Mutex::new(opened), troubles })
    }

    /// Tells them of a run that has no driver. The error is JSON.
    fn not_started(&self, py: Python<'_>, status: i32, error: &str) -> PyResult<()> {
        let error = parse(Some(error))?.unwrap_or_default();
        py.detach(|| not_started(self.take(), status, error));
        Ok(())
    }

    /// What could not be written since the last call.
    fn troubles(&self) -> Vec<String> {
        self.troubles.take()
    }
}

/// An error as the runner tells it.
pub(crate) fn parse(error: Option<&str>) -> PyResult<Option<RunError>> {
    let parsed = error.map(serde_json::from_str).transpose();
    parsed.map_err(|error| PyValueError::new_err(format!("Not a run's error: {error}")))
}
