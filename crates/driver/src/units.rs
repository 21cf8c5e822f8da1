//! systemd units of a guest.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::control::Pace;
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
    /// ```no_run
    /// use snowboot_driver::DEFAULT_TIMEOUT;
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// web.wait_for_unit("nginx.service", None, DEFAULT_TIMEOUT)?;
    /// web.wait_for_unit("pipewire.service", Some("alice"), DEFAULT_TIMEOUT)?;
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// When it will not become active, the time is up, or the machine is in trouble.
    pub fn wait_for_unit(&self, unit: &str, user: Option<&str>, timeout: Duration) -> Result<(), Error> {
        let of = user.map_or_else(String::new, |user| format!(" of user '{user}'"));
        let _block = self.nested(&format!("waiting for unit '{unit}'{of}"));
        let probe = probe_command(unit, user);
        let pace = Pace::new(self.control());
        let heard = Cell::new(self.console().heard());
        let look = |_: &mut _| {
            // What is said from here on may be news to systemd's answer.
            heard.set(self.console().heard());
            let state = self.unit_state(unit, &probe)?;
            Ok(match state.verdict() {
                Verdict::Active => ControlFlow::Break(Ok(())),
                Verdict::Hopeless(why) => ControlFlow::Break(Err(why)),
                Verdict::Pending => ControlFlow::Continue(state),
            })
        };
        // Test guests show their journal on the console, in which systemd and the unit's own processes name the unit.
        let pause = |time| self.console().wait_for_word(&pace, heard.get(), unit_words(unit), time);
        match self.watch_with(timeout, look, pause)? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(self.unit_failed(unit, user, &format!("unit `{unit}` {why}"))),
            Err(missed) => {
                let state = missed.last.words();
                let message =
                    format!("unit `{unit}` did not become active {}: it is {state}", missed.within(""));
                Err(self.unit_failed(unit, user, &message))
            }
        }
    }

    fn unit_state(&self, unit: &str, probe: &str) -> Result<State, Error> {
        let reply = self.execute(probe, Execute::default())?;
        if reply.status != 0 {
            let message = format!("systemd told nothing of unit `{unit}` (exit code {})", reply.status);
            return Err(self.check_failed(&message, Some(probe), Some(reply)));
        }
        State::parse(&reply.output).ok_or_else(|| Error::Malformed {
            machine: self.name().to_owned(),
            message: format!(
                "systemd did not tell the ActiveState of unit `{unit}`: it answered `{}`",
                reply.output.trim()
            ),
        })
    }

    /// A failed check with what systemd has to say of the unit, and what it is busy with.
    fn unit_failed(&self, unit: &str, user: Option<&str>, message: &str) -> Error {
        let status = format!("status --no-pager --full --lines=15 {}", quote(unit));
        let question = format!(
            "{}; echo; {} | head -n 25",
            systemctl_command(&status, user),
            systemctl_command("list-jobs --no-pager --full", user)
        );
        self.check_failed_after_asking(message, &question)
    }
}

/// What systemd told of a unit in one look.
#[derive(Debug, Default)]
struct State {
    active: String,
    sub: String,
    result: String,
    load: String,
    /// The state in the second look that an inactive unit is given: it may have become active between the first look and
    /// that at the jobs.
    then: Option<String>,
    /// Whether systemd has no job at all, so that nothing is about to start the unit.
    is_idle: bool,
}

/// What that means for who waits for it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Active,
    Hopeless(String),
    Pending,
}

impl State {
    /// From the answer to [`probe_command`].
    fn parse(answer: &str) -> Option<Self> {
        let mut state = Self { is_idle: answer.contains("No jobs"), ..Self::default() };
        for (name, value) in answer.lines().filter_map(property) {
            match name.as_str() {
                "ActiveState" if state.active.is_empty() => state.active = value,
                "ActiveState" => state.then = Some(value),
                "SubState" => state.sub = value,
                "Result" => state.result = value,
                "LoadState" => state.load = value,
                _ => {}
            }
        }
        (!state.active.is_empty()).then_some(state)
    }

    fn verdict(&self) -> Verdict {
        match (self.active.as_str(), self.then.as_deref()) {
            ("active", _) | ("inactive", Some("active")) => Verdict::Active,
            ("failed", _) => Verdict::Hopeless(format!("reached state \"failed\"{}", self.remarks())),
            ("inactive", Some("inactive")) if self.is_idle => {
                Verdict::Hopeless(format!("is inactive and there are no pending jobs{}", self.remarks()))
            }
            _ => Verdict::Pending,
        }
    }

    fn words(&self) -> String {
        format!("\"{}\"{}", self.active, self.remarks())
    }

    /// What else is worth telling.
    fn remarks(&self) -> String {
        let told = |name: &str, value: &str, usual: &str| {
            (!value.is_empty() && value != usual).then(|| format!("{name} {value}"))
        };
        let remarks: Vec<String> = [
            told("substate", &self.sub, &self.active),
            told("result", &self.result, "success"),
            told("load state", &self.load, "loaded"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join(", ")) }
    }
}

/// Asks for everything that a wait decides by, in one command. Of an inactive unit also whether jobs are left, and then
/// once more for its state.
fn probe_command(unit: &str, user: Option<&str>) -> String {
    let show = |properties: &str| {
        let query = format!("--no-pager show {} --property={properties}", quote(unit));
        systemctl_command(&query, user)
    };
    let jobs = systemctl_command("list-jobs --full 2>&1", user);
    format!(
        "s=$({}); echo \"$s\"; case $s in *ActiveState=inactive*) {jobs} || :; {};; esac",
        show("LoadState,ActiveState,SubState,Result"),
        show("ActiveState")
    )
}

/// What the console says when something happens to a unit: its name, as the journal has it (also without its kind), or
/// what systemd says of units by their descriptions.
fn unit_words(unit: &str) -> impl Fn(&str) -> bool {
    move |line: &str| {
        let by_systemd = ["Started ", "Reached target ", "Finished ", "Failed to start "];
        line.contains(unit) || line.contains("systemd[") && by_systemd.iter().any(|word| line.contains(word))
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

    fn verdict(answer: &str) -> Verdict {
        State::parse(answer).unwrap().verdict()
    }

    #[test]
    fn one_answer_of_systemd_decides_a_wait() {
        assert_eq!(verdict("LoadState=loaded\nActiveState=active\nSubState=running\n"), Verdict::Active);
        assert_eq!(verdict("ActiveState=activating\nSubState=start\n"), Verdict::Pending);
        let failed = verdict("LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\n");
        assert_eq!(failed, Verdict::Hopeless("reached state \"failed\" (result exit-code)".to_owned()));
        assert!(State::parse("nonsense\n").is_none());
    }

    #[test]
    fn an_inactive_unit_is_given_up_after_a_second_look_without_jobs() {
        let first = "LoadState=not-found\nActiveState=inactive\nSubState=dead\n";
        let given_up = verdict(&format!("{first}No jobs running.\nActiveState=inactive\n"));
        let why = "is inactive and there are no pending jobs (substate dead, load state not-found)";
        assert_eq!(given_up, Verdict::Hopeless(why.to_owned()));
        assert_eq!(
            verdict(&format!("{first}12 x.service start waiting\nActiveState=inactive\n")),
            Verdict::Pending
        );
        assert_eq!(verdict(&format!("{first}No jobs running.\nActiveState=active\n")), Verdict::Active);
        assert_eq!(verdict(&format!("{first}No jobs running.\nActiveState=activating\n")), Verdict::Pending);
    }

    #[test]
    fn a_line_about_the_unit_or_by_systemd_is_a_sign() {
        let is_sign = unit_words("web.service");
        assert!(is_sign("[   12.3] systemd[1]: Started web.service - Web."));
        assert!(is_sign("systemd[1]: Started Web server."));
        assert!(!is_sign("nginx[12]: Started with 2 workers"));
        assert!(!is_sign("systemd[1]: Starting Web server..."));
    }

    #[test]
    fn a_users_manager_is_asked_as_that_user() {
        assert_eq!(
            systemctl_command("start 'a b'", Some("alice")),
            r#"su -l alice --shell /bin/sh -c 'XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user start '"'"'a b'"'"''"#
        );
    }
}
