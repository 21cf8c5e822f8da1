//! One copy through the channel for files, while the guest's script runs in the shell.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::{MachineHandle, Reply, Running};
use super::script::NO_PORT;
use crate::error::Error;
use crate::shell::{Link, Shell, ShellError, Want};
use crate::vm::Port;

/// How often the shell is looked at while the guest has not said a word through the channel.
const LOOK: Duration = Duration::from_millis(5);

/// The longest first line of a guest.
const GREETING_CAP: usize = 64;

/// What stands for one that is not the script's.
const UNKNOWN: &str = "?";

/// A file of the host that is in the way.
#[derive(Debug)]
pub(super) struct HostTrouble {
    pub(super) message: String,
    pub(super) source: io::Error,
}

impl HostTrouble {
    /// `doing` is `read` or `write`.
    pub(super) fn new(path: &Path, doing: &str, source: io::Error) -> Self {
        Self { message: format!("cannot {doing} the host's file {}", path.display()), source }
    }
}

/// Why a copy came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The host's side.
    Host(HostTrouble),
    /// What came through the channel, or that it ended. The guest's exit status may tell more.
    Guest(String),
}

/// What is being copied.
pub(super) struct Task<'a> {
    /// As a call, for messages.
    pub(super) name: &'a str,
    /// What the guest runs, with what finds its end of the channel.
    pub(super) script: &'a dyn Fn(&str) -> String,
}

/// The channel as a stream that gives up when the run ends.
pub(super) struct Conversation<'a> {
    port: &'a dyn Port,
    link: &'a Link<'a>,
    trouble: RefCell<Option<ShellError>>,
    is_over: Cell<bool>,
}

impl Conversation<'_> {
    /// Fails when the run has ended, was interrupted, or the machine stands still.
    pub(super) fn check(&self) -> io::Result<()> {
        self.tick().map(drop)
    }

    /// Tells the guest that nothing more comes.
    pub(super) fn finish(&self) {
        self.port.finish();
    }

    fn tick(&self) -> io::Result<Instant> {
        self.link.tick(None).map_err(|error| {
            self.trouble.borrow_mut().get_or_insert(error);
            io::Error::other("the run has ended")
        })
    }
}

impl Read for &Conversation<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.port.read(buffer, self.tick()?) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Ok(0) if !buffer.is_empty() => {
                    self.is_over.set(true);
                    return Ok(0);
                }
                other => return other,
            }
        }
    }
}

impl Write for &Conversation<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.port.write(data, self.tick()?) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => {
                    self.is_over.set(true);
                    return Err(error);
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MachineHandle {
    /// Runs a script in the guest and `work` at the other end of its channel; `work` gets the guest's greeting. Gives
    /// `None` when the guest has no channel. The shell must have caught up, and the caller holds its turn.
    pub(super) fn converse<T>(
        &self,
        running: &Running,
        shell: &mut Shell,
        task: &Task<'_>,
        work: impl FnOnce(&Conversation<'_>, &str) -> Result<T, Trouble>,
    ) -> Result<Option<T>, Error> {
        let link = self.link(running);
        let port = running.files.as_ref();
        let in_shell = |error| self.shell_trouble(running, "the copy failed", Some(task.name), error);
        port.open()
            .map_err(|error| self.trouble_because("cannot open the channel for files", error.into()))?;
        let opened = Opened(port);
        shell.begin(&link, &(task.script)(&port.find()), task.name).map_err(in_shell)?;
        let conversation =
            Conversation { port, link: &link, trouble: RefCell::default(), is_over: Cell::new(false) };
        let Some(greeting) = self.greeting(shell, &conversation).map_err(in_shell)? else {
            let reply = Self::answer(shell, &link, task).map_err(in_shell)?;
            return if reply.status == NO_PORT { Ok(None) } else { Err(self.copy_failed(task, reply)) };
        };
        let trouble = match Self::work(&conversation, &greeting, work) {
            Ok(done) => {
                let reply = Self::answer(shell, &link, task).map_err(in_shell)?;
                return if reply.status == 0 { Ok(Some(done)) } else { Err(self.copy_failed(task, reply)) };
            }
            Err(trouble) => trouble,
        };
        // The guest's script ends now; the next command waits for that.
        drop(opened);
        if let Some(error) = conversation.trouble.take() {
            return Err(in_shell(error));
        }
        match trouble {
            Trouble::Host(HostTrouble { message, source }) => {
                Err(Error::HostFile { machine: self.name().to_owned(), message, source })
            }
            Trouble::Guest(why) => {
                let reply = Self::answer(shell, &link, task).map_err(in_shell)?;
                // One that broke off by itself tells why; one that was cut off only that.
                if conversation.is_over.get() && reply.status != 0 {
                    return Err(self.copy_failed(task, reply));
                }
                let message = format!("{} failed: {why}", task.name);
                Err(Error::Malformed { machine: self.name().to_owned(), message })
            }
        }
    }

    /// The guest's first line, without its mark; `None` when its script has ended before it came that far.
    fn greeting(
        &self,
        shell: &mut Shell,
        conversation: &Conversation<'_>,
    ) -> Result<Option<String>, ShellError> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < GREETING_CAP {
            conversation.link.tick(None)?;
            match conversation.port.read(&mut byte, Instant::now() + LOOK) {
                Ok(1) if byte == *b"\n" => break,
                Ok(1) => line.extend(byte),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    if shell.has_line(conversation.link)? {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
        }
        let line = String::from_utf8_lossy(&line);
        Ok(Some(line.strip_prefix('R').unwrap_or(UNKNOWN).trim().to_owned()))
    }

    fn work<T>(
        conversation: &Conversation<'_>,
        greeting: &str,
        work: impl FnOnce(&Conversation<'_>, &str) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        if greeting == UNKNOWN {
            return Err(Trouble::Guest("something else than the copy speaks through its channel".to_owned()));
        }
        let begun = (&mut &*conversation).write_all(b"G");
        begun.map_err(|error| Trouble::Guest(error.to_string()))?;
        work(conversation, greeting)
    }

    fn answer(shell: &mut Shell, link: &Link<'_>, task: &Task<'_>) -> Result<Reply, ShellError> {
        let answer = shell.collect(link, task.name, Want::Status, None)?;
        Ok(Reply { status: answer.status, output: answer.output })
    }

    pub(super) fn copy_failed(&self, task: &Task<'_>, reply: Reply) -> Error {
        let message = format!("{} failed (exit code {})", task.name, reply.status);
        self.check_failed(&message, Some(task.name), Some(reply))
    }
}

/// The channel while a copy uses it.
struct Opened<'a>(&'a dyn Port);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
