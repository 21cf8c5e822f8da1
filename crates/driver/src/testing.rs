//! A stand-in for machines: a real bash on this host in the place of a guest's backdoor shell.
//!
//! It speaks the whole protocol, and ends as a machine does (`poweroff` ends it), but has no kernel, console or network.

mod port;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use snowboot_config::{Manifest, NodeConfig, PortForward, UplinkConfig, UplinkKind};

use self::port::FakePort;
use crate::console::ConsoleWriter;
use crate::control::lock;
use crate::driver::Driver;
use crate::error::Error;
use crate::options::Options;
use crate::shell::GREETING;
use crate::vm::{BoxError, Channel, EndCallback, Launched, Launcher, Outcome, TellTimes, Vm, VmTimes};

/// A run of fake machines with these names, and without a log.
///
/// # Errors
/// When a name cannot be a machine's, or the timer's thread cannot be started.
pub fn driver(machines: &[&str]) -> Result<Driver, Error> {
    let mut text = "name = \"fake\"\ntest-script = \"\"\n".to_owned();
    for name in machines {
        text.push_str(&format!("[machines.{name:?}]\nkernel = \"none\"\n"));
    }
    let manifest = Manifest::parse("fake.toml".as_ref(), &text).map_err(|error| Error::setup(error.0))?;
    Driver::new(&manifest, Options::new(FakeLauncher))
}

/// Starts a bash for every machine. A node whose command line holds `refuse` cannot be started; one with `mute` never
/// greets; one with `chatty` says something first, and one with `remark` something after its greeting; one with `no-nc`
/// has no netcat, one with `deaf-nc` a netcat that gets no answer, and one with `unix-nc` a netcat that looks for files;
/// one with `no-tar` has no tar, one with `no-port` no channel for files, and one with `bad-unit` a systemd whose units
/// have all failed; one with `slow-systemd` has a systemd that takes half a second and whose units are active when there
/// is a file of their name, without its end; uplinks lead nowhere, and one to a VDE `refuse` is
/// refused; one with `stage-1` greets again when it is told to isolate a unit; one with `marks`
/// says that its init and its userland are there, and makes the mark 20 twice, when it starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct FakeLauncher;

impl Launcher for FakeLauncher {
    fn launch(
        &self,
        name: &str,
        _number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError> {
        let cmdline = node.cmdline.as_deref().unwrap_or_default();
        if cmdline.contains("refuse") {
            return Err(format!("the fake {name} refuses").into());
        }
        let fake = Arc::new(Fake {
            prelude: prelude(cmdline),
            nics: node.vlans.len() + usize::from(node.user_network.is_some()),
            state: Mutex::new(State { serial: Some(serial), ..State::default() }),
            changed: Condvar::new(),
        });
        let files = Arc::new(FakePort::new(!cmdline.contains("no-port")));
        let times = tell_times(fake.clone(), cmdline.contains("marks"));
        Ok(Launched { vm: Arc::new(FakeVm(fake.clone())), shell: Arc::new(FakeShell(fake)), files, times })
    }

    fn open_uplinks(&self, uplinks: &[UplinkConfig]) -> Result<(), BoxError> {
        let refused = |uplink: &UplinkConfig| matches!(&uplink.leads_to, UplinkKind::Vde(path) if path.ends_with("refuse"));
        if uplinks.iter().any(refused) { Err("the fake switch refuses".into()) } else { Ok(()) }
    }
}

/// A fake has no VMM: it is entered when its bash is started.
fn tell_times(fake: Arc<Fake>, has_marks: bool) -> TellTimes {
    Arc::new(move || {
        let entered = lock(&fake.state).entered;
        let marked = entered.filter(|_| has_marks);
        VmTimes {
            guest_entered: entered,
            init_started: marked,
            target_reached: marked,
            marks: marked.map(|at| vec![(20, at), (20, at)]).unwrap_or_default(),
            ..VmTimes::default()
        }
    })
}

/// A line of bash that makes it a guest.
fn prelude(cmdline: &str) -> String {
    let mut line = format!(
        "poweroff() {{ exit 0; }}; trap 'exit {RESET}' USR2; kill() {{ [[ $* != '-INT 1' ]] || exit {RESET}; builtin kill \
         \"$@\"; }}"
    );
    if cmdline.contains("stage-1") {
        line.push_str(&format!(
            "; systemctl() {{ case $* in *isolate*) builtin kill -USR1 $PPID ;; *) echo ActiveState=active ;; esac; }}; \
             export -f systemctl; trap 'echo {GREETING}; stage=2' USR1; export stage=1"
        ));
    }
    if cmdline.contains("no-nc") {
        line.push_str("; nc() { return 127; }; export -f nc");
    }
    if cmdline.contains("no-tar") {
        line.push_str("; command() { false; }; export -f command; tar() { return 127; }; export -f tar");
    }
    if cmdline.contains("deaf-nc") {
        line.push_str("; nc() { sleep 600; }; export -f nc");
    }
    if cmdline.contains("unix-nc") {
        line.push_str("; nc() { [ -S \"${!#}\" ]; }; export -f nc");
    }
    if cmdline.contains("slow-systemd") {
        line.push_str(
            "; systemctl() { [ $1 != status ] || { echo the last journal lines; return 3; }; sleep 0.5; [ ! -e \
             ${3%.service} ] || { echo ActiveState=active; return; }; echo ActiveState=activating; echo \
             SubState=start-pre; }; export -f systemctl",
        );
    }
    if cmdline.contains("bad-unit") {
        line.push_str(
            "; systemctl() { [ $1 != status ] || { echo broken; return 3; }; echo ActiveState=failed; }",
        );
        line.push_str("; export -f systemctl");
    }
    if cmdline.contains("chatty") {
        line.push_str("; echo hello there");
    }
    if !cmdline.contains("mute") {
        let remark = if cmdline.contains("remark") { "bash: no job control\\n" } else { "" };
        // In one piece, which bash by itself does not write.
        let whole = if remark.is_empty() { "" } else { " | dd iflag=fullblock bs=64K status=none" };
        line.push_str(&format!("; printf '{GREETING}\\n{remark}'{whole}"));
    }
    line
}

/// The exit status of a bash that stands for a guest's reset. In a command, `kill -USR2 $PPID` has it end with that.
const RESET: i32 = 99;

struct Fake {
    /// What bash runs first.
    prelude: String,
    nics: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    serial: Option<ConsoleWriter>,
    received: VecDeque<u8>,
    outcome: Option<Outcome>,
    callbacks: Vec<EndCallback>,
    entered: Option<Instant>,
}

impl Fake {
    fn signal(&self, signal: &str) -> Result<(), BoxError> {
        let state = lock(&self.state);
        let child = state.child.as_ref().ok_or("the fake does not run")?;
        Command::new("kill").args([signal, "--", &format!("-{}", child.id())]).status()?;
        Ok(())
    }

    fn end(&self, mut outcome: Outcome) {
        let mut state = lock(&self.state);
        if let Some(mut child) = state.child.take() {
            // With all that it started, as the end of a machine ends all that runs in it.
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let status = child.wait();
            if outcome == Outcome::PowerOff && status.is_ok_and(|status| status.code() == Some(RESET)) {
                outcome = Outcome::Reset;
            }
        }
        state.stdin = None;
        let outcome = state.outcome.get_or_insert(outcome).clone();
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        self.changed.notify_all();
        callbacks.into_iter().for_each(|callback| callback(&outcome));
    }
}

/// Copies what bash writes until it ends.
fn pump(fake: &Fake, mut stdout: impl Read) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stdout.read(&mut chunk) {
        lock(&fake.state).received.extend(chunk.get(..count).unwrap_or_default());
        fake.changed.notify_all();
    }
    fake.end(Outcome::PowerOff);
}

struct FakeVm(Arc<Fake>);

impl Vm for FakeVm {
    fn start(&self) -> Result<(), BoxError> {
        let mut child = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("bash has no input")?;
        let stdout = child.stdout.take().ok_or("bash has no output")?;
        writeln!(stdin, "{}", self.0.prelude)?;
        let mut state = lock(&self.0.state);
        state.child = Some(child);
        state.entered = Some(Instant::now());
        state.stdin = Some(stdin);
        drop(state);
        let fake = self.0.clone();
        std::thread::Builder::new().name("fake-guest".into()).spawn(move || pump(&fake, stdout))?;
        Ok(())
    }

    fn stop(&self) {
        self.0.end(Outcome::Stopped);
    }

    fn reset(&self) {
        self.0.end(Outcome::Reset);
    }

    fn pause(&self) -> Result<(), BoxError> {
        self.0.signal("-STOP")
    }

    fn resume(&self) -> Result<(), BoxError> {
        self.0.signal("-CONT")
    }

    fn press_power_button(&self) {
        self.0.end(Outcome::PowerOff);
    }

    fn serial_input(&self, bytes: &[u8]) -> usize {
        // An echo, as a terminal gives.
        if let Some(serial) = &mut lock(&self.0.state).serial {
            let _ = serial.write_all(bytes);
        }
        bytes.len()
    }

    fn set_link(&self, nic: usize, _up: bool) -> Result<(), BoxError> {
        if nic < self.0.nics { Ok(()) } else { Err(format!("there is no card {nic}").into()) }
    }

    fn forward(&self, forward: PortForward) -> Result<SocketAddr, BoxError> {
        // A free port is the one that the guest has.
        let port = if forward.host.port() == 0 { forward.guest.port() } else { forward.host.port() };
        Ok(SocketAddr::new(forward.host.ip(), port))
    }

    fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        let timeout = timeout.unwrap_or(Duration::from_secs(3600));
        let state = lock(&self.0.state);
        let waiting = |state: &mut State| state.outcome.is_none();
        let waited = self.0.changed.wait_timeout_while(state, timeout, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.outcome.clone()
    }

    fn outcome(&self) -> Option<Outcome> {
        lock(&self.0.state).outcome.clone()
    }

    fn on_end(&self, callback: EndCallback) {
        lock(&self.0.state).callbacks.push(callback);
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.stop();
    }
}

struct FakeShell(Arc<Fake>);

impl Channel for FakeShell {
    fn write(&self, data: &[u8], _deadline: Instant) -> io::Result<usize> {
        let stdin = lock(&self.0.state).stdin.take();
        let mut stdin = stdin.ok_or(io::ErrorKind::BrokenPipe)?;
        let written = stdin.write(data);
        lock(&self.0.state).stdin = Some(stdin);
        written
    }

    fn read(&self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let state = lock(&self.0.state);
        let left = deadline.saturating_duration_since(Instant::now());
        let waiting = |state: &mut State| state.received.is_empty() && state.outcome.is_none();
        let waited = self.0.changed.wait_timeout_while(state, left, waiting);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.received.is_empty() && state.outcome.is_none() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wanted = buffer.len().min(state.received.len());
        let bytes: Vec<u8> = state.received.drain(..wanted).collect();
        buffer.write(&bytes)
    }
}
