//! A machine's power, and what its monitor, its raw shell and its raw console need.

use std::time::{Duration, UNIX_EPOCH};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snowboot_config::{PortForward, ValueError};
use snowboot_driver::{MachineHandle, PowerEventKind, Start};

use super::{Machine, duration, limit};

/// A power event: name, whether the guest did it, cause, seconds and microseconds of the Unix epoch.
type Event = (&'static str, bool, &'static str, u64, u32);

fn event_name(kind: PowerEventKind) -> &'static str {
    match kind {
        PowerEventKind::Shutdown => "SHUTDOWN",
        PowerEventKind::Reset => "RESET",
        PowerEventKind::Powerdown => "POWERDOWN",
        PowerEventKind::Stop => "STOP",
        PowerEventKind::Resume => "RESUME",
    }
}

#[pymethods]
impl Machine {
    #[pyo3(signature = (allow_reboot = false))]
    fn start(&self, py: Python<'_>, allow_reboot: bool) -> PyResult<()> {
        self.call(py, |machine| machine.start_with(Start { allow_reboot }))
    }

    #[getter]
    fn alive(&self) -> bool {
        self.handle.is_alive()
    }

    #[getter]
    fn starts(&self) -> u32 {
        self.handle.starts()
    }

    #[getter]
    fn paused(&self) -> bool {
        self.handle.is_paused()
    }

    #[getter]
    fn vcpus(&self) -> u8 {
        self.handle.node().vcpus.get()
    }

    #[getter]
    fn nics(&self) -> usize {
        self.handle.node().vlans.len()
    }

    fn set_connected(&self, connected: bool) {
        self.handle.set_connected(connected);
    }

    fn reboot(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::reboot)
    }

    fn switch_root(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::switch_root)
    }

    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::release)
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::pause)
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::resume)
    }

    fn press_power_button(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::press_power_button)
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, MachineHandle::reset)
    }

    #[getter]
    fn reaches_host(&self) -> bool {
        self.handle.reaches_host()
    }

    #[getter]
    fn user_network(&self) -> bool {
        self.handle.node().user_network.is_some()
    }

    /// Cards by QEMU's numbers: 0 is on the user network, 1 on the first VLAN.
    fn set_card_link(&self, py: Python<'_>, card: usize, up: bool) -> PyResult<()> {
        self.call(py, |machine| match card.checked_sub(1) {
            None => machine.set_user_link(up),
            Some(card) => machine.set_link(card, up),
        })
    }

    /// Forwards as QEMU's monitor has it written; gives the host's port.
    fn forward_port(&self, py: Python<'_>, rule: &str) -> PyResult<u16> {
        let rule: PortForward = rule.parse().map_err(|error: ValueError| PyValueError::new_err(error.0))?;
        let at = self.call(py, |machine| machine.forward(rule))?;
        Ok(at.port())
    }

    fn next_power_event(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<Event>> {
        let timeout = duration(timeout)?;
        let event = self.call(py, |machine| machine.next_power_event(timeout))?;
        Ok(event.map(|event| {
            let at = event.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            (event_name(event.kind), event.by_guest, event.reason, at.as_secs(), at.subsec_micros())
        }))
    }

    fn shell_send(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        self.call(py, |machine| machine.shell_send(data))
    }

    /// `None` when the time is up.
    fn shell_receive<'py>(
        &self,
        py: Python<'py>,
        most: usize,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let timeout = limit(timeout)?;
        let received = self.call(py, |machine| machine.shell_receive(most, timeout))?;
        Ok(received.map(|bytes| PyBytes::new(py, &bytes)))
    }

    /// Begins to keep the console's raw output, and keeps its lines off the screen; or ends that. Gives whether lines were
    /// on the screen before.
    fn keep_raw_console(&self, on: bool, lines: bool) -> bool {
        self.handle.console().keep_raw(on);
        self.handle.show_console_lines(lines)
    }

    fn read_raw_console<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyBytes>> {
        let timeout = duration(timeout)?;
        let bytes = py.detach(|| self.handle.console().read_raw(timeout));
        Ok(PyBytes::new(py, &bytes))
    }
}
