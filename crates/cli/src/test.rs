//! `snowboot test`: checks a manifest, then becomes the Python interpreter that runs its script.
//!
//! The machines live in that interpreter's process, through Snowboot's Python package; this program links no Python.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::ValueEnum;
use rustix::fs::OFlags;
use serde::Serialize;
use snowboot_config::{DiskConfig, Manifest, NodeConfig, Script, ShareConfig};
use snowboot_driver::RunError;
use snowboot_vmm::toplevel;

use crate::check::Skip;
use crate::kvm_device::{self, KvmDevice};
use crate::python::Python;
use crate::report::Destination;
use crate::reports::ReportArgs;
use crate::topology::Form;
use crate::{exit, say, topology};

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The test: a TOML file, or JSON where its name ends in .json
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Folder for the script's own files: its `driver.out_dir`
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Take commands from the terminal, or from a pipe, in the place of the script
    #[arg(short = 'I', long)]
    interactive: bool,
    /// Draw the chance of faults from this number, as a run before had it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=Manifest::MAX_SEED))]
    seed: Option<u64>,
    /// How much the log shows
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    /// Say nothing unless something fails
    #[arg(short, long)]
    quiet: bool,
    /// Print machines, cards and networks, and run nothing
    #[arg(
        long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text",
        conflicts_with_all = ["interactive", "json_report", "junit_xml", "html", "json_log", "xml_log", "console_logs", "pcap"]
    )]
    show_topology: Option<Form>,
    #[command(flatten)]
    skip: Skip,
    #[command(flatten)]
    kvm_device: KvmDevice,
    #[command(flatten)]
    reports: ReportArgs,
}

const AFTER_HELP: &str = "\
Exit status:
  0  the test passed, or the topology was printed
  1  it failed, or could not be run: the standard error says why
  2  the command line is wrong
  129, 130, 143  SIGHUP, Ctrl-C or SIGTERM ended the test; 143 also when its global-timeout was over
What the script gives to sys.exit is the status too.

Python 3.11 or newer runs the script: SNOWBOOT_PYTHON names the interpreter [default: python3], SNOWBOOT_PYTHON_PATH
the folder that holds Snowboot's Python package where it is not beside this program.

The script is checked before anything starts; `snowboot check --help` tells more.

Examples:
  snowboot test ping.toml
  snowboot test -I ping.toml
  snowboot test ping.toml -o artifacts --quiet --json-report result.json
  snowboot test lossy.toml --seed 1850493118
  snowboot test ping.toml --html report.html --junit-xml junit.xml
  snowboot test ping.toml --show-topology=dot | dot -Tsvg >networks.svg";

/// What reports call the error of a test that could not be run.
const NOT_STARTED: &str = "NotStarted";

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

/// The report of a test that could not be run: in it are the keys of the runner's reports.
#[derive(Debug, Serialize)]
struct NotRun {
    name: Option<String>,
    machines: [(); 0],
    memory: Option<()>,
    topology: Option<()>,
    seed: Option<u64>,
    seconds: f64,
    passed: bool,
    exit_status: u8,
    error: NotRunError,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct NotRunError {
    r#type: &'static str,
    message: String,
}

impl NotRun {
    fn new(error: &Error) -> Self {
        Self {
            name: None,
            machines: [],
            memory: None,
            topology: None,
            seed: None,
            seconds: 0.0,
            passed: false,
            exit_status: exit::HOST_ERROR,
            error: NotRunError { r#type: NOT_STARTED, message: say::one_line(error) },
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(form) = args.show_topology {
        return topology::show(&args.manifest, form);
    }
    let report = args.reports.json_report.as_deref().map(Destination::prepare).transpose()?;
    let Err(error) = hand_over(args, report.as_ref());
    if let Some(report) = report {
        // What hindered the test is what the user has to hear of first.
        let _ = report.write(&NotRun::new(&error));
    }
    let cause = RunError::new(NOT_STARTED, say::one_line(&error));
    args.reports.not_started(&args.output, exit::HOST_ERROR, cause);
    Err(error)
}

/// Becomes the runner; the report is its own from then on.
fn hand_over(args: &Args, report: Option<&Destination>) -> Result<Infallible> {
    check(&args.manifest)?;
    if !args.output.is_dir() {
        bail!("The output folder {} is not there; make it, or name another one", args.output.display());
    }
    args.kvm_device.check()?;
    let mut command = Python::find()?.runner();
    // What is called Python may be a script that goes elsewhere first.
    command.arg(absolute(&args.manifest)?).arg("-o").arg(absolute(&args.output)?);
    command.args(["--log-level", args.log_level.name()]);
    if args.interactive {
        command.arg("--interactive");
    }
    args.skip.hand_over(&mut command);
    if args.quiet {
        command.arg("--quiet");
    }
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(report) = report {
        command.arg("--json-report").arg(report.path());
    }
    args.reports.hand_over(&args.output, &mut command)?;
    if let Some(device) = args.kvm_device.named() {
        command.env(kvm_device::VARIABLE, device);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("Cannot run {}", command.get_program().display()))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path::absolute(path).with_context(|| format!("Cannot tell where {} is", path.display()))
}

/// Reads a manifest, without a look at the files that it names.
pub(crate) fn read(file: &Path) -> Result<Manifest> {
    let text = fs::read_to_string(file)
        .map_err(|error| anyhow!("Cannot read the manifest {}: {}", file.display(), explain(&error)))?;
    Ok(Manifest::parse(file, &text)?)
}

/// Finds before anything starts what would make the test fail later.
pub(crate) fn check(file: &Path) -> Result<()> {
    let manifest = read(file)?;
    if let Script::File(script) = &manifest.script {
        readable("test script", script).map_err(|error| located(file, &error))?;
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
        let boot = toplevel::read(folder, node.specialisation.as_deref(), None)?;
        readable("kernel", &boot.kernel)?;
        boot.initrds.iter().try_for_each(|initrd| readable("initrd", initrd))?;
    }
    if let Some(kernel) = &node.kernel {
        readable("kernel", kernel)?;
    }
    node.initrds.iter().try_for_each(|initrd| readable("initrd", initrd))?;
    node.disks.iter().try_for_each(check_disk)?;
    // Where variables lead is known when the machine starts.
    node.shares.iter().filter(|share| !share.has_variables()).try_for_each(check_share)
}

fn check_share(share: &ShareConfig) -> Result<()> {
    match fs::read_dir(&share.path) {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::NotFound => "there is no such folder; make it".to_owned(),
                ErrorKind::NotADirectory => "it is a file, not a folder".to_owned(),
                _ => explain(&error),
            };
            bail!("Cannot share the folder {} as `{}`: {why}", share.path.display(), share.tag)
        }
    }
}

fn check_disk(disk: &DiskConfig) -> Result<()> {
    if let Some(backing) = &disk.backing_file {
        readable("backing file", backing)?;
    }
    let Some(path) = &disk.path else { return Ok(()) };
    let is_made = disk.create_mib.is_some() || disk.backing_file.is_some();
    let why = match open(path, !disk.read_only && !disk.snapshot) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && is_made => {
            match path.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
                true => return Ok(()),
                false => "its folder is not there; make it".to_owned(),
            }
        }
        Err(error) => explain(&error),
    };
    bail!("Cannot use the disk {}: {why}", path.display())
}

pub(crate) fn readable(what: &str, path: &Path) -> Result<()> {
    match open(path, false) {
        Ok(_) => Ok(()),
        Err(error) => bail!("Cannot read the {what} {}: {}", path.display(), explain(&error)),
    }
}

/// Opens a file as the test will, but waits for nobody at the other end of a named pipe.
fn open(path: &Path, write: bool) -> std::io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    if file.metadata()?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::IsADirectory => "it is a folder, not a file".to_owned(),
        ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        ErrorKind::PermissionDenied => "permission denied; change its mode or owner".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_levels_are_those_of_the_command_line() {
        for level in LogLevel::value_variants() {
            assert_eq!(level.to_possible_value().unwrap().get_name(), level.name());
        }
    }
}
