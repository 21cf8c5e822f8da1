//! A terminal with the program on it, seen from the user's side.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::common::wait_until;

pub(crate) struct Pty {
    user: File,
    program: File,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    pub(crate) fn open() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = std::ffi::OsString::from_vec(ptsname(&user, Vec::new()).unwrap().into_bytes());
        let noctty = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
        let program = OpenOptions::new().read(true).write(true).custom_flags(noctty).open(name).unwrap();
        let user = File::from(user);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shown) = (user.try_clone().unwrap(), Arc::clone(&seen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = reader.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { user, program, seen }
    }

    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        self.spawn_with_output(command, self.program.try_clone().unwrap())
    }

    /// The same with the standard output elsewhere.
    pub(crate) fn spawn_with_output(&self, command: &mut Command, output: impl Into<Stdio>) -> Child {
        let end = || self.program.try_clone().unwrap();
        command.stdin(end()).stdout(output).stderr(end()).spawn().unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        (&self.user).write_all(text.as_bytes()).unwrap();
    }

    /// All that the terminal has shown.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    pub(crate) fn read_until(&self, text: &str) {
        wait_until(&format!("the terminal shows {text:?}"), || self.seen().contains(text));
    }

    /// The terminal's whole mode.
    pub(crate) fn mode(&self) -> String {
        format!("{:?}", tcgetattr(&self.program).unwrap())
    }

    /// Makes the terminal edit lines again, as a shell does when it gets it back.
    pub(crate) fn cook(&self) {
        let mut mode = tcgetattr(&self.program).unwrap();
        mode.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(&self.program, OptionalActions::Now, &mode).unwrap();
    }

    /// Whether the terminal edits lines and echoes, as a shell's does.
    pub(crate) fn is_cooked(&self) -> bool {
        tcgetattr(&self.program).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}
