//! `snowboot bench machines`: several machines of one kernel in one process, as `snowboot bench boot --machines` measures
//! them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::{Context, Result, bail};
use snowboot_config::{BootConfig, MacAddress, MachineConfig, MemorySize, NicConfig, VcpuCount};
use snowboot_network::Switch;
use snowboot_vmm::{Builder, KernelCache, Machine, Outcome};

use super::args::{MACHINES_MAX, vcpus};
use crate::kvm_device::KvmDevice;

/// A line of a guest's that is longer is written in parts.
const LINE_MAX: usize = 4 << 10;
/// The VLAN of their network: a machine's card has the address that its number has there.
const VLAN: u8 = 1;

#[derive(Debug, clap::Args)]
pub(super) struct MachinesArgs {
    /// How many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MACHINES_MAX))]
    count: u32,
    /// A bzImage or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: String,
    /// Memory of each, such as 512, 512M or 2G
    #[arg(long, value_name = "SIZE")]
    memory: MemorySize,
    /// Number of vCPUs of each, 1 to 32
    #[arg(long, value_name = "N", value_parser = vcpus)]
    vcpus: VcpuCount,
    /// Join them by a network: each has a card, whose address ends in the machine's number
    #[arg(long)]
    network: bool,
    #[command(flatten)]
    kvm_device: KvmDevice,
}

/// Runs them until all have powered off, or one ends in another way. The lines of all consoles are on the standard output.
pub(super) fn run(args: &MachinesArgs) -> Result<ExitCode> {
    let out = io::stdout().as_fd().try_clone_to_owned().context("Cannot use the standard output")?;
    let out = Arc::new(Mutex::new(File::from(out)));
    let kernels = Arc::new(KernelCache::from_environment());
    let switch = args.network.then(Switch::new);
    let machines: Vec<Machine> = (1..=args.count)
        .map(|number| args.build(number, &kernels, switch.as_ref(), &out))
        .collect::<Result<_>>()?;
    let (sender, ends) = mpsc::channel();
    for (number, machine) in (1u32..).zip(&machines) {
        let sender = sender.clone();
        machine.on_end(Box::new(move |outcome| {
            let _ = sender.send((number, outcome.clone()));
        }));
    }
    drop(sender);
    for machine in &machines {
        machine.start()?;
    }
    snowboot_vmm::give_back_code();
    for (number, outcome) in ends.iter().take(machines.len()) {
        if outcome != Outcome::PowerOff {
            bail!("Machine {number} of {} {outcome}", args.count);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl MachinesArgs {
    fn build(
        &self,
        number: u32,
        kernels: &Arc<KernelCache>,
        switch: Option<&Switch>,
        out: &Arc<Mutex<File>>,
    ) -> Result<Machine> {
        let config = MachineConfig {
            name: format!("guest{number}"),
            boot: BootConfig {
                kernel: self.kernel.clone(),
                initrds: vec![self.initrd.clone()],
                cmdline: self.cmdline.clone(),
            },
            memory: self.memory,
            vcpus: self.vcpus,
            disks: Vec::new(),
            pmem: Vec::new(),
            vhost_user: Vec::new(),
            nics: switch.map(|_| card(number)).transpose()?.into_iter().collect(),
            shares: Vec::new(),
        };
        let lines = Lines { out: Arc::clone(out), waiting: Vec::new() };
        let mut builder = Builder::new(config)
            .kvm_device(self.kvm_device.path())
            .kernel_cache(Arc::clone(kernels))
            .serial_output(Box::new(lines));
        if let Some(switch) = switch {
            builder = builder.plug(switch.attach(&format!("guest{number}")));
        }
        Ok(builder.build()?)
    }
}

/// A machine's card on their network.
fn card(number: u32) -> Result<NicConfig> {
    let node = u8::try_from(number).context("A network has addresses for 255 machines: ask for fewer")?;
    Ok(NicConfig { mac: MacAddress::of_node(VLAN, node), vlan: Some(VLAN) })
}

/// A console whose lines are written whole, so that those of several do not mix.
struct Lines<W> {
    out: Arc<Mutex<W>>,
    waiting: Vec<u8>,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend(bytes);
        if bytes.contains(&b'\n') || self.waiting.len() >= LINE_MAX {
            self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_two_consoles_do_not_mix() {
        let out = Arc::new(Mutex::new(Vec::new()));
        let console = || Lines { out: Arc::clone(&out), waiting: Vec::new() };
        let (mut one, mut other) = (console(), console());
        for (a, b) in [(b"a", b"1"), (b"b", b"2"), (b"\n", b"3"), (b"c", b"\n")] {
            one.write_all(a).unwrap();
            other.write_all(b).unwrap();
        }
        assert_eq!(*out.lock().unwrap(), b"ab\n123\n");
        one.write_all(&[b'x'; LINE_MAX]).unwrap();
        assert_eq!(out.lock().unwrap().len(), 7 + 1 + LINE_MAX, "a line without end is written, too");
    }
}
