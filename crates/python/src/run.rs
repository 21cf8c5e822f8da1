//! A run: the driver and its log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use snowboot_config::{Manifest, NodeConfig, Script, variable_name};
use snowboot_driver::sinks::Look;
use snowboot_driver::{CommandHook, Driver as Native, KvmLauncher, Launcher, Level, Options, Sink, Terminal};

use crate::errors::{MachineError, ManifestError, Run, raised, trouble};
use crate::machine::Machine;
use crate::reports::{self, Reports};
use crate::source::{Source, absolute};

/// All machines of a test.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Driver {
    pub(crate) native: Arc<Native>,
    manifest: Manifest,
    pub(crate) run: Run,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.run.is_elsewhere() {
            // The threads that would have to be waited for are not in this process: what is behind this stays as it is.
            std::mem::forget(self.native.clone());
            return;
        }
        // The threads that are waited for here may be waiting for the interpreter. Where the interpreter is ending, it
        // cannot be let go of, and nobody gets it any more.
        let native = &self.native;
        if Python::try_attach(|py| py.detach(|| native.finish())).is_none() {
            native.finish();
        }
    }
}

#[pymethods]
impl Driver {
    /// Reads descriptions of machines and makes these; none is started.
    #[new]
    #[pyo3(signature = (
        manifest, *, kvm_device="/dev/kvm", log_level="info", log_times=false, quiet=false, reports=None,
        on_global_timeout=None, seed=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "scripts give them by name")]
    fn new(
        manifest: Source,
        kvm_device: &str,
        log_level: &str,
        log_times: bool,
        quiet: bool,
        reports: Option<&Reports>,
        on_global_timeout: Option<Py<PyAny>>,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let manifest = manifest.read()?;
        let level = Level::from_str(log_level).map_err(PyValueError::new_err)?;
        let look = Look::of_stderr(level);
        let look = Look { times: look.times || log_times, quiet, ..look };
        let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(Terminal::new(std::io::stderr(), look))];
        sinks.extend(reports.map(Reports::take).unwrap_or_default());
        let launcher = launcher(kvm_device);
        let on_global_timeout = on_global_timeout.map(|callback| -> Box<dyn FnOnce() + Send> {
            Box::new(move || {
                Python::attach(|py| {
                    if let Err(error) = callback.call0(py) {
                        error.print(py);
                    }
                });
            })
        });
        let options = Options { launcher, sinks, on_global_timeout, seed };
        let native = Native::new(&manifest, options).map_err(|error| MachineError::new_err(error.chain()))?;
        let run = Run::new();
        native.set_interrupt_hook(Some(run.hook()));
        Ok(Self { native: Arc::new(native), manifest, run })
    }

    /// The test's name.
    #[getter]
    fn name(&self) -> &str {
        self.native.name()
    }

    /// Seconds after which the run is ended.
    #[getter]
    fn global_timeout(&self) -> u64 {
        self.manifest.global_timeout
    }

    /// What faults without a seed of their own draw theirs from.
    #[getter]
    fn seed(&self) -> u64 {
        self.native.seed()
    }

    /// Whether one of them has.
    #[getter]
    fn is_seed_used(&self) -> bool {
        self.native.is_seed_used()
    }

    /// Whether a call to a machine has ended because the global time limit was over.
    #[getter]
    fn timed_out(&self) -> bool {
        self.run.timed_out()
    }

    /// The script's file, or None when the manifest holds its text.
    #[getter]
    fn script_file(&self) -> Option<&Path> {
        match &self.manifest.script {
            Script::File(path) => Some(path),
            Script::Text(_) => None,
        }
    }

    /// The script's text when the manifest holds it.
    #[getter]
    fn script_text(&self) -> Option<&str> {
        match &self.manifest.script {
            Script::File(_) => None,
            Script::Text(text) => Some(text),
        }
    }

    /// The machines, sorted by name.
    fn machines(&self) -> Vec<Machine> {
        let machine = |handle: &snowboot_driver::MachineHandle| Machine {
            handle: handle.clone(),
            variable: variable_name(handle.name()),
            run: self.run.clone(),
        };
        self.native.machines().iter().map(machine).collect()
    }

    /// Makes one more machine, by a description of its own; `file` gives its form and the folder of its paths.
    fn create_machine(&self, name: &str, file: PathBuf, text: &str) -> PyResult<Machine> {
        self.run.check_here()?;
        let node = NodeConfig::parse_within(name, &absolute(&file)?, text, self.native.named_networks())
            .map_err(|error| ManifestError::new_err(error.to_string()))?;
        let handle =
            self.native.create_machine(name, node).map_err(|error| MachineError::new_err(error.chain()))?;
        Ok(Machine { variable: variable_name(name), handle, run: self.run.clone() })
    }

    /// Calls `hook` with a machine's name before each of its commands. What it raises ends the command.
    #[pyo3(signature = (hook))]
    fn set_command_hook(&self, hook: Option<Py<PyAny>>) {
        let run = self.run.clone();
        self.native.set_command_hook(hook.map(|hook| -> CommandHook {
            Arc::new(move |machine| {
                Python::attach(|py| match hook.call1(py, (machine,)) {
                    Ok(_) => false,
                    Err(raised) => {
                        run.set_pending(raised);
                        true
                    }
                })
            })
        }));
    }

    /// Number and name of each VLAN, by number.
    fn vlans(&self) -> Vec<(u8, String)> {
        self.native.vlans().into_iter().map(|number| (number, self.native.vlan(number).name())).collect()
    }

    /// Starts all machines at once.
    fn start_all(&self, py: Python<'_>) -> PyResult<()> {
        self.run.check_here()?;
        py.detach(|| self.native.start_all()).map_err(|error| raised(py, &self.run, &error))
    }

    /// Lets the first use of any machine start all, unless something was started before.
    fn start_together(&self) {
        self.native.start_together();
    }

    /// Lets the global time limit count, from now on.
    fn start_timer(&self, py: Python<'_>) -> PyResult<()> {
        self.run.check_here()?;
        py.detach(|| self.native.start_timer()).map_err(trouble)
    }

    /// Lets it count no longer.
    fn stop_timer(&self, py: Python<'_>) -> PyResult<()> {
        self.run.check_here()?;
        py.detach(|| self.native.stop_timer());
        Ok(())
    }

    /// Waits for the end of all machines.
    fn join_all(&self, py: Python<'_>) -> PyResult<()> {
        self.run.check_here()?;
        py.detach(|| self.native.join_all()).map_err(|error| raised(py, &self.run, &error))
    }

    /// Writes a line to the log. A fork has no log of its own; what it says goes to its standard error.
    #[pyo3(signature = (level, text, machine=None))]
    fn log(&self, py: Python<'_>, level: &str, text: &str, machine: Option<&str>) -> PyResult<()> {
        let level = Level::from_str(level).map_err(PyValueError::new_err)?;
        if self.run.is_elsewhere() {
            // As in the log, a standard error that cannot be written is no reason to fail.
            let _ = writeln!(std::io::stderr(), "{text}");
            return Ok(());
        }
        let machine = machine.map(Arc::from);
        py.detach(|| self.native.log().line(level, machine.as_ref(), text));
        Ok(())
    }

    /// Writes a line to the log as if a machine's console had said it.
    fn log_serial(&self, py: Python<'_>, machine: &str, text: &str) -> PyResult<()> {
        self.run.check_here()?;
        py.detach(|| self.native.log().serial(&Arc::from(machine), text));
        Ok(())
    }

    /// Begins a block of the log.
    #[pyo3(signature = (text, machine=None, subtest=false))]
    fn block(&self, py: Python<'_>, text: &str, machine: Option<&str>, subtest: bool) -> Block {
        if self.run.is_elsewhere() {
            return Block { block: Mutex::new(None), run: self.run.clone() };
        }
        let machine = machine.map(Arc::from);
        let block = py.detach(|| match subtest {
            true => self.native.subtest(text),
            false => self.native.log().block(machine.as_ref(), text),
        });
        Block { block: Mutex::new(Some(block)), run: self.run.clone() }
    }

    /// Shows console lines on the terminal, or not.
    fn set_serial(&self, on: bool) {
        let _was = self.native.log().set_serial(on);
    }

    /// Returns when all that was logged is written.
    fn flush(&self, py: Python<'_>) {
        if self.run.is_elsewhere() {
            return;
        }
        py.detach(|| self.native.log().flush());
    }

    /// The run so far, as JSON.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        self.run.check_here()?;
        let report = py.detach(|| self.native.report());
        serde_json::to_string(&report).map_err(trouble)
    }

    /// Tells reports how the script ended; the error is JSON.
    #[pyo3(signature = (error=None))]
    fn script_ended(&self, py: Python<'_>, error: Option<&str>) -> PyResult<()> {
        self.run.check_here()?;
        let error = reports::parse(error)?;
        py.detach(|| self.native.script_ended(error));
        Ok(())
    }

    /// Tells reports how the run ended; the error is JSON.
    #[pyo3(signature = (status, error=None))]
    fn run_ended(&self, py: Python<'_>, status: i32, error: Option<&str>) -> PyResult<()> {
        self.run.check_here()?;
        let error = reports::parse(error)?;
        py.detach(|| self.native.run_ended(status, error));
        Ok(())
    }

    /// Ends all machines. In a fork there are none.
    fn finish(&self, py: Python<'_>) {
        if self.run.is_elsewhere() {
            return;
        }
        py.detach(|| self.native.finish());
    }
}

/// A block of the log under way.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Block {
    block: Mutex<Option<snowboot_driver::Block>>,
    run: Run,
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.run.is_elsewhere() {
            // Its end belongs into a log that this process has not.
            std::mem::forget(self.take());
        }
    }
}

impl Block {
    fn take(&self) -> Option<snowboot_driver::Block> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Block {
    /// Ends the block, with the reason when it failed.
    #[pyo3(signature = (failure=None))]
    fn end(&self, py: Python<'_>, failure: Option<&str>) {
        if self.run.is_elsewhere() {
            return;
        }
        py.detach(|| {
            let block = self.take();
            if let (Some(mut block), Some(failure)) = (block, failure) {
                block.fail(failure);
            }
        });
    }
}

fn launcher(kvm_device: &str) -> Arc<dyn Launcher> {
    #[cfg(feature = "testing")]
    if kvm_device == "fake" {
        return Arc::new(snowboot_driver::testing::FakeLauncher);
    }
    // Absolute, as everything else: a script may change the current folder before it starts a machine.
    let device = std::path::absolute(kvm_device).unwrap_or_else(|_| PathBuf::from(kvm_device));
    Arc::new(KvmLauncher::new(device))
}
