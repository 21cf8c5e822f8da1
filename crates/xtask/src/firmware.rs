//! `cargo xtask firmware`: the payload that checks a machine from inside, built for no operating system.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::run::{HOST_TARGET, cargo_of_its_own, own_target, quiet, step};

const NAME: &str = "snowboot-firmware";

/// Builds the payload and prints where it is.
pub(crate) fn run() -> Result<ExitCode> {
    println!("{}", build()?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the payload and returns the path of its ELF file.
pub(crate) fn build() -> Result<PathBuf> {
    quiet("building the guest payload", &mut command(&["build", "--quiet", "--release", "--locked"]))?;
    let file = own_target("firmware").join(HOST_TARGET).join("release").join(NAME);
    ensure!(file.is_file(), "The build left no payload at {}", file.display());
    Ok(file)
}

/// Checks its format and its lints: to cargo it is not of this workspace.
pub(crate) fn check() -> Result<()> {
    step("format of the payload", &mut command(&["fmt", "--check"]))?;
    let lints = ["clippy", "--quiet", "--release", "--locked", "--", "-D", "warnings"];
    step("clippy on the payload", &mut command(&lints))
}

fn command(arguments: &[&str]) -> Command {
    cargo_of_its_own("firmware", arguments)
}
