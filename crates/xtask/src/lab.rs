//! `cargo xtask lab`: run a command on a KVM host, emulated where there is no hardware virtualization.
//!
//! The emulated host is QEMU without KVM (TCG), which emulates AMD-V with nested paging, with Debian's own kernel. The
//! machine's root is its root, so the command finds every program, library and file where they are.
//! This module decides where the command runs; `emulator` starts QEMU, `session` follows the run from the machine,
//! `agent` runs the command inside.

mod agent;
mod clock;
mod emulator;
mod frame;
mod initramfs;
mod job;
mod kernel;
mod scratch;
mod session;
mod size;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::debs::{fetch_unpacked, kernel_package};
use crate::host::{cache_dir, ensure_packages, project_root};
use emulator::{Emulator, Image, Shape};
use job::Job;
use size::MemorySize;

/// The lab itself failed: QEMU ended, the emulated host panicked, a package is missing. As timeout(1) and env(1) have it.
const LAB_FAILED: u8 = 125;
/// The command is there but cannot be run.
const CANNOT_RUN: u8 = 126;
/// There is no such command.
const NOT_FOUND: u8 = 127;

const EXAMPLES: &str = "\
Examples:
  cargo xtask lab -- ls -l /dev/kvm
  cargo xtask lab --timeout 120 -- target/debug/snowboot test hello.py
  cargo xtask lab --icount -- sh -c 'time target/release/snowboot run ...'
  tar c src | cargo xtask lab -- sh -c 'tar x -C /tmp && ...'

The command sees the machine's whole root in the same places and may write anywhere, but only what it writes under the
project's target/ stays (sockets do not work there: put them in /tmp or /run). It runs as root, with the same
environment and SNOWBOOT_LAB=emulated, and has no network but its own. When it ends, so does all it left running.

With --icount, time on the emulated host is a count of instructions: a process's CPU seconds repeat to 1-3 %, whatever
else the machine does. Elapsed time means nothing there. This always uses the emulated host.

Exit status: the command's own; 128+N when signal N ended it; 124 when its time was up; 125 when the lab itself failed
(the console's log is then kept in target/snowboot/lab/); 126 when the command cannot be run; 127 when it is not there.";

/// Run a command as root on a KVM host, emulated where there is no hardware virtualization
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Make time a count of instructions, on one emulated CPU, for measuring
    #[arg(long, conflicts_with = "cpus")]
    icount: bool,
    /// CPUs of the emulated host; with more than one, machines in it crash once in some dozens (QEMU's fault)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
    /// Memory of the emulated host, such as 6G or 1500M [default: 6G, or what fits]
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// End the command after this time (from its start), with status 124
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Use the emulated host even where there is hardware virtualization
    #[arg(long)]
    force: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Run the command; the status says how that went.
#[expect(clippy::unnecessary_wraps, reason = "every chore has this face")]
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let direct = !args.force && !args.icount && has_hardware_virtualization();
    let status = if direct { run_directly(args) } else { run_emulated(args) };
    Ok(ExitCode::from(status.unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        LAB_FAILED
    })))
}

pub(crate) use kernel::{PAYLOAD_LENGTH, code_of, payload_of};

/// The bzImage in `package`, the unpacked tree of a Debian kernel package.
pub(crate) fn packed_kernel(package: &std::path::Path) -> Result<PathBuf> {
    kernel::bz_image(package)
}

/// The ELF image of the kernel in `package`, the unpacked tree of a Debian kernel package.
pub(crate) fn unpacked_kernel(package: &std::path::Path) -> Result<PathBuf> {
    kernel::image(package)
}

/// The emulated host's side; see [`agent`].
pub(crate) fn run_agent() -> Result<ExitCode> {
    agent::run().map(|()| ExitCode::SUCCESS)
}

/// The CPU's flag and not the device's existence: some machines have a `/dev/kvm` that emulates instructions and boots
/// no real kernel.
pub(crate) fn has_hardware_virtualization() -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    has_flag(&cpus) && fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn has_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"))
}

/// Becomes the command, so returns only when it cannot.
fn run_directly(args: &Args) -> Result<u8> {
    let limit =
        args.timeout.map(|seconds| ["timeout".into(), "--kill-after=3".into(), seconds.to_string().into()]);
    let mut words = limit.into_iter().flatten().chain(args.command.iter().cloned());
    let program = words.next().unwrap_or_default();
    let error = Command::new(&program).args(words).exec();
    eprintln!("lab: cannot run {}: {error}", program.display());
    Ok(unstarted_status(&error))
}

fn run_emulated(args: &Args) -> Result<u8> {
    ensure_packages(&["qemu-system-x86"])?;
    let kernel = fetch_unpacked(&kernel_package("amd64")?)?;
    let busybox = fetch_unpacked("busybox-static")?;
    let writable = project_root().join("target");
    let job = Job {
        command: args.command.clone(),
        environment: std::env::vars_os().collect(),
        folder: std::env::current_dir().context("Cannot tell the working folder")?,
        writable: fs::canonicalize(&writable)
            .with_context(|| format!("Cannot find {}", writable.display()))?,
    };
    let initramfs = initramfs::build(&kernel, &busybox.join("bin/busybox"), &job)?;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = args.memory.unwrap_or_else(|| MemorySize::default_for(&meminfo));
    let shape = Shape { cpus: args.cpus, memory, icount: args.icount };
    let scratch = scratch::make()?;
    let image = Image {
        kernel: &kernel::image(&kernel)?,
        initramfs: &initramfs,
        writable: &job.writable,
        scratch: &scratch,
    };

    let emulator = Emulator::start(shape, &image)?;
    drop((initramfs, scratch));
    let console = session::Console::default();
    let ended = session::run(&emulator, args.timeout.map(Duration::from_secs), &console);
    drop(emulator);
    ended.map_err(|error| explain(error, &console.text()))
}

/// The error with what the console said about it, and where all of it was kept.
fn explain(error: anyhow::Error, console: &[u8]) -> anyhow::Error {
    let kept = match keep_log(console) {
        Ok(path) => format!("the console's log is {}", path.display()),
        Err(error) => format!("the console's log cannot be kept: {error:#}"),
    };
    let telling = telling_lines(&String::from_utf8_lossy(console));
    anyhow!("{error:#}\n{telling}lab: {kept}")
}

/// The lines around a kernel panic, or else the last ones.
fn telling_lines(console: &str) -> String {
    const BEFORE: usize = 4;
    const SHOWN: usize = 6;
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let first = match lines.iter().position(|line| line.contains("Kernel panic")) {
        Some(panic) => panic.saturating_sub(BEFORE),
        None => lines.len().saturating_sub(SHOWN),
    };
    lines.iter().skip(first).take(SHOWN).map(|line| format!("  {line}\n")).collect()
}

fn keep_log(console: &[u8]) -> Result<PathBuf> {
    let folder = cache_dir().join("lab");
    fs::create_dir_all(&folder)?;
    let mut log = tempfile::Builder::new().prefix("console-").suffix(".log").tempfile_in(&folder)?;
    io::Write::write_all(&mut log, console)?;
    Ok(log.into_temp_path().keep()?)
}

/// The exit status as a shell has it.
fn status_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// As env(1) has it.
fn unstarted_status(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_what_a_shell_reports() {
        assert_eq!(status_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(status_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(status_code(ExitStatus::from_raw(9)), 137);
        // With a core dump.
        assert_eq!(status_code(ExitStatus::from_raw(11 | 0x80)), 139);
    }

    #[test]
    fn only_the_cpu_flag_counts() {
        assert!(has_flag("model name : svm\nflags\t\t: fpu svm sse\n"));
        assert!(has_flag("flags\t\t: fpu vmx"));
        assert!(!has_flag("model name : vmx svm\nflags\t\t: fpu svm_lock vmxoff\n"));
    }

    #[test]
    fn a_panic_is_shown_rather_than_its_trace() {
        let trace = "  <TASK>\n".repeat(30);
        let console = format!("old\n\nlab: cannot load kvm\r\nKernel panic - not syncing\n{trace}");
        let lines = telling_lines(&console);
        assert!(lines.starts_with("  old\n  lab: cannot load kvm\n  Kernel panic"), "{lines}");
        assert_eq!(lines.lines().count(), 6);
        assert_eq!(telling_lines("1\n2\n3\n4\n5\n6\n7\n"), "  2\n  3\n  4\n  5\n  6\n  7\n");
        assert_eq!(telling_lines(""), "");
    }

    #[test]
    fn a_missing_command_differs_from_a_forbidden_one() {
        assert_eq!(unstarted_status(&io::ErrorKind::NotFound.into()), 127);
        assert_eq!(unstarted_status(&io::ErrorKind::PermissionDenied.into()), 126);
    }
}
