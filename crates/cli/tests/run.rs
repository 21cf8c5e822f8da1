//! `snowboot run` with guests of a few instructions. They need KVM, also a KVM that emulates.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/guest.rs"]
mod guest;
#[path = "common/terminal.rs"]
mod terminal;

use std::io::{Read, Write};
use std::process::Stdio;

use common::{assert_error, finish, folder, path, run, signal, snowboot, wait_until};
use guest::{elf, guests};
use rustix::process::Signal;
use serde_json::Value;
use terminal::Pty;

const CTRL_A: &str = "\x01";

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn every_end_of_a_guest_has_its_exit_status_and_its_words() {
    let guests = guests();
    for (name, status, output, outcome, words) in [
        ("off", 0, "hello\r\n", "power-off", "the guest powered off"),
        ("reset", 3, "", "reset", "a kernel panic where its command line has panic=1"),
        ("keyboard-reset", 3, "", "reset", "the guest reset"),
        ("triple-fault", 4, "", "triple-fault", "triple fault"),
        ("fault", 5, "", "fault", "KVM could not go on"),
    ] {
        let report = path(&guests, "report.json");
        let ran = run(&mut snowboot(["run", "--kernel", &path(&guests, name), "--report", &report]));
        assert_eq!((ran.status, ran.out.as_str()), (status, output), "{name}: {ran:?}");
        assert!(ran.err.contains(words), "{name}: {}", ran.err);
        let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
        assert_eq!(
            (&report["outcome"], &report["exit_status"]),
            (&outcome.into(), &status.into()),
            "{report}"
        );
        assert_eq!(report["detail"].is_null(), outcome != "fault", "{report}");
        assert!(report["seconds"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn several_machines_of_a_bench_say_their_lines_and_end_together() {
    let guests = guests();
    let machines = |kernel: &str| {
        let kernel = path(&guests, kernel);
        let words =
            ["bench", "machines", "--count", "3", "--kernel", &kernel, "--initrd", &kernel, "--cmdline", "x"];
        run(&mut snowboot([&words[..], &["--memory", "64M", "--vcpus", "1"]].concat()))
    };
    let ran = machines("off");
    assert_eq!((ran.status, ran.out.as_str()), (0, "hello\r\nhello\r\nhello\r\n"), "{ran:?}");
    let ran = machines("reset");
    assert_eq!((ran.status, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(" of 3 "), "{ran:?}");
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn the_timeline_tells_when_the_boot_got_where() {
    let guests = guests();
    let file = path(&guests, "timeline.json");
    let kernel = path(&guests, "marks");
    let ran = run(&mut snowboot(["run", "--kernel", &kernel, "--timeline", "--timeline-json", &file]));
    assert_eq!((ran.status, ran.out.as_str()), (0, "x\n"), "{ran:?}");
    let (_, table) = ran.err.split_once("snowboot: boot timeline").unwrap();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    let names = [
        "process started",
        "machine build began",
        "guest memory ready",
        "kernel loaded",
        "guest entered",
        "init started",
        "mark 200",
        "target reached",
        "mark 16",
        "first console output",
    ];
    assert_eq!(rows.len(), names.len(), "{}", ran.err);
    for (row, name) in rows.iter().zip(names) {
        assert!(row.starts_with(&format!("snowboot: {name}  ")), "{row}");
    }
    assert!(rows[0].ends_with(" 0.000       0.000"), "{}", rows[0]);

    let json: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(json["origin"], "process");
    let phases = &json["phases"];
    let at = |name: &str| phases[name].as_f64().unwrap_or_else(|| panic!("{name}: {json}"));
    let reached = ["process_start", "build_began", "memory_ready", "kernel_loaded", "guest_entered"];
    let by_guest = ["init_started", "target_reached", "console_output"];
    assert!([&reached[..], &by_guest].concat().is_sorted_by_key(|name| at(name)), "{json}");
    assert!(at("process_start") == 0.0 && at("build_began") > 0.0, "{json}");
    assert_eq!(phases.as_object().unwrap().len(), reached.len() + by_guest.len(), "{json}");
    let marks = json["marks"].as_array().unwrap();
    assert_eq!(marks.iter().map(|mark| mark["mark"].as_u64().unwrap()).collect::<Vec<_>>(), [200, 16]);
    assert!(marks[0]["at"].as_f64() <= phases["target_reached"].as_f64(), "{json}");
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn the_inputs_bytes_reach_the_guest_as_they_are() {
    let guests = guests();
    let mut command = snowboot(["run", "--kernel", &path(&guests, "echo")]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // Not a terminal: Ctrl-a is a byte as any other.
    child.stdin.take().unwrap().write_all(b"one\x01xtwo\nq").unwrap();
    let ran = finish(child);
    assert_eq!((ran.status, ran.out.as_str()), (0, "> one\x01xtwo\nq"), "{ran:?}");
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_signal_stops_the_machine_after_the_end_of_its_input_too() {
    let guests = guests();
    for (number, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129), (Signal::QUIT, 131)]
    {
        let report = path(&guests, "report.json");
        let words = ["run", "--kernel", &path(&guests, "forever"), "--report", &report];
        let mut child = snowboot(words).spawn().unwrap();
        let mut line = [0; 4];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"up\r\n");
        signal(&child, number);
        let ran = finish(child);
        assert_eq!(ran.status, status, "{ran:?}");
        assert!(ran.err.contains("stopped the machine"), "{}", ran.err);
        let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
        assert_eq!((&report["outcome"], &report["signal"]), (&"stopped".into(), &number.as_raw().into()));
    }
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_guest_whose_output_nobody_reads_can_be_stopped() {
    let guests = guests();
    let mut child = snowboot(["run", "--kernel", &path(&guests, "flood")]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    rustix::pipe::fcntl_setpipe_size(&stdout, 4096).unwrap();
    stdout.read_exact(&mut [0; 100]).unwrap();
    // Time to fill the pipe, which stays full.
    std::thread::sleep(std::time::Duration::from_millis(300));
    signal(&child, Signal::TERM);
    let ran = finish(child);
    assert_eq!(ran.status, 143, "{ran:?}");
    assert!(ran.err.contains("is lost: nobody reads it"), "{}", ran.err);
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_guest_whose_output_nobody_reads_can_be_stopped_by_the_escape_too() {
    let guests = guests();
    let pty = Pty::open();
    let (stdout, full) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&full, 4096).unwrap();
    let mut command = snowboot(["run", "--kernel", &path(&guests, "flood")]);
    let mut child = pty.spawn_with_output(&mut command, full);
    pty.read_until("Ctrl-a x stops the machine");
    // Time to fill the pipe and all that is kept for it, so that the guest waits in the middle of a write.
    std::thread::sleep(std::time::Duration::from_secs(3));
    pty.write("typed");
    std::thread::sleep(std::time::Duration::from_millis(200));
    pty.write(&format!("{CTRL_A}x"));
    wait_until("the program has ended", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(stdout);
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_reader_that_leaves_ends_the_run() {
    let guests = guests();
    let mut child = snowboot(["run", "--kernel", &path(&guests, "flood")]).spawn().unwrap();
    drop(child.stdout.take());
    assert_error(&finish(child), &["cannot write its console to the standard output: Broken pipe"]);
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn disks_and_network_cards_are_attached() {
    let guests = guests();
    let disk = path(&guests, "disk.img");
    let words = [
        "run",
        "--kernel",
        &path(&guests, "off"),
        "--vlan",
        "1",
        "--vlan",
        "2",
        "--memory",
        "64",
        "--cpus",
        "2",
    ];
    let ran = run(snowboot(words).args(["--disk", &format!("{disk},create=3,serial=data")]));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 3 << 20);
    let ran = run(snowboot(words).args(["--disk", &path(&guests, "none.img")]));
    assert_error(&ran, &["none.img"]);
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn files_that_cannot_be_booted_say_why() {
    let guests = guests();
    let files = folder(&[
        ("text", b"#!/bin/sh\n"),
        ("truncated", &guest::bzimage(4096)[..2000]),
        ("cut.elf", &elf(&[0x90; 100])[..150]),
        ("empty/x", b""),
    ]);
    let kernel = |name: &str| run(&mut snowboot(["run", "--kernel", &path(&files, name)]));
    assert_error(&kernel("none"), &["Cannot read the kernel", "/none: ", "no such file"]);
    assert_error(&kernel("empty"), &["Cannot read the kernel", "/empty: "]);
    assert_error(&kernel("text"), &["neither a bzImage nor a 64-bit ELF vmlinux"]);
    assert_error(&kernel("truncated"), &["it is truncated", "copy or build it again"]);
    assert_error(&kernel("cut.elf"), &["it is truncated"]);
    let words = ["run", "--kernel", &path(&guests, "off"), "--initrd", &path(&files, "none")];
    assert_error(&run(&mut snowboot(words)), &["Cannot read the initrd", "/none: "]);
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_terminal_is_raw_for_the_guest_and_obeys_the_escape() {
    let guests = guests();
    let pty = Pty::open();
    let before = pty.mode();
    let mut child = pty.spawn(&mut snowboot(["run", "--kernel", &path(&guests, "echo")]));
    pty.read_until("> ");
    assert!(!pty.is_cooked());
    pty.write("ab\x03");
    // Typed once, shown once: by the guest. Ctrl-C is the guest's.
    pty.read_until("ab\x03");
    pty.write(&format!("{CTRL_A}{CTRL_A}"));
    pty.read_until("ab\x03\x01");
    pty.write(&format!("{CTRL_A}h"));
    pty.read_until("Ctrl-a p       press its power button");
    pty.write(&format!("{CTRL_A}p{CTRL_A}x"));
    pty.read_until("you stopped the machine");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(pty.mode(), before);
    let seen = pty.seen();
    assert!(seen.contains("Ctrl-a x stops the machine"), "{seen}");
    assert_eq!(seen.matches("ab").count(), 1, "{seen}");
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_terminal_is_restored_whatever_ends_the_run() {
    let guests = guests();
    for (name, number, status) in [
        ("forever", Some(Signal::TERM), 143),
        ("forever", Some(Signal::INT), 130),
        ("forever", Some(Signal::HUP), 129),
        ("off", None, 0),
        ("triple-fault", None, 4),
        ("none", None, 1),
    ] {
        let pty = Pty::open();
        let before = pty.mode();
        let mut child = pty.spawn(&mut snowboot(["run", "--kernel", &path(&guests, name)]));
        if let Some(number) = number {
            pty.read_until("up");
            assert!(!pty.is_cooked());
            signal(&child, number);
        }
        assert_eq!(child.wait().unwrap().code(), Some(status), "{name}");
        assert_eq!(pty.mode(), before, "{name}");
    }
}

#[test]
#[ignore = "needs KVM: run by cargo xtask test"]
fn a_terminal_that_a_shell_had_meanwhile_is_raw_again() {
    let guests = guests();
    let pty = Pty::open();
    let mut child = pty.spawn(&mut snowboot(["run", "--kernel", &path(&guests, "forever")]));
    pty.read_until("up");
    signal(&child, Signal::STOP);
    pty.cook();
    assert!(pty.is_cooked());
    signal(&child, Signal::CONT);
    wait_until("the terminal is raw", || !pty.is_cooked());
    pty.write(&format!("{CTRL_A}x"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
