//! When a machine got how far on its way to a running userland.
//!
//! A phase is noted once, at its first time; everything here is cheap enough to be always on. The guest can add to it by
//! writing to an I/O port; `docs/timeline.md` lists the numbers. All times are [`Instant`]s of the host: no clock of the
//! guest is believed.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use snowboot_devices::stream::DeviceEnd;

/// Marks that are kept of one machine. A boot that is looked into has some dozens; a guest that writes without end gets no
/// more than 24 KiB of the host's memory for it.
pub const MARKS_MAX: usize = 1024;

/// The mark that tells of [`Phase::InitStarted`].
const INIT_STARTED: u8 = 1;
/// The mark that tells of [`Phase::TargetReached`].
const TARGET_REACHED: u8 = 2;
/// From here on marks mean what the guest's author wants. Those between are kept for later phases.
const FIRST_FREE: u8 = 16;

/// A step on the way from nothing to a running userland, in the usual order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// [`crate::Builder::build`] was called.
    BuildBegan,
    /// KVM has been opened, and guest memory is there.
    MemoryReady,
    /// Kernel, initrd, tables and command line are in it.
    KernelLoaded,
    /// A vCPU enters the guest for the first time.
    GuestEntered,
    /// The guest's first byte on a serial or virtio console.
    ConsoleOutput,
    /// The guest's first program runs, as it says itself.
    InitStarted,
    /// Its userland is up, as it says itself.
    TargetReached,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::BuildBegan,
        Self::MemoryReady,
        Self::KernelLoaded,
        Self::GuestEntered,
        Self::ConsoleOutput,
        Self::InitStarted,
        Self::TargetReached,
    ];

    /// Its name in reports: `kernel_loaded`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BuildBegan => "build_began",
            Self::MemoryReady => "memory_ready",
            Self::KernelLoaded => "kernel_loaded",
            Self::GuestEntered => "guest_entered",
            Self::ConsoleOutput => "console_output",
            Self::InitStarted => "init_started",
            Self::TargetReached => "target_reached",
        }
    }
}

/// A free mark of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What it wrote: 16 to 255.
    pub number: u8,
    /// When.
    pub at: Instant,
}

/// What a machine's boot has come to so far. Clones are the same timeline.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// In the order of [`Phase::ALL`].
    phases: [OnceLock<Instant>; Phase::ALL.len()],
    marks: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    kept: Vec<Mark>,
    dropped: u64,
}

impl Timeline {
    /// A phase has been reached now; nothing happens when it was reached before.
    pub(crate) fn reached(&self, phase: Phase) {
        if let Some(slot) = self.slot(phase) {
            slot.get_or_init(Instant::now);
        }
    }

    /// The guest says how far it has come.
    pub(crate) fn told(&self, mark: u8) {
        match mark {
            INIT_STARTED => self.reached(Phase::InitStarted),
            TARGET_REACHED => self.reached(Phase::TargetReached),
            FIRST_FREE.. => self.keep(mark),
            _ => {}
        }
    }

    fn keep(&self, number: u8) {
        let at = Instant::now();
        let mut marks = self.0.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.kept.len() < MARKS_MAX {
            marks.kept.push(Mark { number, at });
        } else {
            marks.dropped = marks.dropped.saturating_add(1);
        }
    }

    /// A serial console's output: its first byte is noted.
    pub(crate) fn watch_output(&self, output: Box<dyn Write + Send>) -> Box<dyn Write + Send> {
        Box::new(WatchedOutput { output, timeline: Some(self.clone()) })
    }

    /// The same for a virtio console's.
    pub(crate) fn watch_stream(&self, console: &DeviceEnd) {
        let timeline = self.clone();
        console.on_first_output(Box::new(move || timeline.reached(Phase::ConsoleOutput)));
    }

    /// When a phase was reached, if it was.
    #[must_use]
    pub fn at(&self, phase: Phase) -> Option<Instant> {
        self.slot(phase).and_then(OnceLock::get).copied()
    }

    /// The guest's free marks in their order, at most [`MARKS_MAX`].
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        self.0.marks.lock().unwrap_or_else(PoisonError::into_inner).kept.clone()
    }

    /// How many more there were.
    #[must_use]
    pub fn marks_dropped(&self) -> u64 {
        self.0.marks.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }

    fn slot(&self, phase: Phase) -> Option<&OnceLock<Instant>> {
        Phase::ALL.iter().zip(&self.0.phases).find(|(it, _)| **it == phase).map(|(_, slot)| slot)
    }
}

/// Output that notes its first byte; after that it is a test of a flag for each write.
struct WatchedOutput {
    output: Box<dyn Write + Send>,
    timeline: Option<Timeline>,
}

impl Write for WatchedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(timeline) = self.timeline.take() {
            timeline.reached(Phase::ConsoleOutput);
        }
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// When this process was started; `None` where the kernel does not say.
///
/// The kernel tells it in `/proc/self/stat` (proc(5), field 22) to a tick, which is 10 ms. Within that tick it is taken to
/// be as long ago as the process has had CPU time, which is right while it has waited for nothing: ask early.
#[must_use]
pub fn process_start() -> Option<Instant> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = u32::try_from(start_ticks(&stat)?).ok()?;
    let tick = Duration::from_secs(1).checked_div(ticks_per_second()?)?;
    let used = clock(rustix::time::ClockId::ProcessCPUTime);
    let (now, uptime) = (Instant::now(), clock(rustix::time::ClockId::Boottime));
    now.checked_sub(age(uptime.checked_sub(tick.checked_mul(ticks)?)?, tick, used))
}

/// How old a process is that began in the tick whose beginning is `at_most` ago, and has had `used` of CPU time.
fn age(at_most: Duration, tick: Duration, used: Duration) -> Duration {
    used.clamp(at_most.saturating_sub(tick), at_most)
}

/// The process's start in ticks since the boot, from the line of `/proc/PID/stat`. The second field, in parentheses, is a
/// name that may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The first of these is field 3.
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn ticks_per_second() -> Option<u32> {
    u32::try_from(rustix::param::clock_ticks_per_second()).ok()
}

fn clock(id: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_keeps_its_first_time() {
        let timeline = Timeline::default();
        assert_eq!(timeline.at(Phase::MemoryReady), None);
        timeline.reached(Phase::MemoryReady);
        let first = timeline.at(Phase::MemoryReady).unwrap();
        while Instant::now() == first {}
        timeline.clone().reached(Phase::MemoryReady);
        assert_eq!(timeline.at(Phase::MemoryReady), Some(first));
        assert_eq!(timeline.at(Phase::KernelLoaded), None);
    }

    #[test]
    fn low_marks_are_phases_and_high_ones_are_kept_in_order() {
        let timeline = Timeline::default();
        for mark in [0, 1, 255, 16, 2, 3, 15, 16] {
            timeline.told(mark);
        }
        let numbers: Vec<u8> = timeline.marks().iter().map(|mark| mark.number).collect();
        assert_eq!(numbers, [255, 16, 16]);
        let at = |phase| timeline.at(phase).unwrap();
        assert!(at(Phase::InitStarted) <= timeline.marks()[0].at);
        assert!(timeline.marks()[1].at <= at(Phase::TargetReached));
        assert!(at(Phase::TargetReached) <= timeline.marks()[2].at);
        let known = Phase::ALL.iter().filter(|phase| timeline.at(**phase).is_some()).count();
        assert_eq!(known, 2);
    }

    #[test]
    fn a_guest_that_marks_without_end_takes_no_more_memory() {
        let timeline = Timeline::default();
        for _ in 0..MARKS_MAX + 10 {
            timeline.told(99);
        }
        assert_eq!((timeline.marks().len(), timeline.marks_dropped()), (MARKS_MAX, 10));
    }

    #[test]
    fn output_is_noted_when_it_comes_and_passed_on() {
        let timeline = Timeline::default();
        let (reader, writer) = io::pipe().unwrap();
        let mut output = timeline.watch_output(Box::new(writer));
        output.flush().unwrap();
        assert_eq!(timeline.at(Phase::ConsoleOutput), None);
        output.write_all(b"a").unwrap();
        let first = timeline.at(Phase::ConsoleOutput);
        assert!(first.is_some());
        output.write_all(b"b").unwrap();
        drop(output);
        assert_eq!(
            (io::read_to_string(reader).unwrap(), timeline.at(Phase::ConsoleOutput)),
            ("ab".into(), first)
        );
    }

    #[test]
    fn a_virtio_consoles_output_is_noted_too() {
        let timeline = Timeline::default();
        let (_host, console) = snowboot_devices::stream::pair(8).unwrap();
        timeline.watch_stream(&console);
        assert_eq!(timeline.at(Phase::ConsoleOutput), None);
        console.write_from(&mut &b"a"[..], 1).unwrap();
        assert!(timeline.at(Phase::ConsoleOutput).is_some());
    }

    #[test]
    fn this_process_started_a_while_ago() {
        let start = process_start().unwrap();
        assert!(
            start < Instant::now() && start.elapsed() < Duration::from_secs(3600),
            "{:?}",
            start.elapsed()
        );
        let line = "12 (a) b) R) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_ticks(line), Some(4242));
        assert_eq!(start_ticks("12 (a) S 1 2"), None);
    }

    #[test]
    fn the_tick_of_the_start_bounds_what_the_cpu_time_says() {
        let ms = Duration::from_millis;
        assert_eq!(age(ms(18), ms(10), ms(11)), ms(11));
        assert_eq!(age(ms(18), ms(10), ms(3)), ms(8), "it waited for something");
        assert_eq!(age(ms(18), ms(10), ms(40)), ms(18), "it has several threads");
        assert_eq!(age(ms(4), ms(10), ms(1)), ms(1));
    }
}
