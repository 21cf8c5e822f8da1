//! What the emulated host is to run, as bytes: the agent there gets the very words, so no shell ever quotes them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The command to run, with everything it inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The command and its arguments; never empty.
    pub(crate) command: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The working folder.
    pub(crate) folder: PathBuf,
    /// The folder that is written straight through to the machine.
    pub(crate) writable: PathBuf,
}

impl Job {
    /// The job as NUL-terminated words: none of them can hold a NUL, being the kernel's own C strings.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = OsString::from(self.command.len().to_string());
        let mut bytes = Vec::new();
        for word in [self.folder.as_os_str(), self.writable.as_os_str(), &count] {
            push(&mut bytes, &[word]);
        }
        for word in &self.command {
            push(&mut bytes, &[word]);
        }
        for (name, value) in &self.environment {
            push(&mut bytes, &[name, OsStr::new("="), value]);
        }
        bytes
    }

    /// The job of [`Job::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let body = bytes.strip_suffix(&[0]).context("The job is cut off")?;
        let mut words = body.split(|byte| *byte == 0);
        let mut next = || words.next().context("The job lacks a word");
        let folder = PathBuf::from(OsStr::from_bytes(next()?));
        let writable = PathBuf::from(OsStr::from_bytes(next()?));
        let count: usize = std::str::from_utf8(next()?)?.parse()?;
        let command: Vec<OsString> = words.by_ref().take(count).map(owned).collect();
        if command.is_empty() || command.len() != count {
            bail!("The job lacks its command");
        }
        let environment = words.map(variable).collect::<Result<_>>()?;
        Ok(Self { command, environment, folder, writable })
    }
}

fn push(bytes: &mut Vec<u8>, parts: &[&OsStr]) {
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.push(0);
}

/// A variable's name may begin with `=`, but then goes on.
fn variable(word: &[u8]) -> Result<(OsString, OsString)> {
    let equals = word.iter().skip(1).position(|byte| *byte == b'=').context("A variable has no value")? + 1;
    let (name, value) = word.split_at(equals);
    Ok((owned(name), owned(value.get(1..).unwrap_or_default())))
}

fn owned(word: &[u8]) -> OsString {
    OsString::from_vec(word.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(command: &[&[u8]], environment: &[(&[u8], &[u8])]) -> Job {
        Job {
            command: command.iter().map(|word| owned(word)).collect(),
            environment: environment.iter().map(|(name, value)| (owned(name), owned(value))).collect(),
            folder: PathBuf::from("/a folder/with 'quotes'"),
            writable: PathBuf::from("/t"),
        }
    }

    #[test]
    fn odd_words_arrive_unchanged() {
        let job = job(
            &[b"sh", b"-c", b"echo \"$A\" 'b'\n\t\\", b"", b"\xff\xfe", b"*", b"$(id)"],
            &[(b"A", b"x=y\n'\"$`\\"), (b"EMPTY", b""), (b"=odd", b"1"), (b"BYTES", b"\x80\x01")],
        );
        assert_eq!(Job::decode(&job.encode()).unwrap(), job);
    }

    #[test]
    fn a_job_without_environment_is_whole() {
        let job = job(&[b"true"], &[]);
        assert_eq!(Job::decode(&job.encode()).unwrap(), job);
    }

    #[test]
    fn a_cut_job_is_refused() {
        let bytes = job(&[b"echo", b"long word"], &[]).encode();
        for length in 0..bytes.len() {
            assert!(Job::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }
}
