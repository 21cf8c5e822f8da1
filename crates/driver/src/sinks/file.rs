//! Files that reports are written to.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::NamedTempFile;

use crate::control::lock;
use crate::error::Error;

/// What went wrong with reports while the run went on. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<Vec<String>>>);

impl Troubles {
    /// Takes what there is: sentences that name the file, why, and what to do.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }

    pub(crate) fn add(&self, what: &str, path: &Path, error: &io::Error) {
        self.tell(format!("Cannot write the {what} {}: {error}; make room there", path.display()));
    }

    pub(crate) fn tell(&self, trouble: String) {
        lock(&self.0).push(trouble);
    }
}

/// A file that appears whole or not at all.
#[derive(Debug)]
pub(crate) struct WholeFile {
    what: &'static str,
    /// Absolute, since the script may change the current folder; and not a link, so that what is behind it is replaced.
    path: PathBuf,
    troubles: Troubles,
}

impl WholeFile {
    /// Finds out now whether the file can be written at the end, and removes what an earlier run left there: whoever
    /// finds a report afterwards finds this run's.
    pub(crate) fn prepare(what: &'static str, path: &Path, troubles: Troubles) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Error::setup(format!("Cannot write the {what} {}: {why}; name another one", path.display()))
        };
        let place = match fs::metadata(path) {
            Ok(found) if found.is_file() => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            Ok(_) => return Err(refuse("it is not a regular file")),
            Err(_) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        let file = Self { what, path: place, troubles };
        let folder = |error: io::Error| refuse(&format!("its folder cannot be written to ({error})"));
        drop(file.scratch().map_err(folder)?);
        match fs::remove_file(&file.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(refuse(&format!("the old one cannot be replaced ({error})")))
            }
            _ => Ok(file),
        }
    }

    /// Writes it.
    pub(crate) fn write(&self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let written = self.scratch().and_then(|mut scratch| {
            let mut buffer = io::BufWriter::new(scratch.as_file_mut());
            fill(&mut buffer)?;
            buffer.flush()?;
            drop(buffer);
            scratch.persist(&self.path).map_err(|error| error.error)?;
            Ok(())
        });
        if let Err(error) = written {
            self.troubles.add(self.what, &self.path, &error);
        }
    }

    /// A file beside it, readable as any other new file is.
    fn scratch(&self) -> io::Result<NamedTempFile> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        tempfile::Builder::new()
            .prefix(".snowboot-report-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
    }
}

/// A file that is written bit by bit. Each bit is a number of whole lines.
#[derive(Debug)]
pub(crate) struct Stream {
    what: &'static str,
    path: PathBuf,
    /// `None` once it could not be written.
    file: Option<File>,
    regular: bool,
    /// Bytes that are whole.
    written: u64,
    troubles: Troubles,
}

impl Stream {
    /// Opens it, empty. It may be a device or a pipe.
    pub(crate) fn open(what: &'static str, path: &Path, troubles: Troubles) -> Result<Self, Error> {
        let refuse = |error: io::Error| {
            Error::setup(format!("Cannot write the {what} {}: {error}; name another one", path.display()))
        };
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(refuse)?;
        let regular = file.metadata().map_err(refuse)?.is_file();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { what, path, file: Some(file), regular, written: 0, troubles })
    }

    /// Whether a write may have to wait.
    pub(crate) fn may_stall(&self) -> bool {
        !self.regular
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.written
    }

    /// Writes whole lines. After an error nothing more is written, and what was begun is taken back.
    pub(crate) fn write(&mut self, lines: &[u8]) {
        let Some(file) = &mut self.file else { return };
        match file.write_all(lines) {
            Ok(()) => {
                self.written = self.written.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX));
            }
            Err(error) => {
                if self.regular {
                    let _ = file.set_len(self.written);
                }
                self.troubles.add(self.what, &self.path, &error);
                self.file = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_replaces_what_a_link_leads_to_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("report"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let troubles = Troubles::default();
        let whole = WholeFile::prepare("report", &link, troubles.clone()).unwrap();
        assert!(!file.exists(), "an old report is not this run's");
        whole.write(|output| output.write_all(b"new"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        whole.write(|output| output.write_all(b"partial").and(Err(ErrorKind::StorageFull.into())));
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        let told = troubles.take();
        assert!(told[0].starts_with("Cannot write the report /") && told.len() == 1, "{told:?}");
        assert!(troubles.take().is_empty());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let prepare =
            |path: &Path| WholeFile::prepare("report", path, Troubles::default()).unwrap_err().to_string();
        assert!(prepare(&folder.path().join("missing/report")).contains("its folder cannot be written to"));
        assert!(prepare(folder.path()).contains("not a regular file; name another one"));
        let error = Stream::open("log", folder.path(), Troubles::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("Cannot write the log /") && error.ends_with("name another one"),
            "{error}"
        );
    }

    #[test]
    fn a_stream_that_is_full_is_told_once() {
        let troubles = Troubles::default();
        let mut stream = Stream::open("log", Path::new("/dev/full"), troubles.clone()).unwrap();
        assert!(stream.may_stall());
        stream.write(b"a\n");
        stream.write(b"b\n");
        assert_eq!((troubles.take().len(), stream.len()), (1, 0));
    }
}
