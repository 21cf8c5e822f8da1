//! Events as JSON objects, for the JSON lines and the HTML page. `docs/reports.md` describes every field.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use snowboot_config::Topology;

use crate::event::{Event, Record, RunError, Step};
use crate::sinks::SCHEMA;
use crate::timeline::BootTimeline;

/// An event with its times.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum What<'a> {
    RunBegin {
        schema: u32,
        version: &'a str,
        name: Option<&'a str>,
        machines: Vec<&'a str>,
        topology: Option<&'a Topology>,
        seed: Option<u64>,
    },
    BlockBegin {
        id: u64,
        parent: Option<u64>,
        subtest: bool,
        machine: Option<&'a str>,
        text: &'a str,
    },
    BlockEnd {
        id: u64,
        seconds: f64,
        failure: Option<&'a str>,
    },
    Line {
        level: &'a str,
        machine: Option<&'a str>,
        block: Option<u64>,
        text: &'a str,
    },
    Console {
        machine: &'a str,
        text: &'a str,
    },
    MachineStart {
        machine: &'a str,
        start: u32,
    },
    MachineShell {
        machine: &'a str,
    },
    MachineTimeline {
        machine: &'a str,
        seconds: f64,
        phases: BTreeMap<&'a str, Option<f64>>,
        marks: Vec<MarkRow>,
        marks_dropped: u64,
    },
    MachineEnd {
        machine: &'a str,
        outcome: &'a str,
    },
    MachineLink {
        machine: &'a str,
        up: bool,
    },
    ScriptEnd {
        error: Option<&'a RunError>,
    },
    RunEnd {
        passed: bool,
        status: i32,
        error: Option<&'a RunError>,
    },
}

/// A mark that a guest made of its own.
#[derive(Serialize)]
struct MarkRow {
    mark: u8,
    at: f64,
}

impl<'a> Row<'a> {
    /// With the time of day.
    pub(crate) fn new(record: &'a Record) -> Self {
        Self { time: Some(stamp(record.wall)), ..Self::brief(record) }
    }

    /// Without it.
    pub(crate) fn brief(record: &'a Record) -> Self {
        Self { at: seconds(record.since), time: None, what: What::new(&record.event) }
    }

    /// As one line; serde writes none but the keys and values above, so that cannot fail.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<'a> What<'a> {
    fn new(event: &'a Event) -> Self {
        match event {
            Event::RunBegin { name, machines, topology, seed } => Self::RunBegin {
                schema: SCHEMA,
                version: env!("CARGO_PKG_VERSION"),
                name: name.as_deref(),
                machines: machines.iter().map(AsRef::as_ref).collect(),
                topology: topology.as_deref(),
                seed: *seed,
            },
            Event::Begin(block) => Self::BlockBegin {
                id: block.id,
                parent: block.parent,
                subtest: block.subtest,
                machine: block.machine.as_deref(),
                text: &block.text,
            },
            Event::End { block, took, failure } => {
                Self::BlockEnd { id: block.id, seconds: seconds(*took), failure: failure.as_deref() }
            }
            Event::Line { level, machine, block, text } => Self::Line {
                level: level.name(),
                machine: machine.as_deref(),
                block: block.as_ref().map(|block| block.id),
                text,
            },
            Event::Console { machine, text } => Self::Console { machine, text },
            Event::Machine { machine, step } => Self::step(machine, step),
            Event::ScriptEnd { error } => Self::ScriptEnd { error: error.as_deref() },
            Event::RunEnd { status, error } => {
                Self::RunEnd { passed: *status == 0, status: *status, error: error.as_deref() }
            }
        }
    }

    fn step(machine: &'a str, step: &'a Step) -> Self {
        match step {
            Step::Starting { start } => Self::MachineStart { machine, start: *start },
            Step::Shell => Self::MachineShell { machine },
            Step::Booted { after, timeline } => Self::booted(machine, *after, timeline),
            Step::Ended { outcome } => Self::MachineEnd { machine, outcome },
            Step::Link { up } => Self::MachineLink { machine, up: *up },
        }
    }

    fn booted(machine: &'a str, after: Duration, timeline: &BootTimeline) -> Self {
        let marks = timeline.marks.iter().map(|mark| MarkRow { mark: mark.number, at: seconds(mark.at) });
        Self::MachineTimeline {
            machine,
            seconds: seconds(after),
            phases: timeline.phases().into_iter().map(|(name, at)| (name, at.map(seconds))).collect(),
            marks: marks.collect(),
            marks_dropped: timeline.marks_dropped,
        }
    }
}

/// Whole microseconds, so that no number is longer than it tells.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// RFC 3339, in UTC.
pub(crate) fn stamp(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Micros, true)
}
