//! `snowboot doctor`: what this host can do, and what to do about what it cannot.

mod host;
mod memory;

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::generate::print;
use crate::kvm_device::KvmDevice;
use crate::{exit, python};

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Print one JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kvm_device: KvmDevice,
}

const AFTER_HELP: &str = "\
Exit status:
  0  a test could run here
  1  something is missing (MISS)
  2  the command line is wrong

Examples:
  snowboot doctor
  snowboot doctor --json | jq '.checks[] | select(.status == \"miss\")'";

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// As it should be.
    Ok,
    /// Tests run, but slower or fewer at a time.
    Warn,
    /// No test can run.
    Miss,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Check {
    /// A name for programs, which stays.
    name: &'static str,
    status: Status,
    /// What was found.
    found: String,
    /// What to do about it, where something is to do.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn miss(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, status: Status::Miss, found: found.into(), advice: Some(advice.into()) }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Findings {
    /// Whether a test could run.
    ok: bool,
    checks: Vec<Check>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut checks = host::checks(&args.kvm_device.path());
    checks.extend(memory::checks());
    checks.push(check_python());
    checks.push(host::check_open_files());
    checks.push(host::check_cache());
    let ok = checks.iter().all(|check| check.status != Status::Miss);
    let findings = Findings { ok, checks };
    let text = match args.json {
        true => serde_json::to_string_pretty(&findings)? + "\n",
        false => for_people(&findings),
    };
    print(text.as_bytes())?;
    Ok(if ok { ExitCode::SUCCESS } else { exit::HOST_ERROR.into() })
}

fn check_python() -> Check {
    match python::Python::find() {
        Ok(python) => Check::ok("python", python.describe()),
        Err(error) => Check::miss("python", error.found, error.advice),
    }
}

fn for_people(findings: &Findings) -> String {
    let mut text = String::new();
    for check in &findings.checks {
        let mark = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Miss => "MISS",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark}  {:<14}{}", check.name, check.found);
        if let Some(advice) = &check.advice {
            let _ = writeln!(text, "      {:<14}-> {advice}", "");
        }
    }
    text.push_str(match findings.ok {
        true => "Tests can run on this host.\n",
        false => "Tests cannot run on this host until what is marked MISS is there.\n",
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_marks_and_what_to_do() {
        let checks = vec![Check::ok("memory", "4 GiB"), Check::miss("kvm", "nothing", "modprobe kvm_amd")];
        let text = for_people(&Findings { ok: false, checks });
        assert!(text.starts_with("ok    memory        4 GiB\nMISS  kvm"), "{text}");
        assert!(text.contains("-> modprobe kvm_amd\n") && text.contains("cannot run"), "{text}");
    }
}
