//! Waits for sockets, virtual terminals and windows of a machine. Times are seconds.

use pyo3::prelude::*;
use snowboot_driver::{Error, MachineHandle};

use super::{Machine, duration};

impl Machine {
    /// Runs a wait whose test of a text is Python's; what the test raises ends the wait and is raised.
    fn call_with_test(
        &self,
        py: Python<'_>,
        search: &Py<PyAny>,
        wait: impl FnOnce(&MachineHandle, &mut (dyn FnMut(&str) -> bool + Send)) -> Result<(), Error> + Send,
    ) -> PyResult<()> {
        let mut trouble = None;
        let mut found = |text: &str| {
            Python::attach(|py| match search.call1(py, (text,)).and_then(|it| it.extract::<bool>(py)) {
                Ok(found) => found,
                Err(error) => {
                    trouble = Some(error);
                    true
                }
            })
        };
        self.call(py, |machine| wait(machine, &mut found))?;
        trouble.map_or(Ok(()), Err)
    }
}

#[pymethods]
impl Machine {
    fn wait_for_open_unix_socket(
        &self,
        py: Python<'_>,
        address: &str,
        is_datagram: bool,
        timeout: f64,
    ) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_for_open_unix_socket(address, is_datagram, timeout))
    }

    fn get_tty_text(&self, py: Python<'_>, tty: &str) -> PyResult<String> {
        self.call(py, |machine| machine.get_tty_text(tty))
    }

    fn dump_tty_contents(&self, py: Python<'_>, tty: &str) -> PyResult<()> {
        self.call(py, |machine| machine.dump_tty_contents(tty))
    }

    /// `search` is called with the terminal's text and tells whether that will do.
    fn wait_until_tty(
        &self,
        py: Python<'_>,
        what: &str,
        tty: &str,
        timeout: f64,
        search: Py<PyAny>,
    ) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call_with_test(py, &search, |machine, found| machine.wait_until_tty(what, tty, timeout, found))
    }

    fn wait_for_x(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call(py, |machine| machine.wait_for_x(timeout))
    }

    fn get_window_names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.call(py, MachineHandle::get_window_names)
    }

    /// `search` is called with the name of each window and tells whether that will do.
    fn wait_for_window(&self, py: Python<'_>, what: &str, timeout: f64, search: Py<PyAny>) -> PyResult<()> {
        let timeout = duration(timeout)?;
        self.call_with_test(py, &search, |machine, found| machine.wait_for_window_that(what, timeout, found))
    }
}
