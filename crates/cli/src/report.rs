//! `--report FILE` and `--json-report FILE`: how a run went, as one JSON object for programs. The file appears whole or
//! not at all, and one of an earlier run is gone from the beginning.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{self, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tempfile::NamedTempFile;

/// What the file holds after `snowboot run`.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// `power-off`, `reset`, `triple-fault`, `fault`, `stopped` or `error`.
    pub(crate) outcome: &'a str,
    /// More about it, in words.
    pub(crate) detail: Option<String>,
    /// The signal that stopped the machine.
    pub(crate) signal: Option<i32>,
    /// From the guest's first instruction to its end.
    pub(crate) seconds: f64,
    /// The program's exit status.
    pub(crate) exit_status: u8,
    /// Of Snowboot.
    pub(crate) version: &'a str,
}

/// Where a report goes.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Absolute, and with symbolic links followed, so that the file behind one is replaced and not the link.
    path: PathBuf,
}

impl Destination {
    /// Finds out now whether a report can be written at the end. What an earlier run left there goes away: whoever finds
    /// a report afterwards finds this run's.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        let path = match fs::metadata(path) {
            Ok(found) if found.is_file() => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            Ok(_) => bail!(
                "Cannot write the report {}: it is not a regular file; name another one",
                path.display()
            ),
            Err(_) => path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        let destination = Self { path };
        destination.temporary()?;
        match fs::remove_file(&destination.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error)
                .with_context(|| format!("Cannot replace the report {}", destination.path.display())),
            _ => Ok(destination),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the report.
    pub(crate) fn write(&self, report: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(report)
            .with_context(|| format!("Cannot write the report {}", self.path.display()))?;
        text.push(b'\n');
        self.write_bytes(&text)
    }

    /// Writes a report of another form than JSON.
    pub(crate) fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        let what = || format!("Cannot write the report {}", self.path.display());
        let mut file = self.temporary()?;
        file.write_all(bytes).with_context(what)?;
        file.persist(&self.path).with_context(what)?;
        Ok(())
    }

    /// A file beside the report, readable as any other new file is.
    fn temporary(&self) -> Result<NamedTempFile> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        tempfile::Builder::new()
            .prefix(".snowboot-report-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .with_context(|| {
                format!("Cannot write the report {}: its folder cannot be written to", self.path.display())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: Report<'_> =
        Report { outcome: "reset", detail: None, signal: None, seconds: 1.5, exit_status: 3, version: "1" };

    #[test]
    fn the_report_replaces_an_older_one_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        fs::write(&file, "old").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let destination = Destination::prepare(&link).unwrap();
        assert!(!file.exists(), "an old report is not this run's");
        destination.write(&REPORT).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            "{\"outcome\":\"reset\",\"detail\":null,\"signal\":null,\"seconds\":1.5,\"exit_status\":3,\"version\":\"1\"}\n"
        );
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let error = Destination::prepare(&folder.path().join("missing/report.json")).unwrap_err();
        assert!(format!("{error:#}").contains("its folder cannot be written to"), "{error:#}");
        assert!(
            Destination::prepare(Path::new("/dev/null")).unwrap_err().to_string().contains("regular file")
        );
        Destination::prepare(&folder.path().join("new.json")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
