//! `cargo xtask bench network`: what traffic between guests, and from a guest to its host, costs beside other VMMs.
//!
//! ```text
//!  one guest in an initrd ─► lab: benches/network.py (each way in turn, in rounds) ─► JSON ─► table with targets
//! ```

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use self::report::Figure;
use super::results::{Results, said};
use super::script;
use crate::build;
use crate::debs::write_atomically;
use crate::demo;
use crate::guest::{self, Kernel};
use crate::host::{cache_dir, ensure_packages, project_root};
use crate::lab;
use crate::run::{cargo, step};

/// As in the marks of a file of results.
const NAME: &str = "network";
/// Process 1 of the guest, and all of it.
const INIT: &str = include_str!("init.sh");
/// The measuring part.
const SCRIPT: &str = "benches/network.py";
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "af_packet"];
const PACKAGES: &[&str] = &["iperf3", "iproute2", "passt", "qemu-system-x86", "vde2"];
const IPERF: &str = "/usr/bin/iperf3";
/// Where VMMs read from; in the lab, the machine's files come over a network file system.
const STAGE: &str = "/dev/shm/snowboot-bench";
/// How long all of it may take, in seconds.
const LIMIT: u32 = 4 * 3600;
/// What can be measured, as `--jobs` names it.
const JOBS: [&str; 4] = ["tcp", "trips", "udp", ALONE];
/// The job that has one guest.
const ALONE: &str = "gateway";

/// Arguments of `cargo xtask bench network`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Firecracker's program; without it its guests are not measured
    #[arg(long, value_name = "PATH")]
    firecracker: Option<PathBuf>,
    /// Snowboot's program, instead of building the one for users
    #[arg(long, value_name = "PATH")]
    snowboot: Option<PathBuf>,
    /// What to measure: streams, round trips and datagrams between two guests, streams to the host
    #[arg(long, value_name = "LIST", default_value = "tcp,trips,udp,gateway", value_parser = jobs)]
    jobs: String,
    /// Only ways to join guests whose name matches
    #[arg(long, value_name = "REGEX", default_value = "")]
    only: String,
    /// Runs of each
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Count instructions on an emulated host for two guests, too: they often hang there
    #[arg(long)]
    icount: bool,
    /// Also write the figures here, as JSON with rates per CPU second
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table to this Markdown file, between its marks
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

/// A list of known jobs.
fn jobs(text: &str) -> Result<String, String> {
    match text.split(',').find(|job| !JOBS.contains(job)) {
        Some(unknown) => Err(format!("`{unknown}` is none of {}", JOBS.join(", "))),
        None => Ok(text.to_owned()),
    }
}

/// Measures and tells; the status is 0 when all is measured and all targets are held.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure_packages(PACKAGES)?;
    let results = args.results.as_deref().map(|path| Results::read(path, NAME)).transpose()?;
    let programs = Programs::build(args)?;
    let folder = cache_dir().join("bench/network");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let initrd = folder.join("initrd");
    let own = [("bin/traffic", programs.traffic.as_path())];
    let content = guest::whole_initrd(Kernel::Generic, INIT, MODULES, &[IPERF], &own)?;
    fs::write(&initrd, content).with_context(|| format!("Cannot write {}", initrd.display()))?;
    let (mut figures, mut all_ended) = (Vec::new(), true);
    for session in sessions(&args.jobs, args.icount, lab::has_hardware_virtualization()) {
        let (more, ended) = measure(args, &session, &programs, &folder)?;
        figures.extend(more);
        all_ended &= ended;
    }
    let rows = report::judge(&figures);
    let text = report::table(&rows, &figures);
    print!("{text}");
    if let Some(path) = &args.json {
        write_atomically(path, serde_json::to_string_pretty(&figures)?.as_bytes())?;
    }
    if let Some(results) = results {
        results.write(&format!("{}\n\n{text}", subject(args)))?;
    }
    if !all_ended {
        eprintln!(
            "xtask: some figures are missing; what was said is in {}",
            script::log_of(&folder).display()
        );
    }
    let held = rows.iter().all(report::Row::is_held);
    Ok(if all_ended && held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The guests' and the host's program that sends and answers; it needs no libraries.
fn build_traffic() -> Result<PathBuf> {
    let target = project_root().join("target");
    let mut build = cargo(&["rustc", "--quiet", "--locked", "--profile", "dist", "--target-dir"]);
    build.arg(&target).args(["-p", "snowboot-benches", "--bin", "traffic", "--"]);
    build.arg("-Ctarget-feature=+crt-static");
    step("build the traffic", &mut build)?;
    Ok(target.join("dist/traffic"))
}

/// What is measured.
struct Programs {
    snowboot: PathBuf,
    traffic: PathBuf,
}

impl Programs {
    fn build(args: &Args) -> Result<Self> {
        let snowboot = match &args.snowboot {
            Some(program) => std::path::absolute(program).context("Cannot tell where Snowboot is")?,
            None => build::dist()?,
        };
        Ok(Self { snowboot, traffic: build_traffic()? })
    }
}

/// Jobs that are measured on one host, and how time passes there.
#[derive(Debug, PartialEq)]
struct Session {
    jobs: String,
    icount: bool,
}

/// The sessions for these jobs. On an emulated host instructions are counted, but for two guests at once, which do not get to
/// their end there.
fn sessions(jobs: &str, icount: bool, is_real: bool) -> Vec<Session> {
    if icount || is_real {
        return vec![Session { jobs: jobs.to_owned(), icount }];
    }
    let (alone, two): (Vec<&str>, Vec<&str>) = jobs.split(',').partition(|job| *job == ALONE);
    let sessions = [(two, false), (alone, true)];
    let sessions = sessions.into_iter().filter(|(jobs, _)| !jobs.is_empty());
    sessions.map(|(jobs, icount)| Session { jobs: jobs.join(","), icount }).collect()
}

/// How and where it was measured.
fn subject(args: &Args) -> String {
    let place = match (args.icount, lab::has_hardware_virtualization()) {
        (true, _) => "in the lab with --icount",
        (false, false) => "in the lab (the guest alone with --icount, two guests by the lab's own clock)",
        (false, true) => "directly",
    };
    let (day, commit) = (said("date", &["-u", "+%F"]), said("git", &["describe", "--always", "--dirty"]));
    format!("{day} at {commit}: medians of {} runs, guests of 1 vCPU and 256 MiB, {place}.", args.runs)
}

/// The figures, and whether none is missing.
fn measure(
    args: &Args,
    session: &Session,
    programs: &Programs,
    folder: &Path,
) -> Result<(Vec<Figure>, bool)> {
    let options: &[&str] = if session.icount { &["--icount"] } else { &[] };
    let mut command = demo::lab_with(LIMIT, options)?;
    command.arg("python3").arg(project_root().join(SCRIPT));
    command.args(["--jobs", &session.jobs, "--only", &args.only, "--runs", &args.runs.to_string()]);
    if !lab::has_hardware_virtualization() {
        command.arg("--emulated");
    }
    let files = [
        ("--snowboot", programs.snowboot.as_path()),
        ("--traffic", &programs.traffic),
        ("--kernel", &guest::bz_image(Kernel::Generic)?),
        ("--elf-kernel", &guest::vmlinux(Kernel::Generic)?),
        ("--initrd", &folder.join("initrd")),
        ("--work", Path::new(STAGE)),
    ];
    script::measure(command, &files, args.firecracker.as_deref(), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_jobs_are_done() {
        assert_eq!(jobs("udp,tcp"), Ok("udp,tcp".to_owned()));
        assert!(jobs("tcp,pigeons").unwrap_err().contains("`pigeons`"));
    }

    #[test]
    fn instructions_are_counted_for_one_guest_on_an_emulated_host() {
        let session = |jobs: &str, icount| Session { jobs: jobs.to_owned(), icount };
        assert_eq!(sessions("udp,gateway", false, true), [session("udp,gateway", false)]);
        assert_eq!(sessions("udp,gateway", true, false), [session("udp,gateway", true)]);
        assert_eq!(
            sessions("tcp,gateway,udp", false, false),
            [session("tcp,udp", false), session("gateway", true)]
        );
        assert_eq!(sessions("gateway", false, false), [session("gateway", true)]);
    }
}
