//! `cargo xtask wheel`: the Python package as a wheel, and the tests of an installed one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::host::{cache_dir, ensure_packages, project_root};
use crate::run::{quiet, step};

/// Makes the wheel. It is no part of Debian, and its own wheel saves a build of ten minutes.
const MATURIN: &str = "maturin==1.16.0";
/// What an installed wheel is tested with.
const PYTEST: &[&str] = &["pytest>=8", "pytest-xdist>=3.6"];
const PACKAGES: &[&str] = &["gcc", "libc6-dev", "python3", "python3-venv"];

/// Builds the wheel and gives its path.
pub(crate) fn build() -> Result<PathBuf> {
    wheel(&project_root().join("target/wheels"), &["--profile", "release"])
}

/// Tests what users install; then the same wheel's pytest plugin, built with a fake in the place of guests.
pub(crate) fn test() -> Result<()> {
    let folder = cache_dir().join("wheel-tests");
    // What other builds have compiled serves these, too.
    let target = build::target_folder()?;
    let target = target.to_str().context("The path of the build folder is not Unicode")?;
    let debug = ["--profile", "dev", "--target-dir", target];
    let users = wheel(&folder.join("wheels"), &debug)?;
    // What is there already is quickly found to be good.
    let kept = folder.join("venv");
    let python = kept.join("bin/python");
    let python = if python.is_file() { python } else { venv(&kept)? };
    quiet("install pytest", pip(&python).args(PYTEST))?;
    install(&python, &users)?;
    pytest(&python, "test_installed.py")?;
    let fake = wheel(&folder.join("wheels-testing"), &[&debug[..], &["--features", "testing"]].concat())?;
    install(&python, &fake)?;
    pytest(&python, "test_plugin.py")
}

/// Puts a wheel in the place of the one before.
fn install(python: &Path, wheel: &Path) -> Result<()> {
    quiet("install the wheel", pip(python).args(["--force-reinstall", "--no-deps"]).arg(wheel))
}

fn pytest(python: &Path, file: &str) -> Result<()> {
    let mut tests = Command::new(python);
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).env_remove("PYTHONPATH");
    tests.arg(project_root().join("crates/python/pytest-tests").join(file));
    step(&format!("tests of the wheel: {file}"), &mut tests)
}

fn wheel(folder: &Path, how: &[&str]) -> Result<PathBuf> {
    ensure_packages(PACKAGES)?;
    let tools = cache_dir().join("tools").join(MATURIN.replace("==", "-"));
    let maturin = tools.join("bin/maturin");
    if !maturin.is_file() {
        let python = venv(&tools)?;
        quiet("install maturin", pip(&python).arg(MATURIN))?;
    }
    // What an earlier build left is not to be taken for this one's.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("Cannot empty {}", folder.display()))?;
    }
    let mut build = Command::new(maturin);
    build.args(["build", "--quiet", "--locked", "--interpreter", "python3"]).args(how);
    build.arg("--out").arg(folder).current_dir(project_root().join("crates/python"));
    step("build the wheel", &mut build)?;
    let files = fs::read_dir(folder).with_context(|| format!("Cannot list {}", folder.display()))?;
    let mut wheels = files.flatten().map(|file| file.path());
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel),
        _ => bail!("maturin left not one wheel in {}", folder.display()),
    }
}

/// A new virtual environment's interpreter.
fn venv(folder: &Path) -> Result<PathBuf> {
    let mut make = Command::new("python3");
    quiet("make a virtual environment", make.args(["-m", "venv", "--clear"]).arg(folder))?;
    Ok(folder.join("bin/python"))
}

/// `pip install` as this machine is set up for it.
fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    command
}
