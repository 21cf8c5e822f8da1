//! `cargo xtask firmware`: the payload that checks a machine from inside, built for no operating system.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};

use crate::host::project_root;
use crate::run::{cargo, quiet, step};

/// The host's target, named: flags for the payload must not reach the build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const NAME: &str = "snowboot-firmware";

/// Builds the payload and prints where it is.
pub(crate) fn run() -> Result<ExitCode> {
    println!("{}", build()?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the payload and returns the path of its ELF file.
pub(crate) fn build() -> Result<PathBuf> {
    quiet("building the guest payload", &mut command(&["build", "--quiet", "--release", "--locked"]))?;
    let file = target_dir().join(TARGET).join("release").join(NAME);
    ensure!(file.is_file(), "The build left no payload at {}", file.display());
    Ok(file)
}

/// Checks its format and its lints: to cargo it is not of this workspace.
pub(crate) fn check() -> Result<()> {
    step("format of the payload", &mut command(&["fmt", "--check"]))?;
    let lints = ["clippy", "--quiet", "--release", "--locked", "--", "-D", "warnings"];
    step("clippy on the payload", &mut command(&lints))
}

fn target_dir() -> PathBuf {
    project_root().join("target").join("firmware")
}

/// Cargo in the payload's own workspace, whose `.cargo/config.toml` says how it is compiled.
fn command(arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command.current_dir(project_root().join("firmware")).env("CARGO_TARGET_DIR", target_dir());
    // Flags in the environment would replace those of that file.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}
