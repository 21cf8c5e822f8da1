//! One run of one VMM: from its start to the marker on its console.
//!
//! The VMM is in a process group of its own, so that a script around it ends with it. At the marker all of it is stopped
//! first: what the guest does afterwards is not measured.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};
use wait4::{ResUse, Wait4};

use super::cpu;
use super::interrupt::Interrupt;
use super::limit::{Clock, Limit};
use super::memory;

/// Bytes of an output that are kept for a message: the last ones.
const KEPT: usize = 64 << 10;
/// For the answer to a question that every program answers at once.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// Lines of an output in a message.
const SHOWN: usize = 12;

/// A VMM that is ready to be started.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [OsString],
    pub(super) environment: &'a [(&'static str, PathBuf)],
    /// Its working folder.
    pub(super) folder: &'a Path,
    /// Bytes of each machine's memory.
    pub(super) guest_memory: u64,
    /// How often the marker comes: once from each machine.
    pub(super) machines: u32,
}

/// What holds for all runs.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    pub(super) marker: &'a str,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
    pub(super) interrupt: Interrupt,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    /// CPU time of the VMM's process in user mode, the guest's included.
    pub(super) user_seconds: f64,
    /// The same in the kernel.
    pub(super) system_seconds: f64,
    /// From just before the program's start to the marker.
    pub(super) wall_seconds: f64,
    /// The most memory of the process, guest memory included. Linux counts what this program had when it started the
    /// VMM, which is less than any VMM has.
    pub(super) peak_rss_bytes: u64,
    /// Resident memory beside the guest's, at the marker.
    pub(super) added_bytes: Option<u64>,
    /// All resident memory at the marker; a page that is mapped twice counts twice.
    #[serde(default)]
    pub(super) resident_bytes: Option<u64>,
    /// The same with each page once, and of those of other processes this one's share.
    #[serde(default)]
    pub(super) proportional_bytes: Option<u64>,
    /// CPU time of the process until it was stopped at the marker.
    #[serde(default)]
    pub(super) marker_cpu_seconds: Option<f64>,
    /// Of its CPU time, what Linux says its guests ran for. It comes in steps of 10 ms, to either side: only the mean of
    /// several runs tells more.
    #[serde(default)]
    pub(super) guest_seconds: Option<f64>,
}

impl Sample {
    /// CPU time in all.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }

    /// What of the CPU time until the marker was not the guest's.
    pub(super) fn own_seconds(&self) -> Option<f64> {
        Some(self.marker_cpu_seconds? - self.guest_seconds?)
    }
}

/// Why a run has no figures.
#[derive(Debug)]
pub(super) enum Failure {
    /// A signal asks this program to end.
    Interrupted(i32),
    /// The VMM could not be started or waited for.
    Host(io::Error),
    /// It ended before the marker.
    Ended { status: ExitStatus, output: String },
    /// The marker did not come.
    TimedOut { limit: Duration, output: String },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted(signal) => write!(f, "signal {signal} came"),
            Self::Host(error) => write!(f, "it cannot be run: {error}"),
            Self::Ended { status, .. } => write!(f, "it ended before the marker came ({status})"),
            Self::TimedOut { limit, .. } => {
                write!(f, "the marker did not come within {} s", limit.as_secs_f64())
            }
        }
    }
}

impl Failure {
    /// What the VMM said last.
    pub(super) fn output(&self) -> Option<&str> {
        match self {
            Self::Ended { output, .. } | Self::TimedOut { output, .. } => Some(output),
            Self::Interrupted(_) | Self::Host(_) => None,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Host(error.into())
    }
}

/// Runs it once.
pub(super) fn measure(launch: &Launch<'_>, terms: &Terms<'_>) -> Result<Sample, Failure> {
    let limit = Limit::start(terms.timeout, terms.clock);
    let start = Instant::now();
    let mut vmm = Running::start(launch)?;
    let marker = Marker { text: terms.marker, times: launch.machines };
    let end = vmm.watch(marker, start, &limit, &terms.interrupt)?;
    if let End::Marker(wall) = end {
        vmm.signal(Signal::STOP);
        let marker_cpu = cpu::of_process(vmm.pid);
        let memory = memory::of_process(vmm.pid, launch.guest_memory, launch.machines);
        let before = cpu::guests_of_children();
        let used = vmm.finish()?;
        let after = cpu::guests_of_children();
        return Ok(Sample {
            user_seconds: used.rusage.utime.as_secs_f64(),
            system_seconds: used.rusage.stime.as_secs_f64(),
            wall_seconds: wall.as_secs_f64(),
            peak_rss_bytes: used.rusage.maxrss,
            added_bytes: memory.and_then(|memory| memory.added),
            resident_bytes: memory.map(|memory| memory.resident),
            proportional_bytes: memory.map(|memory| memory.proportional),
            marker_cpu_seconds: marker_cpu.map(|time| time.as_secs_f64()),
            guest_seconds: after
                .zip(before)
                .map(|(after, before)| after.saturating_sub(before).as_secs_f64()),
        });
    }
    let output = vmm.said();
    let used = vmm.finish()?;
    match end {
        End::Ended => Err(Failure::Ended { status: used.status, output }),
        _ => Err(Failure::TimedOut { limit: terms.timeout, output }),
    }
}

/// What a program says of its version: its first line when it is asked. `None` when it says nothing in time.
pub(super) fn version(program: &Path, folder: &Path, terms: &Terms<'_>) -> Result<Option<String>, Failure> {
    let start = Instant::now();
    let question = ["--version".into()];
    let launch =
        Launch { program, arguments: &question, environment: &[], folder, guest_memory: 0, machines: 1 };
    let mut asked = Running::start(&launch)?;
    let line = Marker { text: "\n", times: 1 };
    asked.watch(line, start, &Limit::start(VERSION_LIMIT, terms.clock), &terms.interrupt)?;
    let said = String::from_utf8_lossy(&asked.console.seen);
    Ok(said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned))
}

/// What a watch waits for.
#[derive(Clone, Copy, Debug)]
struct Marker<'a> {
    text: &'a str,
    times: u32,
}

/// How a watch ended.
enum End {
    Marker(Duration),
    Ended,
    TimedOut,
}

/// A VMM's process. Dropping it ends it.
struct Running {
    /// Until it has been waited for.
    child: Option<Child>,
    pid: Pid,
    /// Becomes readable at its end.
    handle: OwnedFd,
    console: Stream,
    errors: Stream,
    /// Held open: to some VMMs the end of their input is a key press, or an error.
    _input: Option<ChildStdin>,
}

impl Running {
    fn start(launch: &Launch<'_>) -> Result<Self, Failure> {
        let mut child = Command::new(launch.program)
            .args(launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(launch.folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let console = Stream::new(child.stdout.take().map(OwnedFd::from));
        let errors = Stream::new(child.stderr.take().map(OwnedFd::from));
        let input = child.stdin.take();
        let pid = Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(Self { child: Some(child), pid, handle, console, errors, _input: input }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Reads what it says until all of the markers, its end, or the end of the time.
    fn watch(
        &mut self,
        marker: Marker<'_>,
        start: Instant,
        limit: &Limit,
        interrupt: &Interrupt,
    ) -> Result<End, Failure> {
        let mut missing = marker.times;
        loop {
            let Some(left) = limit.left() else { return Ok(End::TimedOut) };
            let ready = self.wait(left, interrupt)?;
            if let Some(signal) = interrupt.signal() {
                return Err(Failure::Interrupted(signal));
            }
            if ready.errors {
                self.errors.read();
            }
            if ready.console {
                missing = missing.saturating_sub(self.console.read_and_count(marker.text));
                if missing == 0 {
                    return Ok(End::Marker(start.elapsed()));
                }
            }
            if ready.ended && !ready.console && !ready.errors {
                return Ok(End::Ended);
            }
        }
    }

    fn wait(&self, left: Duration, interrupt: &Interrupt) -> Result<Ready, Failure> {
        let limit = Timespec::try_from(left).ok();
        let (console, errors) = (self.entry(&self.console), self.entry(&self.errors));
        let mut ready = [
            PollFd::new(&self.handle, PollFlags::IN),
            PollFd::new(interrupt, PollFlags::IN),
            PollFd::from_borrowed_fd(console.0, console.1),
            PollFd::from_borrowed_fd(errors.0, errors.1),
        ];
        match poll(&mut ready, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [ended, _, console, errors] = ready.map(|entry| !entry.revents().is_empty());
        Ok(Ready { ended, console, errors })
    }

    /// What to wait for. A stream that has ended keeps its place, but has nothing to tell.
    fn entry<'a>(&'a self, stream: &'a Stream) -> (BorrowedFd<'a>, PollFlags) {
        match &stream.source {
            Some(source) => (source.as_fd(), PollFlags::IN),
            None => (self.handle.as_fd(), PollFlags::empty()),
        }
    }

    /// To all of its processes.
    fn signal(&self, signal: Signal) {
        // There is nobody left to tell when it fails.
        let _ = kill_process_group(self.pid, signal);
    }

    /// Ends it, and waits until it is gone.
    fn finish(&mut self) -> Result<ResUse, Failure> {
        let Some(child) = self.child.take() else { return Err(io::Error::from(Errno::CHILD).into()) };
        self.signal(Signal::KILL);
        Ok(child.wait4()?)
    }

    /// Its last words, for a message.
    fn said(&self) -> String {
        let mut text = self.console.last_lines("its console");
        text.push_str(&self.errors.last_lines("its standard error"));
        text.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

#[derive(Debug)]
struct Ready {
    ended: bool,
    console: bool,
    errors: bool,
}

/// One of its outputs.
struct Stream {
    source: Option<std::fs::File>,
    /// The last bytes.
    seen: Vec<u8>,
}

impl Stream {
    fn new(source: Option<OwnedFd>) -> Self {
        Self { source: source.map(Into::into), seen: Vec::new() }
    }

    /// Takes what is there, without waiting where something is. Returns how many bytes came.
    fn read(&mut self) -> usize {
        let mut buffer = [0; 16 << 10];
        let Some(source) = &mut self.source else { return 0 };
        let count = match source.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return 0,
            Err(_) => 0,
        };
        if count == 0 {
            self.source = None;
        }
        self.seen.extend(buffer.iter().take(count));
        let surplus = self.seen.len().saturating_sub(KEPT);
        self.seen.drain(..surplus);
        count
    }

    /// The same; returns how often `text` is there with what came.
    fn read_and_count(&mut self, text: &str) -> u32 {
        let new = self.read().saturating_add(text.len().saturating_sub(1));
        let tail = self.seen.get(self.seen.len().saturating_sub(new)..).unwrap_or_default();
        let found = tail.windows(text.len().max(1)).filter(|window| *window == text.as_bytes()).count();
        u32::try_from(found).unwrap_or(u32::MAX)
    }

    fn last_lines(&self, name: &str) -> String {
        let text = String::from_utf8_lossy(&self.seen);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() {
            return format!("  {name}: nothing\n");
        }
        let first = lines.len().saturating_sub(SHOWN);
        // What a guest writes must not reach the terminal as commands.
        let shown = |line: &str| line.replace(|c: char| c.is_control() && c != '\t', "?");
        let shown: String = lines.iter().skip(first).map(|line| format!("    {}\n", shown(line))).collect();
        format!("  {name}:\n{shown}")
    }
}
