//! The file that keeps what benchmarks found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debs::write_atomically;
use crate::host::project_root;

/// The line behind what is replaced in the file.
const END: &str = "<!-- to here -->";

/// The line before it, of the benchmark `name`.
fn begin(name: &str) -> String {
    format!("<!-- cargo xtask bench {name} --results writes from here -->")
}

/// What a program says in a line.
pub(super) fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).current_dir(project_root()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// A Markdown file with a place for the tables.
#[derive(Debug)]
pub(super) struct Results {
    file: PathBuf,
    before: String,
    after: String,
}

impl Results {
    /// Reads it, so that what is wrong is known before anything is measured.
    pub(super) fn read(file: &Path, name: &str) -> Result<Self> {
        let begin = begin(name);
        let text = fs::read_to_string(file).with_context(|| format!("Cannot read {}", file.display()))?;
        let parts =
            text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let Some((before, after)) = parts else {
            bail!("{} has no place for the tables: the lines `{begin}` and `{END}`", file.display())
        };
        Ok(Self { file: file.to_owned(), before: format!("{before}{begin}"), after: after.to_owned() })
    }

    /// Puts the tables there.
    pub(super) fn write(&self, tables: &str) -> Result<()> {
        let text = format!("{}\n\n{}\n\n{END}{}", self.before, tables.trim_end(), self.after);
        write_atomically(&self.file, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.md");
        fs::write(&file, "no place").unwrap();
        assert!(Results::read(&file, "boot").unwrap_err().to_string().contains("no place for the tables"));
        let begin = begin("boot");
        fs::write(&file, format!("a\n{begin}\nold\n{END}\nz\n")).unwrap();
        Results::read(&file, "boot").unwrap().write("new\n").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("a\n{begin}\n\nnew\n\n{END}\nz\n"));
    }
}
