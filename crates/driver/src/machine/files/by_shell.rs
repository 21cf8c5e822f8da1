//! Copies through the shell alone, as base64: for guests without a channel for files.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::conversation::{HostTrouble, Task, Trouble};
use super::pack::{self, Packer, Source};
use super::{Kind, MachineHandle, Running, about_source, receive, script};
use crate::error::Error;
use crate::shell::{Shell, Want};

/// Bytes of a file in one command: as base64 they stay below 128 KiB, Linux' limit for one argument of a program.
const PIECE: usize = 48 * 1024;

impl MachineHandle {
    /// Sends a file, or the archive of a folder.
    pub(super) fn send_by_shell(
        &self,
        running: &Running,
        shell: &mut Shell,
        name: &str,
        source: &Path,
        target: &Path,
    ) -> Result<(), Error> {
        let own = Path::new(source.file_name().unwrap_or_default());
        let link = self.link(running);
        let check = || link.tick(None).map(drop).map_err(|_| std::io::ErrorKind::Interrupted.into());
        let is_folder = source.is_dir();
        let opened = if is_folder {
            archive(source, &check)
        } else {
            pack::open(source, &check).map_err(Trouble::Host)
        };
        self.control().check()?;
        let file = opened.map_err(|trouble| self.by_shell_failed(name, trouble))?;
        let (mode, place) = (file.mode, script::place(target, own));
        let first = if is_folder {
            format!("{}{place}w=$(mktemp)\n", script::need_tar())
        } else {
            format!("{place}{}", script::BESIDE)
        };
        // As bash writes them itself, since they may be no text.
        let tell = "printf 'w=%q; t=%q\\n' \"$w\" \"$t\"";
        let names = self.command(running, shell, name, &format!("{first}: >\"$w\"; {tell}"))?;
        self.send_pieces(running, shell, name, &names, file.file)?;
        let last = if is_folder {
            format!("{names}{} <\"$w\"\nrm -f -- \"$w\"", script::unpack(mode))
        } else {
            format!("{names}{}", script::settle(mode))
        };
        self.command(running, shell, name, &last).map(drop)
    }

    fn send_pieces(
        &self,
        running: &Running,
        shell: &mut Shell,
        name: &str,
        names: &str,
        mut file: File,
    ) -> Result<(), Error> {
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let most = u64::try_from(PIECE).unwrap_or_default();
            let read = file.by_ref().take(most).read_to_end(&mut piece);
            let count = read.map_err(|error| self.host_file(Path::new(name), error))?;
            if count == 0 {
                return Ok(());
            }
            let text = STANDARD.encode(&piece);
            let append = format!("{names}printf %s {text} | base64 -d >>\"$w\"");
            let sent = self.command(running, shell, name, &append);
            if sent.is_err() {
                // Best effort: the error that counts is there already.
                let _ = self.command(
                    running,
                    shell,
                    name,
                    &format!("{names}[ \"$w\" = \"$t\" ] || rm -f -- \"$w\""),
                );
            }
            sent?;
        }
    }

    /// Fetches a file, or the archive of a folder, in one answer.
    pub(super) fn fetch_by_shell(
        &self,
        running: &Running,
        shell: &mut Shell,
        name: &str,
        source: &Path,
        made: &Path,
    ) -> Result<(Kind, Vec<String>), Error> {
        let look = script::look(source);
        let pack = script::PACK;
        let about = self.command(running, shell, name, &format!("{look}echo \"$k $m\""))?;
        let give = format!(
            "{look}if [ $k = d ]; then {{ {pack} || [ $? = 1 ]; }} | base64 -w 0; else base64 -w 0 <\"$s\"; fi"
        );
        let text = self.command(running, shell, name, &give)?;
        let bytes = STANDARD.decode(text.trim_ascii()).map_err(|error| Error::Malformed {
            machine: self.name().to_owned(),
            message: format!("{name} failed: the guest's answer is no base64: {error}"),
        })?;
        let received = about_source(about.trim())
            .and_then(|(kind, mode)| Ok((kind, receive(kind, made, mode, &mut bytes.as_slice())?)));
        received.map_err(|trouble| self.by_shell_failed(name, trouble))
    }

    /// Runs one command of a copy, which must succeed.
    fn command(
        &self,
        running: &Running,
        shell: &mut Shell,
        name: &str,
        command: &str,
    ) -> Result<String, Error> {
        let answer = shell
            .run(&self.link(running), command, None, Want::Status)
            .map_err(|error| self.shell_trouble(running, "the copy failed", Some(name), error))?;
        if answer.status == 0 {
            return Ok(answer.output);
        }
        let reply = super::super::Reply { status: answer.status, output: answer.output };
        Err(self.copy_failed(&Task { name, script: &|_| String::new() }, reply))
    }

    fn by_shell_failed(&self, name: &str, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Host(trouble) => self.host_trouble(trouble),
            Trouble::Guest(why) => {
                Error::Malformed { machine: self.name().to_owned(), message: format!("{name} failed: {why}") }
            }
        }
    }
}

/// The archive of a folder, in a file without a name.
fn archive(folder: &Path, check: &dyn Fn() -> std::io::Result<()>) -> Result<Source, Trouble> {
    let wrong = |error| Trouble::Host(HostTrouble::new(folder, "read", error));
    let about = std::fs::metadata(folder).map_err(wrong)?;
    let file = tempfile::tempfile().map_err(wrong)?;
    let mut file = Packer::pack(folder, file, check)?;
    let size = file.stream_position().map_err(wrong)?;
    file.rewind().map_err(wrong)?;
    Ok(Source { file, size, mode: pack::mode(&about) })
}
