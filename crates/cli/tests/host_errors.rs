//! `snowboot run`: what goes wrong before a guest is there, on a host with or without KVM.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{assert_error, folder, path, run, run_words, snowboot};
use serde_json::Value;

#[test]
fn a_kvm_device_that_cannot_be_used_says_what_to_do() {
    let device = |device: &str| run_words(&["run", "--kernel", "k", "--kvm-device", device]);
    assert_error(
        &device("/nonexistent"),
        &["Cannot use /nonexistent: it does not exist", "modprobe kvm_amd"],
    );
    assert_error(&device("/dev/null"), &["Cannot use /dev/null", "is it the KVM device?"]);
    let ran = run(snowboot(["run", "--kernel", "k"]).env("SNOWBOOT_KVM_DEVICE", "/elsewhere"));
    assert_error(&ran, &["Cannot use /elsewhere"]);
    let ran =
        run(snowboot(["run", "--kernel", "k", "--kvm-device", "/nonexistent"])
            .env("SNOWBOOT_KVM_DEVICE", "/x"));
    assert_error(&ran, &["Cannot use /nonexistent"]);
}

#[test]
fn a_toplevel_that_is_none_says_what_is_missing() {
    let files = folder(&[("empty/x", b""), ("bad/boot.json", b"{"), ("half/kernel-params", b"quiet")]);
    let toplevel = |name: &str| run_words(&["run", &path(&files, name)]);
    assert_error(&toplevel("none"), &["Cannot read the toplevel", "/none: there is no such folder"]);
    assert_error(
        &toplevel("empty"),
        &["neither boot.json nor a readable kernel-params", "is it a toplevel?"],
    );
    assert_error(&toplevel("bad"), &["bad/boot.json", "it is not a bootspec"]);
    assert_error(&toplevel("half"), &["its kernel is not at"]);
}

#[test]
fn one_vlan_takes_one_card() {
    let ran = run_words(&["run", "--kernel", "k", "--vlan", "3", "--vlan", "3"]);
    assert_error(&ran, &["VLAN 3 is named twice"]);
}

#[test]
fn an_error_is_reported_too_and_in_whole() {
    let files = folder(&[]);
    let report = path(&files, "report.json");
    let words = ["run", "--kernel", "k", "--kvm-device", "/nonexistent", "--report", &report];
    assert_error(&run_words(&words), &["/nonexistent"]);
    let found: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!((&found["outcome"], &found["exit_status"]), (&"error".into(), &1.into()));
    assert!(found["detail"].as_str().unwrap().starts_with("Cannot use /nonexistent"), "{found}");
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 1);
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_starts() {
    let files = folder(&[]);
    let report = path(&files, "none/report.json");
    let ran = run_words(&["run", "--kernel", "k", "--kvm-device", "/nonexistent", "--report", &report]);
    assert_error(&ran, &["Cannot write the report", "its folder cannot be written to"]);
    let timeline = ["run", "--kernel", "k", "--kvm-device", "/nonexistent", "--timeline-json", &report];
    assert_error(&run_words(&timeline), &["Cannot write the report", "its folder cannot be written to"]);
    let report = path(&files, "r.json");
    let twice = ["run", "--kernel", "k", "--report", &report, "--timeline-json", &report];
    assert_error(&run_words(&twice), &["Two reports are to be written to", "name a file for each"]);
    let ran = run_words(&["run", "--kernel", "k", "--report", "/dev/null"]);
    assert_error(&ran, &["Cannot write the report /dev/null: it is not a regular file"]);
}
