//! `cargo xtask bench`: figures of whole guests and of single parts, one benchmark per module.

mod boot;
mod figures;
mod micro;
mod network;
mod results;
mod script;
mod shell;
mod storage;

use std::process::ExitCode;

use anyhow::Result;

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench boot --firecracker ./firecracker
  cargo xtask bench shell
  cargo xtask bench storage --firecracker ./firecracker --jobs disk
  cargo xtask bench network --firecracker ./firecracker --jobs tcp -n 5
  cargo xtask bench shell --count 50 --json target/shell.json
  cargo xtask bench micro
  cargo xtask bench micro switch -- --quick

Without hardware virtualization whole guests run on an emulated host where time is a count of instructions, each taken for a
nanosecond: such figures repeat to a few percent on a busy machine, and compare with one another only.";

/// Arguments of `cargo xtask bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// The benchmarks.
#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Whether the targets for the time and memory of a boot are held, beside other VMMs
    Boot(boot::Args),
    /// How long a command in a guest takes, and how much of that is Snowboot's
    Shell(shell::Args),
    /// What disks and shared folders cost, beside other VMMs
    Storage(storage::Args),
    /// What traffic between guests, and with the host, costs, beside other VMMs
    Network(network::Args),
    /// How long single parts take, without a guest: queues, the switch, tables, kernels, the serial port
    Micro(micro::Args),
}

/// Runs one.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Boot(args) => boot::run(args),
        What::Shell(args) => shell::run(args),
        What::Storage(args) => storage::run(args),
        What::Network(args) => network::run(args),
        What::Micro(args) => micro::run(args),
    }
}
