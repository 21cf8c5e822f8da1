//! The emulated host's side of the lab: process 1 there, once `init.sh` has laid out the root.
//!
//! It keeps one idle VM open, runs the job with its standard streams on pipes, carries them as frames, reaps orphans
//! and sends the exit status. It never returns: the machine ends QEMU once it has the status.

use std::fs::{self, DirEntry, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvm_ioctls::{Kvm, VmFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::frame::{Frame, PAYLOAD_MAX};
use super::job::Job;

const JOB: &str = "/run/snowboot-lab/job";
const PORTS: &str = "/sys/class/virtio-ports";
/// The port's name on QEMU's command line.
pub(crate) const PORT_NAME: &str = "snowboot-lab";

/// Run the job and report it, then power the emulated host off.
pub(crate) fn run() -> Result<()> {
    ensure!(std::process::id() == 1, "This is the lab's own; use: cargo xtask lab -- COMMAND");
    let port = open_port()?;
    let end = match run_job(&port) {
        Ok(status) => Frame::Exit(status),
        Err(error) => Frame::Failed(format!("{error:#}")),
    };
    rustix::fs::sync();
    end.write(&port)?;
    loop {
        // Whatever still runs may go on until the machine ends QEMU; process 1 must not end before.
        thread::sleep(Duration::from_secs(60));
    }
}

/// The port appears some milliseconds after its driver is loaded; its number depends on the other devices.
fn open_port() -> Result<File> {
    for _ in 0..1000 {
        if let Some(node) = port_node() {
            return File::options()
                .read(true)
                .write(true)
                .open(&node)
                .with_context(|| format!("Cannot open {node:?}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("The emulated host has no port called {PORT_NAME}")
}

fn port_node() -> Option<PathBuf> {
    let ports = fs::read_dir(PORTS).ok()?.flatten();
    let is_ours = |port: &DirEntry| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim_end() == PORT_NAME)
    };
    let node = Path::new("/dev").join(ports.into_iter().find(is_ours)?.file_name());
    node.exists().then_some(node)
}

fn run_job(port: &File) -> Result<u8> {
    let job = Job::decode(&fs::read(JOB).with_context(|| format!("Cannot read {JOB}"))?)?;
    fs::remove_file(JOB)?;
    mount_writable(&job.writable)?;
    let _holder = hold_vm()?;
    std::env::set_current_dir(&job.folder).with_context(|| {
        format!("The emulated host does not show the working folder {}", job.folder.display())
    })?;
    let (input_reader, input) = pipe()?;
    let (output, output_writer) = pipe()?;
    let (error, error_writer) = pipe()?;
    let mut command = command(&job);
    command.stdin(input_reader).stdout(output_writer).stderr(error_writer);
    // A write waits until the machine has opened its end; a read before that would look like the end of it.
    Frame::Started.write(port)?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return report_unstarted(&job, &error, port),
    };
    // The pipes' other ends must be the child's alone.
    drop(command);
    let pid = Pid::from_child(&child);
    let from_machine = port.try_clone()?;
    thread::spawn(move || carry_input(from_machine, input, pid));
    carry_output(port, output, error, pid)
}

fn command(job: &Job) -> Command {
    let mut words = job.command.iter();
    let mut command = Command::new(words.next().map_or("".as_ref(), |word| word.as_os_str()));
    command.args(words).env_clear().envs(job.environment.iter().map(|(name, value)| (name, value)));
    // Lets a program tell figures taken here from those of real hardware.
    command.env("SNOWBOOT_LAB", "emulated");
    command
}

/// As env(1) does: 127 for a command that is not there, 126 for one that cannot be run.
fn report_unstarted(job: &Job, error: &io::Error, port: &File) -> Result<u8> {
    let name = job.command.first().map(|word| word.display().to_string()).unwrap_or_default();
    Frame::Error(format!("lab: cannot run {name}: {error}\n").into_bytes()).write(port)?;
    Ok(super::unstarted_status(error))
}

/// The one folder that results go to. `cache=mmap` writes through at once and still allows shared writable mappings.
fn mount_writable(folder: &Path) -> Result<()> {
    let options = c"trans=virtio,version=9p2000.L,msize=512000,cache=mmap";
    mount("writable", folder, "9p", MountFlags::NOATIME, options)
        .with_context(|| format!("Cannot mount {} on the emulated host", folder.display()))
}

/// KVM of Linux 6.1 switches SVM on at the first VM and off at the last, on all CPUs; under multi-threaded TCG that
/// can hang the emulated host. One VM that stays open keeps it on.
fn hold_vm() -> Result<VmFd> {
    let kvm = Kvm::new().context("Cannot open /dev/kvm on the emulated host")?;
    kvm.create_vm().context("Cannot create a VM on the emulated host")
}

/// Carry both streams until the command has ended and the pipes are empty: a daemon that it left behind may hold them
/// open for ever.
fn carry_output(port: &File, output: PipeReader, error: PipeReader, child: Pid) -> Result<u8> {
    let port = Arc::new(Mutex::new(port.try_clone()?));
    let (ended, end) = pipe()?;
    let streams: Vec<_> = [(output, Frame::Output as fn(Vec<u8>) -> Frame), (error, Frame::Error)]
        .into_iter()
        .map(|(stream, frame)| {
            let (port, ended) = (Arc::clone(&port), ended.try_clone()?);
            Ok(thread::spawn(move || carry_stream(stream, frame, &ended, &port)))
        })
        .collect::<io::Result<_>>()?;
    let status = reap_until(child)?;
    drop(end);
    for stream in streams {
        // A stream that failed has nobody to tell: the port is gone.
        let _ = stream.join();
    }
    Ok(status)
}

/// Reap every orphan, as process 1 must, until `child` has ended.
fn reap_until(child: Pid) -> Result<u8> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                return Ok(super::status_code(ExitStatus::from_raw(status.as_raw())));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("Cannot wait for the command"),
        }
    }
}

fn carry_stream(
    mut stream: PipeReader,
    frame: fn(Vec<u8>) -> Frame,
    ended: &PipeReader,
    port: &Mutex<File>,
) -> io::Result<()> {
    let mut buffer = vec![0; PAYLOAD_MAX];
    loop {
        let mut ready = [PollFd::new(&stream, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let [stream_ready, _] = ready.map(|entry| !entry.revents().is_empty());
        if !stream_ready {
            return Ok(());
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        frame(bytes).write(&mut *port.lock().unwrap_or_else(PoisonError::into_inner))?;
    }
}

fn carry_input(mut from: File, input: PipeWriter, child: Pid) {
    let mut input = Some(input);
    while let Ok(frame) = Frame::read(&mut from) {
        match frame {
            Frame::Input(bytes) if bytes.is_empty() => input = None,
            Frame::Input(bytes) => {
                // The command closed its end: what is still to come goes nowhere, as in any pipeline.
                if input.as_mut().is_some_and(|input| input.write_all(&bytes).is_err()) {
                    input = None;
                }
            }
            Frame::Terminate => {
                let _ = kill_process(child, Signal::TERM);
            }
            _ => return,
        }
    }
}
