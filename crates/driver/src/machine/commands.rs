//! Commands in a machine's shell.

use std::time::Duration;

use super::MachineHandle;
use crate::control::lock;
use crate::error::Error;
use crate::shell::{Answer, Link, Shell, ShellError, Want};
use crate::waits::DEFAULT_TIMEOUT;

/// What a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The exit status; 124 when the guest's `timeout` ended the command, -1 and -2 when it was not asked for.
    pub status: i32,
    /// Its standard output.
    pub output: String,
}

/// How to run a command.
#[derive(Clone, Copy, Debug)]
pub struct Execute {
    /// Ask for the exit status.
    pub check_return: bool,
    /// Wait for the output. Without it the call returns as soon as the command is sent.
    pub check_output: bool,
    /// The guest's time limit for the command; none when it is zero, as for coreutils' `timeout`.
    pub timeout: Option<Duration>,
}

impl Default for Execute {
    fn default() -> Self {
        Self { check_return: true, check_output: true, timeout: Some(DEFAULT_TIMEOUT) }
    }
}

impl Execute {
    /// With this time limit, or none.
    #[must_use]
    pub fn limited(timeout: Option<Duration>) -> Self {
        Self { timeout, ..Self::default() }
    }
}
impl MachineHandle {
    /// Runs a command as root in the guest. An exit status other than 0 is no error.
    ///
    /// # Errors
    /// When the machine is in trouble, or the command gives no answer long after its time limit.
    pub fn execute(&self, command: &str, how: Execute) -> Result<Reply, Error> {
        self.0.control.before_command(self.name())?;
        self.connect()?;
        let want = match (how.check_output, how.check_return) {
            (false, _) => Want::Nothing,
            (true, false) => Want::Output,
            (true, true) => Want::Status,
        };
        self.in_shell(command, |shell, link| shell.run(link, command, how.timeout, want))
    }

    /// Runs a command that asks the guest how it is, and waits for `grace` longer than the guest's own limit. Does not
    /// start the machine. Gives its output.
    pub(crate) fn ask(&self, command: &str, limit: Duration, grace: Duration) -> Result<String, Error> {
        let run = |shell: &mut Shell, link: &Link<'_>| {
            shell.run_within(link, command, Some(limit), grace, Want::Status)
        };
        self.in_shell(command, run).map(|reply| reply.output)
    }

    fn in_shell(
        &self,
        command: &str,
        run: impl FnOnce(&mut Shell, &Link<'_>) -> Result<Answer, ShellError>,
    ) -> Result<Reply, Error> {
        let _turn = self.0.turn.take(&self.0.control)?;
        let running = self.running("is not running")?;
        let answer = run(&mut lock(&running.shell), &self.link(&running)).map_err(|error| {
            self.shell_trouble(&running, "the shell did not answer", Some(command), error)
        })?;
        Ok(Reply { status: answer.status, output: answer.output })
    }

    /// Runs the commands; all must end with status 0. Gives what they wrote to their standard output.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// assert_eq!(web.succeed(&["echo a", "echo b"], None)?, "a\nb\n");
    /// let error = web.succeed(&["exit 9"], None).unwrap_err();
    /// assert_eq!(error.to_string(), "web: command `exit 9` failed (exit code 9)");
    /// assert_eq!(error.failure().and_then(|failure| failure.status), Some(9));
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// When one fails, or the machine is in trouble.
    pub fn succeed(&self, commands: &[&str], timeout: Option<Duration>) -> Result<String, Error> {
        self.each(
            commands,
            timeout,
            "must succeed",
            |status| status == 0,
            |status| failed_with(status, timeout),
        )
    }

    /// Runs the commands; none may end with status 0. Gives what they wrote to their standard output.
    ///
    /// # Errors
    /// When one succeeds, or the machine is in trouble.
    pub fn fail(&self, commands: &[&str], timeout: Option<Duration>) -> Result<String, Error> {
        self.each(
            commands,
            timeout,
            "must fail",
            |status| status != 0,
            |_| "unexpectedly succeeded".to_owned(),
        )
    }

    fn each(
        &self,
        commands: &[&str],
        timeout: Option<Duration>,
        what: &str,
        good: impl Fn(i32) -> bool,
        why: impl Fn(i32) -> String,
    ) -> Result<String, Error> {
        let mut output = String::new();
        for command in commands {
            let mut block = self.nested(&format!("{what}: {command}"));
            let reply = self.execute(command, Execute::limited(timeout))?;
            if !good(reply.status) {
                let why = why(reply.status);
                block.fail(&why);
                return Err(self.check_failed(
                    &format!("command `{command}` {why}"),
                    Some(command),
                    Some(reply),
                ));
            }
            output.push_str(&reply.output);
        }
        Ok(output)
    }
}

/// An exit status in words.
fn failed_with(status: i32, timeout: Option<Duration>) -> String {
    match timeout {
        Some(limit) if status == 124 && !limit.is_zero() => {
            format!("failed (exit code 124: not done within {} s)", limit.as_secs_f64())
        }
        _ => format!("failed (exit code {status})"),
    }
}
