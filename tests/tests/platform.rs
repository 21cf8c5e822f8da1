//! The payload of `firmware/` on real machines. `cargo xtask test` builds it and runs these.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use snowboot_config::{MemorySize, VcpuCount};
use snowboot_tests::{Guest, SECTOR, WRITTEN_SECTORS, config, disk, pattern};
use snowboot_vmm::Outcome;

/// All that the payload checks, in its order, on a machine with two disks.
const CHECKS: [&str; 15] = [
    "serial",
    "acpi",
    "memory",
    "processors",
    "ioapic",
    "pci",
    "bars",
    "disk0",
    "disk1",
    "rng",
    "rng-again",
    "rng-high",
    "msix",
    "msix-mask",
    "msix-function-mask",
];

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn every_check_is_made_and_disks_hold_what_was_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (data, root) = (folder.path().join("data"), folder.path().join("root"));
    let mut config = config("full", "end=poweroff")?;
    config.disks = vec![disk(&data, 64, "data", false)?, disk(&root, 2048, "root", true)?];
    let guest = Guest::start(config)?;
    guest.ensure_ends_well(&Outcome::PowerOff)?;

    let lines = guest.lines();
    let made: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert_eq!(made, CHECKS);
    for found in [
        "note memory mib=64",
        "note processors=1",
        "note pci device=1 virtio=2",
        "note pci device=2 virtio=2",
        "note pci device=3 virtio=4",
        "note disk0 sectors=64 read-only=false serial=serial-data",
        "note disk0 label=data",
        "note disk1 sectors=2048 read-only=true serial=serial-root",
        "note disk1 label=root",
    ] {
        assert!(lines.iter().any(|line| line == found), "{found} is missing in\n{}", lines.join("\n"));
    }
    let image = fs::read(&data)?;
    for sector in WRITTEN_SECTORS {
        assert_eq!(image[sector * SECTOR..][..SECTOR], pattern(0, sector), "sector {sector}");
    }
    assert!(fs::read(&root)?[SECTOR..].iter().all(|byte| *byte == 0), "the read-only disk was written");
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn all_processors_start() -> Result<()> {
    for count in [1, 2, 5, 32] {
        let mut config = config("smp", "")?;
        config.vcpus = VcpuCount::try_from(count)?;
        let guest = Guest::start(config)?;
        guest.ensure_ends_well(&Outcome::PowerOff)?;
        guest.wait_for_line(&format!("note processors={count}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn memory_of_any_size_is_all_there_for_guest_and_devices() -> Result<()> {
    // Beyond 3 GiB it goes on above 4 GiB; guest memory is sparse, so the host need not have as much.
    for (mib, top) in [
        (64, 0x3ff_f000u64),
        (512, 0x1fff_f000),
        (3072, 0xbfff_f000),
        (5120, 0x1_7fff_f000),
        (65536, 0x10_3fff_f000),
    ] {
        let mut config = config("memory", "")?;
        config.memory = MemorySize::from_mib(mib)?;
        let guest = Guest::start(config)?;
        guest.ensure_ends_well(&Outcome::PowerOff)?;
        guest.wait_for_line(&format!("note memory mib={mib}"))?;
        guest.wait_for_line(&format!("note top={top:#x}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn every_way_to_end_has_its_outcome() -> Result<()> {
    for (end, outcome) in [
        ("poweroff", Outcome::PowerOff),
        ("reset", Outcome::Reset),
        ("i8042", Outcome::Reset),
        ("triple-fault", Outcome::TripleFault),
    ] {
        let guest = Guest::start(config(end, &format!("end={end}"))?)?;
        guest.ensure_ends_well(&outcome)?;
        guest.machine.stop();
        assert_eq!(guest.machine.outcome(), Some(outcome), "a stop after the end changes nothing");
        assert!(
            guest.machine.pause().is_err()
                && guest.machine.resume().is_err()
                && guest.machine.start().is_err()
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn the_power_button_is_heard() -> Result<()> {
    let guest = Guest::start(config("button", "end=button")?)?;
    guest.wait_for_line("waiting for the power button")?;
    assert_eq!(guest.machine.wait(Some(Duration::from_millis(50))), None);
    guest.machine.press_power_button();
    guest.ensure_ends_well(&Outcome::PowerOff)
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn what_is_typed_arrives() -> Result<()> {
    let guest = Guest::start(config("key", "end=key")?)?;
    guest.wait_for_line("type a line")?;
    let text = "x".repeat(500);
    assert_eq!(guest.machine.serial_input(format!("{text}\n").as_bytes()), text.len() + 1);
    guest.ensure_ends_well(&Outcome::PowerOff)?;
    guest.wait_for_line(&format!("typed {text}"))?;
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_spinning_machine_is_paused_resumed_and_stopped() -> Result<()> {
    for vcpus in [1, 2] {
        let mut config = config("spin", "end=hang")?;
        config.vcpus = VcpuCount::try_from(vcpus)?;
        let guest = Guest::start(config)?;
        guest.ensure_all_ok()?;
        for _ in 0..20 {
            guest.machine.pause()?;
            guest.machine.pause()?;
            guest.machine.resume()?;
            guest.machine.resume()?;
        }
        guest.machine.pause()?;
        guest.machine.stop();
        assert_eq!(guest.machine.outcome(), Some(Outcome::Stopped));
    }
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_paused_machine_does_nothing_and_loses_no_request() -> Result<()> {
    let guest = Guest::start(config("busy", "end=busy")?)?;
    guest.wait_for_line("tick")?;
    for _ in 0..30 {
        guest.machine.pause()?;
        let before = guest.lines().len();
        thread::sleep(Duration::from_millis(20));
        assert_eq!(guest.lines().len(), before, "a paused machine printed something");
        guest.machine.resume()?;
        guest.wait_until(|lines| lines.len() > before + 5)?;
    }
    guest.ensure_all_ok()?;
    assert!(!guest.lines().iter().any(|line| line.starts_with("FAILED")));
    guest.machine.stop();
    assert_eq!(guest.outcome()?, Outcome::Stopped);
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_running_machine_can_be_dropped_at_any_moment() -> Result<()> {
    for milliseconds in [0, 1, 5, 20, 80] {
        let guest = Guest::start(config("drop", "end=busy")?)?;
        thread::sleep(Duration::from_millis(milliseconds));
        drop(guest);
    }
    let paused = Guest::start(config("drop", "end=busy")?)?;
    paused.wait_for_line("tick")?;
    paused.machine.pause()?;
    drop(paused);
    Ok(())
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn machines_of_one_process_do_not_disturb_each_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let start = |name: &str, end: &str| {
        let mut config = config(name, end)?;
        config.disks = vec![disk(&folder.path().join(name), 64, name, false)?];
        Guest::start(config)
    };
    let (one, other) = (start("one", "end=busy")?, start("other", "end=busy")?);
    one.wait_for_line("tick")?;
    other.wait_for_line("tick")?;
    one.machine.pause()?;
    let before = other.lines().len();
    other.wait_until(|lines| lines.len() > before + 20)?;
    one.machine.stop();
    let before = other.lines().len();
    other.wait_until(|lines| lines.len() > before + 20)?;
    assert!(one.lines().contains(&"note disk0 label=one".to_owned()));
    assert!(other.lines().contains(&"note disk0 label=other".to_owned()));
    other.ensure_all_ok()
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_hostile_guest_gets_no_further_than_its_own_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let neighbour = Guest::start(config("neighbour", "end=busy")?)?;
    for seed in 0..8 {
        let name = format!("hostile-{seed}");
        let mut config = config(&name, &format!("hostile={seed}"))?;
        config.disks = vec![
            disk(&folder.path().join(&name), 64, "data", false)?,
            disk(&folder.path().join("root"), 64, "root", true)?,
        ];
        let guest = Guest::start(config)?;
        guest.ensure_ends_well(&Outcome::PowerOff)?;
        let survived = guest.wait_for_line("survived: ")?;
        let starts: u32 = survived.split(' ').nth(1).unwrap_or_default().parse()?;
        ensure!(starts > 30, "the guest did little harm: {survived}");
        ensure!(fs::metadata(folder.path().join(&name))?.len() == 64 * 512, "the disk's size changed");
    }
    let before = neighbour.lines().len();
    neighbour.wait_until(|lines| lines.len() > before + 20)?;
    neighbour.ensure_all_ok()
}

/// Interrupt messages of every kind: its own CPU may stop for good, so the machine's end is not the guest's to choose.
#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_wild_guest_can_still_be_stopped() -> Result<()> {
    for seed in 0..4 {
        let guest = Guest::start(config("wild", &format!("hostile={seed} wild"))?)?;
        guest.wait_for_line("hostile")?;
        let _ = guest.machine.wait(Some(Duration::from_secs(1)));
        guest.machine.stop();
        ensure!(guest.machine.outcome().is_some(), "the machine does not end");
    }
    let after = Guest::start(config("after", "")?)?;
    after.ensure_ends_well(&Outcome::PowerOff)
}
