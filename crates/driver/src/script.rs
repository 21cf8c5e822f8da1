//! A test as a function: what the runner of Python scripts does around one, for tests in Rust.

use std::any::Any;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use snowboot_config::Manifest;

use crate::driver::Driver;
use crate::error::Error;
use crate::event::RunError;
use crate::options::Options;

/// The exit status that reports have of a test that failed.
const FAILED: i32 = 1;

impl Driver {
    /// The machines of a manifest file, none of them started, and the global time limit running. The manifest's script is
    /// not looked at.
    ///
    /// ```no_run
    /// use snowboot_driver::{Driver, Options};
    ///
    /// let driver = Driver::from_file("ping.toml", Options::on_kvm("/dev/kvm"))?;
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the file cannot be read or is no valid manifest, and when the timer's thread cannot be started.
    pub fn from_file(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = fs::read_to_string(path)
            .map_err(|error| Error::setup_because(format!("Cannot read {}", path.display()), error))?;
        let manifest = Manifest::parse(path, &text)
            .map_err(|error| Error::setup(format!("The manifest cannot be used: {error}")))?;
        Self::new(&manifest, options)
    }

    /// Runs a whole test: calls `test`, ends the machines, and tells reports how that went.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// driver.run(|driver| driver.machines()[0].succeed(&["true"], None).map(drop))?;
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `test` gives. A panic in it goes on after the machines have ended.
    pub fn run<T, E: fmt::Display + 'static>(self, test: impl FnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let result = catch_unwind(AssertUnwindSafe(|| test(&self)));
        let error = match &result {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(run_error(error)),
            Err(panic) => Some(RunError::new("Panic", words(panic.as_ref()))),
        };
        let status = if error.is_some() { FAILED } else { 0 };
        self.script_ended(error.clone());
        self.finish();
        self.run_ended(status, error);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a part of the test as a subtest, a test case of its own in reports. It has failed there when `part` gives an
    /// error or panics.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// let answer = driver.in_subtest("the web server answers", || web.succeed(&["echo 200"], None))?;
    /// assert_eq!(answer, "200\n");
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `part` gives.
    pub fn in_subtest<T, E: fmt::Display + 'static>(
        &self,
        name: &str,
        part: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut block = self.subtest(name);
        let result = catch_unwind(AssertUnwindSafe(part));
        match &result {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => block.fail(run_error(error).message),
            Err(panic) => block.fail(words(panic.as_ref())),
        }
        drop(block);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// An error as reports have it: with its causes where it is one of the driver's, or tells them as anyhow's do.
fn run_error<E: fmt::Display + 'static>(error: &E) -> RunError {
    let Some(own) = (error as &dyn Any).downcast_ref::<Error>() else {
        return RunError::new("Error", format!("{error:#}"));
    };
    let about = own.failure();
    RunError {
        machine: about.map(|failure| failure.machine.clone()),
        command: about.and_then(|failure| failure.command.clone()),
        status: about.and_then(|failure| failure.status).map(i64::from),
        ..RunError::new(&format!("{:?}", own.kind()), own.chain())
    }
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::control::lock;
    use crate::event::Event;
    use crate::tests::driver;

    /// Subtests that failed and why, the script's error, and the run's status.
    fn told(events: &Arc<Mutex<Vec<Event>>>) -> (Vec<(String, String)>, Option<String>, i32) {
        let (mut subtests, mut script, mut status) = (Vec::new(), None, -1);
        for event in lock(events).iter() {
            match event {
                Event::End { block, failure: Some(why), .. } if block.subtest => {
                    subtests.push((block.text.clone(), why.clone()));
                }
                Event::ScriptEnd { error } => {
                    script = error.as_ref().map(|error| format!("{}: {}", error.kind, error.message));
                }
                Event::RunEnd { status: ended, .. } => status = *ended,
                _ => {}
            }
        }
        (subtests, script, status)
    }

    #[test]
    fn a_test_gives_its_value_and_its_machines_end() {
        let (driver, events) = driver(&[("a", "")], 600);
        let machine = driver.machines()[0].clone();
        let output = driver.run(|driver| {
            let a = &driver.machines()[0];
            driver.in_subtest("one", || a.succeed(&["echo one"], None))
        });
        assert_eq!(output.unwrap(), "one\n");
        assert!(!machine.is_booted() && machine.start().is_err());
        assert_eq!(told(&events), (vec![], None, 0));
    }

    #[test]
    fn an_error_fails_the_subtest_and_the_run_with_its_causes() {
        let (driver, events) = driver(&[("a", "")], 600);
        let result = driver.run(|driver| -> Result<(), String> {
            driver.in_subtest("good", || Ok::<(), String>(()))?;
            driver.in_subtest("bad", || Err::<(), String>("on purpose".into()))?;
            driver.in_subtest("never", || Err("not reached".into()))
        });
        assert_eq!(result.unwrap_err(), "on purpose");
        let failed = vec![("bad".to_owned(), "on purpose".to_owned())];
        assert_eq!(told(&events), (failed, Some("Error: on purpose".to_owned()), 1));
    }

    #[test]
    fn what_the_driver_says_is_told_with_its_cause() {
        let (driver, events) = driver(&[("a", "refuse")], 600);
        driver.run(|driver| driver.start_all()).unwrap_err();
        let cause = "MachineError: a: cannot be started\ncaused by: the fake a refuses";
        assert_eq!(told(&events).1.as_deref(), Some(cause));
    }

    #[test]
    fn a_panic_is_told_and_goes_on() {
        let (driver, events) = driver(&[("a", "")], 600);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            driver.run(|driver| {
                driver.in_subtest("sums", || {
                    assert_eq!(1 + 1, 3, "sums are wrong");
                    Ok::<(), Error>(())
                })
            })
        }));
        assert!(words(panicked.unwrap_err().as_ref()).contains("sums are wrong"));
        let (subtests, script, status) = told(&events);
        assert!(subtests.len() == 1 && subtests[0].1.contains("sums are wrong"), "{subtests:?}");
        assert!(script.is_some_and(|text| text.starts_with("Panic: assertion")) && status == 1);
    }

    #[test]
    fn a_manifest_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.toml");
        let options = || Options::new(crate::testing::FakeLauncher);
        let refused = |path: &Path| Driver::from_file(path, options()).unwrap_err().chain();
        let text = refused(&path);
        assert!(text.contains(&format!("Cannot read {}", path.display())), "{text}");
        fs::write(&path, "nome = 't'\n").unwrap();
        assert!(refused(&path).contains("test.toml:1:1: "), "{}", refused(&path));
        fs::write(&path, "name = 't'\ntest-script = ''\n[machines.a]\nkernel = 'k'\n").unwrap();
        let driver = Driver::from_file(&path, options()).unwrap();
        // Paths are the manifest's.
        let kernel = driver.machines()[0].node().kernel.clone();
        assert_eq!((driver.name(), kernel), ("t", Some(folder.path().join("k"))));
    }
}
