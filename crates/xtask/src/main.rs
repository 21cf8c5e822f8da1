//! Snowboot's own chores: `cargo xtask lab`, `guest`, `firmware`, `fuzz`, `demo`, `bench`, `test`.
//!
//! This package depends on none of Snowboot's crates: it runs cargo and Debian's tools and reads their output.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod debs;
mod demo;
mod firmware;
mod fuzz;
mod guest;
mod guest_tests;
mod host;
mod lab;
mod nix;
mod run;
mod test;
mod tidy;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Snowboot's chores. Every one does its own set-up on a fresh Debian machine.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run a command as root on a KVM host, emulated where there is no hardware virtualization
    Lab(lab::Args),
    /// The lab's own process 1 on the emulated host
    #[command(hide = true)]
    LabAgent,
    /// Make NixOS-shaped guests from Debian packages and print where they are
    Guest(guest::Args),
    /// Build everything, make two guests, let them ping each other, and tell how that went
    Demo(demo::Args),
    /// Measure whole guests
    Bench(bench::Args),
    /// Build the program and the Python package
    Build,
    /// Build the program as users get it (small, static, slow to build) and print where it is
    Dist,
    /// Build the payload that checks a machine from inside and print where it is
    Firmware,
    /// Look for what a hostile guest could do to the servers of shares
    Fuzz(fuzz::Args),
    /// Build the Python package as a wheel and print where it is
    Wheel,
    /// Run every check that has to hold before a change lands
    Test(test::Args),
}

fn main() -> ExitCode {
    run(Cli::parse().chore).unwrap_or_else(|error| {
        eprintln!("xtask: error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(chore: Chore) -> anyhow::Result<ExitCode> {
    match chore {
        Chore::Lab(args) => lab::run(&args),
        Chore::LabAgent => lab::run_agent(),
        Chore::Guest(args) => guest::run(&args),
        Chore::Demo(args) => demo::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Build => {
            let built = build::run()?;
            println!("{}\n{}", built.program.display(), built.python.display());
            Ok(ExitCode::SUCCESS)
        }
        Chore::Dist => {
            println!("{}", build::dist()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Chore::Firmware => firmware::run(),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Wheel => {
            println!("{}", wheel::build()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Chore::Test(args) => test::run(&args),
    }
}
