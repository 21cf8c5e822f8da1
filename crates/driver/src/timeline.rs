//! How a machine's boot went: what its VMM saw, when its shell was there, and what the guest itself tells.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::event::Step;
use crate::machine::MachineHandle;
use crate::vm::{TellTimes, VmTimes};

/// Initcalls that a timeline has: the slowest.
pub const INITCALLS: usize = 10;

/// The guest's limit for each of the two questions, and how much longer the host waits.
const LIMIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);

/// Bytes that the guest gives at most. The kernel's log has 256 KiB as a rule; one that was enlarged for many initcalls is
/// some MiB.
const ANSWER_CAP: usize = 8 << 20;

/// Tells the guest's monotonic clock: in nanoseconds, which needs root, and in seconds to 10 ms.
const ASK_CLOCK: &str = "now= up=; { read -r _; read -r _; read -r _ _ now _; } </proc/timer_list; \
                         read -r up _ </proc/uptime; echo \"${now:--} ${up:--}\"";

/// What systemd notes of its own start (org.freedesktop.systemd1(5), the manager's properties): the property without
/// `TimestampMonotonic`, and its name here.
const SYSTEMD: [(&str, &str); 10] = [
    ("Kernel", "kernel"),
    ("InitRD", "initrd"),
    ("Userspace", "userspace"),
    ("SecurityStart", "security_start"),
    ("SecurityFinish", "security_finish"),
    ("GeneratorsStart", "generators_start"),
    ("GeneratorsFinish", "generators_finish"),
    ("UnitsLoadStart", "units_load_start"),
    ("UnitsLoadFinish", "units_load_finish"),
    ("Finish", "finish"),
];

/// A mark that a guest made of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootMark {
    /// 16 to 255.
    pub number: u8,
    /// When, since the machine's start.
    pub at: Duration,
}

/// One of the kernel's functions that set up a driver or subsystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initcall {
    /// The function's name, with its module's in brackets if it is of one.
    pub name: String,
    /// How long it took.
    pub took: Duration,
}

/// How a machine's boot went. Times count from the machine's start; `None` is what was not reached, or not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootTimeline {
    /// Guest memory was there.
    pub memory_ready: Option<Duration>,
    /// Kernel, initrd and tables were in it.
    pub kernel_loaded: Option<Duration>,
    /// A vCPU entered the guest for the first time.
    pub guest_entered: Option<Duration>,
    /// The guest's first byte on a console.
    pub console_output: Option<Duration>,
    /// Its first program ran. Only a guest that marks it tells.
    pub init_started: Option<Duration>,
    /// Its userland was up: as it marked, otherwise when its systemd had reached the default target.
    pub target_reached: Option<Duration>,
    /// Its shell was there. Not known before the driver has connected to it.
    pub shell_ready: Option<Duration>,
    /// The driver's first command was answered.
    pub first_answer: Option<Duration>,
    /// The guest's own marks, in their order.
    pub marks: Vec<BootMark>,
    /// How many more of them there were.
    pub marks_dropped: u64,
    /// Where the guest's monotonic clock has its zero, to within half of a command's round trip. Times of `systemd` count from
    /// there.
    pub guest_clock: Option<Duration>,
    /// When its systemd reached what, on the guest's monotonic clock: `userspace` is its own start, `finish` that it had
    /// reached the default target. Empty where there is none.
    pub systemd: BTreeMap<&'static str, Duration>,
    /// The slowest initcalls, the slowest first, at most [`INITCALLS`]. Empty unless the kernel's command line has
    /// `initcall_debug`.
    pub initcalls: Vec<Initcall>,
}

impl BootTimeline {
    /// The phases with their names, in the usual order.
    #[must_use]
    pub fn phases(&self) -> [(&'static str, Option<Duration>); 8] {
        [
            ("memory_ready", self.memory_ready),
            ("kernel_loaded", self.kernel_loaded),
            ("guest_entered", self.guest_entered),
            ("console_output", self.console_output),
            ("init_started", self.init_started),
            ("target_reached", self.target_reached),
            ("shell_ready", self.shell_ready),
            ("first_answer", self.first_answer),
        ]
    }
}

/// What is noted of one start of a machine. It outlives that.
pub(crate) struct Boot {
    began: Instant,
    times: TellTimes,
    shell_ready: OnceLock<Instant>,
    first_answer: Arc<OnceLock<Instant>>,
}

impl Boot {
    pub(crate) fn new(began: Instant, times: TellTimes, first_answer: Arc<OnceLock<Instant>>) -> Self {
        Self { began, times, shell_ready: OnceLock::new(), first_answer }
    }

    /// The driver has seen the shell's greeting, `at_once` if nothing came before it; whether for the first time. A guest
    /// that greeted at once did so when the channel's first byte came, however late the driver looks.
    pub(crate) fn shell_greeted(&self, at_once: bool) -> bool {
        let first_byte = (self.times)().shell_output.filter(|_| at_once);
        self.shell_ready.set(first_byte.unwrap_or_else(Instant::now)).is_ok()
    }

    /// How it went so far, without asking the guest.
    pub(crate) fn timeline(&self) -> BootTimeline {
        let since = |at: Instant| at.saturating_duration_since(self.began);
        let times: VmTimes = (self.times)();
        let marks = times.marks.into_iter().map(|(number, at)| BootMark { number, at: since(at) });
        BootTimeline {
            memory_ready: times.memory_ready.map(since),
            kernel_loaded: times.kernel_loaded.map(since),
            guest_entered: times.guest_entered.map(since),
            console_output: times.console_output.map(since),
            init_started: times.init_started.map(since),
            target_reached: times.target_reached.map(since),
            shell_ready: self.shell_ready.get().copied().map(since),
            first_answer: self.first_answer.get().copied().map(since),
            marks: marks.collect(),
            marks_dropped: times.marks_dropped,
            ..BootTimeline::default()
        }
    }

    /// The step that tells of it.
    pub(crate) fn step(&self) -> Step {
        Step::Booted { after: self.began.elapsed(), timeline: Box::new(self.timeline()) }
    }
}

impl MachineHandle {
    /// How the boot of its last start (or reset) went. Does not start it, nor wait for its shell: when that is there and
    /// was connected to, the guest is asked for what only it knows.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// web.connect()?;
    /// let timeline = web.boot_timeline()?;
    /// assert!(timeline.shell_ready.unwrap() < std::time::Duration::from_secs(60));
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// When it was never started, or its shell does not answer.
    pub fn boot_timeline(&self) -> Result<BootTimeline, Error> {
        let boot = self.boot().ok_or_else(|| self.trouble("has no boot to tell of: it was never started"))?;
        if !self.is_up() {
            return Ok(boot.timeline());
        }
        let _block = self.nested("asking how the boot went");
        let asked = Instant::now();
        let clock = self.ask(ASK_CLOCK, LIMIT, GRACE)?;
        // The answer was made somewhere between these two.
        let told = asked.checked_add(asked.elapsed() / 2).unwrap_or(asked);
        let answer = self.ask(&question(), LIMIT, GRACE)?;
        let mut timeline = boot.timeline();
        let told = told.saturating_duration_since(boot.began);
        timeline.guest_clock = guest_clock(&clock).map(|now| told.saturating_sub(now));
        timeline.systemd = systemd(&answer);
        timeline.initcalls = initcalls(&answer);
        let finish = timeline.guest_clock.zip(timeline.systemd.get("finish"));
        let finish = finish.map(|(zero, finish)| zero.saturating_add(*finish));
        timeline.target_reached = timeline.target_reached.or(finish);
        Ok(timeline)
    }
}

/// Asks systemd and the kernel's log. Where one of them is not there, it says nothing.
fn question() -> String {
    let properties: Vec<String> =
        SYSTEMD.iter().map(|(property, _)| format!("{property}TimestampMonotonic")).collect();
    let properties = properties.join(",");
    format!(
        "set +euo pipefail; {{ systemctl show --no-pager --property={properties}; dmesg | grep 'initcall .* returned '; \
         }} 2>/dev/null </dev/null | head -c {ANSWER_CAP}"
    )
}

/// The guest's monotonic clock, from the answer to [`ASK_CLOCK`].
fn guest_clock(answer: &str) -> Option<Duration> {
    let (now, up) = answer.trim().split_once(' ')?;
    let exact = now.parse().ok().map(Duration::from_nanos);
    exact.or_else(|| Duration::try_from_secs_f64(up.parse().ok()?).ok())
}

/// What systemd told. It says 0 for what was not reached; the kernel's own zero is that of the clock.
fn systemd(answer: &str) -> BTreeMap<&'static str, Duration> {
    let told = |line: &str| {
        let (name, value) = line.split_once("TimestampMonotonic=")?;
        let (_, name) = SYSTEMD.iter().find(|(property, _)| *property == name)?;
        let micros: u64 = value.trim().parse().ok()?;
        (micros > 0 || *name == "kernel").then(|| (*name, Duration::from_micros(micros)))
    };
    answer.lines().filter_map(told).collect()
}

/// The slowest initcalls that the kernel's log tells of.
fn initcalls(answer: &str) -> Vec<Initcall> {
    let mut initcalls: Vec<Initcall> = answer.lines().filter_map(initcall).collect();
    initcalls.sort_by_key(|initcall| Reverse(initcall.took));
    initcalls.truncate(INITCALLS);
    initcalls
}

/// A line as the kernel writes it with `initcall_debug` (`trace_initcall_finish_cb` in `init/main.c`):
/// `initcall acpi_init+0x0/0x500 returned 0 after 1234 usecs`, with a module's name in brackets after the function's.
fn initcall(line: &str) -> Option<Initcall> {
    let (_, rest) = line.split_once("initcall ")?;
    let (function, rest) = rest.split_once(" returned ")?;
    let (_, rest) = rest.split_once(" after ")?;
    let micros = rest.split(' ').next()?.parse().ok()?;
    let (function, module) = function.split_once(' ').unwrap_or((function, ""));
    let name = function.split('+').next()?;
    let name = if module.is_empty() { name.to_owned() } else { format!("{name} {module}") };
    Some(Initcall { name, took: Duration::from_micros(micros) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_initcalls_are_told_by_their_names() {
        let mut log = String::from(
            "[    0.1] initcall acpi_init+0x0/0x500 returned 0 after 1234 usecs\n\
             [    0.2] initcall virtio_blk_init+0x0/0xff0 [virtio_blk] returned -19 after 99999 usecs\n\
             [    0.2] probe of 0000:00:01.0 returned 0 after 5000000 usecs\n\
             [    0.3] initcall bad+0x0/0x1 returned 0 after many usecs\n\
             initcall nothing\n",
        );
        let found = initcalls(&log);
        let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["virtio_blk_init [virtio_blk]", "acpi_init"]);
        assert_eq!(found[1].took, Duration::from_micros(1234));
        for number in 0..20 {
            log.push_str(&format!("initcall f{number}+0x0/0x1 returned 0 after {number} usecs\n"));
        }
        let found = initcalls(&log);
        assert_eq!(found.len(), INITCALLS);
        assert_eq!((found[2].name.as_str(), found[9].name.as_str()), ("f19", "f12"));
    }

    #[test]
    fn what_systemd_has_not_reached_is_left_out() {
        let told = systemd(
            "KernelTimestampMonotonic=0\nInitRDTimestampMonotonic=0\nUserspaceTimestampMonotonic=1500000\n\
             FinishTimestampMonotonic=x\nShutdownStartTimestampMonotonic=5\n",
        );
        let expected = [("kernel", Duration::ZERO), ("userspace", Duration::from_millis(1500))];
        assert_eq!(told, BTreeMap::from(expected));
    }

    #[test]
    fn the_guests_clock_is_read_as_exactly_as_it_is_told() {
        assert_eq!(guest_clock("1500000001 1.50\n"), Some(Duration::from_nanos(1_500_000_001)));
        assert_eq!(guest_clock("- 1.50\n"), Some(Duration::from_millis(1500)));
        for answer in ["", "- -\n", "- -1\n", "- nan\n", "x inf\n"] {
            assert_eq!(guest_clock(answer), None, "{answer}");
        }
    }
}
