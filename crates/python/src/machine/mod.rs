//! A machine of a run. Times are seconds; `None` is no limit.

mod files;
mod looks;
mod power;
mod timeline;

use std::collections::BTreeMap;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use snowboot_driver::{Error, Execute, MachineHandle};

use crate::errors::{Run, raised};

/// A machine.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Machine {
    pub(crate) handle: MachineHandle,
    pub(crate) variable: String,
    pub(crate) run: Run,
}

impl Machine {
    /// Calls the driver without holding the interpreter.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&MachineHandle) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.run.check_here()?;
        let handle = &self.handle;
        py.detach(|| work(handle)).map_err(|error| raised(py, &self.run, &error))
    }
}

fn duration(seconds: f64) -> PyResult<Duration> {
    // What is in the past is over: a negative limit is one that has passed. Zero is none, as for `timeout` in the guest.
    let seconds = if seconds < 0.0 { 0.001 } else { seconds };
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{seconds} is not a number of seconds")))
}

fn limit(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    seconds.map(duration).transpose()
}

fn strs(commands: &[String]) -> Vec<&str> {
    commands.iter().map(String::as_str).collect()
}

#[pymethods]
impl Machine {
    #[getter]
    fn name(&self) -> &str {
        self.handle.name()
    }

    #[getter]
    fn variable(&self) -> &str {
        &self.variable
    }

    #[getter]
    fn booted(&self) -> bool {
        self.handle.is_booted()
    }

    fn is_up(&self) -> bool {
        self.handle.is_up()
    }

    fn connect(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::connect)
    }

    fn execute(
        &self,
        py: Python<'_>,
        command: &str,
        check_return: bool,
        check_output: bool,
        timeout: Option<f64>,
    ) -> PyResult<(i32, String)> {
        let how = Execute { check_return, check_output, timeout: limit(timeout)? };
        let reply = self.call(py, |machine| machine.execute(command, how))?;
        Ok((reply.status, reply.output))
    }

    fn succeed(&self, py: Python<'_>, commands: Vec<String>, timeout: Option<f64>) -> PyResult<String> {
        let timeout = limit(timeout)?;
        self.call(py, |machine| machine.succeed(&strs(&commands), timeout))
    }

    fn fail(&self, py: Python<'_>, commands: Vec<String>, timeout: Option<f64>) -> PyResult<String> {
        let timeout = limit(timeout)?;
        self.call(py, |machine| machine.fail(&strs(&commands), timeout))
    }

    fn wait_until_succeeds(&self, py: Python<'_>, command: &str, timeout: f64) -> PyResult<String> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_until_succeeds(command, timeout))
    }

    fn wait_until_fails(&self, py: Python<'_>, command: &str, timeout: f64) -> PyResult<String> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_until_fails(command, timeout))
    }

    fn wait_for_file(&self, py: Python<'_>, file: &str, timeout: f64) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_for_file(file, timeout))
    }

    fn wait_for_open_port(&self, py: Python<'_>, port: u16, address: &str, timeout: f64) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_for_open_port(port, address, timeout))
    }

    fn wait_for_closed_port(&self, py: Python<'_>, port: u16, address: &str, timeout: f64) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_for_closed_port(port, address, timeout))
    }

    /// `search` is called with the text seen so far and tells whether that will do; what it raises ends the wait.
    fn wait_for_console(
        &self,
        py: Python<'_>,
        what: &str,
        timeout: Option<f64>,
        search: Py<PyAny>,
    ) -> PyResult<()> {
        let timeout = limit(timeout)?;
        let mut trouble = None;
        let found = |text: &str| {
            Python::attach(|py| match search.call1(py, (text,)).and_then(|it| it.extract::<bool>(py)) {
                Ok(found) => found,
                Err(error) => {
                    trouble = Some(error);
                    true
                }
            })
        };
        self.call(py, |machine| machine.wait_for_console(what, timeout, found))?;
        trouble.map_or(Ok(()), Err)
    }

    fn wait_for_unit(&self, py: Python<'_>, unit: &str, user: Option<&str>, timeout: f64) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_for_unit(unit, user, timeout))
    }

    fn get_unit_info(
        &self,
        py: Python<'_>,
        unit: &str,
        user: Option<&str>,
    ) -> PyResult<BTreeMap<String, String>> {
        self.call(py, |machine| machine.get_unit_info(unit, user))
    }

    fn get_unit_property(
        &self,
        py: Python<'_>,
        unit: &str,
        property: &str,
        user: Option<&str>,
    ) -> PyResult<String> {
        self.call(py, |machine| machine.get_unit_property(unit, property, user))
    }

    fn require_unit_state(&self, py: Python<'_>, unit: &str, state: &str) -> PyResult<()> {
        self.call(py, |machine| machine.require_unit_state(unit, state))
    }

    fn systemctl(&self, py: Python<'_>, query: &str, user: Option<&str>) -> PyResult<(i32, String)> {
        let reply = self.call(py, |machine| machine.systemctl(query, user))?;
        Ok((reply.status, reply.output))
    }

    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::shutdown)
    }

    fn crash(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::crash)
    }

    fn wait_for_shutdown(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = limit(timeout)?;
        self.call(py, |machine| machine.wait_for_shutdown(timeout))
    }

    fn send_console(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        self.call(py, |machine| machine.send_console(text))
    }

    fn get_console_log(&self, py: Python<'_>) -> String {
        py.detach(|| self.handle.console().text())
    }

    fn set_link(&self, py: Python<'_>, up: bool) -> PyResult<()> {
        self.call(py, if up { MachineHandle::unblock } else { MachineHandle::block })
    }
}
