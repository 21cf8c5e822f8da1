//! Whole guests under test scripts, through the program that users run, in the lab.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::build::{self, Built};
use crate::demo::lab;
use crate::guest::{self, Kernel};
use crate::host::{cache_dir, project_root};
use crate::run::step;

/// One run of `snowboot test`.
struct Case {
    name: &'static str,
    script: &'static str,
    kernel: Kernel,
    machines: &'static [&'static str],
    vcpus: u8,
    memory: &'static str,
    /// Whether each machine has a data disk of 64 MiB besides its root.
    data_disk: bool,
    status: i32,
    /// What must be on the standard error.
    said: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "ping-small",
        script: "examples/ping.py",
        kernel: Kernel::Generic,
        machines: &["machine1", "machine2"],
        vcpus: 1,
        memory: "256M",
        data_disk: false,
        status: 0,
        said: &["test ping-small passed in", "the VMM adds"],
    },
    Case {
        name: "basics",
        script: "tests/guests/basics.py",
        kernel: Kernel::Generic,
        machines: &["machine"],
        vcpus: 2,
        memory: "512M",
        data_disk: true,
        status: 0,
        said: &["subtest: a power cut keeps what was flushed", "machine: the machine powered off"],
    },
    Case {
        name: "network-large",
        script: "tests/guests/network.py",
        kernel: Kernel::Cloud,
        machines: &["machine1", "machine2"],
        vcpus: 2,
        memory: "5G",
        data_disk: false,
        status: 0,
        said: &["machine1: the machine powered off", "machine2: the machine was stopped by the driver"],
    },
    Case {
        name: "panic",
        script: "tests/guests/panic.py",
        kernel: Kernel::Cloud,
        machines: &["machine"],
        vcpus: 1,
        memory: "256M",
        data_disk: false,
        status: 1,
        said: &[
            "line 3, in <module>",
            "machine.succeed(\"echo c >/proc/sysrq-trigger\")",
            "machine: machine was reset by its guest",
            "last console lines",
            "Kernel panic - not syncing: sysrq triggered crash",
        ],
    },
];

/// A script that drives `snowboot run` itself; see there for its arguments.
const ON_A_TERMINAL: &str = "tests/guests/terminal.py";

/// How long a case may take in the lab, in seconds. An emulated host on a busy machine needs about 100.
const LIMIT: u32 = 600;

/// Runs all cases; the first that fails is the error.
pub(crate) fn run() -> Result<()> {
    let built = build::run()?;
    for case in CASES {
        timed(case.name, || check(case, &built))?;
    }
    timed("terminal", || check_terminal(&built))
}

fn timed(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    eprintln!("==> guests: {name}");
    check()?;
    eprintln!("    guests: {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn check_terminal(built: &Built) -> Result<()> {
    let name = "machine1".to_owned();
    let guests = guest::make(Kernel::Generic, &[name.clone(), "machine2".to_owned()], &[])?;
    let mut command = lab(LIMIT)?;
    command.arg("python3").arg(project_root().join(ON_A_TERMINAL));
    command.arg(&built.program).arg(guests.folder.join(name)).arg(guest::vmlinux(Kernel::Generic)?);
    step("snowboot run on a terminal", &mut command)
}

fn check(case: &Case, built: &Built) -> Result<()> {
    let folder = cache_dir().join("tests").join(case.name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("Cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    let manifest = folder.join("test.toml");
    fs::write(&manifest, manifest_text(case)?)
        .with_context(|| format!("Cannot write {}", manifest.display()))?;
    let output = lab(LIMIT)?
        .arg(&built.program)
        .arg("test")
        .arg(&manifest)
        .arg("-o")
        .arg(&folder)
        .stdin(Stdio::null())
        .output()
        .context("Cannot run the lab")?;
    let log = folder.join("log");
    fs::write(&log, &output.stderr).with_context(|| format!("Cannot write {}", log.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(case.status) {
        return wrong(case, &log, &text, &format!("it ended with {}, not {}", output.status, case.status));
    }
    match case.said.iter().find(|said| !text.contains(*said)) {
        Some(said) => wrong(case, &log, &text, &format!("it never said `{said}`")),
        None => Ok(()),
    }
}

fn wrong(case: &Case, log: &Path, text: &str, why: &str) -> Result<()> {
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n    ");
    bail!("The guest test {} failed: {why}\n    {shown}\nAll of it is in {}", case.name, log.display())
}

fn manifest_text(case: &Case) -> Result<String> {
    let names: Vec<String> = case.machines.iter().map(ToString::to_string).collect();
    let guests = guest::make(case.kernel, &names, &[])?;
    let script = project_root().join(case.script);
    let mut text = format!("name = {:?}\nscript = {script:?}\nglobal-timeout = {LIMIT}\n", case.name);
    for name in case.machines {
        let toplevel = guests.folder.join(name);
        let root = toplevel.join("root.erofs");
        text.push_str(&format!(
            "\n[machines.{name}]\ntoplevel = {toplevel:?}\nvcpus = {}\nmemory = {:?}\n\
             [[machines.{name}.disks]]\npath = {root:?}\nread-only = true\nserial = \"root\"\n",
            case.vcpus, case.memory,
        ));
        if case.data_disk {
            text.push_str(&format!(
                "[[machines.{name}.disks]]\npath = \"{name}.img\"\ncreate-mib = 64\nserial = \"data\"\n"
            ));
        }
    }
    Ok(text)
}
