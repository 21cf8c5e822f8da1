//! Whole guests under test scripts, through the program that users run, in the lab.

mod cases;
mod disks;
mod nix;
mod nixpkgs;
mod shared_root;
mod stage_1;
mod store;

use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use self::cases::{CASE, CASES, Case, Share};
use crate::build::{self, Built};
use crate::demo::lab as in_lab;
use crate::guest::{self, Backdoor, Kernel};
use crate::host::{cache_dir, ensure_packages, project_root};
use crate::lab;
use crate::run::quiet;

/// What tests need on the host, all of it before the first one: to install one of them may remove another for a while.
/// `qemu-system-common` has virtiofsd.
const PACKAGES: &[&str] =
    &["e2fsprogs", "erofs-utils", "nix-bin", "qemu-system-common", "qemu-utils", "vde-switch"];

/// The tests of every run, those first that take long and whose guests are made quickly, so that they run while those of
/// the nixpkgs scripts are made. Between them they have each device, each kind of share, both kernels and both drivers,
/// and machines that end well, badly and by a power cut; all tests together take hours on an emulated host.
const EVERY_RUN: &[&str] = &[
    "conformance",
    "disks",
    "shared-root",
    "store",
    "ninep",
    "shares",
    "nginx",
    "switch-root",
    stage_1::NAME,
    TERMINAL,
    RUST,
    "ping-small",
    "panic",
];

/// The test that is written in Rust, with the driver as a library.
const RUST: &str = "rust";
/// The variable that gives it its manifest.
const RUST_MANIFEST: &str = "SNOWBOOT_TEST_MANIFEST";

/// The test that drives `snowboot run` itself.
const TERMINAL: &str = "terminal";
/// Its script; see there for its arguments.
const ON_A_TERMINAL: &str = "tests/guests/terminal.py";

/// The test that drives `snowboot vm` as the test driver of NixOS does.
const START_SCRIPT: &str = "start-script";
/// Its script; see there for its arguments.
const BY_START_SCRIPT: &str = "tests/guests/start_script.py";

/// How long most cases may take in the lab, in seconds. An emulated host needs 50 to 300, by the machine it is on.
const LIMIT: u32 = 900;

/// The same for the one that starts machines four times.
const START_SCRIPT_LIMIT: u32 = 1800;

/// Room for what a machine writes to a root that it keeps, in MiB; the file is sparse.
const STATE_MIB: u32 = 1024;

/// How it looks when QEMU's emulation of AMD-V leaves a vCPU with a wrong GS base: the kernel faults in its exception entry,
/// again and again, until that has used up the entry stack of CPU 0, below which this address is. The emulated host's own
/// kernel ends like that, too. Only this is tried again, once and in plain sight; every other failure is one, and on real
/// hardware this one is, too.
const EMULATION_FAULTS: &[&str] =
    &["CR2: fffffe0000001ff8", "lab: The emulated host ended before the command did"];

/// Labs at the same time: one emulated CPU keeps one of the machine's busy, and each has its own memory.
const AT_ONCE: usize = 2;

/// A disk's sector, in bytes.
const SECTOR: usize = 512;

/// Makes a test's files in a folder.
type MakeFiles = fn(&Path) -> Result<()>;

/// One run in a lab of its own.
struct Job {
    name: &'static str,
    command: Command,
    status: i32,
    said: &'static [&'static str],
    log: PathBuf,
    /// Made anew for each try.
    state_images: Vec<PathBuf>,
    images: Option<(MakeFiles, PathBuf)>,
}

/// Which tests to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection<'a> {
    /// Those of every run.
    Usual,
    /// Those with these names.
    Named(&'a [String]),
    /// All there are.
    All,
}

/// Runs the tests; the first that fails is the error.
pub(crate) fn run(selection: Selection<'_>) -> Result<()> {
    let wanted = wanted(selection)?;
    ensure_packages(PACKAGES)?;
    let built = build::run()?;
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let queue = Mutex::new(wanted.into_iter());
    let rest = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    // Each one's guests are made when its turn comes, beside another's run.
    let run_one = |test: Test| test.job(&built)?.run();
    let worker = || {
        std::iter::from_fn(|| rest().next()).try_for_each(|test| {
            let name = test.name();
            run_one(test).inspect_err(|_| {
                eprintln!("    guests: {name}: failed");
                // No more are begun: the outcome is known.
                rest().by_ref().for_each(drop);
            })
        })
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(cpus)).map(|_| scope.spawn(worker)).collect();
        let ended =
            workers.into_iter().map(|it| it.join().unwrap_or_else(|_| Err(anyhow!("A worker panicked"))));
        // All are waited for: a lab that still runs would disturb whatever comes next.
        ended.fold(Ok(()), Result::and)
    })
}

fn wanted(selection: Selection<'_>) -> Result<Vec<Test>> {
    let named = |name: &str| {
        let found = every_test().find(|test| test.name() == name);
        found.with_context(|| format!("There is no guest test `{name}`"))
    };
    match selection {
        Selection::Usual => EVERY_RUN.iter().map(|name| named(name)).collect(),
        Selection::Named(names) => names.iter().map(|name| named(name)).collect(),
        Selection::All => Ok(every_test().collect()),
    }
}

/// A guest test.
enum Test {
    Case(&'static Case),
    Terminal,
    StartScript,
    Stage1,
    Rust,
    Nix,
}

fn every_test() -> impl Iterator<Item = Test> {
    let cases = CASES.iter().chain(nixpkgs::CASES).map(Test::Case);
    cases.chain([Test::Terminal, Test::StartScript, Test::Stage1, Test::Rust, Test::Nix])
}

impl Test {
    fn name(&self) -> &'static str {
        match self {
            Self::Case(case) => case.name,
            Self::Terminal => TERMINAL,
            Self::StartScript => START_SCRIPT,
            Self::Stage1 => stage_1::NAME,
            Self::Rust => RUST,
            Self::Nix => nix::NAME,
        }
    }

    fn job(&self, built: &Built) -> Result<Job> {
        match self {
            Self::Case(case) => case.job(built),
            Self::Terminal => terminal_job(built),
            Self::StartScript => start_script_job(built),
            Self::Stage1 => stage_1::job(built),
            Self::Rust => rust_job(),
            Self::Nix => nix::job(built),
        }
    }
}

/// An empty folder for a test's files.
fn folder_for(name: &str) -> Result<PathBuf> {
    let folder = cache_dir().join("tests").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("Cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("Cannot make the folder {}", folder.display()))?;
    Ok(folder)
}

fn terminal_job(built: &Built) -> Result<Job> {
    let name = "machine1".to_owned();
    let guests = guest::make(Kernel::Generic, &[name.clone(), "machine2".to_owned()], &[], Backdoor::InRoot)?;
    let mut command = in_lab(LIMIT)?;
    command.arg("python3").arg(project_root().join(ON_A_TERMINAL));
    command.arg(&built.program).arg(guests.folder.join(name)).arg(guest::vmlinux(Kernel::Generic)?);
    let log = folder_for(TERMINAL)?.join("log");
    Ok(Job {
        name: TERMINAL,
        command,
        status: 0,
        said: &["all is well"],
        log,
        state_images: Vec::new(),
        images: None,
    })
}

fn start_script_job(built: &Built) -> Result<Job> {
    let names = ["machine1", "machine2"].map(str::to_owned);
    let guests = guest::make(Kernel::Cloud, &names, &[], Backdoor::InRoot)?;
    let mut command = in_lab(START_SCRIPT_LIMIT)?;
    command.arg("python3").arg(project_root().join(BY_START_SCRIPT)).arg(&built.program).arg(guests.folder);
    let log = folder_for(START_SCRIPT)?.join("log");
    Ok(Job {
        name: START_SCRIPT,
        command,
        status: 0,
        said: &["done: a cable that is pulled", "done: SIGTERM", "all is well"],
        log,
        state_images: Vec::new(),
        images: None,
    })
}

fn rust_job() -> Result<Job> {
    // The manifest's script is this test; the driver does not look at it.
    let script = "tests/tests/ping.rs";
    let case = Case { name: RUST, script, machines: &["machine1", "machine2"], ..CASE };
    let folder = folder_for(RUST)?;
    let manifest = case.manifest_in(&folder)?;
    let mut command = in_lab(LIMIT)?;
    command.arg(build::test_program("snowboot-tests", "ping", "guests")?);
    command.args(["--ignored", "--nocapture"]).env(RUST_MANIFEST, &manifest);
    let said = &["subtest: after a power cut", "1 passed; 0 failed"];
    Ok(Job {
        name: RUST,
        command,
        status: 0,
        said,
        log: folder.join("log"),
        state_images: Vec::new(),
        images: None,
    })
}

impl Case {
    fn job(&self, built: &Built) -> Result<Job> {
        let folder = folder_for(self.name)?;
        let manifest = self.manifest_in(&folder)?;
        let mut command = in_lab(self.limit)?;
        // On a file system as most machines have it; the lab's root is none.
        command.env("TMPDIR", "/var/tmp");
        command.arg(&built.program).arg("test").arg(&manifest).arg("-o").arg(&folder);
        let log = folder.join("log");
        let keepers = if self.keeps_root { self.machines } else { &[] };
        let state_images = keepers.iter().map(|name| folder.join(state_image(name))).collect();
        let images = self.images.map(|make| (make, folder));
        Ok(Job { name: self.name, command, status: self.status, said: self.said, log, state_images, images })
    }

    fn manifest_in(&self, folder: &Path) -> Result<PathBuf> {
        let manifest = folder.join("test.toml");
        fs::write(&manifest, manifest_text(self, folder)?)
            .with_context(|| format!("Cannot write {}", manifest.display()))?;
        Ok(manifest)
    }
}

impl Job {
    fn run(mut self) -> Result<()> {
        let start = Instant::now();
        eprintln!("==> guests: {}", self.name);
        if let Err(error) = self.try_once() {
            let text = fs::read(&self.log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let fault = EMULATION_FAULTS.iter().find(|fault| text.contains(*fault));
            let Some(fault) = fault.filter(|_| !lab::has_hardware_virtualization()) else {
                return Err(error);
            };
            let kept = self.log.with_extension("first");
            fs::rename(&self.log, &kept).with_context(|| format!("Cannot keep {}", self.log.display()))?;
            eprintln!("    guests: {}: once more after `{fault}`; see {}", self.name, kept.display());
            self.try_once()?;
        }
        eprintln!("    guests: {}: {:.1} s", self.name, start.elapsed().as_secs_f64());
        Ok(())
    }

    fn try_once(&mut self) -> Result<()> {
        self.state_images.iter().try_for_each(|path| make_state_image(path))?;
        if let Some((make, folder)) = &self.images {
            make(folder)?;
        }
        let log = File::create(&self.log).with_context(|| format!("Cannot write {}", self.log.display()))?;
        let output = log.try_clone()?;
        let command = self.command.stdin(Stdio::null()).stdout(output).stderr(log);
        let status = command.status().context("Cannot run the lab")?;
        let text = fs::read(&self.log).with_context(|| format!("Cannot read {}", self.log.display()))?;
        let text = String::from_utf8_lossy(&text);
        if status.code() != Some(self.status) {
            return self.wrong(&text, &format!("it ended with {status}, not {}", self.status));
        }
        if let Some(said) = self.said.iter().find(|said| !text.contains(*said)) {
            return self.wrong(&text, &format!("it never said `{said}`"));
        }
        Ok(())
    }

    fn wrong(&self, text: &str, why: &str) -> Result<()> {
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n    ");
        bail!(
            "The guest test {} failed: {why}\n    {shown}\nAll of it is in {}",
            self.name,
            self.log.display()
        )
    }
}

/// The disk that keeps what a machine writes to its root; see the guests' initrd.
fn state_image(machine: &str) -> String {
    format!("{machine}.state.img")
}

fn make_state_image(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("Cannot remove {}", path.display()))?;
    }
    let size = format!("{STATE_MIB}M");
    quiet("making a disk for a machine", Command::new("/sbin/mkfs.ext4").arg("-q").arg(path).arg(size))
}

/// A disk is whole sectors. Neither the kernel nor the unpacker of its initrd minds zeros at the end.
fn make_boot_disk(file: &Path, image: &Path) -> Result<()> {
    let mut content = fs::read(file).with_context(|| format!("Cannot read {}", file.display()))?;
    content.resize(content.len().next_multiple_of(SECTOR), 0);
    fs::write(image, content).with_context(|| format!("Cannot write {}", image.display()))
}

/// A VLAN as a machine's `vlans` have it.
fn written(case: &Case, vlan: u8) -> String {
    let named = case.networks.iter().find(|(_, number)| *number == vlan);
    named.map_or_else(|| vlan.to_string(), |(name, _)| format!("{name:?}"))
}

/// The manifest of a case whose files are in `folder`.
fn manifest_text(case: &Case, folder: &Path) -> Result<String> {
    let names: Vec<String> = case.machines.iter().map(ToString::to_string).collect();
    let with: Vec<String> = case.with.iter().map(ToString::to_string).collect();
    let guests = guest::make(case.kernel, &names, &with, case.backdoor)?;
    for Share { tag, .. } in case.shares.iter().filter(|share| share.path.is_none()) {
        let shared = folder.join(tag);
        fs::create_dir_all(&shared).with_context(|| format!("Cannot make {}", shared.display()))?;
    }
    let script = project_root().join(case.script);
    let mut text = format!(
        "name = {:?}\nscript = {script:?}\nglobal-timeout = {}\n",
        case.name,
        case.own_limit.unwrap_or(case.limit)
    );
    for (name, vlan) in case.networks {
        text.push_str(&format!("\n[networks.{name}]\nvlan = {vlan}\n"));
    }
    for name in case.machines {
        let toplevel = guests.folder.join(name);
        let root = toplevel.join(guest::ROOT_IMAGE);
        let vlans =
            case.vlans.iter().find(|(machine, _)| machine == name).map_or(&[1][..], |(_, vlans)| vlans);
        let vlans: Vec<String> = vlans.iter().map(|vlan| written(case, *vlan)).collect();
        let vlans = vlans.join(", ");
        let own = case.disks.iter().find(|(machine, ..)| machine == name);
        let (keys, disks) = own.map_or(("", ""), |(_, keys, disks)| (keys, disks));
        text.push_str(&format!(
            "\n[machines.{name}]\ntoplevel = {toplevel:?}\nvcpus = {}\nmemory = {:?}\nvlans = [{vlans}]\n{keys}",
            case.vcpus, case.memory,
        ));
        if case.root_disk {
            text.push_str(&format!(
                "[[machines.{name}.disks]]\npath = {root:?}\nread-only = true\nserial = \"root\"\n"
            ));
        }
        text.push_str(disks);
        if case.data_disk {
            text.push_str(&format!(
                "[[machines.{name}.disks]]\npath = \"{name}.img\"\ncreate-mib = {}\nserial = \"data\"\n",
                case.data_mib,
            ));
        }
        if case.keeps_root {
            let state = state_image(name);
            text.push_str(&format!("[[machines.{name}.disks]]\npath = {state:?}\nserial = \"state\"\n"));
        }
        for Share { tag, writable, cache, protocol, path } in case.shares {
            let path = path.unwrap_or(tag);
            text.push_str(&format!(
                "[[machines.{name}.shares]]\ntag = {tag:?}\npath = {path:?}\nwritable = {writable}\n"
            ));
            text.push_str(&format!("cache = {cache:?}\nprotocol = {protocol:?}\n"));
        }
        if case.boot_disks {
            for file in ["kernel", "initrd"] {
                let image = format!("{name}.{file}.img");
                make_boot_disk(&toplevel.join(file), &folder.join(&image))?;
                text.push_str(&format!(
                    "[[machines.{name}.disks]]\npath = {image:?}\nread-only = true\nserial = {file:?}\n"
                ));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_tests_that_there_are() {
        assert_eq!(wanted(Selection::Usual).unwrap().len(), EVERY_RUN.len());
        assert!(wanted(Selection::All).unwrap().len() > EVERY_RUN.len());
        assert!(wanted(Selection::Named(&["pong".to_owned()])).is_err());
    }
}
