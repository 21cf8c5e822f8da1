//! `snowboot test`: checks a manifest, then becomes the Python interpreter that runs its script.
//!
//! The machines live in that interpreter's process, through Snowboot's Python package; this program links no Python.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::ValueEnum;
use snowboot_config::{Manifest, NodeConfig, Script};
use snowboot_vmm::toplevel;

use crate::kvm_device::{self, KvmDevice};
use crate::python::Python;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The test: a TOML file, or JSON where its name ends in .json
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Folder for screenshots, logs and files that the script copies
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// How much the test's log shows
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    /// Print the result only
    #[arg(short, long)]
    quiet: bool,
    /// Write the results to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    json_report: Option<PathBuf>,
    #[command(flatten)]
    kvm_device: KvmDevice,
}

const AFTER_HELP: &str = "\
Exit status:
  0  the test passed
  1  it failed, or could not be run: the standard error says why
  2  the command line is wrong

Python 3.11 or newer runs the script: SNOWBOOT_PYTHON names the interpreter [default: python3], SNOWBOOT_PYTHON_PATH
the folder that holds Snowboot's Python package where it is not beside this program.

Examples:
  snowboot test ping.toml
  snowboot test ping.toml -o artifacts --quiet --json-report result.json";

/// Python's names, as the NixOS test driver has them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    check(&args.manifest)?;
    if !args.output.is_dir() {
        bail!("The output folder {} is not there; make it, or name another one", args.output.display());
    }
    let mut command = Python::find()?.runner();
    command.arg(as_operand(&args.manifest)).arg("-o").arg(as_operand(&args.output));
    command.args(["--log-level", args.log_level.name()]);
    if args.quiet {
        command.arg("--quiet");
    }
    if let Some(file) = &args.json_report {
        command.arg("--json-report").arg(as_operand(file));
    }
    if let Some(device) = args.kvm_device.named() {
        command.env(kvm_device::VARIABLE, device);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("Cannot run {}", command.get_program().display()))
}

/// The path, so written that it is no option.
fn as_operand(path: &Path) -> PathBuf {
    match path.as_os_str().as_encoded_bytes().first() {
        Some(b'-') => Path::new(".").join(path),
        _ => path.to_owned(),
    }
}

/// Finds before anything starts what would make the test fail later.
fn check(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)
        .map_err(|error| anyhow!("Cannot read the manifest {}: {}", file.display(), explain(&error)))?;
    let manifest = Manifest::parse(file, &text)?;
    if let Script::File(script) = &manifest.script {
        present("test script", script).map_err(|error| located(file, &error))?;
    }
    for (name, node) in &manifest.machines {
        check_node(node).map_err(|error| located(file, &error.context(format!("machine `{name}`"))))?;
    }
    Ok(())
}

fn located(file: &Path, error: &Error) -> Error {
    anyhow!("{}: {error:#}", file.display())
}

fn check_node(node: &NodeConfig) -> Result<()> {
    if let Some(folder) = &node.toplevel {
        toplevel::read(folder, None)?;
    }
    if let Some(kernel) = &node.kernel {
        present("kernel", kernel)?;
    }
    if let Some(initrd) = &node.initrd {
        present("initrd", initrd)?;
    }
    for disk in node.disks.iter().filter(|disk| disk.create_mib.is_none()) {
        fs::metadata(&disk.path)
            .map_err(|error| anyhow!("Cannot use the disk {}: {}", disk.path.display(), explain(&error)))?;
    }
    Ok(())
}

fn present(what: &str, path: &Path) -> Result<()> {
    let why = match fs::metadata(path) {
        Ok(found) if found.is_dir() => "it is a folder, not a file".to_owned(),
        Ok(_) => return Ok(()),
        Err(error) => explain(&error),
    };
    bail!("Cannot read the {what} {}: {why}", path.display())
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder, not a file".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_never_an_option() {
        assert_eq!(as_operand(Path::new("-o")), Path::new("./-o"));
        assert_eq!(as_operand(Path::new("a/-o")), Path::new("a/-o"));
        assert_eq!(as_operand(Path::new("")), Path::new(""));
    }

    #[test]
    fn the_names_of_levels_are_those_of_the_command_line() {
        for level in LogLevel::value_variants() {
            assert_eq!(level.to_possible_value().unwrap().get_name(), level.name());
        }
    }
}
