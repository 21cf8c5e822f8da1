//! The XML log, in the shape of the NixOS test driver's: `logfile` > `nest` > `head`, `line`.
//!
//! It is a stream: of a run that was killed the last end tags are missing. Nests are one tree, while blocks of several
//! threads end in any order: one that ends while later ones are open stays open until they have ended.

use std::borrow::Cow;
use std::path::Path;

use quick_xml::escape::escape;

use crate::error::Error;
use crate::event::{Event, Level, Record, Sink};
use crate::sinks::file::{Stream, Troubles};

/// Lines are written when there are so many bytes of them, and at every flush.
const CHUNK: usize = 64 * 1024;

/// Writes events to a file.
#[derive(Debug)]
pub struct XmlLog {
    stream: Stream,
    buffer: String,
    /// Blocks that are open, and whether they have ended.
    open: Vec<(u64, bool)>,
    closed: bool,
}

impl XmlLog {
    /// To this file, which may be a device such as `/dev/null`, or a pipe.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new(path: &Path, troubles: Troubles) -> Result<Self, Error> {
        let stream = Stream::open("XML log", path, troubles)?;
        let buffer = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<logfile>\n".to_owned();
        Ok(Self { stream, buffer, open: Vec::new(), closed: false })
    }

    fn line(&mut self, machine: Option<&str>, kind: Option<&str>, text: &str) {
        self.element("line", machine, kind, text);
        self.buffer.push('\n');
    }

    fn element(&mut self, name: &str, machine: Option<&str>, kind: Option<&str>, text: &str) {
        let attribute = |key: &str, value: Option<&str>| {
            value.map_or_else(String::new, |value| format!(" {key}=\"{}\"", escaped(value)))
        };
        let (machine, kind) = (attribute("machine", machine), attribute("type", kind));
        self.buffer.push_str(&format!("<{name}{machine}{kind}>{}</{name}>", escaped(text)));
    }

    fn end(&mut self, id: u64) {
        for (block, has_ended) in &mut self.open {
            *has_ended |= *block == id;
        }
        while self.open.pop_if(|(_, has_ended)| *has_ended).is_some() {
            self.buffer.push_str("</nest>\n");
        }
    }

    fn close(&mut self) {
        if !self.closed {
            self.buffer.push_str(&"</nest>\n".repeat(self.open.len()));
            self.buffer.push_str("</logfile>\n");
            self.closed = true;
            self.flush();
        }
    }
}

impl Sink for XmlLog {
    fn record(&mut self, record: &Record) {
        if self.closed {
            return;
        }
        match &record.event {
            Event::Begin(block) => {
                self.buffer.push_str("<nest>");
                self.element("head", block.machine.as_deref(), None, &block.title());
                self.buffer.push('\n');
                self.open.push((block.id, false));
            }
            Event::End { block, took, .. } => {
                let text = format!("(finished: {}, in {:.2} seconds)", block.title(), took.as_secs_f64());
                self.line(block.machine.as_deref(), None, &text);
                self.end(block.id);
            }
            Event::Line { level, machine, text, .. } => {
                let kind = (*level != Level::Info).then(|| level.name());
                self.line(machine.as_deref(), kind, text);
            }
            Event::Console { machine, text } if record.serial => {
                self.line(Some(machine), Some("serial"), text);
            }
            Event::RunEnd { .. } => self.close(),
            _ => {}
        }
        if self.buffer.len() > CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.stream.write(self.buffer.as_bytes());
        self.buffer.clear();
    }

    fn may_stall(&self) -> bool {
        self.stream.may_stall()
    }
}

impl Drop for XmlLog {
    fn drop(&mut self) {
        self.close();
    }
}

fn escaped(text: &str) -> String {
    escape(valid(text)).into_owned()
}

/// Text as XML 1.0 can hold it (section 2.2): without most control characters.
pub(crate) fn valid(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| {
        matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
            || matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    if text.contains(is_bad) { Cow::Owned(text.replace(is_bad, "")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sinks::tests::{Story, block, hostile};

    fn written(story: &Story) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.xml");
        story.give(&mut XmlLog::new(&path, Troubles::default()).unwrap());
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn has_the_shape_of_the_reference() {
        assert_eq!(
            written(&Story::whole()),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<logfile>\n<nest><head>subtest: one</head>\n\
             <line machine=\"server\" type=\"serial\">[    0.0] &lt;Linux&gt;</line>\n\
             <nest><head machine=\"server\">must succeed: a\nb</head>\n<line type=\"warning\">odd</line>\n\
             <line machine=\"server\">(finished: must succeed: a\nb, in 1.23 seconds)</line>\n</nest>\n\
             <line>(finished: subtest: one, in 1.23 seconds)</line>\n</nest>\n<line type=\"error\">bad</line>\n\
             </logfile>\n"
        );
    }

    #[test]
    fn blocks_that_end_in_any_order_and_never_stay_one_tree() {
        let mut story = Story::default();
        let (a, b, c) = (
            block(1, None, false, None, "a"),
            block(2, None, false, None, "b"),
            block(3, None, false, None, "c"),
        );
        for block in [&a, &b, &c] {
            story.add(Event::Begin(block.clone()));
        }
        story.end(&a, None);
        story.end(&b, None);
        story.console("m", "x");
        let text = written(&story);
        let document = roxmltree::Document::parse(&text).unwrap();
        assert_eq!(document.descendants().filter(|node| node.has_tag_name("nest")).count(), 3);
        assert!(text.ends_with("x</line>\n</nest>\n</nest>\n</nest>\n</logfile>\n"), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_leaves_it_well_formed(texts in prop::collection::vec(hostile(), 1..8)) {
            let mut story = Story::default();
            for (number, text) in (1..).zip(&texts) {
                story.console(text, text);
                story.add(Event::Begin(block(number, None, number % 2 == 0, Some(text), text)));
                story.line(Level::Error, None, text);
            }
            let xml = written(&story);
            let document = roxmltree::Document::parse(&xml).unwrap();
            let serial = document.descendants().filter(|node| node.attribute("type") == Some("serial"));
            prop_assert_eq!(serial.count(), texts.len());
        }
    }
}
