//! `cargo xtask bench boot`: the targets for the time and memory of a boot, and whether they are held.
//!
//! `snowboot bench boot` measures, several times in a session of the lab; this puts its figures beside the targets.
//!
//! ```text
//!  benches ─► lab: snowboot bench boot ... ─► *.json ─► measured ─► targets ─► report
//! ```

mod benches;
mod measured;
mod report;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use self::benches::{Bench, Kernels, Rivals, SEVERAL, plan};
use self::measured::Figures;
use crate::bench::results::Results;
use crate::build;
use crate::debs::write_atomically;
use crate::demo;
use crate::guest::{self, Kernel};
use crate::host::{cache_dir, ensure_packages};
use crate::lab;

/// How long all of it may take, in seconds. With ten runs an idle machine of two cores needs half an hour for it.
const LIMIT: u32 = 8 * 3600;

/// Arguments of `cargo xtask bench boot`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Firecracker's program; without it what is compared with Firecracker is not measured
    #[arg(long, value_name = "PATH")]
    firecracker: Option<PathBuf>,
    /// Cloud Hypervisor's program, whose figures are shown, too
    #[arg(long, value_name = "PATH")]
    cloud_hypervisor: Option<PathBuf>,
    /// Runs that count, of each configuration
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Count instructions on an emulated host, also where there is hardware virtualization
    #[arg(long)]
    icount: bool,
    /// Also write everything here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also put the tables into this Markdown file, in the place of those that are there
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

/// Measures, compares and tells; fails when a target is missed or could not be measured.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure_packages(&["qemu-system-x86"])?;
    let rivals = Rivals {
        firecracker: args.firecracker.as_deref().map(program).transpose()?,
        cloud_hypervisor: args.cloud_hypervisor.as_deref().map(program).transpose()?,
    };
    let results = args.results.as_deref().map(|path| Results::read(path, "boot")).transpose()?;
    let snowboot = build::dist()?;
    let kernels = Kernels {
        packed: guest::bz_image(Kernel::Cloud)?,
        unpacked: guest::vmlinux(Kernel::Cloud)?,
        generic: guest::bz_image(Kernel::Generic)?,
    };
    let icount = args.icount || !lab::has_hardware_virtualization();
    let folder = cache_dir().join("bench/boot");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let mut stage = Stage::default();
    let snowboot = stage.put(&snowboot)?;
    let kernels = Kernels {
        packed: stage.put(&kernels.packed)?,
        unpacked: stage.put(&kernels.unpacked)?,
        generic: stage.put(&kernels.generic)?,
    };
    let rivals = Rivals {
        firecracker: rivals.firecracker.as_deref().map(|path| stage.put(path)).transpose()?,
        cloud_hypervisor: rivals.cloud_hypervisor.as_deref().map(|path| stage.put(path)).transpose()?,
    };
    let benches = plan(&kernels, &rivals, args.runs);
    // Of several machines in one process none gets to its end where QEMU counts instructions.
    let (alone, together): (Vec<&Bench>, Vec<&Bench>) = benches.iter().partition(|it| it.name != SEVERAL);
    for (benches, icount) in [(alone, icount), (together, false)] {
        // What else was measured is told all the same.
        if let Err(error) = measure(&stage, &snowboot, &benches, &folder, icount) {
            eprintln!("xtask: {error:#}");
        }
    }
    let figures = Figures::read(&benches, &folder)?;
    let rows = targets::rows(&figures);
    let text = report::markdown(&rows, &figures, &rivals);
    print!("{text}");
    if let Some(file) = &args.json {
        write_atomically(file, report::json(&rows, &figures)?.as_bytes())?;
    }
    if let Some(results) = results {
        results.write(&text)?;
    }
    let all_held = rows.iter().all(targets::Row::is_held);
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn program(path: &Path) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is no program", path.display());
    }
    std::path::absolute(path).with_context(|| format!("Cannot tell where {} is", path.display()))
}

/// A folder in memory for all that VMMs read: in the lab, the machine's files come over a network file system, some of
/// them anew each time.
#[derive(Debug, Default)]
struct Stage {
    files: Vec<PathBuf>,
}

impl Stage {
    const FOLDER: &str = "/dev/shm/snowboot-bench";

    /// Where the file will be.
    fn put(&mut self, file: &Path) -> Result<PathBuf> {
        let name = file.file_name().with_context(|| format!("{} is no file", file.display()))?;
        // Names may be the same: of a kernel in two packages.
        let place = Path::new(Self::FOLDER).join(self.files.len().to_string()).join(name);
        self.files.push(file.to_owned());
        Ok(place)
    }

    /// Copies the files, has unpacked kernels kept beside them, and takes all away at the end.
    fn script(&self) -> Result<String> {
        let folder = Self::FOLDER;
        let mut script = format!(
            "rm -rf {folder}\nmkdir {folder}\ntrap 'rm -rf {folder}' EXIT\nexport SNOWBOOT_CACHE_DIR={folder}/cache\n"
        );
        for (index, file) in self.files.iter().enumerate() {
            let file = file.to_str().with_context(|| format!("{} is not UTF-8", file.display()))?;
            let file = benches::quoted(file);
            script.push_str(&format!("mkdir {folder}/{index}\ncp {file} {folder}/{index}/\n"));
        }
        // A kernel that has just been written is hashed at each start: it may still change.
        script.push_str("sleep 5\n");
        Ok(script)
    }
}

/// Runs benches in one session of the lab.
fn measure(stage: &Stage, snowboot: &Path, benches: &[&Bench], folder: &Path, icount: bool) -> Result<()> {
    let mut script = stage.script()?;
    for bench in benches {
        let file = bench.file(folder);
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("Cannot remove {}", file.display()))?;
        }
        script.push_str(&bench.shell_line(snowboot, &file)?);
    }
    let options: &[&str] = if icount { &["--icount"] } else { &[] };
    let mut command: Command = demo::lab_with(LIMIT, options)?;
    let status = command.args(["sh", "-ec", &script]).status().context("Cannot run the lab")?;
    if !status.success() {
        bail!("The measuring failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    #[test]
    fn arguments_have_defaults_and_bounds() {
        let parse = |words: &[&str]| {
            let command = <Args as clap::Args>::augment_args(clap::Command::new("boot"));
            Args::from_arg_matches(&command.try_get_matches_from(words)?)
        };
        let plain = parse(&["boot"]).unwrap();
        assert_eq!((plain.runs, plain.icount, plain.firecracker), (10, false, None));
        let all = parse(&["boot", "--firecracker", "f", "--cloud-hypervisor", "c", "-n", "3"]).unwrap();
        assert_eq!(
            (all.runs, all.firecracker, all.cloud_hypervisor),
            (3, Some("f".into()), Some("c".into()))
        );
        assert!(parse(&["boot", "--runs", "0"]).is_err());
        crate::Cli::command().debug_assert();
    }

    #[test]
    fn a_program_must_be_there() {
        assert!(program(Path::new("/bin/sh")).is_ok());
        assert!(
            program(Path::new("/nonexistent"))
                .unwrap_err()
                .to_string()
                .contains("/nonexistent is no program")
        );
    }
}
