//! QEMU as the emulated host: its command line, its descriptors and its end.
//!
//! All its ends are inherited descriptors, never paths: no socket or file is left behind however a run ends, and runs
//! cannot meet each other. `setpriv` has the kernel kill QEMU when the lab's process dies, whatever kills that.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};

use super::agent::PORT_NAME;
use super::clock;
use super::size::MemorySize;
use crate::host::is_root;

const PROGRAM: &str = "qemu-system-x86_64";

/// What of the emulated host the user chooses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Emulated CPUs; one with `icount`.
    pub(crate) cpus: u8,
    /// Its memory.
    pub(crate) memory: MemorySize,
    /// Whether time is a count of instructions.
    pub(crate) icount: bool,
}

/// What the emulated host starts from.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    /// The kernel.
    pub(crate) kernel: &'a Path,
    /// The initramfs, not close-on-exec.
    pub(crate) initramfs: &'a File,
    /// The folder to export writable.
    pub(crate) writable: &'a Path,
    /// The disk for /var/tmp, not close-on-exec.
    pub(crate) scratch: &'a File,
}

/// A running QEMU; killed when dropped.
#[derive(Debug)]
pub(crate) struct Emulator {
    child: Child,
    /// The agent's port.
    pub(crate) port: UnixStream,
    /// The serial console.
    pub(crate) console: UnixStream,
}

impl Emulator {
    /// Start QEMU.
    pub(crate) fn start(shape: Shape, image: &Image<'_>) -> Result<Self> {
        let (port, port_there) = UnixStream::pair()?;
        let (console, console_there) = UnixStream::pair()?;
        for end in [&port_there, &console_there] {
            fcntl_setfd(end.as_fd(), FdFlags::empty()).map_err(io::Error::from)?;
        }
        let messages = console_there.try_clone()?;
        let child = launcher()
            .arg(PROGRAM)
            .args(machine_arguments(shape))
            .args(boot_arguments(image, shape.icount))
            .args(disk_arguments(image.scratch.as_raw_fd()))
            .args(channel_arguments(port_there.as_raw_fd(), console_there.as_raw_fd()))
            .args(share_arguments("machine", Path::new("/"), ",readonly=on"))
            .args(share_arguments("writable", image.writable, ""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::os::fd::OwnedFd::from(messages))
            .spawn()
            .context("Cannot run setpriv, which starts QEMU")?;
        Ok(Self { child, port, console })
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs QEMU: with the death signal, and ahead of the machine's other work where that is allowed. The emulated
/// CPUs wait for one another all the time, so each moment that one is kept waiting costs several: with six busy
/// programs on two CPUs, a start took 37 s without this and 7 s with it.
fn launcher() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["nice", "-n", "-10"]);
    }
    command
}

fn machine_arguments(shape: Shape) -> Vec<String> {
    // `-cpu max` has AMD-V with nested paging. q35, because microvm hangs under TCG in the kernel's TSC calibration.
    // Of a family (Zen 2) that has no GART: for one of QEMU's own, stock kernels look for AGP bridges at 16 384 places of
    // the PCI bus, each of which is two exits of a guest to its VMM.
    // Without what an emulator makes dearer than what it stands for: fast string operations go byte by byte, a fifth
    // level of page tables lengthens each walk, and each lifting of SMAP ends a block of code.
    let mut words =
        "-name snowboot-lab -nodefaults -no-user-config -machine q35 -cpu max,family=23,model=49,-xsave,-avx,-avx2,-pku,-erms,-fsrm,-la57,-smap -display none -nic none \
        -no-reboot -device virtio-rng-pci"
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>();
    let (accelerator, cpus) =
        if shape.icount { ("tcg,thread=single", 1) } else { ("tcg,thread=multi", shape.cpus) };
    words.extend(["-accel".into(), accelerator.into(), "-smp".into(), cpus.to_string()]);
    words.extend(["-m".into(), format!("{}M", shape.memory.mebibytes())]);
    if shape.icount {
        words.extend(["-icount".into(), "shift=0,sleep=off".into()]);
    }
    words
}

fn boot_arguments(image: &Image<'_>, icount: bool) -> Vec<OsString> {
    let clock = clock::kernel_parameter(icount);
    vec![
        "-kernel".into(),
        image.kernel.into(),
        "-initrd".into(),
        format!("/proc/self/fd/{}", image.initramfs.as_raw_fd()).into(),
        "-append".into(),
        format!("console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check cryptomgr.notests {clock}").into(),
    ]
}

fn channel_arguments(port: i32, console: i32) -> Vec<String> {
    vec![
        "-chardev".into(),
        format!("socket,id=console,fd={console}"),
        "-serial".into(),
        "chardev:console".into(),
        "-chardev".into(),
        format!("socket,id=port,fd={port}"),
        "-device".into(),
        "virtio-serial-pci,max_ports=2".into(),
        "-device".into(),
        format!("virtserialport,nr=1,chardev=port,name={PORT_NAME}"),
    ]
}

/// What is on it is worth nothing afterwards, so nothing of it needs to be on the machine's own disk.
fn disk_arguments(disk: i32) -> [String; 4] {
    let drive = format!("if=none,id=scratch,format=raw,cache=unsafe,discard=unmap,file=/proc/self/fd/{disk}");
    ["-drive".into(), drive, "-device".into(), "virtio-blk-pci,drive=scratch".into()]
}

fn share_arguments(tag: &str, folder: &Path, more: &str) -> [OsString; 4] {
    let mut export =
        OsString::from(format!("local,id={tag},security_model=none,multidevs=remap{more},path="));
    export.push(escape_commas(folder.as_os_str()));
    ["-fsdev".into(), export, "-device".into(), format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}").into()]
}

/// QEMU's option syntax: a comma in a value is doubled.
fn escape_commas(value: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::with_capacity(value.len());
    for byte in value.as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_a_folder_end_no_option() {
        assert_eq!(escape_commas(OsStr::new("/a,b,,c")), OsStr::new("/a,,b,,,,c"));
    }

    #[test]
    fn icount_means_one_cpu_and_one_thread() {
        let shape = Shape { cpus: 4, memory: "2G".parse().unwrap(), icount: true };
        let line = machine_arguments(shape).join(" ");
        assert!(
            line.contains("-accel tcg,thread=single -smp 1 -m 2048M -icount shift=0,sleep=off"),
            "{line}"
        );
    }

    #[test]
    fn without_icount_the_cpus_run_in_threads() {
        let shape = Shape { cpus: 4, memory: "512M".parse().unwrap(), icount: false };
        let line = machine_arguments(shape).join(" ");
        assert!(line.contains("-accel tcg,thread=multi -smp 4 -m 512M"), "{line}");
        assert!(!line.contains("icount"));
    }
}
