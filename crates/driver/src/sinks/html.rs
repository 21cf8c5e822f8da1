//! One HTML page: result, error, timeline, log and consoles. It needs no network and no other file.
//!
//! The page holds the run's events as JSON and a script that shows them. The script puts text into the page as text only,
//! and the JSON holds none of the characters that mean something in HTML, so nothing that a guest says can be taken for
//! a part of the page.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::event::{Event, Record, Sink};
use crate::sinks::SCHEMA;
use crate::sinks::file::{Troubles, WholeFile};
use crate::sinks::row::{Row, stamp};
use crate::sinks::tail::Tail;

const PAGE: &str = include_str!("assets/report.html");
const STYLE: &str = include_str!("assets/report.css");
const SCRIPT: &str = include_str!("assets/report.js");

/// Bytes of one machine's console: the last ones.
const CONSOLE_BYTES: usize = 4 << 20;

/// Bytes of all consoles. With many machines each has less than [`CONSOLE_BYTES`].
const CONSOLES_BYTES: usize = 64 << 20;

/// Bytes of the log's lines: the last ones.
const LINES_BYTES: usize = 16 << 20;

/// Bytes of beginnings and ends of blocks, and of the machines' lives: the last ones.
const FRAME_BYTES: usize = 16 << 20;

/// A row's place in the order of all, and its JSON.
type Kept = Tail<(u64, String)>;

/// Writes a page at the run's end.
#[derive(Debug)]
pub struct Html {
    file: WholeFile,
    count: u64,
    began: Option<String>,
    /// The run's begin and end, which are never cut.
    ends: Vec<(u64, String)>,
    frame: Kept,
    lines: Kept,
    consoles: BTreeMap<Arc<str>, Kept>,
    console_bytes: usize,
    written: bool,
}

impl Html {
    /// To this file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(path: &Path, troubles: Troubles) -> Result<Self, Error> {
        Ok(Self {
            file: WholeFile::prepare("HTML report", path, troubles)?,
            count: 0,
            began: None,
            ends: Vec::new(),
            frame: Tail::new(usize::MAX, FRAME_BYTES),
            lines: Tail::new(usize::MAX, LINES_BYTES),
            consoles: BTreeMap::new(),
            console_bytes: CONSOLE_BYTES,
            written: false,
        })
    }

    fn write(&mut self) {
        if self.written {
            return;
        }
        self.written = true;
        let Some(began) = &self.began else { return };
        self.file.write(|output| self.page(output, began));
    }

    fn page(&self, output: &mut dyn Write, began: &str) -> io::Result<()> {
        let mut rest = PAGE;
        for (mark, part) in [("/*STYLE*/", STYLE), ("\"DATA\"", ""), ("/*SCRIPT*/", SCRIPT)] {
            let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
            output.write_all(before.as_bytes())?;
            output.write_all(part.as_bytes())?;
            if part.is_empty() {
                self.data(output, began)?;
            }
            rest = after;
        }
        output.write_all(rest.as_bytes())
    }

    fn data(&self, output: &mut dyn Write, began: &str) -> io::Result<()> {
        let cut: BTreeMap<&str, u64> = self
            .consoles
            .iter()
            .map(|(name, kept)| (name.as_ref(), kept.cut()))
            .filter(|(_, cut)| *cut > 0)
            .collect();
        let cut = harmless(serde_json::to_string(&cut)?);
        let (lines, blocks) = (self.lines.cut(), self.frame.cut());
        writeln!(
            output,
            "{{\"schema\":{SCHEMA},\"began\":\"{began}\",\"cut\":{{\"lines\":{lines},\"blocks\":{blocks},\
             \"consoles\":{cut}}},\"rows\":["
        )?;
        let kept = [&self.frame, &self.lines].into_iter().chain(self.consoles.values());
        let mut rows: Vec<&(u64, String)> = kept.flat_map(Tail::iter).chain(&self.ends).collect();
        rows.sort_by_key(|(number, _)| *number);
        for (number, (_, row)) in rows.into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ",\n" };
            write!(output, "{comma}{row}")?;
        }
        output.write_all(b"]}")
    }
}

/// JSON without the characters that begin or end something in HTML, or a line in JavaScript. They stand in strings only.
fn harmless(json: String) -> String {
    let is_special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\u{7f}'..='\u{9f}');
    if !json.contains(is_special) {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_special(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

impl Sink for Html {
    fn record(&mut self, record: &Record) {
        if self.written {
            return;
        }
        let row = (self.count, harmless(Row::brief(record).json()));
        let size = row.1.len();
        self.count = self.count.saturating_add(1);
        match &record.event {
            Event::RunBegin { machines, .. } => {
                self.began = Some(stamp(record.wall));
                self.console_bytes = CONSOLE_BYTES.min(CONSOLES_BYTES / machines.len().max(1));
                self.ends.push(row);
            }
            Event::ScriptEnd { .. } => self.ends.push(row),
            Event::RunEnd { .. } => {
                self.ends.push(row);
                self.write();
            }
            Event::Console { machine, .. } => {
                let most = self.console_bytes;
                let kept =
                    self.consoles.entry(machine.clone()).or_insert_with(|| Tail::new(usize::MAX, most));
                kept.push(row, size);
            }
            Event::Line { .. } => self.lines.push(row, size),
            Event::Begin(_) | Event::End { .. } | Event::Machine { .. } => self.frame.push(row, size),
        }
    }
}

impl Drop for Html {
    fn drop(&mut self) {
        // A run whose end nobody told.
        self.write();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::sinks::tests::{Story, block, hostile};

    fn written(story: &Story) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        story.give(&mut Html::new(&path, Troubles::default()).unwrap());
        std::fs::read_to_string(path).unwrap()
    }

    /// What a browser finds between the tags, which end at the first thing that looks like an end tag.
    fn data(page: &str) -> Value {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        let (json, rest) = rest.split_once("</script").unwrap();
        assert!(!json.contains(['<', '>', '&']), "{json}");
        assert!(rest.contains("function"), "the script is gone");
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_page_holds_every_event_and_names_no_other_place() {
        let page = written(&Story::whole());
        let data = data(&page);
        assert_eq!(data["rows"].as_array().unwrap().len(), 15);
        assert_eq!(
            (&data["rows"][3]["text"], &data["schema"]),
            (&"[    0.0] <Linux>".into(), &SCHEMA.into())
        );
        assert_eq!(data["began"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(data["rows"][0]["topology"]["networks"][0]["description"], "<b>");
        assert!(page.contains("id=\"topology\""));
        for word in ["src=", "href=", "@import", "url(", "fetch(", "innerHTML"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("Content-Security-Policy"));
    }

    #[test]
    fn the_last_of_a_console_is_kept_and_the_cut_is_told() {
        let mut story = Story::begun();
        for number in 0..6000 {
            story.console("m", &format!("{number} {}", "x".repeat(1000)));
        }
        let data = data(&written(&story));
        let rows = data["rows"].as_array().unwrap();
        let cut = data["cut"]["consoles"]["m"].as_u64().unwrap();
        assert_eq!(usize::try_from(cut).unwrap() + rows.len(), 6001);
        assert!(rows.len() > 3000 && rows.last().unwrap()["text"].as_str().unwrap().starts_with("5999 "));
        assert_eq!(rows[0]["event"], "run-begin");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_stays_a_string(text in hostile()) {
            let mut story = Story::begun();
            story.console(&text, &text);
            story.add(Event::Begin(block(1, None, true, Some(&text), &text)));
            story.fail(&text);
            let data = data(&written(&story));
            let rows = data["rows"].as_array().unwrap();
            for row in &rows[1..3] {
                prop_assert_eq!(&row["text"], &Value::from(text.clone()));
            }
            prop_assert_eq!(&rows[4]["error"]["message"], &Value::from(text));
        }
    }
}
