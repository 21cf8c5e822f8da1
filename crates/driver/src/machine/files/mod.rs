//! Files and folders between host and guest, as `cp -r` would copy them.
//!
//! They go through a channel of their own beside the shell, a file as its bytes and a folder as a tar archive, and without
//! such a channel through the shell, as base64. One copy is one command in the machine's shell and has its turn, so that
//! nothing comes between. What a guest sends is made under another name first, and gets its own once it is whole.

mod by_shell;
mod conversation;
mod pack;
mod script;
#[cfg(test)]
mod tests;
mod unpack;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use self::conversation::{HostTrouble, Task, Trouble};
use self::pack::Packer;
use super::{MachineHandle, Running};
use crate::control::lock;
use crate::error::Error;
use crate::shell::Shell;

/// Bytes that go into the channel at once.
const BUFFER: usize = 256 * 1024;

/// What a guest may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

impl MachineHandle {
    /// Copies a file or folder of the host into the guest, with its mode, as root's. Folders on the way to `target` are
    /// made; a `target` that is a folder gets the source inside; a file that is there is written over.
    ///
    /// Links within a folder stay links; what others lead to is copied in their place, unless there is nothing.
    ///
    /// ```no_run
    /// use std::path::Path;
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// web.copy_from_host(Path::new("site"), Path::new("/srv/site"))?;
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the source cannot be read, the guest cannot write, or the machine is in trouble.
    pub fn copy_from_host(&self, source: &Path, target: &Path) -> Result<(), Error> {
        let name = format!("copy_from_host({source:?}, {target:?})");
        let mut block = self.nested(&name);
        let result = self.in_turn(&name, |machine, running, shell| {
            let about = fs::metadata(source).map_err(|error| machine.host_file(source, error))?;
            let own = source.file_name().unwrap_or(OsStr::new("."));
            let own = Path::new(own);
            let copied = if about.is_dir() {
                let mode = pack::mode(&about);
                let script = |find: &str| script::take_folder(find, target, own, mode);
                let task = Task { name: &name, script: &script };
                machine.converse(running, shell, &task, |channel, _| {
                    let check = || channel.check();
                    let sink = BufWriter::with_capacity(BUFFER, channel);
                    let mut sink = Packer::pack(source, sink, &check)?;
                    sink.flush().map_err(|error| Trouble::Guest(error.to_string()))?;
                    channel.finish();
                    Ok(())
                })?
            } else {
                let link = machine.link(running);
                let check = || link.tick(None).map(drop).map_err(|_| std::io::ErrorKind::Interrupted.into());
                let opened = pack::open(source, &check);
                machine.control().check()?;
                let file = opened.map_err(|trouble| machine.host_trouble(trouble))?;
                let (size, mode) = (file.size, file.mode);
                let script = |find: &str| script::take_file(find, target, own, size, mode);
                let task = Task { name: &name, script: &script };
                machine.converse(running, shell, &task, |channel, _| {
                    let mut sink = channel;
                    pack::send(source, file, &mut sink)?;
                    sink.write_all(b"K").map_err(|error| Trouble::Guest(error.to_string()))
                })?
            };
            match copied {
                Some(()) => Ok(()),
                None => machine.send_by_shell(running, shell, &name, source, target),
            }
        });
        result.inspect_err(|error| block.fail(error.to_string()))
    }

    /// As [`Self::copy_from_host`] for one file, through the shell alone: for small files, and guests that have nothing
    /// but bash and coreutils.
    ///
    /// # Errors
    /// As there.
    pub fn copy_from_host_via_shell(&self, source: &Path, target: &Path) -> Result<(), Error> {
        let name = format!("copy_from_host_via_shell({source:?}, {target:?})");
        let mut block = self.nested(&name);
        let result = self.in_turn(&name, |machine, running, shell| {
            if source.is_dir() {
                let error = std::io::Error::from_raw_os_error(rustix::io::Errno::ISDIR.raw_os_error());
                return Err(machine.host_file(source, error));
            }
            machine.send_by_shell(running, shell, &name, source, target)
        });
        result.inspect_err(|error| block.fail(error.to_string()))
    }

    /// Copies a file or folder of the guest into `folder`, which is made if need be, under its own name; gives where it is
    /// now. A file replaces one that is there; a folder must not be there yet.
    ///
    /// A source that is a link is followed; links within a folder stay links. Devices, sockets and pipes within a folder
    /// are left out. Everything belongs to this process's user, who can read it whatever its mode is in the guest.
    ///
    /// # Errors
    /// When the guest has no such file, the host cannot write, or the machine is in trouble. Then `folder` is as before.
    pub fn copy_from_machine(&self, source: &Path, folder: &Path) -> Result<PathBuf, Error> {
        let name = format!("copy_from_machine({source:?}, {folder:?})");
        let mut block = self.nested(&name);
        let result = self
            .in_turn(&name, |machine, running, shell| machine.fetch(running, shell, &name, source, folder));
        result.inspect_err(|error| block.fail(error.to_string()))
    }

    fn fetch(
        &self,
        running: &Running,
        shell: &mut Shell,
        name: &str,
        source: &Path,
        folder: &Path,
    ) -> Result<PathBuf, Error> {
        let own = source.file_name().ok_or_else(|| {
            Error::setup(format!("{}: {name}: `{}` has no name of its own", self.name(), source.display()))
        })?;
        let write = |error| self.host_trouble(HostTrouble::new(folder, "write", error));
        fs::create_dir_all(folder).map_err(write)?;
        // On the same file system, so that the name can be given in one step.
        let beside = tempfile::Builder::new().prefix(".snowboot.").tempdir_in(folder).map_err(write)?;
        let made = beside.path().join("copy");
        let script = |find: &str| script::give(find, source);
        let task = Task { name, script: &script };
        let received = self.converse(running, shell, &task, |channel, about| {
            let (kind, mode) = about_source(about)?;
            let mut channel = std::io::BufReader::with_capacity(BUFFER, channel);
            receive(kind, &made, mode, &mut channel).map(|skipped| (kind, skipped))
        })?;
        let (kind, skipped) = match received {
            Some(received) => received,
            None => self.fetch_by_shell(running, shell, name, source, &made)?,
        };
        for skipped in skipped {
            self.log(&format!("{name}: `{skipped}` is neither a file nor a folder nor a link: left out"));
        }
        give_name(kind, &made, folder, own).map_err(|trouble| self.host_trouble(trouble))
    }

    /// Holds the machine's turn, and its shell in step, while `work` uses it.
    fn in_turn<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Self, &Running, &mut Shell) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.connect()?;
        let _turn = self.0.turn.take(&self.0.control)?;
        let running = self.running("is not running")?;
        let mut shell = lock(&running.shell);
        shell
            .catch_up(&self.link(&running), None)
            .map_err(|error| self.shell_trouble(&running, "the copy failed", Some(name), error))?;
        work(self, &running, &mut shell)
    }

    fn host_file(&self, path: &Path, error: std::io::Error) -> Error {
        self.host_trouble(HostTrouble::new(path, "read", error))
    }

    fn host_trouble(&self, HostTrouble { message, source }: HostTrouble) -> Error {
        Error::HostFile { machine: self.name().to_owned(), message, source }
    }
}

/// What the guest says of the source: its kind and mode.
fn about_source(about: &str) -> Result<(Kind, u32), Trouble> {
    let kind = match about.get(..2) {
        Some("d ") => Some(Kind::Folder),
        Some("f ") => Some(Kind::File),
        _ => None,
    };
    let mode = about.get(2..).and_then(|mode| u32::from_str_radix(mode, 8).ok());
    kind.zip(mode).ok_or_else(|| Trouble::Guest(format!("the guest says `{}`", about.escape_debug())))
}

fn receive(
    kind: Kind,
    made: &Path,
    mode: u32,
    source: &mut dyn std::io::Read,
) -> Result<Vec<String>, Trouble> {
    match kind {
        Kind::File => unpack::file(made, mode, source).map(|()| Vec::new()),
        Kind::Folder => {
            fs::create_dir(made).map_err(|error| Trouble::Host(HostTrouble::new(made, "write", error)))?;
            unpack::folder(made, mode, source)
        }
    }
}

/// Puts what was received where it belongs.
fn give_name(kind: Kind, made: &Path, folder: &Path, own: &OsStr) -> Result<PathBuf, HostTrouble> {
    let target = folder.join(own);
    let is_there = fs::symlink_metadata(&target).is_ok();
    if is_there && (kind == Kind::Folder || target.is_dir()) {
        let error = std::io::Error::from_raw_os_error(rustix::io::Errno::EXIST.raw_os_error());
        return Err(HostTrouble::new(&target, "write", error));
    }
    fs::rename(made, &target).map_err(|error| HostTrouble::new(&target, "write", error))?;
    Ok(target)
}
