//! The consoles of all machines as text files, `NAME-console.log` in one folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::event::{Event, Record, Sink, Step};
use crate::sinks::file::{Stream, Troubles};
use crate::sinks::row::stamp;

/// Bytes of one machine's file, over all its starts. A boot writes less than 1 MiB; the cap is against a guest that writes
/// without end.
pub const CONSOLE_FILE_CAP: u64 = 256 << 20;

/// Writes console lines to files.
#[derive(Debug)]
pub struct Consoles {
    folder: PathBuf,
    files: BTreeMap<Arc<str>, ConsoleFile>,
    troubles: Troubles,
    cap: u64,
}

#[derive(Debug)]
struct ConsoleFile {
    /// `None` when it could not be opened.
    stream: Option<Stream>,
    buffer: Vec<u8>,
    /// Nothing more is written.
    full: bool,
}

impl Consoles {
    /// To this folder. A machine's file is made at its first start, in the place of an earlier run's.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn new(folder: &Path, troubles: Troubles) -> Result<Self, Error> {
        tempfile::tempfile_in(folder).map_err(|error| {
            let folder = folder.display();
            Error::setup(format!(
                "Cannot write console logs to the folder {folder}: {error}; name another one"
            ))
        })?;
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Ok(Self { folder, files: BTreeMap::new(), troubles, cap: CONSOLE_FILE_CAP })
    }

    fn line(&mut self, machine: &Arc<str>, text: &str) {
        let (folder, troubles, cap) = (&self.folder, &self.troubles, self.cap);
        let file = self
            .files
            .entry(machine.clone())
            .or_insert_with(|| ConsoleFile::open(&folder.join(file_name(machine)), troubles));
        file.line(text, cap);
    }
}

impl ConsoleFile {
    fn open(path: &Path, troubles: &Troubles) -> Self {
        let opened = Stream::open("console log", path, troubles.clone());
        let stream = opened.inspect_err(|error| troubles.tell(error.to_string())).ok();
        Self { stream, buffer: Vec::new(), full: false }
    }

    fn line(&mut self, text: &str, cap: u64) {
        let Some(stream) = &self.stream else { return };
        let size = self.buffer.len().saturating_add(text.len());
        let size = stream.len().saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
        if self.full {
            return;
        }
        self.full = size > cap;
        let note = format!("[snowboot: nothing more is written: over {cap} bytes]");
        self.buffer.extend_from_slice(if self.full { note.as_bytes() } else { text.as_bytes() });
        self.buffer.push(b'\n');
    }

    fn flush(&mut self) {
        if let Some(stream) = self.stream.as_mut().filter(|_| !self.buffer.is_empty()) {
            stream.write(&self.buffer);
        }
        self.buffer.clear();
    }
}

impl Sink for Consoles {
    fn record(&mut self, record: &Record) {
        match &record.event {
            Event::Console { machine, text } => self.line(machine, text),
            Event::Machine { machine, step: Step::Starting { start } } => {
                let time = stamp(record.wall);
                self.line(machine, &format!("[snowboot: start {start} of {machine}, {time}]"));
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        self.files.values_mut().for_each(ConsoleFile::flush);
    }
}

/// A machine's name cannot lead to another folder.
fn file_name(machine: &str) -> String {
    format!("{}-console.log", machine.replace(['/', '\0'], "_"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sinks::tests::Story;

    #[test]
    fn every_machine_has_a_file_with_all_its_starts() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a-console.log"), "old").unwrap();
        let mut story = Story::default();
        for start in 1..=2 {
            story.add(Event::Machine { machine: "a".into(), step: Step::Starting { start } });
            story.console("a", &format!("boot {start}"));
        }
        story.console("../b", "x");
        story.give(&mut Consoles::new(folder.path(), Troubles::default()).unwrap());
        let text = fs::read_to_string(folder.path().join("a-console.log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[1], lines[3]), (4, "boot 1", "boot 2"));
        assert!(lines[2].starts_with("[snowboot: start 2 of a, 1970-01-01T00:00:00.02"), "{text}");
        assert_eq!(fs::read_to_string(folder.path().join(".._b-console.log")).unwrap(), "x\n");
    }

    #[test]
    fn a_file_stays_under_its_cap_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut story = Story::default();
        for _ in 0..100 {
            story.console("a", "0123456789");
        }
        let mut consoles = Consoles::new(folder.path(), Troubles::default()).unwrap();
        consoles.cap = 300;
        story.give(&mut consoles);
        let text = fs::read_to_string(folder.path().join("a-console.log")).unwrap();
        assert!(
            text.len() < 400
                && text.ends_with("0123456789\n[snowboot: nothing more is written: over 300 bytes]\n")
        );
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        let error = Consoles::new(Path::new("/nowhere"), Troubles::default()).unwrap_err().to_string();
        assert!(error.contains("to the folder /nowhere: "), "{error}");
    }
}
