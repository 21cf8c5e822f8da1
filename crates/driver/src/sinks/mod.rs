//! Where the events of a run go: the terminal, and reports in files.
//!
//! Report files are of two kinds. Streams (the JSON lines, the XML log, the consoles) are written as things happen, and
//! hold whole lines at every moment. The others (JUnit, HTML) appear at the end, whole or not at all. What cannot be
//! written during the run never fails the test by itself; [`Troubles`] collects it. What a guest says is bounded and
//! cleaned or escaped in each of them. `docs/reports.md` describes the formats.

mod consoles;
mod file;
mod html;
mod json;
mod junit;
mod row;
mod tail;
mod terminal;
mod xml;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use consoles::{CONSOLE_FILE_CAP, Consoles};
pub use file::Troubles;
pub(crate) use file::WholeFile;
pub use html::Html;
pub use json::{JsonLog, SCHEMA};
pub use junit::Junit;
pub use terminal::{Look, Terminal};
pub use xml::XmlLog;

use crate::error::Error;
use crate::event::{Event, RunError, Sink};
use crate::log::Logger;

/// The report files that a run is to leave.
///
/// ```
/// use snowboot_driver::sinks::{Troubles, Wanted};
/// use snowboot_driver::{Driver, Options, testing::FakeLauncher};
///
/// # let folder = tempfile::tempdir()?;
/// # std::fs::write(folder.path().join("test.toml"), "name='t'\ntest-script=''\n[machines.a]\nkernel='k'\n")?;
/// let junit = folder.path().join("junit.xml");
/// let reports = Wanted { junit: Some(junit.clone()), ..Wanted::default() };
/// let options = Options::new(FakeLauncher).sinks(reports.open(&Troubles::default())?);
/// let test = Driver::from_file(folder.path().join("test.toml"), options)?;
/// test.run(|test| test.in_subtest("greeting", || test.machines()[0].succeed(&["echo hi"], None)))?;
/// assert!(std::fs::read_to_string(junit)?.contains("greeting"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// JUnit XML.
    pub junit: Option<PathBuf>,
    /// One HTML page.
    pub html: Option<PathBuf>,
    /// One JSON object per event and line.
    pub json: Option<PathBuf>,
    /// The XML log of the NixOS test driver.
    pub xml: Option<PathBuf>,
    /// A folder for a console file of every machine.
    pub consoles: Option<PathBuf>,
}

impl Wanted {
    /// Opens what is wanted. What an earlier run left in its place is gone then.
    ///
    /// # Errors
    /// Names the report that cannot be written, why, and what to do.
    pub fn open(&self, troubles: &Troubles) -> Result<Vec<Box<dyn Sink>>, Error> {
        self.check_distinct()?;
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(path) = &self.junit {
            sinks.push(Box::new(Junit::new(path, troubles.clone())?));
        }
        if let Some(path) = &self.html {
            sinks.push(Box::new(Html::new(path, troubles.clone())?));
        }
        if let Some(folder) = &self.consoles {
            sinks.push(Box::new(Consoles::new(folder, troubles.clone())?));
        }
        if let Some(path) = &self.json {
            sinks.push(Box::new(JsonLog::new(path, troubles.clone())?));
        }
        if let Some(path) = &self.xml {
            sinks.push(Box::new(XmlLog::new(path, troubles.clone())?));
        }
        Ok(sinks)
    }

    /// Opens what can be opened, for a run that has failed already.
    #[must_use]
    pub fn open_possible(&self, troubles: &Troubles) -> Vec<Box<dyn Sink>> {
        let none = Self::default;
        let each = [
            Self { junit: self.junit.clone(), ..none() },
            Self { html: self.html.clone(), ..none() },
            Self { json: self.json.clone(), ..none() },
            Self { xml: self.xml.clone(), ..none() },
            Self { consoles: self.consoles.clone(), ..none() },
        ];
        each.iter().filter_map(|one| one.open(troubles).ok()).flatten().collect()
    }

    fn check_distinct(&self) -> Result<(), Error> {
        let mut seen: Vec<PathBuf> = Vec::new();
        for path in [&self.junit, &self.html, &self.json, &self.xml].into_iter().flatten() {
            let place = place(path);
            if seen.contains(&place) && place != Path::new("/dev/null") {
                return Err(Error::setup(format!(
                    "Two reports are to be written to {}; name a file for each",
                    path.display()
                )));
            }
            seen.push(place);
        }
        Ok(())
    }
}

/// Where a path leads, as far as that exists.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.canonicalize().unwrap_or(absolute)
}

/// Tells reports of a run that has no driver: its manifest is wrong, KVM is missing ...
pub fn not_started(sinks: Vec<Box<dyn Sink>>, status: i32, error: RunError) {
    let log = Logger::new(sinks);
    log.event(Event::RunBegin { name: None, machines: Vec::new(), topology: None, seed: None });
    log.event(Event::RunEnd { status, error: Some(Arc::new(error)) });
}
