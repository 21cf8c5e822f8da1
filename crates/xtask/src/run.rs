//! Running a program as one step of a chore: its name, its time, and its output where it fails.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use crate::host::project_root;

/// The host's target, named by workspaces of their own so that their flags do not reach build scripts.
pub(crate) const HOST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs `command` with its output passed through, and fails when it fails.
pub(crate) fn step(title: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("Cannot run {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{title} failed: {} ended with {status}", command.get_program().to_string_lossy());
    }
    eprintln!("    {title}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// `cargo ARGUMENTS` at the project's root, with the two jobs that fit the machines this is built on.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(project_root());
    command
}

/// `cargo ARGUMENTS` in a folder that is a workspace of its own, whose `.cargo/config.toml` says how it is compiled: for
/// [`HOST_TARGET`], into [`own_target`].
pub(crate) fn cargo_of_its_own(folder: &str, arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command.current_dir(project_root().join(folder)).env("CARGO_TARGET_DIR", own_target(folder));
    // Flags in the environment would replace those of that file.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// Where a workspace of its own is built.
pub(crate) fn own_target(folder: &str) -> PathBuf {
    project_root().join("target").join(folder)
}

/// Runs `command` silently under a spinner, or a plain line where there is no terminal; shows its output when it fails.
pub(crate) fn quiet(title: &str, command: &mut Command) -> Result<()> {
    let progress = ProgressBar::new_spinner().with_message(title.to_owned());
    if progress.is_hidden() {
        eprintln!("xtask: {title}");
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    let start = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Cannot run {}", command.get_program().to_string_lossy()))?;
    progress.finish_and_clear();
    if progress.is_hidden() {
        eprintln!("    {title}: {:.1} s", start.elapsed().as_secs_f64());
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{title} failed ({}):\n{}", output.status, text.trim_end());
    }
    Ok(())
}
