//! Files between host and guest.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::Machine;

#[pymethods]
impl Machine {
    fn copy_from_host(&self, py: Python<'_>, source: PathBuf, target: PathBuf) -> PyResult<()> {
        self.call(py, |machine| machine.copy_from_host(&source, &target))
    }

    fn copy_from_host_via_shell(&self, py: Python<'_>, source: PathBuf, target: PathBuf) -> PyResult<()> {
        self.call(py, |machine| machine.copy_from_host_via_shell(&source, &target))
    }

    fn copy_from_machine(&self, py: Python<'_>, source: PathBuf, folder: PathBuf) -> PyResult<PathBuf> {
        self.call(py, |machine| machine.copy_from_machine(&source, &folder))
    }
}
