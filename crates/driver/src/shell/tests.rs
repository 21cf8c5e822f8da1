//! The shell's protocol, over a real bash and over channels that behave badly.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use snowboot_config::Manifest;

use super::*;
use crate::console::ConsoleLog;
use crate::console::ConsoleWriter;
use crate::control::Control;
use crate::log::Logger;
use crate::testing::FakeLauncher;
use crate::vm::{Channel, Launched, Launcher};

const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// A shell on a bash of this host.
struct Guest {
    launched: Launched,
    control: Control,
    console: Arc<ConsoleLog>,
    shell: Shell,
}

impl Guest {
    fn new(cmdline: &str) -> Self {
        let text = format!(
            "name = \"t\"\ntest-script = \"\"\n[machines.a]\nkernel = \"k\"\ncmdline = \"{cmdline}\"\n"
        );
        let manifest = Manifest::parse(Path::new("t.toml"), &text).unwrap();
        let console = Arc::<ConsoleLog>::default();
        let serial = ConsoleWriter::new(console.clone(), 0, Logger::silent(), "a".into());
        let launched = FakeLauncher.launch("a", 1, &manifest.machines["a"], serial).unwrap();
        launched.vm.start().unwrap();
        let mut guest = Self { launched, control: Control::default(), console, shell: Shell::new() };
        let link = Link::new(guest.launched.shell.as_ref(), &guest.console, &guest.control);
        guest.shell.connect(&link, Duration::from_secs(60)).unwrap();
        guest
    }

    fn over(&mut self, channel: &dyn Channel, command: &str, want: Want) -> Result<Answer, ShellError> {
        self.shell.run(&Link::new(channel, &self.console, &self.control), command, None, want)
    }

    fn run(&mut self, command: &str, limit: Option<Duration>, want: Want) -> Result<Answer, ShellError> {
        let link = Link::new(self.launched.shell.as_ref(), &self.console, &self.control);
        self.shell.run(&link, command, limit, want)
    }

    fn says(&mut self, command: &str) -> String {
        let answer = self.run(command, LONG, Want::Status).unwrap();
        assert_eq!(answer.status, 0);
        answer.output
    }

    /// Waits until the guest has said something that nobody asked for. On a busy host that may have come together with what
    /// was asked for, and is used up then.
    fn await_stray(&mut self) {
        let link = Link::new(self.launched.shell.as_ref(), &self.console, &self.control);
        match self.shell.receive(&link, Some(Instant::now() + Duration::from_secs(3))) {
            Ok(()) | Err(ShellError::Late(..)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// What writes to the shell's own output, from inside a command without time limit.
const STRAY: &str = "/proc/$PPID/fd/1";

/// Takes so many bytes, and then nothing.
struct Narrow {
    channel: Arc<dyn Channel>,
    room: AtomicUsize,
}

impl Channel for Narrow {
    fn write(&self, data: &[u8], deadline: Instant) -> io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed);
        if room == 0 {
            std::thread::sleep(Duration::from_millis(1));
            return Err(io::ErrorKind::TimedOut.into());
        }
        let written = self.channel.write(&data[..data.len().min(room)], deadline)?;
        self.room.fetch_sub(written, Ordering::Relaxed);
        Ok(written)
    }

    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        self.channel.read(buffer, deadline)
    }
}

#[test]
fn a_stray_line_costs_one_command_and_not_the_next() {
    let mut guest = Guest::new("");
    for stray in [
        format!("echo a stray line >{STRAY}; echo mine"),
        format!("printf 'aGk=\\nodd\\n' >{STRAY}; echo mine"),
    ] {
        let error = guest.run(&stray, None, Want::Status).unwrap_err();
        assert!(matches!(error, ShellError::Malformed(_)), "{error:?}");
        assert_eq!(guest.says("echo next"), "next\n");
    }
    // Nor does one between commands, or before an answer that is owed.
    guest.run(&format!("(sleep 0.2; echo stray >{STRAY}) >&2 &"), None, Want::Status).unwrap();
    guest.await_stray();
    assert_eq!(guest.says("echo next"), "next\n");
    guest.run(&format!("echo a stray line >{STRAY}; echo mine"), None, Want::Nothing).unwrap();
    guest.await_stray();
    assert_eq!(guest.says("echo next"), "next\n");
}

#[test]
fn an_endless_answer_costs_one_command_and_its_memory() {
    let mut guest = Guest::new("");
    guest.shell.answer_cap = 10_000;
    let error = guest.run("head -c 1000000 /dev/zero", LONG, Want::Status).unwrap_err();
    assert!(matches!(&error, ShellError::Malformed(why) if why.contains("over 10000 bytes")), "{error:?}");
    assert_eq!(guest.shell.buffer.capacity(), 0);
    assert_eq!(guest.says("echo next"), "next\n");
}

#[test]
fn a_command_that_was_cut_off_is_completed_and_its_answer_skipped() {
    let mut guest = Guest::new("");
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    guest.control.set_hook(Some(Arc::new(move || asked.load(Ordering::Relaxed))));
    let folder = tempfile::tempdir().unwrap();
    for room in [1, 9, 30, 45, 60, 75, 90, 95, 100] {
        let mark = folder.path().join(room.to_string());
        let command = format!("echo 'cut off' >{}; echo old; exit 9", mark.display());
        let whole = command_line(&command, None).len() + STATUS_LINE.len();
        let narrow =
            Narrow { channel: guest.launched.shell.clone(), room: AtomicUsize::new(whole * room / 101) };
        stop.store(false, Ordering::Relaxed);
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                while narrow.room.load(Ordering::Relaxed) > 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                stop.store(true, Ordering::Relaxed);
            });
            guest.over(&narrow, &command, Want::Status).unwrap_err()
        });
        assert!(matches!(error, ShellError::Ended(_)), "{room}: {error:?}");
        stop.store(false, Ordering::Relaxed);
        assert_eq!(guest.says("echo next"), "next\n", "{room}");
        assert!(mark.exists(), "{room}");
        assert_eq!(guest.says("echo on"), "on\n", "{room}");
    }
}

#[test]
fn a_line_of_which_nothing_was_sent_was_never_there() {
    let mut guest = Guest::new("");
    let narrow = Narrow { channel: guest.launched.shell.clone(), room: AtomicUsize::new(0) };
    guest.control.set_hook(Some(Arc::new(|| true)));
    guest.over(&narrow, "echo old", Want::Status).unwrap_err();
    guest.control.set_hook(None);
    assert!(guest.shell.owed.is_empty() && guest.shell.unsent.is_empty());
    assert_eq!(guest.says("echo next"), "next\n");
}

#[test]
fn a_backdoor_that_restarts_loses_the_command_and_takes_the_next() {
    let mut guest = Guest::new("");
    let restart = format!("echo '{GREETING}' >{STRAY}");
    let error = guest.run(&restart, None, Want::Status).unwrap_err();
    assert!(matches!(error, ShellError::Restarted), "{error:?}");
    // A real one would not answer any more; this one does.
    guest.await_stray();
    assert_eq!(guest.says("echo next"), "next\n");

    let answer = guest.run(&restart, None, Want::Output).unwrap();
    assert_eq!((answer.status, answer.output.as_str()), (STATUS_NOT_ASKED, ""));
    guest.await_stray();
    assert_eq!(guest.says("echo next"), "next\n");

    // What was owed or half sent before it is void.
    guest.shell.owed.push_back("lost".into());
    guest.shell.unsent = b"'rest of a line".to_vec();
    let link = Link::new(guest.launched.shell.as_ref(), &guest.console, &guest.control);
    link.write(format!("echo '{GREETING}'\n").as_bytes(), None).1.unwrap();
    guest.await_stray();
    assert_eq!(guest.says("echo next"), "next\n");
}

#[test]
fn remarks_that_come_with_the_greeting_are_no_answers() {
    assert_eq!(Guest::new("remark").says("echo first"), "first\n");
}

#[test]
fn a_shell_that_goes_away_is_an_answer_to_those_who_ask_for_no_status() {
    let mut guest = Guest::new("");
    // With all that could still answer.
    let answer = guest.run("kill -KILL 0", None, Want::Output).unwrap();
    assert_eq!((answer.status, answer.output.as_str()), (STATUS_NOT_ASKED, ""));
    assert!(matches!(guest.run("true", None, Want::Output), Err(ShellError::Gone)));
}

#[test]
fn late_answers_name_what_they_wait_for() {
    let mut guest = Guest::new("");
    guest.shell.grace = Duration::from_millis(100);
    let little = Some(Duration::from_millis(100));
    let Err(ShellError::Late(_, Some(cause))) = guest.run("sleep 1 &", little, Want::Status) else {
        panic!("in time")
    };
    assert!(cause.contains("`>&2 &`"), "{cause}");
    let Err(ShellError::Late(limit, Some(cause))) = guest.run("true", little, Want::Status) else {
        panic!("in time")
    };
    assert!(cause.contains("the earlier command `sleep 1 &`"), "{cause}");
    assert_eq!(limit, Duration::from_millis(200));
    assert_eq!(guest.says("sleep 0.1; echo next"), "next\n");
}

#[test]
fn no_time_is_no_limit_and_little_is_little() {
    let mut guest = Guest::new("");
    let answer = guest.run("sleep 0.2; echo done", Some(Duration::ZERO), Want::Status).unwrap();
    assert_eq!((answer.status, answer.output.as_str()), (0, "done\n"));
    let answer = guest.run("sleep 9", Some(Duration::from_nanos(1)), Want::Status).unwrap();
    assert_eq!(answer.status, 124);
}

#[test]
fn commands_have_the_form_that_test_images_expect() {
    assert_eq!(
        command_line("echo 'a b'", Some(Duration::from_millis(1500))),
        "timeout 1.5 bash -c 'set -euo pipefail; echo '\"'\"'a b'\"'\"'' | (base64 -w 0; echo)\n"
    );
    assert_eq!(command_line("true", None), "bash -c 'set -euo pipefail; true' | (base64 -w 0; echo)\n");
}

#[test]
fn answers_are_base64_and_may_be_cut() {
    assert_eq!(decode(b"not base64"), None);
    assert_eq!(decode_part(b"aGVsbG8gd29"), "hello ");
    assert_eq!(decode_part(b"?"), "");
    assert_eq!(decode(b"aGk=\r").unwrap(), "hi");
    assert_eq!(decode(b"").unwrap(), "");
    assert_eq!(decode(b"/w==").unwrap(), "\u{fffd}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_is_quoted_reaches_the_shell_unchanged(text in "[^\0\r]{0,40}") {
        let output = Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(&text))).output().unwrap();
        prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }
}

#[test]
fn the_benchmark_has_the_guest_run_what_the_driver_sends() {
    let script = include_str!("../../../../benches/shell.py");
    let line = command_line("true", None);
    assert!(script.contains(&format!("{}; {}", line.trim_end(), STATUS_LINE.trim_end())), "{line}");
}
