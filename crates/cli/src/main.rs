//! The `snowboot` program: parses, calls the libraries, prints.
//!
//! # Invariants
//! * What a guest writes goes to the standard output and nowhere else; what Snowboot itself has to say goes to the
//!   standard error.
//! * A terminal that was put into raw mode is back in its own mode before the program says another word.
//! * The exit statuses are those of `docs/exit-codes.md`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::expect_used))]

mod bench;
mod check;
mod descriptors;
mod disk;
mod doctor;
mod driver_entry;
mod exit;
mod generate;
mod kernel;
mod kvm_device;
mod net;
mod python;
mod report;
mod reports;
mod run;
mod say;
mod share;
mod store;
mod switch;
mod test;
mod topology;
mod vhost_user;
mod vm;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const LOG_VARIABLE: &str = "SNOWBOOT_LOG";

const AFTER_HELP: &str = "\
Examples:
  snowboot doctor                                   Can this host run guests?
  snowboot run ./result                             Boot a NixOS toplevel on this terminal
  snowboot run --kernel bzImage --initrd initrd     Boot a kernel
  snowboot test test.toml -o artifacts              Run a test
  snowboot test -I test.toml                        Try out commands on its machines
  snowboot check test.toml                          Check a test without running it
  exec snowboot vm --config m.json --name m --number 1 \"$@\"
                                                    Be a NixOS machine's start script
  snowboot bench boot --kernel bzImage              Measure how fast a kernel boots
  snowboot store image ./rootfs -o rootfs.erofs     Make a folder a read-only disk for guests

Environment:
  SNOWBOOT_LOG          What to log on the standard error, such as info or snowboot_vmm=debug [default: warn]
  SNOWBOOT_KVM_DEVICE   The KVM device, where --kvm-device does not name it [default: /dev/kvm]
  SNOWBOOT_PYTHON       The Python interpreter for tests [default: python3]
  SNOWBOOT_PYTHON_PATH  The folder that holds the Python package `snowboot`

`snowboot COMMAND --help` tells more, with the exit statuses of the command.";

/// Run virtual machines and NixOS-style tests on KVM
#[derive(Parser)]
#[command(name = "snowboot", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one machine, with its serial console on this terminal
    Run(Box<run::Args>),
    /// Run a test: its machines, networks and Python script
    Test(test::Args),
    /// Check a test without running it
    Check(check::Args),
    /// Run a test with the command line of the NixOS test driver
    NixosTestDriver(driver_entry::Args),
    /// Run a machine as the start script of a NixOS machine runs QEMU
    Vm(vm::Args),
    /// Join machines of other VMMs, interfaces of this host and switches of other hosts
    Switch(switch::Args),
    /// Measure Snowboot, and other VMMs beside it
    Bench(bench::Args),
    /// Make store images: read-only file systems for guests
    #[command(subcommand)]
    Store(store::Command),
    /// Work on kernels
    #[command(subcommand)]
    Kernel(kernel::Command),
    /// Say what this host can do and what is missing
    Doctor(doctor::Args),
    /// Print a completion script for a shell
    Completions(generate::CompletionsArgs),
    /// Print the manual page, or write all of them to a folder
    Man(generate::ManArgs),
}

fn main() -> ExitCode {
    let command = match driver_entry::called_by_name(std::env::args_os()) {
        Some(args) => Command::NixosTestDriver(args),
        None => Cli::parse().command,
    };
    start_log().and_then(|()| dispatch(command)).unwrap_or_else(|error| {
        say::line(&format!("snowboot: error: {}", say::one_line(&error)));
        exit::HOST_ERROR.into()
    })
}

fn dispatch(command: Command) -> Result<ExitCode> {
    if matches!(command, Command::Run(_) | Command::Test(_) | Command::NixosTestDriver(_) | Command::Vm(_)) {
        descriptors::raise_limit();
    }
    match command {
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Check(args) => check::run(&args),
        Command::NixosTestDriver(args) => driver_entry::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Switch(args) => switch::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Store(command) => store::run(&command),
        Command::Kernel(command) => kernel::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}

fn start_log() -> Result<()> {
    let log = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).compact();
    tracing_subscriber::registry().with(log_filter()?).with(log).init();
    Ok(())
}

/// What is logged. By target and level alone: a filter for spans brings a regular-expression engine along.
fn log_filter() -> Result<Targets> {
    let wanted = std::env::var_os(LOG_VARIABLE).unwrap_or_default();
    if wanted.is_empty() {
        return Ok(Targets::new().with_default(LevelFilter::WARN));
    }
    wanted.to_string_lossy().parse().with_context(|| {
        format!("{LOG_VARIABLE} is not a log filter; write a level such as info, or snowboot_vmm=debug")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_one_line_that_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().unwrap().to_string();
            assert!(!about.contains('\n') && !about.ends_with('.'), "{about}");
        }
    }
}
