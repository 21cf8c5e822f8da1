//! JUnit XML: one suite, a case per subtest, and one called `main` for what is outside of them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use crate::error::Error;
use crate::event::{BlockInfo, Event, Record, RunError, Sink};
use crate::sinks::file::{Troubles, WholeFile};
use crate::sinks::tail::Tail;
use crate::sinks::xml::valid;

/// The name that readers of the NixOS test driver's reports know.
const SUITE: &str = "NixOS integration test";

/// What a failed case says, as upstream; the real error is beside it.
const FAILED: &str = "test case failed";

/// Log bytes of one case: the last ones.
const CASE_BYTES: usize = 256 * 1024;

/// Log bytes of all cases together. Once there are so many, cases that have ended keep [`LATE_BYTES`].
const ALL_BYTES: usize = 32 << 20;

/// See [`ALL_BYTES`].
const LATE_BYTES: usize = 4 * 1024;

/// Cases, at most. Further subtests are part of the one that they are in.
const CASES: usize = 10_000;

/// Writes a report at the run's end.
#[derive(Debug)]
pub struct Junit {
    file: WholeFile,
    name: String,
    began: Option<SystemTime>,
    seed: Option<u64>,
    main: Case,
    /// Subtests, in the order of their beginnings.
    cases: Vec<Case>,
    /// Those that are under way, as places in the list above.
    open: Vec<usize>,
    /// Log bytes of cases that have ended.
    bytes: usize,
    /// The script's error, until the run's is known.
    error: Option<RunError>,
    written: bool,
}

#[derive(Debug)]
struct Case {
    id: u64,
    /// Nested ones after those that they are in, with slashes.
    path: String,
    began: Option<SystemTime>,
    took: Option<Duration>,
    failure: Option<String>,
    output: Tail<String>,
}

impl Case {
    fn new(id: u64, path: String, began: Option<SystemTime>) -> Self {
        Self { id, path, began, took: None, failure: None, output: Tail::new(usize::MAX, CASE_BYTES) }
    }

    fn say(&mut self, line: String) {
        let size = line.len().saturating_add(1);
        self.output.push(line, size);
    }
}

impl Junit {
    /// To this file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(path: &Path, troubles: Troubles) -> Result<Self, Error> {
        let file = WholeFile::prepare("JUnit report", path, troubles)?;
        let main = Case::new(0, "main".to_owned(), None);
        let (name, cases, open) = (String::new(), Vec::new(), Vec::new());
        Ok(Self {
            file,
            name,
            began: None,
            seed: None,
            main,
            cases,
            open,
            bytes: 0,
            error: None,
            written: false,
        })
    }

    fn begin(&mut self, block: &BlockInfo, at: SystemTime) {
        if self.cases.len() >= CASES {
            return;
        }
        let path = match self.open.last().and_then(|at| self.cases.get(*at)) {
            // Of another thread's subtest it is no part, but nothing tells more of where it belongs.
            Some(outer) => format!("{}/{}", outer.path, block.text),
            None => block.text.clone(),
        };
        self.open.push(self.cases.len());
        self.cases.push(Case::new(block.id, path, Some(at)));
    }

    fn end(&mut self, block: &BlockInfo, took: Duration, failure: Option<&String>) {
        let Some(at) = self.cases.iter().rposition(|case| case.id == block.id) else { return };
        self.open.retain(|open| *open != at);
        let Some(case) = self.cases.get_mut(at) else { return };
        case.took = Some(took);
        case.failure = failure.cloned();
        if self.bytes.saturating_add(case.output.bytes()) > ALL_BYTES {
            case.output.shrink(LATE_BYTES);
        }
        self.bytes = self.bytes.saturating_add(case.output.bytes());
    }

    /// A line belongs to the newest subtest that is under way.
    fn say(&mut self, text: &str) {
        let newest = self.open.last().and_then(|at| self.cases.get_mut(*at));
        newest.unwrap_or(&mut self.main).say(text.to_owned());
    }

    fn write(&mut self, now: SystemTime, error: Option<&RunError>) {
        if self.written {
            return;
        }
        self.written = true;
        let Some(began) = self.began else { return };
        let took = now.duration_since(began).unwrap_or_default();
        for at in std::mem::take(&mut self.open) {
            if let Some(case) = self.cases.get_mut(at) {
                case.took = case.began.and_then(|began| now.duration_since(began).ok());
                case.failure =
                    Some(error.map_or_else(|| "did not end".to_owned(), |error| error.message.clone()));
            }
        }
        let is_told = |error: &RunError| {
            self.cases.iter().any(|case| case.failure.as_ref().is_some_and(|why| *why == error.message))
        };
        self.main.failure = error.filter(|error| !is_told(error)).map(|error| error.message.clone());
        let within: Duration =
            self.cases.iter().filter(|case| !case.path.contains('/')).filter_map(|it| it.took).sum();
        self.main.took = Some(took.saturating_sub(within));
        self.main.began = Some(began);
        let kind = error.map(|error| error.kind.as_str());
        let mut suite = TestSuite::new(SUITE);
        suite.set_time(took).set_timestamp(utc(began));
        if let Some(seed) = self.seed {
            suite.add_property(Property::new("seed", seed.to_string()));
        }
        suite.add_test_cases([&self.main].into_iter().chain(&self.cases).map(|case| self.case(case, kind)));
        let mut report = Report::new(SUITE);
        report.set_time(took).set_timestamp(utc(began)).add_test_suite(suite);
        self.file.write(|output| report.serialize(output).map_err(std::io::Error::other));
    }

    fn case(&self, case: &Case, kind: Option<&str>) -> TestCase {
        let mut status = TestCaseStatus::success();
        if let Some(failure) = &case.failure {
            status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(FAILED).set_type(valid(kind.unwrap_or("Exception")));
            status.set_description(format!("{FAILED}\n{}", valid(failure)));
        }
        let mut written = TestCase::new(valid(&case.path), status);
        written.set_classname(valid(&self.name)).set_time(case.took.unwrap_or_default());
        if let Some(began) = case.began {
            written.set_timestamp(utc(began));
        }
        let mut output = String::new();
        if case.output.cut() > 0 {
            output = format!("[{} earlier lines were left out]\n", case.output.cut());
        }
        for line in case.output.iter() {
            output.push_str(line);
            output.push('\n');
        }
        if !output.is_empty() {
            written.set_system_out(valid(&output));
        }
        written
    }
}

impl Sink for Junit {
    fn record(&mut self, record: &Record) {
        match &record.event {
            Event::RunBegin { name, seed, .. } => {
                self.seed = *seed;
                self.name = name.clone().unwrap_or_default();
                self.began = Some(record.wall);
            }
            Event::Begin(block) if block.subtest => self.begin(block, record.wall),
            Event::Begin(block) => self.say(&named(block.machine.as_deref(), &block.text)),
            Event::End { block, took, failure } if block.subtest => self.end(block, *took, failure.as_ref()),
            Event::Line { machine, text, .. } => self.say(&named(machine.as_deref(), text)),
            Event::Console { machine, text } => self.say(&format!("{machine} # {text}")),
            Event::ScriptEnd { error } => self.error = error.as_deref().cloned(),
            Event::RunEnd { error, status } => {
                let unknown = || RunError::new("Failed", format!("the run ended with status {status}"));
                let error = error.as_deref().cloned().or_else(|| (*status != 0).then(unknown));
                self.write(record.wall, error.as_ref());
            }
            _ => {}
        }
    }
}

impl Drop for Junit {
    fn drop(&mut self) {
        // A run whose end nobody told, as that of a Rust test that panicked.
        let error = self.error.take();
        self.write(SystemTime::now(), error.as_ref());
    }
}

fn named(machine: Option<&str>, text: &str) -> String {
    machine.map_or_else(|| text.to_owned(), |machine| format!("{machine}: {text}"))
}

fn utc(at: SystemTime) -> DateTime<Utc> {
    at.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Level;
    use crate::sinks::tests::{Story, block, hostile};

    fn written(story: &Story) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("junit.xml");
        story.give(&mut Junit::new(&path, Troubles::default()).unwrap());
        std::fs::read_to_string(path).unwrap()
    }

    /// Name, failure and output of every case.
    fn cases(xml: &str) -> Vec<(String, Option<String>, String)> {
        let document = roxmltree::Document::parse(xml).unwrap();
        let cases = document.descendants().filter(|node| node.has_tag_name("testcase"));
        let text = |node: roxmltree::Node<'_, '_>, tag: &str| {
            let child = node.children().find(|child| child.has_tag_name(tag));
            child.map(|child| child.text().unwrap_or_default().to_owned())
        };
        cases
            .map(|node| {
                let name = node.attribute("name").unwrap().to_owned();
                (name, text(node, "failure"), text(node, "system-out").unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn subtests_are_cases_and_the_rest_is_main() {
        let xml = written(&Story::whole());
        let main = ("main".to_owned(), Some("test case failed\nwhy".to_owned()), "bad\n".to_owned());
        let output = "server # [    0.0] <Linux>\nserver: must succeed: a\nb\nodd\n".to_owned();
        let one = ("one".to_owned(), Some("test case failed\nno".to_owned()), output);
        assert_eq!(cases(&xml), [main, one]);
        for part in [
            "<testsuite name=\"NixOS integration test\" tests=\"2\"",
            "failures=\"2\"",
            "classname=\"a test\" timestamp=\"1970-01-01T00:00:00.010+00:00\" time=\"1.234\"",
            "<failure message=\"test case failed\" type=\"E\">",
        ] {
            assert!(xml.contains(part), "no {part} in {xml}");
        }
    }

    #[test]
    fn nested_subtests_have_paths_and_the_runs_error_is_told_once() {
        let mut story = Story::begun();
        let outer = block(1, None, true, None, "outer");
        let inner = block(2, Some(&outer), true, None, "inner");
        story.add(Event::Begin(outer.clone()));
        story.add(Event::Begin(inner.clone()));
        story.end(&inner, Some("why"));
        story.end(&outer, Some("why"));
        story.fail("why");
        let cases = cases(&written(&story));
        let names: Vec<&str> = cases.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["main", "outer", "outer/inner"]);
        let has_failed: Vec<bool> = cases.iter().map(|(_, failure, _)| failure.is_some()).collect();
        assert_eq!(has_failed, [false, true, true]);
    }

    #[test]
    fn what_is_under_way_when_the_run_ends_has_failed() {
        let mut story = Story::begun();
        story.add(Event::Begin(block(1, None, true, None, "one")));
        assert_eq!(cases(&written(&story))[1].1.as_deref(), Some("test case failed\ndid not end"));
        story.fail("the time is over");
        assert_eq!(cases(&written(&story))[1].1.as_deref(), Some("test case failed\nthe time is over"));
    }

    #[test]
    fn the_log_of_a_case_is_bounded_and_its_end_is_kept() {
        let mut story = Story::begun();
        for number in 0..4000 {
            story.console("m", &format!("{number} {}", "x".repeat(1000)));
        }
        story.add(Event::RunEnd { status: 0, error: None });
        let (_, failure, output) = cases(&written(&story)).remove(0);
        assert!(failure.is_none() && output.len() < CASE_BYTES + 100 && output.contains("m # 3999 "));
        assert!(output.starts_with('[') && output.contains(" earlier lines were left out]\n"));
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_leaves_it_well_formed(text in hostile()) {
            let mut story = Story::begun();
            let case = block(1, None, true, None, &text);
            story.add(Event::Begin(case.clone()));
            story.console(&text, &text);
            story.line(Level::Info, None, &text);
            story.end(&case, Some(&text));
            story.fail(&text);
            prop_assert_eq!(cases(&written(&story)).len(), 2);
        }
    }
}
