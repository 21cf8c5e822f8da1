//! `cargo xtask fuzz`: what hostile guests, and clients of a machine's monitors, may say, made up by libFuzzer.
//!
//! The targets are a workspace of their own, `fuzz/`, laid out as `cargo fuzz` has it; this needs no more than stable Rust
//! and a C++ compiler.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::host::ensure_packages;
use crate::run::{HOST_TARGET, cargo_of_its_own, own_target, quiet, step};

const TARGETS: &[&str] = &["arguments", "fuse", "gateway", "monitor", "ninep", "qmp", "switch", "uplink"];
/// libFuzzer itself is C++.
const PACKAGES: &[&str] = &["g++"];
/// A story of more bytes than this is made of repetitions.
const MOST_BYTES: u32 = 4096;
/// No message may keep a server for so many seconds.
const LONGEST_STORY: u32 = 20;

/// Arguments of `cargo xtask fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to try: arguments, monitor and qmp are what `snowboot vm` is told, fuse and ninep are shares, gateway, switch and
    /// uplink are networks; all when none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,
    /// How long, for each
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    seconds: u32,
}

/// Fuzzes what was named.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure_packages(PACKAGES)?;
    build()?;
    for target in TARGETS {
        if args.targets.is_empty() || args.targets.iter().any(|named| named == target) {
            fuzz(target, args.seconds)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Fuzzes each target for so many seconds, beginning with what was found before.
pub(crate) fn run_all(seconds: u32) -> Result<()> {
    build()?;
    TARGETS.iter().try_for_each(|target| fuzz(target, seconds))
}

/// Checks the format of the targets: to cargo they are not of this workspace.
pub(crate) fn check() -> Result<()> {
    step("format of the fuzz targets", &mut command(&["fmt", "--check"]))
}

fn build() -> Result<()> {
    quiet("building the fuzz targets", &mut command(&["build", "--quiet", "--release", "--locked"]))
}

fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let folder = own_target("fuzz");
    let program = folder.join(HOST_TARGET).join("release").join(target);
    ensure!(program.is_file(), "The build left no fuzz target at {}", program.display());
    let (corpus, found) = (folder.join("corpus").join(target), folder.join("found").join(target));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer.arg(&corpus).arg(format!("-artifact_prefix={}/", found.display()));
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={MOST_BYTES}"));
    // Long stories from the start: short ones are soon told.
    fuzzer.arg("-len_control=0").arg(format!("-timeout={LONGEST_STORY}"));
    fuzzer.args(["-verbosity=0", "-print_final_stats=1"]);
    step(&format!("fuzz {target} for {seconds} s"), &mut fuzzer)
        .with_context(|| format!("What made it fail is in {}", found.display()))
}

fn command(arguments: &[&str]) -> Command {
    cargo_of_its_own("fuzz", arguments)
}
