//! Building what users get: the program, and the Python package beside it where the program finds it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::project_root;
use crate::run::{cargo, step};

/// What was built.
pub(crate) struct Built {
    /// The program.
    pub(crate) program: PathBuf,
    /// The folder that holds the Python package; `PYTHONPATH` for those who import it.
    pub(crate) python: PathBuf,
}

/// Builds the program and the Python package.
pub(crate) fn run() -> Result<Built> {
    let profile = profile_folder()?;
    step("build", &mut cargo(&["build", "--quiet", "-p", "snowboot-cli", "-p", "snowboot-python"]))?;
    let python = profile.join("python");
    assemble(&python, &profile.join("lib_native.so"))?;
    Ok(Built { program: profile.join("snowboot"), python })
}

/// Builds the package with the feature for its own tests, in a folder of its own.
pub(crate) fn python_for_tests() -> Result<PathBuf> {
    let profile = profile_folder()?;
    let folder = profile.join("python-testing");
    let build = &["build", "--quiet", "-p", "snowboot-python", "--features", "testing", "--target-dir"];
    let target = profile.join("python-testing-build");
    step("build the Python package for its tests", cargo(build).arg(&target))?;
    assemble(&folder, &target.join("debug/lib_native.so"))?;
    Ok(folder)
}

/// Where cargo puts what it builds: this very program is there.
fn profile_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("Cannot tell where this program is")?;
    Ok(program.parent().context("This program is in no folder")?.to_owned())
}

/// Puts the package's Python files and its native part together in `folder`. An interpreter that has the old native
/// part mapped keeps it: files are replaced, not written over.
fn assemble(folder: &Path, native: &Path) -> Result<()> {
    let source = project_root().join("crates/python/python/snowboot");
    let package = folder.join("snowboot");
    fs::create_dir_all(&package).with_context(|| format!("Cannot make the folder {}", package.display()))?;
    for entry in fs::read_dir(&source).with_context(|| format!("Cannot list {}", source.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else { continue };
        replace(&path, &package.join(name))?;
    }
    replace(native, &package.join("_native.so"))
}

fn replace(from: &Path, to: &Path) -> Result<()> {
    let scratch = to.with_extension("new");
    fs::copy(from, &scratch)
        .and_then(|_| fs::rename(&scratch, to))
        .with_context(|| format!("Cannot copy {} to {}", from.display(), to.display()))
}
