//! What goes wrong, with all that is needed to see why.

use std::fmt;
use std::time::Duration;

use crate::vm::{BoxError, Outcome};

/// Characters of a command's output that an error shows; the rest is cut from the middle.
const OUTPUT_SHOWN: usize = 8 * 1024;

/// The two kinds of failure that test scripts tell apart, and the ways in which a run is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A check of the test failed.
    RequestedAssertionFailed,
    /// The driver, the VMM or the machine is in trouble.
    MachineError,
    /// The machine's shell did not come up, or went away under a command.
    NoShell,
    /// The guest's answer has not the expected form.
    Malformed,
    /// A file of the host cannot be read or written.
    HostFile,
    /// The interrupt hook asked to stop.
    Interrupted,
    /// The run's time limit is over.
    GlobalTimeout,
}

/// A failure at a machine.
#[derive(Debug)]
pub struct Failure {
    /// The machine's name.
    pub machine: String,
    /// What went wrong, without the machine's name.
    pub message: String,
    /// The command that it is about.
    pub command: Option<String>,
    /// The command's exit status.
    pub status: Option<i32>,
    /// The command's standard output.
    pub output: Option<String>,
    /// What the guest's kernel said when it panicked, since the machine's start.
    pub panic: Option<String>,
    /// The last console lines before the failure.
    pub console: Vec<String>,
    /// How the machine ended, if it did.
    pub outcome: Option<Outcome>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.machine, self.message)?;
        if let Some(output) = self.output.as_deref().filter(|output| !output.trim().is_empty()) {
            f.write_str("\noutput:")?;
            indented(f, cut(output).lines())?;
        }
        if let Some(outcome) = &self.outcome {
            write!(f, "\nmachine: {} {outcome}", self.machine)?;
        }
        if let Some(panic) = &self.panic {
            write!(f, "\nkernel: {panic}")?;
        }
        if !self.console.is_empty() {
            f.write_str("\nlast console lines (standard error of commands is among them):")?;
            indented(f, self.console.iter().map(String::as_str))?;
        }
        Ok(())
    }
}

fn indented<'a>(f: &mut fmt::Formatter<'_>, lines: impl Iterator<Item = &'a str>) -> fmt::Result {
    for line in lines {
        write!(f, "\n    {line}")?;
    }
    Ok(())
}

/// The text, or its two ends when it is long.
fn cut(text: &str) -> String {
    if text.len() <= OUTPUT_SHOWN {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(OUTPUT_SHOWN / 2);
    let tail = text.ceil_char_boundary(text.len() - OUTPUT_SHOWN / 2);
    format!("{}\n[... {} bytes left out ...]\n{}", &text[..head], tail - head, &text[tail..])
}

/// An error of the driver.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A check that the test asked for failed.
    #[error("{0}")]
    CheckFailed(Box<Failure>),
    /// A machine, its shell or the VMM is in trouble.
    #[error("{failure}")]
    Machine {
        /// What and where.
        failure: Box<Failure>,
        /// The VMM's own error, if that is the cause.
        #[source]
        source: Option<BoxError>,
    },
    /// A machine's shell did not come up, or went away under a command.
    #[error("{0}")]
    NoShell(Box<Failure>),
    /// Several machines failed to start.
    #[error("{}", merged(.0))]
    Several(Vec<Error>),
    /// A check that is not about one machine failed.
    #[error("{0}")]
    Assertion(String),
    /// An answer of the guest has not the expected form.
    #[error("{machine}: {message}")]
    Malformed {
        /// The machine.
        machine: String,
        /// What was expected, what came.
        message: String,
    },
    /// A file of the host cannot be read or written.
    #[error("{machine}: {message}")]
    HostFile {
        /// The machine that it was for.
        machine: String,
        /// Which file, and what it was for.
        message: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The driver cannot do what it was asked; the text says why.
    #[error("{message}")]
    Setup {
        /// What and why.
        message: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// The interrupt hook asked to stop.
    #[error("The run was interrupted")]
    Interrupted,
    /// The run's time limit is over.
    #[error("The test ran into its global time limit of {} seconds; all machines were stopped", .0.as_secs_f64())]
    GlobalTimeout(Duration),
}

impl Error {
    /// Its kind, as scripts see it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CheckFailed(_) | Self::Assertion(_) => ErrorKind::RequestedAssertionFailed,
            Self::Machine { .. } | Self::Several(_) | Self::Setup { .. } => ErrorKind::MachineError,
            Self::NoShell(_) => ErrorKind::NoShell,
            Self::Malformed { .. } => ErrorKind::Malformed,
            Self::HostFile { .. } => ErrorKind::HostFile,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::GlobalTimeout(_) => ErrorKind::GlobalTimeout,
        }
    }

    /// The details, when the error is about one machine.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::CheckFailed(failure) | Self::Machine { failure, .. } | Self::NoShell(failure) => {
                Some(failure)
            }
            _ => None,
        }
    }

    /// The machine that it is about.
    fn machine(&self) -> Option<&str> {
        match self {
            Self::Malformed { machine, .. } | Self::HostFile { machine, .. } => Some(machine),
            _ => self.failure().map(|failure| failure.machine.as_str()),
        }
    }

    /// The error and its causes, one line each for the causes.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str("\ncaused by: ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    pub(crate) fn setup(message: impl Into<String>) -> Self {
        Self::Setup { message: message.into(), source: None }
    }

    pub(crate) fn setup_because(message: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Setup { message: message.into(), source: Some(source.into()) }
    }
}

/// For people: it is what `unwrap` and a test that gives the error show.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

/// All errors with their causes. What several machines have in common, such as a host without KVM, is said once.
fn merged(errors: &[Error]) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for error in errors {
        let chain = error.chain();
        let machine = error.machine();
        let head = machine.map(|machine| format!("{machine}: ")).unwrap_or_default();
        let trouble = chain.strip_prefix(&head).unwrap_or(&chain);
        match groups.iter_mut().find(|(known, _)| known == trouble) {
            Some((_, machines)) => machines.extend(machine),
            None => groups.push((trouble.to_owned(), machine.into_iter().collect())),
        }
    }
    let told = groups.into_iter().map(|(trouble, machines)| match machines.as_slice() {
        [] => trouble,
        machines => format!("{}: {trouble}", machines.join(", ")),
    });
    told.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_command_status_output_machine_and_console() {
        let failure = Failure {
            machine: "server".into(),
            message: "command `false` failed (exit code 1)".into(),
            command: Some("false".into()),
            status: Some(1),
            output: Some("half\nway\n".into()),
            panic: Some("Kernel panic - not syncing: boom".into()),
            console: vec!["[    1.0] oops".into()],
            outcome: Some(Outcome::PowerOff),
        };
        let text = Error::CheckFailed(Box::new(failure)).to_string();
        assert_eq!(
            text,
            "server: command `false` failed (exit code 1)\noutput:\n    half\n    way\n\
             machine: server powered off\n\
             kernel: Kernel panic - not syncing: boom\n\
             last console lines (standard error of commands is among them):\n    [    1.0] oops"
        );
    }

    #[test]
    fn several_failures_keep_their_reasons_and_say_a_common_one_once() {
        let refused = |machine: &str, why: &str| Error::Machine {
            failure: Box::new(Failure {
                machine: machine.into(),
                message: "cannot be started".into(),
                command: None,
                status: None,
                output: None,
                panic: None,
                console: Vec::new(),
                outcome: None,
            }),
            source: Some(why.into()),
        };
        let no_kvm = "Cannot use /dev/kvm: permission denied";
        let errors = vec![
            refused("a", no_kvm),
            refused("b", "no such disk"),
            refused("c", no_kvm),
            Error::setup("odd"),
        ];
        let several = Error::Several(errors);
        assert_eq!(
            several.chain(),
            "a, c: cannot be started\ncaused by: Cannot use /dev/kvm: permission denied\n\
             b: cannot be started\ncaused by: no such disk\nodd"
        );
        assert_eq!(format!("{several:?}"), several.chain());
    }

    #[test]
    fn long_output_keeps_both_ends_and_characters_whole() {
        let text = format!("start{}end", "ä".repeat(OUTPUT_SHOWN));
        let cut = cut(&text);
        assert!(
            cut.starts_with("start") && cut.ends_with("end") && cut.len() < OUTPUT_SHOWN + 100,
            "{}",
            cut.len()
        );
    }
}
