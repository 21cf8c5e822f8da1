//! A run: the driver and its log.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use snowboot_config::{Manifest, Script, variable_name};
use snowboot_driver::{Driver as Native, KvmLauncher, Launcher, Level, Options, Sink, Terminal};

use crate::errors::{ManifestError, Pending, raised, trouble};
use crate::machine::Machine;

/// All machines of a test.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Driver {
    native: Arc<Native>,
    manifest: Manifest,
    pending: Pending,
}

#[pymethods]
impl Driver {
    /// Reads a manifest and makes its machines; none is started.
    #[new]
    #[pyo3(signature = (manifest, *, kvm_device="/dev/kvm", log_level="info", on_global_timeout=None))]
    fn new(
        manifest: PathBuf,
        kvm_device: &str,
        log_level: &str,
        on_global_timeout: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let manifest = read(&manifest)?;
        let level = Level::from_str(log_level).map_err(PyValueError::new_err)?;
        let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Terminal::stderr(level))];
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
        let native =
            Native::new(&manifest, Options { launcher, sinks, on_global_timeout }).map_err(trouble)?;
        let pending = Pending::default();
        native.set_interrupt_hook(Some(pending.hook()));
        Ok(Self { native: Arc::new(native), manifest, pending })
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
            pending: self.pending.clone(),
        };
        self.native.machines().iter().map(machine).collect()
    }

    /// The VLAN numbers, sorted.
    fn vlans(&self) -> Vec<u16> {
        self.native.vlans().into_iter().map(u16::from).collect()
    }

    /// Starts all machines at once.
    fn start_all(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.native.start_all()).map_err(|error| raised(py, &self.pending, &error))
    }

    /// Lets the first use of any machine start all, unless something was started before.
    fn start_together(&self) {
        self.native.start_together();
    }

    /// Waits for the end of all machines.
    fn join_all(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.native.join_all()).map_err(|error| raised(py, &self.pending, &error))
    }

    /// Writes a line to the log.
    #[pyo3(signature = (level, text, machine=None))]
    fn log(&self, py: Python<'_>, level: &str, text: &str, machine: Option<&str>) -> PyResult<()> {
        let level = Level::from_str(level).map_err(PyValueError::new_err)?;
        let machine = machine.map(Arc::from);
        py.detach(|| self.native.log().line(level, machine.as_ref(), text));
        Ok(())
    }

    /// Begins a block of the log.
    #[pyo3(signature = (text, machine=None, subtest=false))]
    fn block(&self, py: Python<'_>, text: &str, machine: Option<&str>, subtest: bool) -> Block {
        let machine = machine.map(Arc::from);
        let block = py.detach(|| match subtest {
            true => self.native.subtest(text),
            false => self.native.log().block(machine.as_ref(), text),
        });
        Block(Mutex::new(Some(block)))
    }

    /// Shows console lines on the terminal, or not.
    fn set_serial(&self, on: bool) {
        self.native.log().set_serial(on);
    }

    /// Returns when all that was logged is written.
    fn flush(&self, py: Python<'_>) {
        py.detach(|| self.native.log().flush());
    }

    /// The run so far, as JSON.
    fn report(&self, py: Python<'_>) -> PyResult<String> {
        let report = py.detach(|| self.native.report());
        serde_json::to_string(&report).map_err(trouble)
    }

    /// Ends all machines.
    fn finish(&self, py: Python<'_>) {
        py.detach(|| self.native.finish());
    }
}

/// A block of the log under way.
#[pyclass(frozen, module = "snowboot._native")]
pub(crate) struct Block(Mutex<Option<snowboot_driver::Block>>);

#[pymethods]
impl Block {
    /// Ends the block, with the reason when it failed.
    #[pyo3(signature = (failure=None))]
    fn end(&self, py: Python<'_>, failure: Option<&str>) {
        py.detach(|| {
            let block = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
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
    Arc::new(KvmLauncher::new(kvm_device))
}

fn read(path: &Path) -> PyResult<Manifest> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ManifestError::new_err(format!("Cannot read the manifest {}: {error}", path.display()))
    })?;
    Manifest::parse(path, &text).map_err(|error| ManifestError::new_err(error.to_string()))
}
