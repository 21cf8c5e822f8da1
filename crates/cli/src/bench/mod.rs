//! `snowboot bench`: Snowboot measured, and other VMMs beside it.
//!
//! ```text
//!  args ─► plan (configurations) ─► rounds of measure ─► results ─► report, baseline
//!                  │                        │
//!            vmm, initrd             memory, interrupt
//! ```

mod args;
mod baseline;
mod cpu;
mod initrd;
mod interrupt;
mod limit;
mod machines;
mod measure;
mod memory;
mod plan;
mod progress;
mod report;
mod results;
mod rounds;
mod stats;
mod vmm;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::args::BootArgs;
use self::interrupt::Interrupt;
use self::limit::Clock;
use self::measure::Terms;
use self::plan::Plan;
use self::results::{Host, KIND, Results, SCHEMA, Settings};
use self::rounds::Rounds;
use crate::report::Destination;
use crate::{exit, generate, say};

/// Measure Snowboot, and other VMMs beside it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measure how fast a kernel boots, to the first line of its init
    Boot(Box<BootArgs>),
    /// Run several machines of one kernel in this process, which `boot --machines` measures
    #[command(hide = true)]
    Machines(machines::MachinesArgs),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Boot(args) => boot(args),
        Command::Machines(args) => machines::run(args),
    }
}

fn boot(args: &BootArgs) -> Result<ExitCode> {
    let before = args.baseline.as_deref().map(Results::read).transpose()?;
    let files = Outputs::prepare(args)?;
    // From here on a signal ends it in order, so that no folder is left behind.
    let interrupt = Interrupt::watch()?;
    let folder = tempfile::Builder::new()
        .prefix("snowboot-bench-")
        .tempdir()
        .context("Cannot make a folder for temporary files; TMPDIR can name another place")?;
    let plan = plan::make(args, folder.path())?;
    let host = Host::here();
    let settings = settings(args, &plan, &host);
    let terms = Terms {
        marker: &plan.marker,
        timeout: Duration::from_secs(settings.timeout_seconds),
        clock: if host.emulated { Clock::Battery } else { Clock::Kernel },
        interrupt,
    };
    let mut rounds = Rounds::prepare(args, &plan, terms, folder.path())?;
    if let Some(signal) = rounds.run()? {
        say::line("snowboot: ended by a signal; there are no results");
        return Ok(exit::of_signal(signal).into());
    }
    let now = Results {
        schema: SCHEMA,
        kind: KIND.to_owned(),
        snowboot: env!("CARGO_PKG_VERSION").to_owned(),
        debug_build: cfg!(debug_assertions),
        host,
        settings,
        configurations: rounds.measured(),
        left_out: plan.left_out,
    };
    files.write(&now)?;
    generate::print(report::table::text(&now).as_bytes())?;
    match before {
        Some(before) => compare(args, &before, &now),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn settings(args: &BootArgs, plan: &Plan, host: &Host) -> Settings {
    Settings {
        memory_bytes: args.memory.bytes(),
        vcpus: args.vcpus.get(),
        runs: args.runs,
        warm_up: args.warm_up,
        marker: plan.marker.clone(),
        timeout_seconds: args.timeout(host.emulated),
        cold_cache: args.cold_cache,
        same_cmdline: plan.same_cmdline,
    }
}

/// Says what changed, and whether that is allowed.
fn compare(args: &BootArgs, before: &Results, now: &Results) -> Result<ExitCode> {
    let changes = baseline::compare(before, now, args.allow);
    let doubts = baseline::doubts(before, now);
    generate::print(report::table::changes(&changes, &doubts).as_bytes())?;
    if changes.is_empty() {
        bail!("The baseline has none of these configurations; measure the same ones");
    }
    if !changes.iter().any(|change| change.is_regression) {
        return Ok(ExitCode::SUCCESS);
    }
    say::line(&format!(
        "snowboot: Snowboot is slower than in the baseline by more than {} %, and not by chance",
        args.allow
    ));
    Ok(exit::HOST_ERROR.into())
}

/// Makes one form of the results.
type Form = fn(&Results) -> Result<String>;

/// The files that were asked for.
#[derive(Debug)]
struct Outputs {
    destinations: Vec<(Destination, Form)>,
}

impl Outputs {
    /// Finds out now whether they can be written at the end.
    fn prepare(args: &BootArgs) -> Result<Self> {
        let files = &args.files;
        let wanted: [(_, Form); 4] = [
            (&files.json, report::json::text),
            (&files.csv, report::csv::text),
            (&files.svg, report::svg::text),
            (&files.html, report::html::text),
        ];
        let mut destinations: Vec<(Destination, Form)> = Vec::new();
        for (path, text) in wanted {
            let Some(path) = path else { continue };
            if args.baseline.as_deref().is_some_and(|baseline| is_same(baseline, path)) {
                bail!("{} is the baseline; write to another file", path.display());
            }
            let destination = Destination::prepare(path)?;
            if destinations.iter().any(|(other, _)| other.path() == destination.path()) {
                bail!("{} is named for two reports; write to different files", path.display());
            }
            destinations.push((destination, text));
        }
        Ok(Self { destinations })
    }

    fn write(&self, results: &Results) -> Result<()> {
        self.destinations
            .iter()
            .try_for_each(|(destination, text)| destination.write_bytes(text(results)?.as_bytes()))
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
