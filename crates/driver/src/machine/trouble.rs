//! What is told when something goes wrong at a machine.

use std::time::Duration;

use super::{MachineHandle, Reply, Running};
use crate::control::lock;
use crate::error::{Error, Failure};
use crate::shell::ShellError;
use crate::vm::{BoxError, Outcome};

/// How long the end of a machine may take once its devices are gone: its memory is given back.
pub(super) const ENDING_LIMIT: Duration = Duration::from_secs(10);

impl MachineHandle {
    pub(super) fn shell_trouble(
        &self,
        running: &Running,
        what: &str,
        command: Option<&str>,
        error: ShellError,
    ) -> Error {
        // A run that ends takes the machines with it; what matters then is why the run ended.
        if let Err(ended) = self.0.control.check_ended() {
            return ended;
        }
        let is_gone = matches!(error, ShellError::Gone);
        let is_away = command.is_none() || matches!(error, ShellError::Gone | ShellError::Restarted);
        let doing = command.map_or_else(String::new, |command| format!(" (command `{command}`)"));
        let message = match error {
            ShellError::Ended(error) => return error,
            ShellError::Malformed(message) => {
                return Error::Malformed {
                    machine: self.name().to_owned(),
                    message: format!("{message}{doing}"),
                };
            }
            ShellError::Standstill => return self.stands_still(command),
            ShellError::Late(limit, cause) => {
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                format!("{what} within {} s{doing}{cause}", limit.as_secs_f64())
            }
            ShellError::Gone => format!("{what}: the machine has ended{doing}"),
            ShellError::Restarted => {
                format!(
                    "{what}: the guest's backdoor was restarted and the command is lost{doing}; the next works"
                )
            }
        };
        let (outcome, comes_back) = if is_gone { self.settle(running) } else { (None, false) };
        let message = if comes_back {
            format!(
                "{what}: the guest was reset and the command is lost{doing}; the next waits for the new shell"
            )
        } else {
            message
        };
        let failure = Box::new(Failure { outcome, ..self.failure(&message, command) });
        if is_away { Error::NoShell(failure) } else { Error::Machine { failure, source: None } }
    }

    /// How the machine ended, and whether it comes back: its devices go away a moment before the outcome is known.
    fn settle(&self, running: &Running) -> (Option<Outcome>, bool) {
        let Some(outcome) = running.vm.wait(Some(ENDING_LIMIT)) else { return (None, false) };
        let is_back = self.is_booted() && !lock(&self.0.life).is_now(running);
        let comes_back = self.comes_back(running, &outcome) || (outcome.is_reset() && is_back);
        if !comes_back {
            self.ended(running, outcome.clone());
        }
        (Some(outcome), comes_back)
    }

    /// The guest's kernel panicked, and nothing ends the machine.
    pub(crate) fn stands_still(&self, command: Option<&str>) -> Error {
        let doing = command.map_or_else(String::new, |command| format!(" (command `{command}`)"));
        let message = format!(
            "the guest's kernel panicked and stands still (its command line has no panic=...){doing}; with panic=1 \
             the machine would end"
        );
        Error::Machine { failure: Box::new(self.failure(&message, command)), source: None }
    }

    /// A check of the test failed.
    pub(crate) fn check_failed(&self, message: &str, command: Option<&str>, reply: Option<Reply>) -> Error {
        let mut failure = self.failure(message, command);
        failure.status = reply.as_ref().map(|reply| reply.status);
        failure.output = reply.map(|reply| reply.output);
        Error::CheckFailed(Box::new(failure))
    }

    /// A check failed that has text to show, which is no command's of the test.
    pub(crate) fn check_failed_showing(&self, message: &str, text: String) -> Error {
        Error::CheckFailed(Box::new(Failure { output: Some(text), ..self.failure(message, None) }))
    }

    pub(crate) fn trouble(&self, message: &str) -> Error {
        Error::Machine { failure: Box::new(self.failure(message, None)), source: None }
    }

    pub(super) fn trouble_because(&self, message: &str, source: BoxError) -> Error {
        Error::Machine { failure: Box::new(self.failure(message, None)), source: Some(source) }
    }

    fn failure(&self, message: &str, command: Option<&str>) -> Failure {
        let outcome = lock(&self.0.life).running.as_ref().and_then(|running| running.vm.outcome());
        Failure {
            machine: self.name().to_owned(),
            message: message.to_owned(),
            command: command.map(ToOwned::to_owned),
            status: None,
            output: None,
            panic: self.0.console.panic(),
            console: self.0.console.tail(),
            outcome,
        }
    }
}
