//! Building what users get: the program, and the Python package beside it where the program finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::{ensure_packages, project_root};
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

/// What linking the program needs; the static C library is in `libc6-dev`.
const PACKAGES: &[&str] = &["gcc", "libc6-dev"];

/// How the program is linked for users: with the C library in it, so that a start loads and relocates no libraries, and
/// with its own relocations packed (a tenth of the pages to read). Only the program: a Python module cannot be static.
const LINKED: &[&str] = &["-Ctarget-feature=+crt-static", "-Clink-arg=-Wl,-z,pack-relative-relocs"];

/// Builds the program as users get it, and gives its path.
pub(crate) fn dist() -> Result<PathBuf> {
    ensure_packages(PACKAGES)?;
    let target = project_root().join("target");
    let mut build = cargo(&["rustc", "--quiet", "--locked", "--profile", "dist", "--target-dir"]);
    build.arg(&target).args(["-p", "snowboot-cli", "--bin", "snowboot", "--"]).args(LINKED);
    step("build the program for users", &mut build)?;
    Ok(target.join("dist/snowboot"))
}

/// Builds the package with the feature for its own tests, in a folder of its own.
pub(crate) fn python_for_tests() -> Result<PathBuf> {
    let profile = profile_folder()?;
    let folder = profile.join("python-testing");
    let build = &["build", "--quiet", "-p", "snowboot-python", "--features", "testing"];
    step("build the Python package for its tests", &mut cargo(build))?;
    assemble(&folder, &profile.join("lib_native.so"))?;
    Ok(folder)
}

/// Builds a package's integration test with a feature, and gives its program.
pub(crate) fn test_program(package: &str, test: &str, feature: &str) -> Result<PathBuf> {
    let mut build = cargo(&["test", "--quiet", "-p", package, "--features", feature, "--test", test]);
    build.args(["--no-run", "--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = build.output().context("Cannot run cargo")?;
    if !output.status.success() {
        bail!("Building the test {test} of {package} failed: cargo ended with {}", output.status);
    }
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let mut messages = messages.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let ours = |message: &Value| message["target"]["name"] == test && message["executable"].is_string();
    let path = messages.find(ours).and_then(|message| message["executable"].as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo does not tell where the test {test} of {package} is"))
}

/// Where cargo keeps what it builds, of all profiles.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let profile = profile_folder()?;
    profile.parent().map(Path::to_owned).context("The folder of a profile is in no folder")
}

/// Where Python keeps what it compiled.
const CACHE: &str = "__pycache__";

/// Where cargo puts what it builds: this very program is there.
fn profile_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("Cannot tell where this program is")?;
    Ok(program.parent().context("This program is in no folder")?.to_owned())
}

/// Puts the Python files and the native part together in `folder`. An interpreter that has the old native part mapped
/// keeps it: files are replaced, not written over.
fn assemble(folder: &Path, native: &Path) -> Result<()> {
    copy_sources(&project_root().join("crates/python/python"), folder)?;
    replace(native, &folder.join("snowboot/_native.so"))?;
    // As an installation does. Whoever runs the package may not be able to keep what Python compiles, or have told it not
    // to, and would wait for the compiler in every test. Without it the package works all the same.
    let _ = Command::new("python3").args(["-m", "compileall", "-q"]).arg(folder).status();
    Ok(())
}

/// Copies a folder's files, and removes those that are no longer in it: a stale module would hide that one is missing.
fn copy_sources(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("Cannot make the folder {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("Cannot list {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        match entry.file_type()?.is_dir() {
            true if name == CACHE => {}
            true => copy_sources(&entry.path(), &to.join(name))?,
            false => replace(&entry.path(), &to.join(name))?,
        }
    }
    for entry in fs::read_dir(to).with_context(|| format!("Cannot list {}", to.display()))? {
        let path = entry?.path();
        let is_source = path.extension().is_some_and(|it| it == "py" || it == "pyi");
        if is_source && path.file_name().is_some_and(|name| !from.join(name).exists()) {
            fs::remove_file(&path).with_context(|| format!("Cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A file that has not changed stays: what Python compiled of it is known by its time.
fn replace(from: &Path, to: &Path) -> Result<()> {
    if fs::read(from).ok().is_some_and(|bytes| fs::read(to).is_ok_and(|old| old == bytes)) {
        return Ok(());
    }
    let scratch = to.with_extension("new");
    fs::copy(from, &scratch)
        .and_then(|_| fs::rename(&scratch, to))
        .with_context(|| format!("Cannot copy {} to {}", from.display(), to.display()))
}
