//! From a configuration and run-time objects to a machine. Each device is attached by a method of its own.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use snowboot_bus::GuestMemory;
use snowboot_config::MachineConfig;
use snowboot_devices::boot_marks::{self, BootMarks};
use snowboot_devices::console::{Console, ConsoleControl, PortEnd};
use snowboot_devices::entropy::Entropy;
use snowboot_devices::i8042::I8042;
use snowboot_devices::net::{Net, NetControl};
use snowboot_devices::power::{self, SleepControl};
use snowboot_devices::rtc::Rtc;
use snowboot_devices::serial::{Serial, SerialInput};
use snowboot_devices::stream::DeviceEnd;
use snowboot_devices::warnings::Warnings;
use snowboot_network::Port;

use super::disks::{self, TemporaryDisks};
use super::platform::{Platform, Thread};
use super::{Handles, Machine, pmem, shares, vhost_user};
use crate::arch::{acpi, boot, cpuid, layout, regs};
use crate::kvm::{Kvm, Vm};
use crate::stats::Counters;
use crate::timeline::{Phase, Timeline};
use crate::vcpu::Processor;
use crate::{Error, KernelCache, host, memory};

/// Collects what a machine is made of.
pub struct Builder {
    config: MachineConfig,
    kvm_device: PathBuf,
    kernels: Arc<KernelCache>,
    serial: Box<dyn Write + Send>,
    consoles: Vec<DeviceEnd>,
    channels: Vec<(String, DeviceEnd)>,
    ports: Vec<Port>,
    count_exits: bool,
    temporary_disks: TemporaryDisks,
    warnings: Warnings,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Builder {
    /// A machine as `config` describes it, whose serial output is discarded.
    #[must_use]
    pub fn new(config: MachineConfig) -> Self {
        Self {
            config,
            kvm_device: PathBuf::from(host::KVM_DEVICE),
            kernels: Arc::default(),
            serial: Box::new(std::io::sink()),
            consoles: Vec::new(),
            channels: Vec::new(),
            ports: Vec::new(),
            count_exits: false,
            temporary_disks: TemporaryDisks::default(),
            warnings: Warnings::default(),
        }
    }

    /// Another KVM device than `/dev/kvm`.
    #[must_use]
    pub fn kvm_device(mut self, path: impl Into<PathBuf>) -> Self {
        self.kvm_device = path.into();
        self
    }

    /// Where unpacked kernels are kept; without it every machine unpacks its own.
    #[must_use]
    pub fn kernel_cache(mut self, kernels: Arc<KernelCache>) -> Self {
        self.kernels = kernels;
        self
    }

    /// Where the guest's output on ttyS0 goes. Called on a vCPU's thread: it must be quick.
    #[must_use]
    pub fn serial_output(mut self, output: Box<dyn Write + Send>) -> Self {
        self.serial = output;
        self
    }

    /// One more virtio console: hvc0, hvc1 ... in the order of calls.
    #[must_use]
    pub fn console(mut self, end: DeviceEnd) -> Self {
        self.consoles.push(end);
        self
    }

    /// One more channel for programs: `/dev/virtio-ports/NAME` where udev runs, a port of the consoles' device behind all
    /// consoles.
    #[must_use]
    pub fn channel(mut self, name: &str, end: DeviceEnd) -> Self {
        self.channels.push((name.to_owned(), end));
        self
    }

    /// Plugs the next network card of the configuration into `port`.
    #[must_use]
    pub fn plug(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    /// Counts what vCPUs come out of the guest for; see [`Machine::stats`].
    #[must_use]
    pub fn count_exits(mut self) -> Self {
        self.count_exits = true;
        self
    }

    /// Where what it writes to temporary disks is kept, for the next machine of this name; without it, it is gone with the
    /// machine.
    #[must_use]
    pub fn temporary_disks(mut self, disks: TemporaryDisks) -> Self {
        self.temporary_disks = disks;
        self
    }

    /// Where its devices tell what its owner should know, such as a full disk of the host; without it, in the log. Called on
    /// devices' threads: it must be quick.
    #[must_use]
    pub fn warnings(mut self, warnings: Warnings) -> Self {
        self.warnings = warnings;
        self
    }

    /// Opens what the configuration names, allocates guest memory, and loads the kernel. Nothing runs yet.
    ///
    /// # Errors
    /// When KVM, a file or memory is not to be had; the text says which, why, and what to do.
    pub fn build(self) -> Result<Machine, Error> {
        let timeline = Timeline::default();
        timeline.reached(Phase::BuildBegan);
        if self.ports.len() != self.config.nics.len() {
            return Err(Error::Config(format!(
                "{} has {} network cards, but {} switch ports to plug them into",
                self.config.name,
                self.config.nics.len(),
                self.ports.len()
            )));
        }
        let kvm = Kvm::open(&self.kvm_device)?;
        kvm.check_vcpus(self.config.vcpus.get())?;
        let memory =
            memory::allocate(&self.config.name, self.config.memory, vhost_user::sharing(&self.config))?;
        timeline.reached(Phase::MemoryReady);
        let images = pmem::place(&kvm, &self.config)?;
        let ranges = pmem::ranges(&images);
        let mut counters = self.count_exits.then(Counters::default);
        let count = self.config.vcpus.get();
        let (entry, made) = beside(
            || load(&memory, &self.config, &self.kernels).inspect(|_| timeline.reached(Phase::KernelLoaded)),
            || {
                let vm = kvm.create_vm(memory.clone(), images)?;
                let vcpus = create_vcpus(&kvm, &vm, count, counters.as_mut())?;
                Ok((vm, vcpus))
            },
        )?;
        let entry = entry?;
        let (vm, vcpus) = made?;
        if let Some(boot_processor) = vcpus.first() {
            regs::enter_at(&boot_processor.vcpu, entry)?;
        }
        let mut platform = Platform::new(Arc::clone(&vm), memory.clone())?;
        let serial = attach_legacy(&platform, &vm, timeline.watch_output(self.serial))?;
        attach_boot_marks(&platform, timeline.clone())?;
        self.consoles.iter().for_each(|console| timeline.watch_stream(console));
        let console = attach_consoles(&mut platform, self.consoles, self.channels)?;
        disks::attach(&mut platform, &self.config, &self.temporary_disks, &self.warnings)?;
        shares::attach(&mut platform, &self.config.shares, &self.warnings)?;
        pmem::attach(&mut platform, ranges)?;
        vhost_user::attach(&mut platform, &memory, &self.config.vhost_user)?;
        let nics = attach_nics(&mut platform, &self.config, self.ports)?;
        attach_entropy(&mut platform)?;
        let power_button = vm.irq_line(layout::gsi::POWER_BUTTON)?;
        let handles = Handles { serial, power_button, nics, console, timeline };
        Machine::assembled(self.config.name, platform, vcpus, handles, counters)
    }
}

/// Does two things at once: Linux takes its time to make a virtual machine, most of which it waits, and a kernel is
/// copied meanwhile.
fn beside<A: Send, B>(
    one: impl FnOnce() -> Result<A, Error> + Send,
    other: impl FnOnce() -> B,
) -> Result<(Result<A, Error>, B), Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("load".to_owned());
        let one = thread.spawn_scoped(scope, one).map_err(Error::host("start a thread"))?;
        let other = other();
        let one = one.join().unwrap_or_else(|_| {
            let source = std::io::Error::other("its thread panicked");
            Err(Error::Host { what: "load the kernel".to_owned(), source })
        });
        Ok((one, other))
    })
}

/// Fills guest memory; returns where the boot processor starts.
fn load(memory: &GuestMemory, config: &MachineConfig, kernels: &KernelCache) -> Result<u64, Error> {
    let rsdp = acpi::write(memory, config.vcpus.get())?;
    regs::write_tables(memory)?;
    regs::write_reset_vector(memory)?;
    let entry = boot::load(memory, &config.boot, rsdp, kernels)?;
    if let Some(note) = entry.note {
        tracing::info!(machine = config.name, "{note}");
    }
    Ok(entry.address)
}

fn create_vcpus(
    kvm: &Kvm,
    vm: &Vm,
    count: u8,
    mut counters: Option<&mut Counters>,
) -> Result<Vec<Processor>, Error> {
    let supported = kvm.supported_cpuid()?;
    let mut vcpus = Vec::new();
    for index in 0..count {
        let vcpu = vm.create_vcpu(index)?;
        vcpu.set_cpuid(&cpuid::of_vcpu(&supported, index, count, kvm.has_tsc_deadline())?)?;
        regs::set_up(&vcpu)?;
        let counter = counters.as_mut().map(|counters| counters.add(vcpu.statistics()));
        vcpus.push(Processor { vcpu, counter });
    }
    Ok(vcpus)
}

/// What a PC has at fixed ports.
fn attach_legacy(platform: &Platform, vm: &Vm, output: Box<dyn Write + Send>) -> Result<SerialInput, Error> {
    let (serial, input) = Serial::new(vm.irq_line(layout::gsi::COM1)?, output);
    platform.add_ports(layout::port::COM1, 8, serial)?;
    platform.add_ports(layout::port::RTC, 2, Rtc::new(Arc::new(SystemTime::now)))?;
    platform.add_ports(layout::port::I8042, 5, I8042::new())?;
    platform.add_ports(layout::port::POWER, power::REGISTERS, SleepControl::new())?;
    Ok(input)
}

/// Where the guest says how far its boot has come.
fn attach_boot_marks(platform: &Platform, timeline: Timeline) -> Result<(), Error> {
    let marks = BootMarks::new(Box::new(move |mark| timeline.told(mark)));
    platform.add_ports(layout::port::BOOT_MARKS, boot_marks::REGISTERS, marks)
}

fn attach_consoles(
    platform: &mut Platform,
    consoles: Vec<DeviceEnd>,
    channels: Vec<(String, DeviceEnd)>,
) -> Result<Option<ConsoleControl>, Error> {
    let consoles = consoles.into_iter().map(|end| Ok(PortEnd::console(end)));
    let channels = channels.into_iter().map(|(name, end)| PortEnd::named(&name, end));
    let ends: Result<Vec<_>, _> = consoles.chain(channels).collect();
    let ends = ends.map_err(Error::host("set up a channel"))?;
    if ends.is_empty() {
        return Ok(None);
    }
    let (console, control) = Console::new(ends).map_err(Error::host("set up the consoles"))?;
    platform.add_virtio(Box::new(console), Thread::Shared)?;
    Ok(Some(control))
}

fn attach_nics(
    platform: &mut Platform,
    config: &MachineConfig,
    ports: Vec<Port>,
) -> Result<Vec<NetControl>, Error> {
    let mut controls = Vec::new();
    for (nic, port) in config.nics.iter().zip(ports) {
        let (net, control) = Net::new(nic.mac.octets(), port, Arc::new(monotonic))
            .map_err(Error::host("set up a network card"))?;
        let net = net.for_vcpus(config.vcpus.get().into());
        let transport = platform.add_shared_virtio(Box::new(net), Thread::Own("net"))?;
        control.serve_in_place(Arc::downgrade(&transport));
        controls.push(control);
    }
    Ok(controls)
}

/// The host's monotonic clock: one for all machines, since the ports of a switch compare their times.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn attach_entropy(platform: &mut Platform) -> Result<(), Error> {
    let source = File::open("/dev/urandom").map_err(Error::host("open /dev/urandom"))?;
    platform.add_virtio(Box::new(Entropy::new(source)), Thread::Shared)
}
