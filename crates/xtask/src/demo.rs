//! `cargo xtask demo`: from nothing to two machines that ping each other, and what happened on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build;
use crate::guest::{self, Backdoor, Guests, Kernel};
use crate::host::{cache_dir, project_root};

/// The script that is run.
const SCRIPT: &str = "examples/ping.py";
/// Its machines.
const NODES: &[&str] = &["machine1", "machine2"];
/// How long the run may take, in seconds. An emulated host needs about one minute.
const LIMIT: u32 = 600;

/// Arguments of `cargo xtask demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Debian's kernel: the stock one (xz) or the one for clouds (lz4)
    #[arg(long, value_enum, default_value = "generic")]
    kernel: Kernel,
    /// vCPUs of each machine
    #[arg(long, default_value_t = 1)]
    vcpus: u8,
    /// Memory of each machine, in MiB or with a unit
    #[arg(long, default_value = "512M")]
    memory: String,
}

/// Runs it and tells.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let mut phases = Vec::new();
    let built = timed(&mut phases, "build", build::run)?;
    let nodes: Vec<String> = NODES.iter().map(ToString::to_string).collect();
    let guests = timed(&mut phases, "guests", || guest::make(args.kernel, &nodes, &[], Backdoor::InRoot))?;
    let folder = cache_dir().join("demo");
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let manifest = folder.join("ping.toml");
    let machine = Machine { vcpus: args.vcpus, memory: &args.memory };
    fs::write(&manifest, manifest_text(&guests, &machine))
        .with_context(|| format!("Cannot write {}", manifest.display()))?;
    let report = folder.join("report.json");
    let status = timed(&mut phases, "run", || test(&built.program, &manifest, &report))?;
    tell(&report, &phases, start.elapsed())?;
    Ok(ExitCode::from(status))
}

fn timed<T>(
    phases: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let result = work();
    phases.push((name, start.elapsed()));
    result
}

/// What is the same in all machines of a manifest.
pub(crate) struct Machine<'a> {
    pub(crate) vcpus: u8,
    pub(crate) memory: &'a str,
}

/// The manifest of the ping test.
pub(crate) fn manifest_text(guests: &Guests, machine: &Machine<'_>) -> String {
    let script = project_root().join(SCRIPT);
    let mut text = format!("name = \"ping\"\nscript = {:?}\nglobal-timeout = {LIMIT}\n", script);
    for name in NODES {
        let toplevel = guests.folder.join(name);
        text.push_str(&format!(
            "\n[machines.{name}]\ntoplevel = {toplevel:?}\nvcpus = {}\nmemory = {:?}\n\
             disks = [{{ path = {:?}, read-only = true, serial = \"root\" }}]\n",
            machine.vcpus,
            machine.memory,
            toplevel.join("root.erofs"),
        ));
    }
    text
}

/// Runs `snowboot test` where there is KVM; the exit status is its own.
fn test(program: &Path, manifest: &Path, report: &Path) -> Result<u8> {
    match fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("Cannot remove {}", report.display()));
        }
        _ => {}
    }
    eprintln!("==> snowboot test {}", manifest.display());
    let status = lab(LIMIT)?
        .arg(program)
        .arg("test")
        .arg(manifest)
        .arg("-o")
        .arg(manifest.parent().unwrap_or(manifest))
        .arg("--json-report")
        .arg(report)
        .status()
        .context("Cannot run the lab")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// A command that runs what is added to it in the lab, with the kernel cache where the lab can write.
pub(crate) fn lab(limit: u32) -> Result<Command> {
    lab_with(limit, &[])
}

/// The same with more options for the lab.
pub(crate) fn lab_with(limit: u32, options: &[&str]) -> Result<Command> {
    let xtask: PathBuf = std::env::current_exe().context("Cannot tell where this program is")?;
    let mut command = Command::new(xtask);
    command
        .args(["lab", "--timeout", &limit.to_string()])
        .args(options)
        .arg("--")
        .current_dir(project_root())
        .env("SNOWBOOT_CACHE_DIR", cache_dir().join("cache"))
        .env("SNOWBOOT_PYTHON", python()?);
    Ok(command)
}

/// The interpreter itself: what is called `python3` may be a script that looks for it, at every start.
fn python() -> Result<PathBuf> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .context("Cannot run python3; install it with: apt-get install python3")?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if path.is_empty() {
        bail!("python3 does not tell where its interpreter is");
    }
    Ok(PathBuf::from(path))
}

/// Says what happened, and how long each phase took.
fn tell(report: &Path, phases: &[(&str, Duration)], total: Duration) -> Result<()> {
    let text =
        fs::read(report).with_context(|| format!("The test left no report in {}", report.display()))?;
    let report: Value = serde_json::from_slice(&text).context("The test's report is not JSON")?;
    let Some(machines) = report["machines"].as_array() else { bail!("The test's report has no machines") };
    println!();
    let verdict = if report["passed"] == true { "passed" } else { "FAILED" };
    println!("The ping test {verdict}: {} machines, {:.1} s.", machines.len(), number(&report["seconds"]));
    for machine in machines {
        println!(
            "  {:<10} first console line after {:>5.1} s, shell after {:>5.1} s",
            machine["name"].as_str().unwrap_or_default(),
            number(&machine["console_seconds"]),
            number(&machine["shell_seconds"]),
        );
    }
    if let Some(bytes) = report["memory"]["overhead_per_machine"].as_f64() {
        println!("  The VMM adds {:.1} MiB of memory to each machine.", bytes / f64::from(1 << 20));
    }
    println!("Phases:");
    for (name, time) in phases {
        println!("  {name:<10} {:>6.1} s", time.as_secs_f64());
    }
    println!("  {:<10} {:>6.1} s", "all", total.as_secs_f64());
    Ok(())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}
