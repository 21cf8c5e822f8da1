//! `cargo xtask bench shell`: how long `succeed("true")` takes, and how much of that is Snowboot's.
//!
//! The same guest runs the same command line by itself, too. What a command takes longer through the driver is the
//! driver's share: its own work, its threads' wake-ups, the console device, and the guest's console driver and shell that
//! read the command and write the answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::figures::{Spread, milliseconds};
use crate::build;
use crate::demo;
use crate::guest::{self, Backdoor, Kernel};
use crate::host::{cache_dir, project_root};
use crate::lab;

/// The script that measures.
const SCRIPT: &str = "benches/shell.py";
/// Its machine.
const NODE: &str = "machine";
/// How long the run may take, in seconds. A guest's start alone takes minutes where instructions are counted.
const LIMIT: u32 = 1800;

/// Arguments of `cargo xtask bench shell`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Commands to run, each way
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Count instructions on an emulated host, also where there is hardware virtualization
    #[arg(long)]
    icount: bool,
    /// Also write the figures here, as JSON with times in microseconds
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What the script measured.
#[derive(Debug, Deserialize)]
struct Measured {
    trips_us: Vec<f64>,
    alone_us: Vec<f64>,
    /// CPU time during the round trips: of the process, and of its threads by name.
    process_cpu_us: f64,
    thread_cpu_us: BTreeMap<String, f64>,
}

/// What is told; all times in microseconds.
#[derive(Debug, PartialEq, Serialize)]
struct Figures {
    count: usize,
    /// Whether time is a count of instructions.
    icount: bool,
    round_trip_us: Spread,
    guest_alone_us: Spread,
    /// The difference of the medians.
    driver_share_us: f64,
    /// CPU time of Snowboot's process per command, the guest's own time in it.
    process_cpu_us: f64,
    thread_cpu_us: BTreeMap<String, f64>,
}

/// Measures and tells.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let icount = args.icount || !lab::has_hardware_virtualization();
    let built = build::run()?;
    let folder = cache_dir().join("bench/shell");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let toplevel = guest::make(Kernel::Cloud, &[NODE.to_owned()], &[], Backdoor::InRoot)?.folder.join(NODE);
    let manifest = folder.join("test.toml");
    fs::write(&manifest, manifest_text(&toplevel))
        .with_context(|| format!("Cannot write {}", manifest.display()))?;
    let measured = measure(&built.program, &manifest, &folder, args.count, icount)?;
    let figures = Figures::new(measured, icount).context("The script measured nothing")?;
    print!("{}", figures.table());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        fs::write(path, text).with_context(|| format!("Cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn manifest_text(toplevel: &Path) -> String {
    let script = project_root().join(SCRIPT);
    let root = toplevel.join("root.erofs");
    format!(
        "name = \"bench-shell\"\nscript = {script:?}\nglobal-timeout = {LIMIT}\n\n\
         [machines.{NODE}]\ntoplevel = {toplevel:?}\nvcpus = 1\nmemory = \"256M\"\n\
         disks = [{{ path = {root:?}, read-only = true, serial = \"root\" }}]\n"
    )
}

fn measure(program: &Path, manifest: &Path, folder: &Path, count: u32, icount: bool) -> Result<Measured> {
    let file = folder.join("figures.json");
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("Cannot remove {}", file.display()));
        }
        _ => {}
    }
    let options: &[&str] = if icount { &["--icount"] } else { &[] };
    let status = demo::lab_with(LIMIT, options)?
        .arg(program)
        .args(["test", "--quiet", "-o"])
        .args([folder, manifest])
        .env("SNOWBOOT_BENCH_COUNT", count.to_string())
        .status()
        .context("Cannot run the lab")?;
    if !status.success() {
        bail!("The measuring failed: {status}");
    }
    let text =
        fs::read(&file).with_context(|| format!("The script left no figures in {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} has other figures", file.display()))
}

impl Figures {
    fn new(measured: Measured, icount: bool) -> Option<Self> {
        let round_trip_us = Spread::of(&measured.trips_us)?;
        let guest_alone_us = Spread::of(&measured.alone_us)?;
        let count = measured.trips_us.len();
        let calls = f64::from(u32::try_from(count).ok()?);
        let threads = measured.thread_cpu_us.into_iter();
        Some(Self {
            count,
            icount,
            round_trip_us,
            guest_alone_us,
            driver_share_us: round_trip_us.median - guest_alone_us.median,
            process_cpu_us: measured.process_cpu_us / calls,
            thread_cpu_us: threads.map(|(name, time)| (name, time / calls)).collect(),
        })
    }

    fn table(&self) -> String {
        let clock = if self.icount { "of instructions, 1 ns each" } else { "of this host's clock" };
        let mut text = format!("{} x succeed(\"true\"), in milliseconds {clock}\n", self.count);
        let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<24}{value}\n"));
        line("", &Spread::head());
        line("round trip", &self.round_trip_us.row());
        line("the guest alone", &self.guest_alone_us.row());
        let time = |microseconds: f64| format!("{:>9.3}", milliseconds(microseconds));
        line(
            "Snowboot's share",
            &format!("{:9}{} (difference of the medians)", "", time(self.driver_share_us)),
        );
        line(
            "CPU time per command",
            &format!("{:9}{} (the guest's own is in it)", "", time(self.process_cpu_us)),
        );
        for (name, microseconds) in &self.thread_cpu_us {
            let remark = if name.starts_with("vcpu") { " (with the guest's)" } else { "" };
            line(&format!("  thread {name}"), &format!("{:9}{}{remark}", "", time(*microseconds)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("shell"));
        Args::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn arguments_have_defaults_and_bounds() {
        let plain = parse(&["shell"]).unwrap();
        assert_eq!((plain.count, plain.icount, plain.json), (200, false, None));
        let all = parse(&["shell", "--count", "7", "--icount", "--json", "a.json"]).unwrap();
        assert_eq!((all.count, all.icount, all.json), (7, true, Some("a.json".into())));
        assert!(parse(&["shell", "--count", "0"]).is_err());
        crate::Cli::command().debug_assert();
    }

    fn measured() -> Measured {
        let text = r#"{"count": 2, "emulated": true, "trips_us": [9000, 9400.5], "alone_us": [8500, 8600],
            "process_cpu_us": 18000, "thread_cpu_us": {"python3": 800, "vcpu0": 17000}}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_share_is_between_medians_and_cpu_time_is_per_command() {
        let figures = Figures::new(measured(), true).unwrap();
        assert_eq!((figures.count, figures.driver_share_us, figures.process_cpu_us), (2, 500.0, 9000.0));
        assert_eq!(figures.thread_cpu_us["python3"], 400.0);
        let table = figures.table();
        assert!(table.contains("Snowboot's share                     0.500 "), "{table}");
        assert!(table.contains("  thread vcpu0                       8.500 (with the guest's)"), "{table}");
    }

    #[test]
    fn nothing_measured_is_no_figures() {
        assert!(Figures::new(Measured { alone_us: Vec::new(), ..measured() }, true).is_none());
        assert!(Figures::new(Measured { trips_us: Vec::new(), ..measured() }, true).is_none());
    }
}
