//! JSON lines: one event per line, as it happens.

use std::path::Path;

use crate::error::Error;
use crate::event::{Event, Record, Sink};
use crate::sinks::file::{Stream, Troubles};
use crate::sinks::row::Row;

/// The version of the lines' schema. Fields and kinds of events may be added under the same number.
pub const SCHEMA: u32 = 1;

/// Lines are written when there are so many bytes of them, and at every flush.
const CHUNK: usize = 64 * 1024;

/// Writes events to a file.
#[derive(Debug)]
pub struct JsonLog {
    stream: Stream,
    buffer: Vec<u8>,
    /// The run has ended; nothing follows.
    ended: bool,
}

impl JsonLog {
    /// To this file, which may be a device or a pipe.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new(path: &Path, troubles: Troubles) -> Result<Self, Error> {
        Ok(Self { stream: Stream::open("JSON log", path, troubles)?, buffer: Vec::new(), ended: false })
    }
}

impl Sink for JsonLog {
    fn record(&mut self, record: &Record) {
        if self.ended {
            return;
        }
        self.ended = matches!(record.event, Event::RunEnd { .. });
        self.buffer.extend_from_slice(Row::new(record).json().as_bytes());
        self.buffer.push(b'\n');
        if self.buffer.len() > CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.stream.write(&self.buffer);
        self.buffer.clear();
    }

    fn may_stall(&self) -> bool {
        self.stream.may_stall()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::sinks::tests::{Story, hostile};

    fn written(story: &Story) -> Vec<Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        story.give(&mut JsonLog::new(&path, Troubles::default()).unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn every_event_is_a_line_with_its_times() {
        let mut story = Story::whole();
        story.console("server", "after the end");
        let rows = written(&story);
        let kinds: Vec<&str> = rows.iter().map(|row| row["event"].as_str().unwrap()).collect();
        assert_eq!(
            kinds,
            [
                "run-begin",
                "block-begin",
                "machine-start",
                "console",
                "machine-shell",
                "machine-timeline",
                "block-begin",
                "line",
                "block-end",
                "block-end",
                "machine-link",
                "line",
                "script-end",
                "machine-end",
                "run-end"
            ]
        );
        assert_eq!((&rows[0]["schema"], &rows[0]["name"]), (&SCHEMA.into(), &"a test".into()));
        assert_eq!((&rows[3]["at"], &rows[3]["time"]), (&0.03.into(), &"1970-01-01T00:00:00.030000Z".into()));
        assert_eq!((&rows[6]["parent"], &rows[7]["block"]), (&rows[1]["id"], &rows[6]["id"]));
        assert_eq!((&rows[8]["failure"], &rows[8]["seconds"]), (&"no".into(), &1.234.into()));
        let booted = &rows[5];
        assert_eq!((&booted["seconds"], &booted["phases"]["guest_entered"]), (&0.021.into(), &0.005.into()));
        assert!(booted["phases"]["init_started"].is_null(), "{booted}");
        assert_eq!((&booted["marks"][0]["mark"], &booted["marks"][0]["at"]), (&20.into(), &0.015.into()));
        assert_eq!((&rows[14]["passed"], &rows[14]["status"]), (&false.into(), &1.into()));
        assert_eq!((&rows[14]["error"]["type"], &rows[14]["error"]["line"]), (&"E".into(), &3.into()));
    }

    /// Kind and keys.
    fn shape(row: &Value) -> (String, BTreeSet<String>) {
        let keys = row.as_object().unwrap().keys().cloned().collect();
        (row["event"].as_str().unwrap().to_owned(), keys)
    }

    #[test]
    fn the_documentation_has_an_example_of_every_line() {
        let docs = include_str!("../../../../docs/reports.md");
        let examples = docs.lines().filter_map(|line| line.strip_prefix("    {"));
        let examples = examples.map(|line| serde_json::from_str::<Value>(&format!("{{{line}")).unwrap());
        let documented: BTreeSet<_> = examples.map(|row| shape(&row)).collect();
        let written: BTreeSet<_> = written(&Story::whole()).iter().map(shape).collect();
        assert_eq!(documented, written);
        let keys: BTreeSet<&String> = written.iter().flat_map(|(_, keys)| keys).collect();
        for key in keys {
            assert!(docs.contains(&format!("`{key}`")), "{key}");
        }
        assert!(docs.contains(&format!("Schema {SCHEMA}.")));
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_stays_in_its_line(text in hostile()) {
            let mut story = Story::default();
            story.console("m", &text);
            let rows = written(&story);
            prop_assert_eq!(rows.len(), 1);
            prop_assert_eq!(&rows[0]["text"], &Value::from(text));
        }
    }
}
