//! `--timeline` and `--timeline-json FILE`: when the boot got where. `docs/timeline.md` describes both.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::{Serialize, Serializer};
use snowboot_vmm::{Phase, Timeline, process_start};

use crate::report::Destination;
use crate::say;

#[derive(Debug, clap::Args)]
pub(super) struct TimelineArgs {
    /// At the end, say on the standard error when the boot got where
    #[arg(long)]
    timeline: bool,
    /// Write when the boot got where to FILE, as one JSON object
    #[arg(long, value_name = "FILE")]
    timeline_json: Option<PathBuf>,
}

/// Where a timeline goes at the end of a run, and what its times count from.
#[derive(Debug)]
pub(super) struct Wanted {
    table: bool,
    file: Option<Destination>,
    origin: Origin,
}

#[derive(Clone, Copy, Debug)]
struct Origin {
    at: Instant,
    /// Whether that is the start of the process; otherwise its `main` function's, a moment later.
    is_process: bool,
}

impl Origin {
    fn find() -> Self {
        let main = Instant::now();
        let process = process_start();
        Self { at: process.unwrap_or(main), is_process: process.is_some() }
    }
}

impl TimelineArgs {
    /// To be called early: the start of this process is looked for. Finds out whether the file can be written.
    pub(super) fn prepare(&self) -> Result<Option<Wanted>> {
        if !self.timeline && self.timeline_json.is_none() {
            return Ok(None);
        }
        let origin = Origin::find();
        let file = self.timeline_json.as_deref().map(Destination::prepare).transpose()?;
        Ok(Some(Wanted { table: self.timeline, file, origin }))
    }
}

impl Wanted {
    /// Fails when the run's report is to be the same file.
    pub(super) fn check_apart_from(&self, report: Option<&Destination>) -> Result<()> {
        if let Some((one, other)) = self.file.as_ref().zip(report)
            && one.path() == other.path()
        {
            bail!("Two reports are to be written to {}; name a file for each", one.path().display());
        }
        Ok(())
    }

    /// Shows and writes what is wanted.
    pub(super) fn tell(&self, timeline: &Timeline) -> Result<()> {
        if self.table {
            say::line(table(timeline, self.origin).trim_end());
        }
        self.file.as_ref().map_or(Ok(()), |file| file.write(&Report::new(timeline, self.origin)))
    }
}

fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::BuildBegan => "machine build began",
        Phase::MemoryReady => "guest memory ready",
        Phase::KernelLoaded => "kernel loaded",
        Phase::GuestEntered => "guest entered",
        Phase::ConsoleOutput => "first console output",
        Phase::InitStarted => "init started",
        Phase::TargetReached => "target reached",
        _ => phase.name(),
    }
}

/// What was reached, in the order of time: each with the milliseconds since the origin and since the line before.
fn table(timeline: &Timeline, origin: Origin) -> String {
    let first = if origin.is_process { "process started" } else { "program started" };
    let phases = Phase::ALL.into_iter();
    let phases = phases.filter_map(|phase| Some((words(phase).to_owned(), timeline.at(phase)?)));
    let marks = timeline.marks().into_iter().map(|mark| (format!("mark {}", mark.number), mark.at));
    let mut lines: Vec<_> = [(first.to_owned(), origin.at)].into_iter().chain(phases).chain(marks).collect();
    lines.sort_by_key(|(_, at)| *at);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = format!("snowboot: {:width$}  {:>10}  {:>10}\n", "boot timeline", "ms", "+ms");
    let mut before = origin.at;
    for (name, at) in lines {
        let (since, step) = (milliseconds(at, origin.at), milliseconds(at, before));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "snowboot: {name:width$}  {since:>10.3}  {step:>10.3}");
        before = at;
    }
    match timeline.marks_dropped() {
        0 => {}
        dropped => text.push_str(&format!("snowboot: {dropped} later marks were not kept\n")),
    }
    text
}

fn milliseconds(at: Instant, since: Instant) -> f64 {
    seconds(at, since) * 1e3
}

/// Whole microseconds, so that no number is longer than it tells.
fn seconds(at: Instant, since: Instant) -> f64 {
    (at.saturating_duration_since(since).as_secs_f64() * 1e6).round() / 1e6
}

/// What the file holds.
#[derive(Debug, Serialize)]
struct Report {
    /// `process`, or `program` where the kernel does not tell the start of the process.
    origin: &'static str,
    #[serde(serialize_with = "as_map")]
    phases: Vec<(&'static str, Option<f64>)>,
    marks: Vec<Mark>,
    marks_dropped: u64,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Mark {
    mark: u8,
    at: f64,
}

fn as_map<S: Serializer>(phases: &[(&'static str, Option<f64>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(phases.iter().copied())
}

impl Report {
    fn new(timeline: &Timeline, origin: Origin) -> Self {
        let since = |at| seconds(at, origin.at);
        let phases = Phase::ALL.into_iter().map(|phase| (phase.name(), timeline.at(phase).map(since)));
        let marks = timeline.marks().into_iter();
        Self {
            origin: if origin.is_process { "process" } else { "program" },
            phases: [("process_start", Some(0.0))].into_iter().chain(phases).collect(),
            marks: marks.map(|mark| Mark { mark: mark.number, at: since(mark.at) }).collect(),
            marks_dropped: timeline.marks_dropped(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}
