//! Running the built program.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, with none of its variables set.
pub fn snowboot<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    program(env!("CARGO_BIN_EXE_snowboot").as_ref(), arguments)
}

/// The program as it is in `folder`, where nothing is beside it that it would find.
pub fn snowboot_in<S: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let copy = folder.join("snowboot");
    fs::copy(env!("CARGO_BIN_EXE_snowboot"), &copy).unwrap();
    program(&copy, arguments)
}

fn program<S: AsRef<OsStr>>(path: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(path);
    for name in ["LOG", "KVM_DEVICE", "PYTHON", "PYTHON_PATH", "CACHE_DIR"] {
        command.env_remove(format!("SNOWBOOT_{name}"));
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

/// Runs to the end.
pub fn run(command: &mut Command) -> Ran {
    finish(command.spawn().unwrap())
}

/// The program with these words.
pub fn run_words(words: &[&str]) -> Ran {
    run(&mut snowboot(words))
}

/// Waits for the end; a program that does not end is killed and fails the test.
pub fn finish(child: Child) -> Ran {
    let pid = pid(&child);
    let (sender, result) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = result.recv_timeout(PATIENCE) else {
        kill_process(pid, Signal::KILL).unwrap();
        panic!("the program does not end");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    Ran { status: code(status), out: text(&stdout), err: text(&stderr) }
}

/// Sends a signal.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(pid(child), signal).unwrap();
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Checks for a host-side error: status 1, and one line that has all of `parts`.
#[track_caller]
pub fn assert_error(ran: &Ran, parts: &[&str]) {
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.starts_with("snowboot: error: ") && ran.err.lines().count() == 1, "{}", ran.err);
    for part in parts {
        assert!(ran.err.contains(part), "no `{part}` in: {}", ran.err);
    }
    assert_eq!(ran.out, "");
}

/// A folder with these files in it.
pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// A file in `folder`, as text.
pub fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// Makes a script that can be run.
pub fn script(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| panic!("the program died: {status}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
