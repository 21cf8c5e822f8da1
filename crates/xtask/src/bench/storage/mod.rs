//! `cargo xtask bench storage`: what disks and shared folders cost, beside other VMMs.
//!
//! ```text
//!  one guest in an initrd ─► lab: benches/storage.py (each VMM in turn) ─► JSON ─► table
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::script;
use crate::build;
use crate::demo;
use crate::guest::{self, Kernel};
use crate::host::{cache_dir, ensure_packages, project_root};
use crate::lab;

/// Process 1 of the guest, and all of it.
const INIT: &str = include_str!("init.sh");
/// The measuring part.
const SCRIPT: &str = "benches/storage.py";
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtiofs", "9pnet_virtio", "9p"];
const PROGRAMS: &[&str] = &["/usr/bin/fio"];
/// `qemu-system-common` has virtiofsd.
const PACKAGES: &[&str] = &["fio", "qemu-system-common", "qemu-system-x86"];
/// Where VMMs read from; in the lab, the machine's files come over a network file system.
const STAGE: &str = "/dev/shm/snowboot-bench";
/// How long all of it may take, in seconds.
const LIMIT: u32 = 4 * 3600;

/// Arguments of `cargo xtask bench storage`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Firecracker's program; without it disks are not compared with Firecracker's
    #[arg(long, value_name = "PATH")]
    firecracker: Option<PathBuf>,
    /// What to measure: disk, cold (disks that are not in the host's memory; as root), read, walk
    #[arg(long, value_name = "LIST", default_value = "disk,read,walk", value_parser = jobs)]
    jobs: String,
    /// Only VMMs whose name matches
    #[arg(long, value_name = "REGEX", default_value = "")]
    only: String,
    /// Runs of each
    #[arg(short = 'n', long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Count instructions on an emulated host, also where there is hardware virtualization
    #[arg(long)]
    icount: bool,
    /// Do not count instructions on an emulated host: Firecracker's guests hang there, and figures of others vary without
    #[arg(long, conflicts_with = "icount")]
    no_icount: bool,
    /// Also write the figures here, as JSON with times in seconds
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A list of known jobs.
fn jobs(text: &str) -> Result<String, String> {
    match text.split(',').find(|job| !["disk", "cold", "read", "walk"].contains(job)) {
        Some(unknown) => Err(format!("`{unknown}` is none of disk, cold, read, walk")),
        None => Ok(text.to_owned()),
    }
}

/// What the script measured of one part of a job.
#[derive(Debug, Deserialize, PartialEq)]
struct Figure {
    vmm: String,
    part: String,
    /// Median, and all of them: CPU seconds of all processes of the VMM.
    seconds: f64,
    all: Vec<f64>,
}

/// Measures and tells.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure_packages(PACKAGES)?;
    let snowboot = build::dist()?;
    let folder = cache_dir().join("bench/storage");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let initrd = folder.join("initrd");
    let content = guest::whole_initrd(Kernel::Generic, INIT, MODULES, PROGRAMS, &[])?;
    fs::write(&initrd, content).with_context(|| format!("Cannot write {}", initrd.display()))?;
    let (figures, all_ended) = measure(args, &snowboot, &initrd, &folder)?;
    print!("{}", table(&figures));
    if let Some(path) = &args.json {
        fs::copy(script::figures_in(&folder), path)
            .with_context(|| format!("Cannot write {}", path.display()))?;
    }
    if !all_ended {
        eprintln!(
            "xtask: some figures are missing; what was said is in {}",
            script::log_of(&folder).display()
        );
    }
    Ok(if all_ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The figures, and whether none is missing.
fn measure(args: &Args, snowboot: &Path, initrd: &Path, folder: &Path) -> Result<(Vec<Figure>, bool)> {
    let icount = args.icount || (!args.no_icount && !lab::has_hardware_virtualization());
    let options: &[&str] = if icount { &["--icount"] } else { &[] };
    let mut command = demo::lab_with(LIMIT, options)?;
    command.arg("python3").arg(project_root().join(SCRIPT));
    command.args(["--jobs", &args.jobs, "--only", &args.only, "--runs", &args.runs.to_string()]);
    let files = [
        ("--snowboot", snowboot),
        ("--kernel", &guest::bz_image(Kernel::Generic)?),
        ("--elf-kernel", &guest::vmlinux(Kernel::Generic)?),
        ("--initrd", initrd),
        ("--work", Path::new(STAGE)),
    ];
    script::measure(command, &files, args.firecracker.as_deref(), folder)
}

/// As Markdown: a line for each VMM, and beside each time how many times Snowboot's best of that part it is.
fn table(figures: &[Figure]) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for figure in figures {
        if !parts.contains(&figure.part.as_str()) {
            parts.push(&figure.part);
        }
    }
    let mut text = String::new();
    for part in parts {
        let of_part = || figures.iter().filter(|figure| figure.part == part);
        let ours = of_part().filter(|figure| figure.vmm.starts_with("snowboot")).map(|figure| figure.seconds);
        let best = ours.fold(f64::INFINITY, f64::min);
        text.push_str(&format!("| {part} | CPU s | min to max | x Snowboot |\n| --- | --- | --- | --- |\n"));
        for Figure { vmm, seconds, all, .. } in of_part() {
            let min = all.iter().copied().fold(f64::INFINITY, f64::min);
            let max = all.iter().copied().fold(0.0, f64::max);
            text.push_str(&format!(
                "| {vmm} | {seconds:.3} | {min:.3} to {max:.3} | {:.2} |\n",
                seconds / best
            ));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_jobs_are_done() {
        assert_eq!(jobs("walk,disk"), Ok("walk,disk".to_owned()));
        assert!(jobs("disk,tape").unwrap_err().contains("`tape`"));
    }

    #[test]
    fn times_are_compared_with_snowboots_best() {
        let figure = |vmm: &str, seconds| Figure {
            vmm: vmm.to_owned(),
            part: "read".to_owned(),
            seconds,
            all: vec![seconds, seconds + 0.5],
        };
        let text =
            table(&[figure("snowboot always", 0.5), figure("snowboot auto", 1.0), figure("qemu", 2.0)]);
        assert!(text.contains("| snowboot auto | 1.000 | 1.000 to 1.500 | 2.00 |\n"), "{text}");
        assert!(text.contains("| qemu | 2.000 | 2.000 to 2.500 | 4.00 |\n"), "{text}");
    }
}
