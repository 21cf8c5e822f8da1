//! `snowboot check`, `snowboot test -I` and `nixos-test-driver`: what is handed to which Python module.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use common::{assert_error, folder, path, run, snowboot};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Prints which module it is and what it was given, and ends with a status of its own.
const MODULE: &[u8] = b"\
import json, sys
print(json.dumps([__spec__.name, sys.argv[1:]]))
sys.exit(7)
";

fn project() -> TempDir {
    let manifest = b"name = 'ping'\ntest-script = ''\n[machines.a]\nkernel = 'bzImage'\n";
    folder(&[
        ("test.toml", manifest),
        ("bzImage", b""),
        ("py/snowboot/__init__.py", b""),
        ("py/snowboot/runner.py", MODULE),
        ("py/snowboot/check.py", MODULE),
        ("py/snowboot/nixos_test_driver.py", MODULE),
    ])
}

fn program(project: &TempDir, words: &[&str]) -> Command {
    let mut command = snowboot(words.iter().copied());
    command.current_dir(project.path()).env("SNOWBOOT_PYTHON_PATH", project.path().join("py"));
    command.env_remove("PYTHONPATH");
    command
}

fn told(command: &mut Command) -> Value {
    let ran = run(command);
    assert_eq!((ran.status, ran.err.as_str()), (7, ""), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn check_looks_at_the_files_and_hands_the_rest_over() {
    let project = project();
    let manifest = path(&project, "test.toml");
    // It is for hosts without KVM too.
    let mut command = program(&project, &["check", "test.toml"]);
    assert_eq!(
        told(command.env("SNOWBOOT_KVM_DEVICE", "/nonexistent")),
        json!(["snowboot.check", [manifest]])
    );
    let words = ["check", "test.toml", "--skip-type-check", "--skip-lint"];
    let expected = json!(["snowboot.check", [manifest, "--skip-type-check", "--skip-lint"]]);
    assert_eq!(told(&mut program(&project, &words)), expected);
    std::fs::remove_file(project.path().join("bzImage")).unwrap();
    assert_error(
        &run(&mut program(&project, &["check", "test.toml"])),
        &["test.toml: machine `a`: Cannot read the kernel"],
    );
    assert_error(
        &run(&mut program(&project, &["check", "none.toml"])),
        &["Cannot read the manifest none.toml"],
    );
    assert_eq!(run(&mut program(&project, &["check"])).status, 2);
}

#[test]
fn test_hands_over_what_is_left_out_and_that_commands_are_taken() {
    let project = project();
    let words = ["test", "test.toml", "-I", "--skip-lint", "--skip-type-check", "--kvm-device", "fake"];
    let told = told(&mut program(&project, &words));
    let words: Vec<&str> = told[1].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(told[0], "snowboot.runner");
    for option in ["--interactive", "--skip-lint", "--skip-type-check"] {
        assert!(words.contains(&option), "{words:?}");
    }
}

#[test]
fn the_nixos_test_driver_gets_its_options_as_they_are() {
    let project = project();
    let options = ["--help", "-c", "x.json", "--junit=y", "-I", "--", "-o"];
    let expected = json!(["snowboot.nixos_test_driver", options]);
    let words: Vec<&str> = ["nixos-test-driver"].into_iter().chain(options).collect();
    assert_eq!(told(&mut program(&project, &words)), expected);

    let link = project.path().join("nixos-test-driver");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_snowboot"), &link).unwrap();
    let mut command = Command::new(&link);
    command.args(options).env("SNOWBOOT_PYTHON_PATH", project.path().join("py")).env_remove("PYTHONPATH");
    command.env_remove("SNOWBOOT_PYTHON");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), expected);
}
