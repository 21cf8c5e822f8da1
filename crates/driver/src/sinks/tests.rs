//! What the sinks' tests share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use snowboot_config::Manifest;

use super::*;
use crate::event::{BlockInfo, Level, Record, Step};
use crate::timeline::{BootMark, BootTimeline};

/// Events, 10 ms apart.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) records: Vec<Record>,
}

impl Story {
    /// One whose run has begun.
    pub(crate) fn begun() -> Self {
        let mut story = Self::default();
        let manifest = "name = 'a test'\ntest-script = ''\n[networks.lan]\ndescription = '<b>'\n[machines.server]\n\
                        kernel = 'k'\nvlans = ['lan']\nuser-network = { forward-ports = [{ guest-port = 22 }] }\n";
        let topology = Manifest::parse("t.toml".as_ref(), manifest).unwrap().topology();
        story.add(Event::RunBegin {
            name: Some("a test".into()),
            machines: vec!["server".into()],
            topology: Some(Arc::new(topology)),
            seed: Some(77),
        });
        story
    }

    /// One with an event of every kind.
    pub(crate) fn whole() -> Self {
        let mut story = Self::begun();
        let outer = block(1, None, true, None, "one");
        let inner = block(2, Some(&outer), false, Some("server"), "must succeed: a\nb");
        story.add(Event::Begin(outer.clone()));
        story.step(Step::Starting { start: 1 });
        story.console("server", "[    0.0] <Linux>");
        story.step(Step::Shell);
        story.step(booted());
        story.add(Event::Begin(inner.clone()));
        story.line(Level::Warning, Some(&inner), "odd");
        story.end(&inner, Some("no"));
        story.end(&outer, Some("no"));
        story.step(Step::Link { up: false });
        story.line(Level::Error, None, "bad");
        let error = RunError { line: Some(3), ..RunError::new("E", "why") };
        story.add(Event::ScriptEnd { error: Some(Arc::new(error.clone())) });
        story.step(Step::Ended { outcome: "powered off".into() });
        story.add(Event::RunEnd { status: 1, error: Some(Arc::new(error)) });
        story
    }

    pub(crate) fn add(&mut self, event: Event) {
        let number = u32::try_from(self.records.len()).unwrap();
        let since = Duration::from_millis(10) * number;
        self.records.push(Record { since, wall: SystemTime::UNIX_EPOCH + since, serial: true, event });
    }

    pub(crate) fn console(&mut self, machine: &str, text: &str) {
        self.add(Event::Console { machine: machine.into(), text: text.into() });
    }

    pub(crate) fn line(&mut self, level: Level, block: Option<&Arc<BlockInfo>>, text: &str) {
        self.add(Event::Line { level, machine: None, block: block.cloned(), text: text.into() });
    }

    pub(crate) fn end(&mut self, block: &Arc<BlockInfo>, failure: Option<&str>) {
        let took = Duration::from_millis(1234);
        self.add(Event::End { block: block.clone(), took, failure: failure.map(Into::into) });
    }

    pub(crate) fn fail(&mut self, message: &str) {
        let error = Some(Arc::new(RunError::new("E", message)));
        self.add(Event::ScriptEnd { error: error.clone() });
        self.add(Event::RunEnd { status: 1, error });
    }

    fn step(&mut self, step: Step) {
        self.add(Event::Machine { machine: "server".into(), step });
    }

    pub(crate) fn give(&self, sink: &mut dyn Sink) {
        self.records.iter().for_each(|record| sink.record(record));
        sink.flush();
    }
}

/// How a machine's boot went that has made a mark.
fn booted() -> Step {
    let timeline = BootTimeline {
        guest_entered: Some(Duration::from_millis(5)),
        shell_ready: Some(Duration::from_millis(20)),
        marks: vec![BootMark { number: 20, at: Duration::from_millis(15) }],
        ..BootTimeline::default()
    };
    Step::Booted { after: Duration::from_millis(21), timeline: Box::new(timeline) }
}

pub(crate) fn block(
    id: u64,
    parent: Option<&BlockInfo>,
    subtest: bool,
    machine: Option<&str>,
    text: &str,
) -> Arc<BlockInfo> {
    Arc::new(BlockInfo {
        id,
        parent: parent.map(|parent| parent.id),
        depth: parent.map_or(0, |parent| parent.depth + 1),
        subtest,
        machine: machine.map(Into::into),
        text: text.into(),
    })
}

/// Any text, and often one that would end what it is put into.
pub(crate) fn hostile() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "</script>",
        "<!--",
        "]]>",
        "<![CDATA[",
        "\u{1b}[31m",
        "\u{0}",
        "\u{fffe}",
        "\u{2028}",
        "&amp;",
        "\"'",
        "\r\n",
        "\u{7f}\u{85}",
        "</line></nest></logfile>",
        "<script>alert(1)</script>",
        "\\",
        "é\u{10ffff}",
    ]);
    let part = prop_oneof![nasty.prop_map(ToOwned::to_owned), any::<String>()];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

#[test]
fn two_reports_cannot_have_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = Some(folder.path().join("x"));
    let wanted = Wanted { junit: path.clone(), html: path, ..Wanted::default() };
    let error = wanted.open(&Troubles::default()).err().unwrap().to_string();
    assert!(error.starts_with("Two reports are to be written to /"), "{error}");
    let null = Some("/dev/null".into());
    assert_eq!(
        Wanted { json: null.clone(), xml: null, ..Wanted::default() }
            .open(&Troubles::default())
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_test_that_did_not_start_has_all_its_reports() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Some(folder.path().join(name));
    let wanted = Wanted {
        junit: at("j.xml"),
        html: at("r.html"),
        json: at("log.jsonl"),
        xml: at("log.xml"),
        consoles: at("."),
    };
    let troubles = Troubles::default();
    not_started(wanted.open(&troubles).unwrap(), 1, RunError::new("NotStarted", "no such <manifest>"));
    assert_eq!(troubles.take(), Vec::<String>::new());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(read("j.xml").contains("no such &lt;manifest&gt;"));
    assert!(read("r.html").contains("no such \\u003cmanifest\\u003e"));
    assert_eq!(read("log.jsonl").lines().count(), 2);
    assert!(read("log.xml").ends_with("</logfile>\n"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}
