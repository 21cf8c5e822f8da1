//! `snowboot test`: what it checks before it hands over, and to whom it hands over how.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::process::Command;

use common::{Ran, assert_error, folder, path, run, run_words, script, snowboot, snowboot_in};
use serde_json::Value;
use tempfile::TempDir;

/// Prints what it was given, and ends with a status of its own.
const RUNNER: &[u8] = b"\
import json, os, sys
print(json.dumps({'argv': sys.argv[1:], 'path': sys.path, 'pid': os.getpid(),
                  'device': os.environ.get('SNOWBOOT_KVM_DEVICE'), 'safe': sys.flags.safe_path}))
sys.exit(7)
";
const MANIFEST: &[u8] = b"\
name = 'ping'
test-script = 'start_all()'
[machines.alice]
kernel = 'bzImage'
";

/// A test, and a Python package to run it with.
fn project() -> TempDir {
    folder(&[
        ("test.toml", MANIFEST),
        ("bzImage", b""),
        ("py/snowboot/__init__.py", b""),
        ("py/snowboot/runner.py", RUNNER),
    ])
}

fn test(project: &TempDir, words: &[&str]) -> Command {
    let mut command = snowboot(["test"]);
    command.args(words).current_dir(project.path()).env("SNOWBOOT_PYTHON_PATH", project.path().join("py"));
    // These are about what comes before machines, and are for hosts without KVM too.
    command.env_remove("PYTHONPATH").env("SNOWBOOT_KVM_DEVICE", "fake");
    command
}

/// What the runner printed.
fn told(ran: &Ran) -> Value {
    assert_eq!((ran.status, ran.err.as_str()), (7, ""), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn the_runner_replaces_the_program_and_gets_its_options() {
    let project = project();
    let child = test(&project, &["test.toml"]).spawn().unwrap();
    let pid = child.id();
    let told = told(&common::finish(child));
    let [manifest, here, folder, report] = ["test.toml", "", "py", "r.json"].map(|name| path(&project, name));
    let argv = serde_json::json!([manifest, "-o", here.trim_end_matches('/'), "--log-level", "info"]);
    assert_eq!(told["argv"], argv);
    assert_eq!(told["pid"], pid);
    assert_eq!(told["device"], "fake");

    let words = ["test.toml", "-o", "py", "--log-level", "debug", "--quiet", "--json-report", "r.json"];
    let told = self::told(&run(test(&project, &words)
        .env_remove("SNOWBOOT_KVM_DEVICE")
        .args(["--kvm-device", "fake"])));
    let argv = serde_json::json!([
        manifest,
        "-o",
        folder,
        "--log-level",
        "debug",
        "--quiet",
        "--json-report",
        report
    ]);
    assert_eq!(told["argv"], argv);
    assert_eq!(told["device"], "fake");
}

#[test]
fn the_runner_gets_the_options_for_reports_with_absolute_paths() {
    let project = project();
    let words = [
        "test.toml",
        "-o",
        "py",
        "--junit-xml",
        "j.xml",
        "--html",
        "r.html",
        "--json-log",
        "log.jsonl",
        "--xml-log",
        "/dev/null",
        "--console-logs",
        "--pcap=frames",
        "--log-times",
    ];
    let told = told(&run(&mut test(&project, &words)));
    let [junit, html, json] = ["py/j.xml", "r.html", "log.jsonl"].map(|name| path(&project, name));
    let frames = format!("--pcap={}", path(&project, "py/frames"));
    let expected = serde_json::json!([
        "--junit-xml",
        junit,
        "--html",
        html,
        "--json-log",
        json,
        "--xml-log",
        "/dev/null",
        "--console-logs",
        frames,
        "--log-times",
    ]);
    let argv = told["argv"].as_array().unwrap();
    assert_eq!(argv[5..], expected.as_array().unwrap()[..]);
}

#[test]
fn a_test_that_cannot_be_run_leaves_all_its_reports() {
    let project = project();
    std::fs::write(project.path().join("bad.toml"), "nmae = 'x'\n").unwrap();
    let words = ["bad.toml", "--junit-xml", "j.xml", "--html", "r.html", "--json-log", "log.jsonl"];
    for (option, value) in [("LOGFILE", "log.xml"), ("UNUSED", "")] {
        let ran = run(test(&project, &words).env_remove("LOGFILE").env(option, value));
        assert_error(&ran, &["unknown key `nmae`"]);
        for (name, part) in [
            ("j.xml", "<failure message=\"test case failed\" type=\"NotStarted\">"),
            ("r.html", "\"type\":\"NotStarted\""),
            ("log.jsonl", "\"event\":\"run-end\",\"passed\":false,\"status\":1"),
            ("log.xml", "</logfile>"),
        ] {
            let file = project.path().join(name);
            let is_wanted = name != "log.xml" || option == "LOGFILE";
            assert_eq!(file.exists(), is_wanted, "{name}");
            if is_wanted {
                let text = std::fs::read_to_string(&file).unwrap();
                assert!(text.contains(part), "{text}");
                std::fs::remove_file(file).unwrap();
            }
        }
    }
    // A report that cannot be written does not hide the reason, nor keep the others away.
    let words = ["bad.toml", "--junit-xml", "none/j.xml", "--html", "r.html"];
    assert_error(&run(&mut test(&project, &words)), &["unknown key `nmae`"]);
    assert!(project.path().join("r.html").exists());
}

#[test]
fn a_kvm_device_that_cannot_be_used_is_told_before_the_script_starts() {
    let project = project();
    let ran = run(test(&project, &["test.toml"]).args(["--kvm-device", "/nonexistent"]));
    assert_error(&ran, &["Cannot use /nonexistent: it does not exist", "modprobe kvm_amd"]);
    let ran = run(test(&project, &["test.toml"]).env("SNOWBOOT_KVM_DEVICE", "/dev/null"));
    assert_error(&ran, &["Cannot use /dev/null", "is it the KVM device?"]);
}

#[test]
fn what_hinders_a_test_is_reported_too_in_the_place_of_an_older_report() {
    let project = project();
    std::fs::write(project.path().join("wrong.toml"), "name = 3").unwrap();
    let report = project.path().join("r.json");
    for (words, message) in [
        (&["none.toml"][..], "Cannot read the manifest none.toml"),
        (&["wrong.toml"], "wrong.toml:1:1: `name`"),
        (&["test.toml", "-o", "none"], "The output folder none is not there"),
        (&["test.toml", "--kvm-device", "/nonexistent"], "Cannot use /nonexistent"),
    ] {
        std::fs::write(&report, "old").unwrap();
        assert_error(&run(test(&project, words).args(["--json-report", "r.json"])), &[message]);
        let found: Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
        assert!(found["error"]["message"].as_str().unwrap().starts_with(message), "{found}");
        assert_eq!((&found["passed"], &found["exit_status"]), (&false.into(), &1.into()));
        assert_eq!((&found["name"], &found["machines"]), (&Value::Null, &serde_json::json!([])));
    }
    let ran = run(test(&project, &["test.toml"]).args(["--json-report", "none/r.json"]));
    assert_error(&ran, &["Cannot write the report", "its folder cannot be written to"]);
}

#[test]
fn the_package_goes_before_what_python_knew_and_the_current_folder_is_not_searched() {
    let project = project();
    std::fs::create_dir(project.path().join("snowboot")).unwrap();
    std::fs::write(project.path().join("snowboot/__init__.py"), "raise SystemExit('the wrong one')").unwrap();
    let ran = run(test(&project, &["test.toml"])
        .env("PYTHONPATH", "/first:/second")
        .env("SNOWBOOT_PYTHON_PATH", "py"));
    let told = told(&ran);
    let package = project.path().join("py").canonicalize().unwrap();
    let path: Vec<&str> =
        told["path"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
    assert_eq!(path[..3], [package.to_str().unwrap(), "/first", "/second"]);
    assert_eq!(told["safe"], true);
}

#[test]
fn a_manifest_is_never_taken_for_an_option() {
    let project = project();
    std::fs::copy(project.path().join("test.toml"), project.path().join("-q.toml")).unwrap();
    let told = told(&run(&mut test(&project, &["--", "-q.toml"])));
    assert_eq!(told["argv"][0], path(&project, "-q.toml"));
}

#[test]
fn a_package_beside_the_program_is_found() {
    let project = project();
    for (program, package) in [("a/snowboot", "a/python"), ("b/bin/snowboot", "b/lib/snowboot/python")] {
        let program = project.path().join(program);
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_snowboot"), &program).unwrap();
        let package = project.path().join(package);
        std::fs::create_dir_all(package.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(project.path().join("py"), &package).unwrap();
        let mut command = Command::new(&program);
        command.args(["test", "test.toml"]).current_dir(project.path()).env_remove("SNOWBOOT_PYTHON_PATH");
        command.env("SNOWBOOT_KVM_DEVICE", "fake");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }
}

#[test]
fn a_wrong_manifest_is_named_with_line_and_nearest_key() {
    let project = project();
    for (name, text, parts) in [
        (
            "a.toml",
            "name = 'x'\ntest-script = ''\n[machines.a]\nkernel = 'bzImage'\nmemmory = 512\n",
            &["a.toml:5:1: ", "`memmory`", "`memory`"][..],
        ),
        ("b.toml", "name = 'x'\nname\n", &["b.toml:2:"]),
        ("c.json", "{\n  \"name\": 3\n}", &["c.json:2:"]),
        ("d.toml", "name = 'x'\n", &["d.toml:1:1: ", "the test script is missing"]),
    ] {
        std::fs::write(project.path().join(name), text).unwrap();
        assert_error(&run(&mut test(&project, &[name])), parts);
    }
}

#[test]
fn files_that_the_manifest_names_have_to_be_there() {
    let project = project();
    let _socket = std::os::unix::net::UnixListener::bind(project.path().join("socket")).unwrap();
    std::fs::create_dir_all(project.path().join("top/initrd")).unwrap();
    for name in ["kernel", "kernel-params", "init"] {
        std::fs::write(project.path().join("top").join(name), "").unwrap();
    }
    for (machine, parts) in [
        (
            "kernel = 'none'",
            &["test.toml: machine `a`: Cannot read the kernel none: there is no such file"][..],
        ),
        ("kernel = 'py'", &["machine `a`", "the kernel py: it is a folder"]),
        ("kernel = 'bzImage'\ninitrd = 'none'", &["the initrd none: there is no such file"]),
        ("toplevel = 'none'", &["machine `a`", "the toplevel none: there is no such folder"]),
        ("toplevel = 'py'", &["neither boot.json nor"]),
        ("kernel = 'bzImage'\ndisks = [{ path = 'none' }]", &["the disk none: there is no such file"]),
        ("kernel = 'bzImage'\ndisks = [{ path = 'py' }]", &["the disk py: it is a folder"]),
        (
            "kernel = 'bzImage'\ndisks = [{ path = 'none/new', create-mib = 1 }]",
            &["the disk none/new: its folder is not there"],
        ),
        // Who may read everything cannot be shown a file that may not be read; a socket will do.
        ("kernel = 'socket'", &["machine `a`: Cannot read the kernel socket: "]),
        ("toplevel = 'top'", &["machine `a`: Cannot read the initrd", "/top/initrd: it is a folder"]),
    ] {
        let text = format!("name = 'x'\ntest-script = ''\n[machines.a]\n{machine}\n");
        std::fs::write(project.path().join("test.toml"), text).unwrap();
        assert_error(&run(&mut test(&project, &["test.toml"])), parts);
    }
    std::fs::write(
        project.path().join("test.toml"),
        "name = 'x'\nscript = 'none.py'\n[machines.a]\nkernel = 'bzImage'\n",
    )
    .unwrap();
    assert_error(
        &run(&mut test(&project, &["test.toml"])),
        &["the test script none.py: there is no such file"],
    );
    std::fs::write(
        project.path().join("test.toml"),
        "name = 'x'\ntest-script = ''\n[machines.a]\nkernel = 'bzImage'\ndisks = [{ path = 'new', create-mib = 1 }]",
    )
    .unwrap();
    assert_eq!(run(&mut test(&project, &["test.toml"])).status, 7);
}

#[test]
fn a_manifest_or_output_folder_that_is_not_there_is_an_error() {
    let project = project();
    assert_error(
        &run_words(&["test", "none.toml"]),
        &["Cannot read the manifest none.toml: there is no such file"],
    );
    assert_error(&run_words(&["test", "/"]), &["Cannot read the manifest /: it is a folder"]);
    assert_error(
        &run(&mut test(&project, &["test.toml", "-o", "none"])),
        &["output folder none is not there"],
    );
}

#[test]
fn a_python_that_will_not_do_is_told_with_the_reason() {
    let project = project();
    let error = |name: &str, value: String, parts: &[&str]| {
        assert_error(&run(test(&project, &["test.toml"]).env(name, value)), parts);
    };
    let fake = |name: &str, body: &str| {
        script(&project.path().join(name), &format!("#!/bin/sh\n{body}\n")).to_str().unwrap().to_owned()
    };
    error("SNOWBOOT_PYTHON", "/none/python3".to_owned(), &["Cannot run /none/python3", "3.11 or newer"]);
    let old = fake("old", "printf '\\0003.9.2\\000\\000\\000'");
    error("SNOWBOOT_PYTHON", old, &["is Python 3.9.2", "3.11 or newer", "SNOWBOOT_PYTHON"]);
    let other = fake("other", "echo what >&2; exit 3");
    error("SNOWBOOT_PYTHON", other, &["does not answer as Python does", "exit status: 3", "what"]);
    error("SNOWBOOT_PYTHON_PATH", path(&project, "none"), &["without snowboot/__init__.py in it"]);
    let alone = project.path().join("bin");
    std::fs::create_dir(&alone).unwrap();
    let mut command = snowboot_in(&alone, ["test", "test.toml"]);
    command.current_dir(project.path()).env("SNOWBOOT_KVM_DEVICE", "fake").env("SNOWBOOT_PYTHON_PATH", "");
    command.env_remove("PYTHONPATH");
    assert_error(&run(&mut command), &["Python package is missing", "SNOWBOOT_PYTHON_PATH"]);
}

#[test]
fn a_package_that_does_not_load_is_told_with_pythons_words() {
    let project = project();
    let init = project.path().join("py/snowboot/__init__.py");
    std::fs::write(&init, "raise ImportError('no native module here')").unwrap();
    let ran = run(&mut test(&project, &["test.toml"]));
    assert_error(&ran, &["cannot load snowboot.runner", "ImportError: no native module here"]);
    std::fs::write(&init, "").unwrap();
    std::fs::remove_file(project.path().join("py/snowboot/runner.py")).unwrap();
    assert_error(&run(&mut test(&project, &["test.toml"])), &["Python package is missing"]);
}
