//! `snowboot doctor`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Ran, folder, run, script, snowboot};
use serde_json::Value;

const NAMES: [&str; 7] = ["cpu", "kvm", "memory", "huge-pages", "python", "open-files", "cache"];

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn check<'a>(findings: &'a Value, name: &str) -> &'a Value {
    findings["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn json_has_every_check_and_the_exit_status_follows_from_them() {
    let ran = run(&mut snowboot(["doctor", "--json"]));
    let findings = json(&ran);
    let checks = findings["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, NAMES);
    for check in checks {
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "miss"].contains(&status), "{check}");
        assert_eq!(check["advice"].is_null(), status == "ok", "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
    }
    let missing = checks.iter().any(|check| check["status"] == "miss");
    assert_eq!(findings["ok"], !missing);
    assert_eq!(ran.status, i32::from(missing));
}

#[test]
fn people_get_a_line_for_each_check_with_its_mark() {
    let folder = folder(&[]);
    let ran = run(snowboot(["doctor"]).env("SNOWBOOT_PYTHON", folder.path().join("none")));
    assert_eq!(ran.status, 1);
    let marked = |name: &str| {
        ran.out.lines().any(|line| {
            let mut words = line.split_ascii_whitespace();
            let mark = words.next().unwrap_or_default();
            ["ok", "warn", "MISS"].contains(&mark) && words.next() == Some(name)
        })
    };
    assert!(NAMES.into_iter().all(marked), "{}", ran.out);
    assert!(ran.out.contains("MISS  python") && ran.out.contains("-> tests need Python 3.11"), "{}", ran.out);
    assert!(ran.out.ends_with("until what is marked MISS is there.\n"), "{}", ran.out);
}

#[test]
fn a_device_that_is_not_kvm_is_a_miss() {
    let kvm = |device: &str| {
        let findings = json(&run(&mut snowboot(["doctor", "--json", "--kvm-device", device])));
        let check = check(&findings, "kvm");
        assert_eq!((check["status"].as_str(), findings["ok"].as_bool()), (Some("miss"), Some(false)));
        check["found"].as_str().unwrap().to_owned()
    };
    assert_eq!(kvm("/nonexistent"), "/nonexistent does not exist");
    assert!(kvm("/dev/null").contains("is it the KVM device?"));
    // A variable that is set to nothing names no device.
    let ran = run(snowboot(["doctor", "--json"]).env("SNOWBOOT_KVM_DEVICE", ""));
    assert!(check(&json(&ran), "kvm")["found"].as_str().unwrap().contains("/dev/kvm"), "{ran:?}");
}

#[test]
fn python_is_found_with_its_package_or_the_reason_is_told() {
    let package = folder(&[("snowboot/__init__.py", b""), ("snowboot/runner.py", b"")]);
    let python = |command: &mut std::process::Command| check(&json(&run(command)), "python").clone();
    let found = python(snowboot(["doctor", "--json"]).env("SNOWBOOT_PYTHON_PATH", package.path()));
    assert_eq!(found["status"], "ok", "{found}");
    assert!(found["found"].as_str().unwrap().contains(package.path().to_str().unwrap()), "{found}");
    let old = script(&package.path().join("old"), "#!/bin/sh\nprintf '\\0003.9.2\\000\\000\\000'\n");
    let found = python(snowboot(["doctor", "--json"]).env("SNOWBOOT_PYTHON", old));
    assert!(found["found"].as_str().unwrap().ends_with("is Python 3.9.2"), "{found}");
}

#[test]
fn a_cache_that_cannot_be_is_a_miss() {
    let folder = folder(&[("file", b"")]);
    let ran = run(snowboot(["doctor", "--json"]).env("SNOWBOOT_CACHE_DIR", folder.path().join("file/cache")));
    let found = check(&json(&ran), "cache").clone();
    assert_eq!(found["status"], "miss", "{found}");
    assert!(found["found"].as_str().unwrap().contains("is not a folder"), "{found}");
}
