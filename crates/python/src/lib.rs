//! The extension module `snowboot._native`: the Rust driver as plain Python objects.
//!
//! It only translates: values, errors, and who holds the interpreter. Every call that can take time lets go of it, and
//! asks it every [`snowboot_driver::TICK`] for signals, so that Ctrl-C ends a wait. How scripts see all this (names,
//! durations, context managers) is decided in the Python package around it.

mod errors;
mod machine;
mod network;
mod reports;
mod run;
mod source;

use pyo3::prelude::*;

/// The native part of the `snowboot` package.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<run::Driver>()?;
    module.add_class::<run::Block>()?;
    module.add_class::<machine::Machine>()?;
    module.add_class::<network::Capture>()?;
    module.add_class::<reports::Reports>()?;
    Ok(())
}
