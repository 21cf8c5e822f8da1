//! `snowboot nixos-test-driver`, also under the name `nixos-test-driver`: the command line of the NixOS test driver, for
//! what calls it. Snowboot's Python package reads it with the parser that the original has, so abbreviations, variables
//! and messages are the same.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::python::{DRIVER_ENTRY, Python};

/// The name that the NixOS test framework calls its driver by.
const NAME: &str = "nixos-test-driver";

#[derive(Debug, clap::Args)]
// The options, --help among them, are the driver's own.
#[command(disable_help_flag = true, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Options of the NixOS test driver: `snowboot nixos-test-driver --help` lists them
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Machines are described by files, TOML or JSON, in the place of the NixOS test driver's start scripts. A link to this
program by the name nixos-test-driver does the same.

Exit status:
  0    the test passed
  1    it failed, or could not be run
  2    the command line is wrong
  143  its global timeout was over, or SIGTERM ended it";

/// The arguments, when the program was called by the driver's name.
pub(crate) fn called_by_name(mut arguments: impl Iterator<Item = OsString>) -> Option<Args> {
    let program = arguments.next()?;
    let is_driver = Path::new(&program).file_name().is_some_and(|name| name == NAME);
    is_driver.then(|| Args { arguments: arguments.collect() })
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = Python::find()?.module(DRIVER_ENTRY);
    command.args(&args.arguments);
    let error = command.exec();
    Err(error).with_context(|| format!("Cannot run {}", command.get_program().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_driver_s_own_name_is_its() {
        for (program, expected) in
            [("/x/nixos-test-driver", true), ("snowboot", false), ("/nixos-test-driver/s", false)]
        {
            let arguments = [program, "-c"].map(OsString::from).into_iter();
            let found = called_by_name(arguments).map(|args| args.arguments);
            assert_eq!(found, expected.then(|| vec![OsString::from("-c")]), "{program}");
        }
    }
}
