//! Errors of the driver as the exceptions that scripts know.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use snowboot_driver::{Error, ErrorKind, Failure, InterruptHook};

pyo3::import_exception!(snowboot.errors, MachineError);
pyo3::import_exception!(snowboot.errors, ManifestError);
pyo3::import_exception!(snowboot.errors, RequestedAssertionFailed);

/// What a signal handler raised during a wait, until the wait has ended and can raise it.
#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<Option<PyErr>>>);

impl Pending {
    /// A hook that runs the interpreter's signal handlers; true when one of them raised.
    pub(crate) fn hook(&self) -> InterruptHook {
        let pending = self.0.clone();
        Arc::new(move || {
            Python::attach(|py| match py.check_signals() {
                Ok(()) => false,
                Err(raised) => {
                    *pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(raised);
                    true
                }
            })
        })
    }

    fn take(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The exception for an error.
pub(crate) fn raised(py: Python<'_>, pending: &Pending, error: &Error) -> PyErr {
    let text = error.chain();
    let exception = match error.kind() {
        ErrorKind::RequestedAssertionFailed => RequestedAssertionFailed::new_err(text),
        ErrorKind::Interrupted => pending.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
        ErrorKind::MachineError | ErrorKind::Malformed | ErrorKind::GlobalTimeout => {
            MachineError::new_err(text)
        }
    };
    match error.failure().map(|failure| describe(py, &exception, failure)) {
        Some(Err(other)) => other,
        _ => exception,
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
