//! A test as somebody writes it who has Snowboot's driver as a library: two Debian guests, no Python. `cargo xtask test
//! guests` makes the guests and runs it where there is KVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use snowboot_driver::sinks::{Troubles, Wanted};
use snowboot_driver::{Driver, MachineHandle, Options};

/// The manifest's path.
const MANIFEST: &str = "SNOWBOOT_TEST_MANIFEST";
/// An emulated host under load is a hundred times slower than a real one.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "needs guests and KVM: run by cargo xtask test guests"]
fn two_machines_ping_each_other() -> Result<()> {
    let manifest: PathBuf = std::env::var_os(MANIFEST)
        .with_context(|| format!("{MANIFEST} is not set: run `cargo xtask test guests --guest-tests rust`"))?
        .into();
    let folder = manifest.parent().context("the manifest is in no folder")?;
    let junit = folder.join("junit.xml");
    let troubles = Troubles::default();
    let reports = Wanted { junit: Some(junit.clone()), ..Wanted::default() };
    let options = Options::on_kvm("/dev/kvm").sinks(reports.open(&troubles)?);
    Driver::from_file(&manifest, options)?.run(|test| story(test, folder))?;
    ensure!(troubles.take().is_empty(), "reports could not be written");
    let report = fs::read_to_string(&junit)?;
    ensure!(report.contains("failures=\"0\"") && report.contains("name=\"after a power cut\""), "{report}");
    Ok(())
}

fn story(test: &Driver, folder: &Path) -> Result<()> {
    let machine = |name| test.machine(name).with_context(|| format!("the manifest has no {name}"));
    let (one, two) = (machine("machine1")?, machine("machine2")?);
    test.start_all()?;
    test.in_subtest("units", || two.wait_for_unit("multi-user.target", None, PATIENCE))?;
    test.in_subtest("ping", || -> Result<()> {
        ping(one, "machine2")?;
        ping(two, "machine1")
    })?;
    test.in_subtest("a file goes there and comes back", || there_and_back(two, folder))?;
    test.in_subtest("after a power cut", || -> Result<()> {
        two.crash()?;
        ensure!(!two.is_booted() && one.is_up(), "one machine's end is not the other's");
        one.fail(&["ping -c 1 -W 2 machine2"], None)?;
        two.start()?;
        two.fail(&["test -e /run/greeting"], None)?;
        ping(one, "machine2")
    })
}

fn ping(from: &MachineHandle, to: &str) -> Result<()> {
    from.wait_until_succeeds(&format!("ping -c 1 {to}"), PATIENCE)?;
    Ok(())
}

fn there_and_back(machine: &MachineHandle, folder: &Path) -> Result<()> {
    let greeting = folder.join("greeting");
    fs::write(&greeting, "from Rust\n")?;
    machine.copy_from_host(&greeting, Path::new("/run/greeting"))?;
    ensure!(machine.succeed(&["cat /run/greeting"], None)? == "from Rust\n", "it is not what was copied");
    let back = machine.copy_from_machine(Path::new("/run/greeting"), &folder.join("back"))?;
    ensure!(fs::read_to_string(back)? == "from Rust\n", "it did not come back as it was");
    Ok(())
}
