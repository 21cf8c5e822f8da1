//! `cargo xtask test`: everything that has to hold.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::guest_tests::Selection;
use crate::host::{ensure_packages, project_root};
use crate::run::{cargo, step};
use crate::{build, demo, firmware, fuzz, guest_tests, nix, tidy, wheel};

/// What this machine must have besides Rust.
const PACKAGES: &[&str] = &["erofs-utils", "g++", "gcc", "graphviz", "iproute2", "libc6-dev", "python3"];

/// Enough to see that the fuzz targets still do their work; `cargo xtask fuzz` looks longer. Their build alone takes
/// minutes.
const FUZZ_SECONDS: u32 = 10;

/// Arguments of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these groups of checks; all but the fuzzing when none is named
    #[arg(value_enum)]
    only: Vec<Group>,
    /// The fuzzing too, and all tests with whole guests: hours on an emulated host
    #[arg(long, conflicts_with = "guest_tests")]
    all: bool,
    /// Of the tests with whole guests these, instead of those of every run
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    guest_tests: Vec<String>,
}

/// Groups of checks, from the quickest to the dearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Format, house rules, clippy
    Lint,
    /// Rust tests that need no KVM
    Unit,
    /// A short while of fuzzing
    Fuzz,
    /// Documentation without warnings
    Doc,
    /// The Nix code: evaluated, compared and refused as it should be; needs the Rust package index once
    Nix,
    /// The Python package over shells of this host
    Python,
    /// An installed wheel under pytest; needs the Python package index
    Package,
    /// Whole machines that run the project's own payload, on KVM
    Platform,
    /// Whole guests under test scripts, in the lab
    Guests,
}

impl Group {
    fn run(self, args: &Args) -> Result<()> {
        match self {
            Self::Lint => lint(),
            Self::Unit => step("unit tests", &mut cargo(&["test", "--quiet", "--workspace"])),
            Self::Fuzz => fuzz::run_all(FUZZ_SECONDS),
            Self::Doc => {
                let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
                step("documentation", doc.env("RUSTDOCFLAGS", "-D warnings"))
            }
            Self::Nix => nix::test(),
            Self::Python => python(),
            Self::Package => wheel::test(),
            Self::Platform => platform(),
            Self::Guests => guest_tests::run(args.guests()),
        }
    }
}

impl Args {
    fn wants(&self, group: Group) -> bool {
        match self.only.as_slice() {
            [] => self.all || group != Group::Fuzz,
            only => only.contains(&group),
        }
    }

    fn guests(&self) -> Selection<'_> {
        match self.guest_tests.as_slice() {
            _ if self.all => Selection::All,
            [] => Selection::Usual,
            names => Selection::Named(names),
        }
    }
}

/// Runs the groups in their order and stops at the first check that fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    ensure_packages(PACKAGES)?;
    for group in Group::value_variants() {
        if args.wants(*group) {
            group.run(args)?;
        }
    }
    eprintln!("==> green, after {:.0} s", start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

fn lint() -> Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    let clippy =
        ["clippy", "--quiet", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    step("clippy", &mut cargo(&clippy))?;
    firmware::check()?;
    fuzz::check()
}

fn python() -> Result<()> {
    let package = build::python_for_tests()?;
    let mut tests = Command::new("python3");
    tests.args(["-m", "unittest", "discover", "--start-directory"]);
    tests.arg(project_root().join("crates/python/tests")).env("PYTHONPATH", package);
    step("Python tests", &mut tests)
}

/// Any `/dev/kvm` will do for these, so they run here; where there is none, in the lab.
fn platform() -> Result<()> {
    let payload = firmware::build()?;
    let tests = ["test", "--quiet", "-p", "snowboot-tests", "-p", "snowboot-cli", "--", "--ignored"];
    let mut command = match has_kvm() {
        true => cargo(&tests),
        false => {
            step(
                "build the platform tests",
                &mut cargo(&["test", "--no-run", "-p", "snowboot-tests", "-p", "snowboot-cli"]),
            )?;
            let mut lab = demo::lab(1200)?;
            lab.arg(cargo(&[]).get_program()).args(tests);
            lab
        }
    };
    step("platform tests", command.env("SNOWBOOT_FIRMWARE", payload))
}

fn has_kvm() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}
