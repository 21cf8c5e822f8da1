//! The measuring part of a benchmark of whole guests: a program in the lab that leaves its figures as JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

/// The program's exit status when a VMM ended, or was stuck, in the middle.
const SOME_MISSING: i32 = 3;

/// Where the program leaves its figures.
pub(super) fn figures_in(folder: &Path) -> PathBuf {
    folder.join("figures.json")
}

/// What VMMs and guests said.
pub(super) fn log_of(folder: &Path) -> PathBuf {
    folder.join("figures.json.log")
}

/// Runs `command` with its files, and Firecracker's program if there is one; the figures, and whether none is missing.
pub(super) fn measure<T: DeserializeOwned>(
    mut command: Command,
    files: &[(&str, &Path)],
    firecracker: Option<&Path>,
    folder: &Path,
) -> Result<(T, bool)> {
    let file = figures_in(folder);
    for (option, value) in files {
        command.arg(option).arg(value);
    }
    command.arg("--json").arg(&file);
    if let Some(firecracker) = firecracker {
        let firecracker = std::path::absolute(firecracker).context("Cannot tell where Firecracker is")?;
        command.arg("--firecracker").arg(firecracker);
    }
    let status = command.status().context("Cannot run the lab")?;
    let all_ended = status.success();
    if !all_ended && status.code() != Some(SOME_MISSING) {
        bail!("The measuring failed: {status}; what was said is in {}", log_of(folder).display());
    }
    let text =
        fs::read(&file).with_context(|| format!("The script left no figures in {}", file.display()))?;
    let figures =
        serde_json::from_slice(&text).with_context(|| format!("{} has other figures", file.display()))?;
    Ok((figures, all_ended))
}
