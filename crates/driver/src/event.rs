//! What happens in a run, as data for [`Sink`]s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use snowboot_config::Topology;

use crate::timeline::BootTimeline;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who look for a fault in the driver.
    Debug,
    /// What the test does.
    Info,
    /// Something is odd.
    Warning,
    /// Something failed.
    Error,
}

impl Level {
    /// Its name, as on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            _ => Err(format!("Log level `{text}` is not one of debug, info, warning, error")),
        }
    }
}

/// An event with its time.
#[derive(Clone, Debug)]
pub struct Record {
    /// Since the log's beginning, by a clock that never jumps.
    pub since: Duration,
    /// The same by the wall clock as it was at the log's beginning.
    pub wall: SystemTime,
    /// False while console lines are to be kept off the screen.
    pub serial: bool,
    /// What happened.
    pub event: Event,
}

/// A block of work of a test.
#[derive(Debug)]
pub struct BlockInfo {
    /// Its number, unique in the run.
    pub id: u64,
    /// The block of the same thread that it is in.
    pub parent: Option<u64>,
    /// How many blocks of the same thread it is in.
    pub depth: usize,
    /// Whether it is a subtest: a test case of its own in a report.
    pub subtest: bool,
    /// The machine that it is about.
    pub machine: Option<Arc<str>>,
    /// What is done; of a subtest its name.
    pub text: String,
}

impl BlockInfo {
    /// Its headline in a log.
    #[must_use]
    pub fn title(&self) -> String {
        if self.subtest { format!("subtest: {}", self.text) } else { self.text.clone() }
    }
}

/// A step in the life of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// It is being started.
    Starting {
        /// For which time, from 1.
        start: u32,
    },
    /// Its shell answers.
    Shell,
    /// Its shell answers for the first time since it was started: how the boot went up to there.
    Booted {
        /// Since it was started, at this moment.
        after: Duration,
        /// As far as it is known without asking the guest.
        timeline: Box<BootTimeline>,
    },
    /// It no longer runs.
    Ended {
        /// How that came, in words: `powered off`.
        outcome: String,
    },
    /// The cable of its first network card was plugged in, or pulled.
    Link {
        /// Whether it is plugged in now.
        up: bool,
    },
}

/// What made a run fail. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// Its kind: the exception's name, or `GlobalTimeout`, `NotStarted` ...
    #[serde(rename = "type")]
    pub kind: String,
    /// For people; may have several lines.
    pub message: String,
    /// The script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The script's line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The text of that line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The machine that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The command that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The command's exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i64>,
}

impl RunError {
    /// Of a kind, with a message.
    #[must_use]
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into(), ..Self::default() }
    }
}

/// Something that happened in the run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The run begins.
    RunBegin {
        /// The test's name; `None` when its manifest could not be read.
        name: Option<String>,
        /// The machines, sorted by name.
        machines: Vec<Arc<str>>,
        /// How they are connected; `None` as the name.
        topology: Option<Arc<Topology>>,
        /// What faults without a seed of their own draw theirs from; `None` as the name.
        seed: Option<u64>,
    },
    /// A block of work begins.
    Begin(Arc<BlockInfo>),
    /// A block of work is done.
    End {
        /// Which.
        block: Arc<BlockInfo>,
        /// How long it took.
        took: Duration,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// A line of the driver or the test.
    Line {
        /// How much it matters.
        level: Level,
        /// The machine that it is about.
        machine: Option<Arc<str>>,
        /// The block of the same thread that it is in.
        block: Option<Arc<BlockInfo>>,
        /// The line.
        text: String,
    },
    /// A line of a machine's console, cleaned of control characters.
    Console {
        /// The machine.
        machine: Arc<str>,
        /// The line.
        text: String,
    },
    /// A step in the life of a machine.
    Machine {
        /// Which.
        machine: Arc<str>,
        /// What.
        step: Step,
    },
    /// The script has ended; what follows is the end of its machines.
    ScriptEnd {
        /// What made it fail, if something did.
        error: Option<Arc<RunError>>,
    },
    /// The run has ended. Nothing follows.
    RunEnd {
        /// The exit status; the test passed when it is 0.
        status: i32,
        /// What made it fail, if something did.
        error: Option<Arc<RunError>>,
    },
}

/// Takes events, on a thread of the log.
pub trait Sink: Send {
    /// One event.
    fn record(&mut self, record: &Record);

    /// All events so far have been given; what is buffered should be written out.
    fn flush(&mut self) {}

    /// Whether a write may have to wait for somebody, as for a terminal that is held. Such sinks have a thread of their
    /// own, so that the others go on.
    fn may_stall(&self) -> bool {
        false
    }
}
