//! Where a run's machines are described: in a manifest, or one by one as for the NixOS test driver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use snowboot_config::{Manifest, NodeConfig, Script};

use crate::errors::ManifestError;

/// What Python gives: a path, or a `snowboot.driver_config.DriverConfig`.
#[derive(FromPyObject)]
pub(crate) enum Source {
    /// A manifest.
    Manifest(PathBuf),
    /// A description per machine.
    Machines(Machines),
}

/// The attributes of a `DriverConfig` that matter here.
#[derive(FromPyObject)]
pub(crate) struct Machines {
    name: String,
    test_script: PathBuf,
    global_timeout: u64,
    vms: BTreeMap<String, PathBuf>,
}

impl Source {
    /// Reads it.
    pub(crate) fn read(&self) -> PyResult<Manifest> {
        match self {
            Self::Manifest(path) => {
                let (path, text) = text("manifest", path)?;
                Manifest::parse(&path, &text).map_err(wrong)
            }
            Self::Machines(source) => source.read(),
        }
    }
}

impl Machines {
    fn read(&self) -> PyResult<Manifest> {
        let mut machines = BTreeMap::new();
        for (name, path) in &self.vms {
            let (path, text) = text("machine description", path)?;
            if text.starts_with("#!") {
                return Err(ManifestError::new_err(format!(
                    "{}: this is a program, such as the start script of a QEMU machine; give the machine's \
                     description, a TOML or JSON file",
                    path.display()
                )));
            }
            machines.insert(name.clone(), NodeConfig::parse(name, &path, &text).map_err(wrong)?);
        }
        let script = Script::File(absolute(&self.test_script)?);
        Manifest::of_machines(&self.name, script, self.global_timeout, machines).map_err(wrong)
    }
}

/// A file's text. The paths in it are joined to its own folder, which is to be the same one when the script has changed
/// the current folder.
fn text(what: &str, path: &Path) -> PyResult<(PathBuf, String)> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ManifestError::new_err(format!("Cannot read the {what} {}: {error}", path.display()))
    })?;
    Ok((absolute(path)?, text))
}

pub(crate) fn absolute(path: &Path) -> PyResult<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| ManifestError::new_err(format!("Cannot tell where {} is: {error}", path.display())))
}

fn wrong(error: snowboot_config::ManifestError) -> PyErr {
    ManifestError::new_err(error.to_string())
}
