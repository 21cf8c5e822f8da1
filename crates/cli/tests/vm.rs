//! `snowboot vm` up to the point where a machine would be built: what it says, and in which order it meets the driver.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use common::{assert_error, run, snowboot};

/// With these words after those that say which machine it is.
fn vm(config: &Path, words: &[&str]) -> Command {
    let config = config.to_str().unwrap();
    let mut command = snowboot(["vm", "--config", config, "--name", "m", "--number", "1"]);
    command.args(words).env("SNOWBOOT_KVM_DEVICE", "/nonexistent");
    for variable in ["QEMU_OPTS", "QEMU_NET_OPTS", "QEMU_KERNEL_PARAMS", "NIX_DISK_IMAGE", "USE_TMPDIR"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn an_option_that_cannot_be_honoured_is_a_wrong_command_line() {
    let ran = run(&mut vm(Path::new("/nonexistent"), &["-no-reboot", "-vnc", ":1"]));
    assert_eq!(ran.status, 2);
    assert!(ran.err.starts_with("snowboot: error: `-vnc` is an option of QEMU's"), "{ran:?}");
    let ran = run(vm(Path::new("/nonexistent"), &[]).env("QEMU_OPTS", "-vga virtio"));
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("`-vga virtio` cannot be honoured"), "{ran:?}");
}

#[test]
fn a_machine_has_the_number_of_its_description_or_none_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("m.json");
    let said = |text: &str| {
        std::fs::write(&config, text).unwrap();
        run(snowboot(["vm", "--config", config.to_str().unwrap(), "--name", "m"])
            .env("SNOWBOOT_KVM_DEVICE", "/nonexistent"))
    };
    let ran = said(r#"{"kernel": "/nonexistent/kernel", "vlans": []}"#);
    assert_error(&ran, &["The machine has no number; give `--number N`, or `number` in ", "m.json"]);
    let ran = said(r#"{"kernel": "/nonexistent/kernel", "vlans": [], "number": 255}"#);
    assert_error(&ran, &["255 is out of range: choose 1 to 254"]);
    let ran = said(r#"{"kernel": "/nonexistent/kernel", "vlans": [], "number": 3}"#);
    assert_error(&ran, &["/nonexistent"]);
}

#[test]
fn what_is_wrong_with_the_machine_is_said_after_the_sockets_are_connected() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = at("m.json");
    std::fs::write(&config, r#"{"kernel": "/nonexistent/kernel", "vlans": []}"#).unwrap();
    let (monitor, shell) =
        (UnixListener::bind(at("monitor")).unwrap(), UnixListener::bind(at("shell")).unwrap());
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    let qmp = format!("unix:{},server=on,wait=off", path("qmp"));
    let chardev = format!("socket,id=shell,path={}", path("shell"));
    let monitor_at = format!("unix:{}", path("monitor"));
    let words =
        ["-qmp", &qmp, "-monitor", &monitor_at, "-chardev", &chardev, "-device", "virtconsole,chardev=shell"];
    let mut command = vm(&config, &words);
    let running = std::thread::spawn(move || run(&mut command));
    let (monitor, _) = monitor.accept().unwrap();
    let (shell, _) = shell.accept().unwrap();
    // It listens, or has ended since; it is never that it does not yet.
    if let Err(error) = UnixStream::connect(at("qmp")) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let ran = running.join().unwrap();
    assert_error(&ran, &["/nonexistent"]);
    for stream in [monitor, shell] {
        assert_eq!(BufReader::new(stream).lines().count(), 0, "the driver sees the end");
    }
}

#[test]
fn who_does_not_listen_is_named() {
    let ran = run(&mut vm(Path::new("/nonexistent"), &["-monitor", "unix:/nonexistent/monitor"]));
    assert_error(&ran, &["Cannot connect the monitor to /nonexistent/monitor"]);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("m.json");
    std::fs::write(&config, r#"{"kernel": "/k", "vlans": [3]}"#).unwrap();
    let ran = run(vm(&config, &[]).env("QEMU_VDE_SOCKET_3", "/nonexistent/vde"));
    assert_error(&ran, &["Cannot plug into the VDE switch /nonexistent/vde", "is it running?"]);
}
