//! Errors of the driver as the exceptions that scripts know.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use snowboot_driver::{Error, ErrorKind, Failure, InterruptHook};

pyo3::import_exception!(snowboot.errors, GlobalTimeout);
pyo3::import_exception!(snowboot.errors, MachineError);
pyo3::import_exception!(snowboot.errors, MalformedAnswer);
pyo3::import_exception!(snowboot.errors, ManifestError);
pyo3::import_exception!(snowboot.errors, NoShell);
pyo3::import_exception!(snowboot.errors, RequestedAssertionFailed);

/// What the driver and its machines tell each other about the run's end.
#[derive(Clone)]
pub(crate) struct Run(Arc<State>);

struct State {
    /// The process that the machines are in. A fork of it has copies of these objects, and nothing behind them.
    process: u32,
    /// What a signal handler raised during a wait, until the wait has ended and can raise it.
    pending: Mutex<Option<PyErr>>,
    timed_out: AtomicBool,
}

impl Run {
    pub(crate) fn new() -> Self {
        let process = std::process::id();
        Self(Arc::new(State { process, pending: Mutex::new(None), timed_out: AtomicBool::new(false) }))
    }

    /// Whether this process is a fork of the one that has the machines.
    pub(crate) fn is_elsewhere(&self) -> bool {
        std::process::id() != self.0.process
    }

    /// Fails in a fork.
    pub(crate) fn check_here(&self) -> PyResult<()> {
        if self.is_elsewhere() {
            return Err(MachineError::new_err(
                "This process was forked by the one that has the machines, and cannot reach them: use a thread \
                 instead of os.fork()",
            ));
        }
        Ok(())
    }

    /// Whether a call has ended because the time is over.
    pub(crate) fn timed_out(&self) -> bool {
        self.0.timed_out.load(Ordering::Relaxed)
    }

    /// A hook that runs the interpreter's signal handlers; true when one of them raised.
    pub(crate) fn hook(&self) -> InterruptHook {
        let run = self.0.clone();
        Arc::new(move || {
            Python::attach(|py| match py.check_signals() {
                Ok(()) => false,
                Err(raised) => {
                    *run.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(raised);
                    true
                }
            })
        })
    }

    /// Notes what is to be raised where a call ends as interrupted.
    pub(crate) fn set_pending(&self, raised: PyErr) {
        *self.0.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(raised);
    }

    fn take(&self) -> Option<PyErr> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The exception for an error.
pub(crate) fn raised(py: Python<'_>, run: &Run, error: &Error) -> PyErr {
    let text = error.chain();
    let exception = match error.kind() {
        ErrorKind::RequestedAssertionFailed => RequestedAssertionFailed::new_err(text),
        ErrorKind::Interrupted => run.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
        ErrorKind::GlobalTimeout => {
            run.0.timed_out.store(true, Ordering::Relaxed);
            GlobalTimeout::new_err(text)
        }
        ErrorKind::Malformed => MalformedAnswer::new_err(text),
        ErrorKind::NoShell => NoShell::new_err(text),
        ErrorKind::HostFile => host_file(error, &text),
        ErrorKind::MachineError => MachineError::new_err(text),
    };
    match error.failure().map(|failure| describe(py, &exception, failure)) {
        Some(Err(other)) => other,
        _ => exception,
    }
}

/// Python makes of it the class that belongs to its number, such as `FileNotFoundError`.
fn host_file(error: &Error, text: &str) -> PyErr {
    let number = match error {
        Error::HostFile { source, .. } => source.raw_os_error(),
        _ => None,
    };
    match number {
        Some(number) => PyOSError::new_err((number, text.to_owned())),
        None => PyOSError::new_err(text.to_owned()),
    }
}

/// Puts the parts of a failure beside its text, for scripts and reports.
fn describe(py: Python<'_>, exception: &PyErr, failure: &Failure) -> PyResult<()> {
    let value = exception.value(py);
    value.setattr("machine", &failure.machine)?;
    value.setattr("command", &failure.command)?;
    value.setattr("status", failure.status)?;
    value.setattr("output", &failure.output)?;
    value.setattr("console", &failure.console)
}

/// Something that the driver's own errors do not cover.
pub(crate) fn trouble(error: impl std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}
