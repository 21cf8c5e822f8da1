//! `snowboot switch` as its users run it.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn snowboot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowboot"));
    command.arg("switch");
    command
}

#[test]
fn a_switch_runs_until_a_signal_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = snowboot();
    command.current_dir(folder.path()).args(["--vhost-user", "a", "--vhost-user", "b", "--stats"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "snowboot: the switch is ready, with 2 uplinks");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let said: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("uplink:vhost-user a: sent 0 frames"), "{said:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, status, part) in [
        (&["--vhost-user", "a"][..], 1, "A switch with 1 uplinks joins nothing"),
        (&["--vhost-user", "a", "--vde", "none"], 1, "Cannot plug into the VDE switch none: is it running?"),
        (&["--vhost-user", "a", "--tap", "a-name-that-is-too-long"], 2, "Linux takes 15 bytes at most"),
        (&["--vhost-user", "a", "--vxlan", "vni=1"], 2, "local=ADDRESS"),
    ] {
        let output = snowboot().current_dir(folder.path()).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(part), "{said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments:?}");
    }
}
