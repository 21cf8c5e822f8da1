//! systemd units of a guest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::machine::{Execute, MachineHandle, Reply};
use crate::shell::quote;

impl MachineHandle {
    /// Runs `systemctl`, for the system or for a user's own manager.
    ///
    /// # Errors
    /// When the machine is in trouble.
    pub fn systemctl(&self, query: &str, user: Option<&str>) -> Result<Reply, Error> {
        self.execute(&systemctl_command(query, user), Execute::default())
    }

    /// Starts a unit; its success is not looked at.
    ///
    /// # Errors
    /// When the machine is in trouble.
    pub fn start_job(&self, unit: &str, user: Option<&str>) -> Result<Reply, Error> {
        self.systemctl(&format!("start {unit}"), user)
    }

    /// Stops a unit; its success is not looked at.
    ///
    /// # Errors
    /// When the machine is in trouble.
    pub fn stop_job(&self, unit: &str, user: Option<&str>) -> Result<Reply, Error> {
        self.systemctl(&format!("stop {unit}"), user)
    }

    /// All properties of a unit that `systemctl show` gives.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn get_unit_info(&self, unit: &str, user: Option<&str>) -> Result<BTreeMap<String, String>, Error> {
        let query = format!("--no-pager show {}", quote(unit));
        let reply = self.systemctl(&query, user)?;
        if reply.status != 0 {
            let message = format!("systemd told nothing of unit `{unit}` (exit code {})", reply.status);
            return Err(self.check_failed(&message, Some(&query), Some(reply)));
        }
        Ok(reply.output.lines().filter_map(property).collect())
    }

    /// One property of a unit.
    ///
    /// # Errors
    /// When systemd cannot be asked, or has no such property.
    pub fn get_unit_property(&self, unit: &str, name: &str, user: Option<&str>) -> Result<String, Error> {
        let query = format!("--no-pager show {} --property={}", quote(unit), quote(name));
        let reply = self.systemctl(&query, user)?;
        if reply.status != 0 {
            let message = format!(
                "systemd told nothing of property {name} of unit `{unit}` (exit code {})",
                reply.status
            );
            return Err(self.check_failed(&message, Some(&query), Some(reply)));
        }
        match reply.output.lines().next().and_then(property) {
            Some((key, value)) if key == name => Ok(value),
            _ => Err(Error::Malformed {
                machine: self.name().to_owned(),
                message: format!(
                    "systemd has no property `{name}` of unit `{unit}`: it answered `{}`",
                    reply.output.trim()
                ),
            }),
        }
    }

    /// Fails unless a unit is in this state now.
    ///
    /// # Errors
    /// When it is in another state.
    pub fn require_unit_state(&self, unit: &str, state: &str) -> Result<(), Error> {
        let _block = self.nested(&format!("checking if unit '{unit}' has reached state '{state}'"));
        let found = self.get_unit_property(unit, "ActiveState", None)?;
        if found == state {
            return Ok(());
        }
        Err(self.unit_failed(unit, None, &format!("unit `{unit}` is in state `{found}`, not `{state}`")))
    }

    /// Waits until a unit is active. A unit that failed, or that is inactive while nothing is about to start it, fails
    /// at once.
    ///
    /// # Errors
    /// When it will not become active, the time is up, or the machine is in trouble.
    pub fn wait_for_unit(&self, unit: &str, user: Option<&str>, timeout: Duration) -> Result<(), Error> {
        let of = user.map_or_else(String::new, |user| format!(" of user '{user}'"));
        let _block = self.nested(&format!("waiting for unit '{unit}'{of}"));
        let deadline = Instant::now().checked_add(timeout);
        let mut backoff = Backoff::new();
        loop {
            let is_last = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let state = self.get_unit_property(unit, "ActiveState", user)?;
            match state.as_str() {
                "active" => return Ok(()),
                "failed" => {
                    return Err(self.unit_failed(
                        unit,
                        user,
                        &format!("unit `{unit}` reached state \"failed\""),
                    ));
                }
                "inactive" if self.is_left_alone(unit, user)? => {
                    let message = format!("unit `{unit}` is inactive and there are no pending jobs");
                    return Err(self.unit_failed(unit, user, &message));
                }
                _ if is_last => {
                    let seconds = timeout.as_secs_f64();
                    let message =
                        format!("unit `{unit}` did not become active within {seconds} s: it is \"{state}\"");
                    return Err(self.unit_failed(unit, user, &message));
                }
                _ => {}
            }
            let pause = backoff.pause();
            let left = deadline.map_or(pause, |deadline| deadline.saturating_duration_since(Instant::now()));
            self.control().pause(pause.min(left))?;
        }
    }

    /// Whether systemd has no job left while the unit is inactive. It may have become active between the two questions,
    /// hence the second look.
    fn is_left_alone(&self, unit: &str, user: Option<&str>) -> Result<bool, Error> {
        let jobs = self.systemctl("list-jobs --full 2>&1", user)?;
        Ok(jobs.output.contains("No jobs")
            && self.get_unit_property(unit, "ActiveState", user)? == "inactive")
    }

    /// A failed check with what systemd has to say of the unit.
    fn unit_failed(&self, unit: &str, user: Option<&str>, message: &str) -> Error {
        let query = format!("status --no-pager --full --lines=15 {}", quote(unit));
        match self.systemctl(&query, user) {
            // Without its exit status, which is systemctl's and not that of a command of the test.
            Ok(status) => self.check_failed_showing(message, status.output),
            Err(error) if error.failure().is_none() => error,
            Err(_) => self.check_failed(message, None, None),
        }
    }
}

fn property(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}

fn systemctl_command(query: &str, user: Option<&str>) -> String {
    match user {
        None => format!("systemctl {query}"),
        Some(user) => {
            let inner = format!("XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {query}");
            format!("su -l {} --shell /bin/sh -c {}", quote(user), quote(&inner))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_manager_is_asked_as_that_user() {
        assert_eq!(
            systemctl_command("start 'a b'", Some("alice")),
            r#"su -l alice --shell /bin/sh -c 'XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user start '"'"'a b'"'"''"#
        );
    }
}
