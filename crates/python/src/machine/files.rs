//! Files between host and guest.

use std::path::PathBuf;

use pyo3::prelude::*;
use snowboot_driver::MachineHandle;

use super::Machine;

#[pymethods]
impl Machine {
    fn state_dir(&self, py: Python<'_>) -> PyResult<PathBuf> {
        self.call(py, MachineHandle::state_folder)
    }

    fn remove_state_dir(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, MachineHandle::remove_state_folder)
    }

    fn shared_dir(&self, py: Python<'_>) -> PyResult<PathBuf> {
        self.call(py, MachineHandle::shared_folder)
    }

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
