//! `snowboot check`: looks at a test without running it. The manifest and its files are checked here, the script by
//! Snowboot's Python package and the tools that it finds.

use std::os::unix::process::CommandExt;
use std::path::{self, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::python::{CHECK, Python};
use crate::test;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The test: a TOML file, or JSON where its name ends in .json
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    #[command(flatten)]
    skip: Skip,
}

const AFTER_HELP: &str = "\
Checked are the manifest and the files that it names, the script's syntax and names, its types by ty or mypy, and its
lint by ruff. A tool that is not installed is left out, and said to be.

Exit status:
  0  nothing is wrong with what was checked
  1  something is, or could not be checked
  2  the command line is wrong

Examples:
  snowboot check ping.toml
  pip install ty ruff && snowboot check ping.toml";

/// What is not to be checked.
#[derive(Debug, clap::Args)]
pub(crate) struct Skip {
    /// Do not check the types of the script
    #[arg(long)]
    skip_type_check: bool,
    /// Do not lint the script, nor look for names that are not there
    #[arg(long)]
    skip_lint: bool,
}

impl Skip {
    /// Tells Python.
    pub(crate) fn hand_over(&self, command: &mut Command) {
        for (is_set, option) in [(self.skip_type_check, "--skip-type-check"), (self.skip_lint, "--skip-lint")]
        {
            if is_set {
                command.arg(option);
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    test::check(&args.manifest)?;
    let manifest = path::absolute(&args.manifest)
        .with_context(|| format!("Cannot tell where {} is", args.manifest.display()))?;
    let mut command = Python::find()?.module(CHECK);
    command.arg(manifest);
    args.skip.hand_over(&mut command);
    let error = command.exec();
    Err(error).with_context(|| format!("Cannot run {}", command.get_program().display()))
}
