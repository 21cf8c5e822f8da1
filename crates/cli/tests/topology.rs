//! `snowboot test --show-topology`: what is printed, and that nothing else happens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Ran, assert_error, folder, run, run_words, snowboot};
use tempfile::TempDir;

/// Names a kernel and a script that are not there.
const MANIFEST: &str = r#"
name = 'odd "names" \ & <b>'
script = 'none.py'
[networks.backbone]
vlan = 7
description = 'a "quoted" \n description } & <i>more</i>'
[machines.client-1]
kernel = 'none'
vlans = ['backbone', 2]
user-network = { forward-ports = [{ host-port = 2222, guest-port = 22 }] }
[machines.server]
kernel = 'none'
vlans = ['backbone']
"#;

const JSON: &[u8] = br#"{
  "name": "j", "script": "none.py", "networks": {"lan": {"vlan": 3}},
  "machines": {"m": {"kernel": "none", "vlans": ["lan"]}}
}"#;

fn project() -> TempDir {
    let bad = MANIFEST.replace("vlans = ['backbone']", "vlans = ['bakbone']");
    folder(&[("t.toml", MANIFEST.as_bytes()), ("t.json", JSON), ("bad.toml", bad.as_bytes())])
}

/// Without KVM, and without anything of Python.
fn show(project: &TempDir, words: &[&str]) -> Ran {
    let mut command = snowboot(["test"]);
    command
        .args(words)
        .current_dir(project.path())
        .env("SNOWBOOT_PYTHON", "/none")
        .env("SNOWBOOT_KVM_DEVICE", "/none");
    run(&mut command)
}

#[test]
fn machines_cards_and_networks_are_printed_and_nothing_runs() {
    let project = project();
    let by_default = show(&project, &["t.toml", "--show-topology"]);
    assert_eq!((by_default.status, by_default.err.as_str()), (0, ""));
    assert_eq!(show(&project, &["t.toml", "--show-topology=text"]).out, by_default.out);
    for line in [
        "odd \"names\" \\ & <b>: 2 machines, 2 networks",
        "client-1  eth0  52:54:00:12:34:56  user network  10.0.2.15",
        "          eth1  52:54:00:12:07:01  backbone      192.168.7.1",
        "          eth2  52:54:00:12:02:01  vlan2         192.168.2.1",
        "backbone  7     a \"quoted\" \\n description } & <i>more</i>",
        "                client-1 (eth1), server (eth1)",
    ] {
        assert!(by_default.out.lines().any(|other| other == line), "no {line} in\n{}", by_default.out);
    }
    let json = show(&project, &["--show-topology", "t.json"]);
    assert!(json.out.contains("m        eth1  52:54:00:12:03:01  lan      192.168.3.1\n"), "{json:?}");
    assert_eq!(std::fs::read_dir(project.path()).unwrap().count(), 3);
}

#[test]
fn what_is_wrong_with_the_manifest_is_said() {
    let project = project();
    assert_error(
        &show(&project, &["bad.toml", "--show-topology"]),
        &["bad.toml:13:10: ", "no network is called `bakbone`: did you mean `backbone`?"],
    );
    assert_error(&show(&project, &["none.toml", "--show-topology"]), &["Cannot read the manifest none.toml"]);
    for words in
        [&["--show-topology=svg"][..], &["--show-topology", "--html", "x.html"], &["--show-topology", "-I"]]
    {
        let ran = run_words(&[&["test", "t.toml"], words].concat());
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{ran:?}");
    }
}

#[test]
fn graphviz_draws_every_name_as_it_is() {
    let project = project();
    let shown = show(&project, &["t.toml", "--show-topology=dot"]);
    assert_eq!((shown.status, shown.err.as_str()), (0, ""));
    let mut dot = Command::new("dot");
    dot.arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut dot = dot.spawn().unwrap_or_else(|error| panic!("dot, of Graphviz, cannot be run: {error}"));
    dot.stdin.take().unwrap().write_all(shown.out.as_bytes()).unwrap();
    let drawn = common::finish(dot);
    assert_eq!((drawn.status, drawn.err.as_str()), (0, ""), "{}", shown.out);
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let document = roxmltree::Document::parse_with_options(&drawn.out, options).unwrap();
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    for text in [
        "a \"quoted\" \\n description } & <i>more</i>",
        "backbone",
        "VLAN 7",
        "vlan2",
        "client-1",
        "192.168.7.2",
        "tcp from host 127.0.0.1:2222 to guest 10.0.2.15:22",
    ] {
        // Graphviz may draw spaces as some that do not break.
        assert!(texts.iter().any(|other| other.replace('\u{a0}', " ") == text), "no {text} in {texts:?}");
    }
}
