//! Machines on KVM, by `snowboot-vmm`, joined by one switch per VLAN in this process.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use snowboot_config::{
    BootConfig, BootProfile, DiskConfig, FlushPolicy, MacAddress, MachineConfig, NicConfig, NodeConfig,
    PmemConfig, PortForward, StoreDevice, UserNetworkConfig,
};
use snowboot_devices::stream::{self, HostEnd};
use snowboot_devices::warnings::Warnings;
use snowboot_network::{Port, Switch};
use snowboot_store::Images;
use snowboot_uplink::gateway::UserNetwork;
use snowboot_vmm::{Builder, KernelCache, Machine, Phase, TemporaryDisks, Timeline, toplevel};

use crate::console::ConsoleWriter;
use crate::control::lock;
use crate::vm::{
    BoxError, Channel, EndCallback, Launched, Launcher, Outcome, Port as FilePort, TellTimes, Vm, VmTimes,
};

/// Bytes that the shell's channel holds each way. More than one page of answers, so that a guest writes on while the
/// host's thread is being woken.
const SHELL_BUFFER: usize = 256 * 1024;

/// The same for files: the device is woken for room when half of it is free, and a guest writes 32 KiB at once.
const FILES_BUFFER: usize = 1 << 20;

/// The name that the guest's side of the channel for files has.
const FILES_PORT: &str = "org.snowboot.files.0";

/// The serial number of a store's disk. Guests find stores by the label of their file system, which is the same.
const STORE_SERIAL: &str = "nix-store";

/// Makes machines on KVM.
#[derive(Debug)]
pub struct KvmLauncher {
    kvm_device: PathBuf,
    kernels: Arc<KernelCache>,
    stores: Images,
    switches: Mutex<BTreeMap<u8, Switch>>,
    user_networks: Mutex<BTreeMap<String, (UserNetworkConfig, Weak<UserNetwork>)>>,
    temporary_disks: TemporaryDisks,
}

impl KvmLauncher {
    /// With this KVM device (`/dev/kvm` as a rule).
    #[must_use]
    pub fn new(kvm_device: impl Into<PathBuf>) -> Self {
        Self {
            kvm_device: kvm_device.into(),
            kernels: Arc::new(KernelCache::from_environment()),
            stores: Images::from_environment(),
            switches: Mutex::default(),
            user_networks: Mutex::default(),
            temporary_disks: TemporaryDisks::default(),
        }
    }

    fn port(&self, vlan: u8, name: &str) -> Port {
        lock(&self.switches).entry(vlan).or_default().attach(name)
    }

    /// The user network of a machine. After a reset it is the same one, so that what a script forwarded stays: the VMM's former
    /// machine is still there then.
    fn user_network(&self, name: &str, config: &UserNetworkConfig) -> Result<Arc<UserNetwork>, BoxError> {
        let mut networks = lock(&self.user_networks);
        let former = networks.get(name).filter(|(of, _)| of == config);
        if let Some(network) = former.and_then(|(_, network)| network.upgrade()) {
            return Ok(network);
        }
        let network = Arc::new(UserNetwork::start(name, config)?);
        networks.insert(name.to_owned(), (config.clone(), Arc::downgrade(&network)));
        Ok(network)
    }
}

impl Launcher for KvmLauncher {
    fn launch(
        &self,
        name: &str,
        number: u8,
        node: &NodeConfig,
        serial: ConsoleWriter,
    ) -> Result<Launched, BoxError> {
        let (host, device) = stream::pair(SHELL_BUFFER)?;
        let shell_output = Arc::new(OnceLock::new());
        let spoke = shell_output.clone();
        device.on_first_output(Box::new(move || {
            spoke.get_or_init(Instant::now);
        }));
        let (files, files_device) = stream::pair(FILES_BUFFER)?;
        let console = serial.clone();
        let mut config = machine_config(name, number, node)?;
        let image = node.store.as_ref().map(|store| self.stores.get(&store.source)).transpose()?;
        if let (Some(store), Some(image)) = (&node.store, &image) {
            attach_store(&mut config, store.device, image.path());
        }
        let mut builder = Builder::new(config)
            .kvm_device(&self.kvm_device)
            .kernel_cache(self.kernels.clone())
            .temporary_disks(self.temporary_disks.clone())
            .warnings(Warnings::new(move |line| console.warn(line)))
            .serial_output(Box::new(serial))
            .console(device)
            .channel(FILES_PORT, files_device);
        let network = node.user_network.as_ref().map(|config| self.user_network(name, config)).transpose()?;
        if let Some(network) = &network {
            let switch = Switch::new();
            network.plug(switch.attach(&format!("{name}:user network")));
            builder = builder.plug(switch.attach(&format!("{name}:eth0")));
        }
        for (index, vlan) in (1..).zip(&node.vlans) {
            let index: u32 = index;
            builder = builder.plug(self.port(*vlan, &format!("{name}:eth{index}")));
        }
        let machine = builder.build()?;
        let times = tell_times(machine.timeline().clone(), shell_output);
        let (shell, files) = (Arc::new(HostChannel(host)), Arc::new(HostChannel(files)));
        Ok(Launched { vm: Arc::new(KvmVm { machine, network }), shell, files, times })
    }

    fn guest_resident(&self) -> Option<u64> {
        snowboot_vmm::resident_guest_memory()
    }
}

/// As NixOS test machines have it: right behind the root disk, before all others.
fn attach_store(config: &mut MachineConfig, device: StoreDevice, image: &Path) {
    let path = image.to_owned();
    match device {
        StoreDevice::Pmem => config.pmem.insert(0, PmemConfig { path }),
        StoreDevice::Disk => {
            let serial = Some(STORE_SERIAL.to_owned());
            let disk = DiskConfig { read_only: true, serial, ..DiskConfig::of_image(path) };
            config.disks.insert(config.disks.len().min(1), disk);
        }
    }
}

fn machine_config(name: &str, number: u8, node: &NodeConfig) -> Result<MachineConfig, BoxError> {
    let boot = match (&node.toplevel, &node.kernel) {
        (Some(folder), _) => {
            let mut boot = toplevel::read(folder, node.cmdline.as_deref())?;
            if let Some(profile) = node.profile {
                boot.cmdline = profile.for_toplevel(&boot.cmdline);
            }
            boot
        }
        (None, Some(kernel)) => BootConfig {
            kernel: kernel.clone(),
            initrds: node.initrds.clone(),
            cmdline: BootProfile::for_kernel(node.profile, node.cmdline.as_deref()),
        },
        (None, None) => return Err("it has neither a toplevel nor a kernel".into()),
    };
    // As on NixOS test machines: eth0, before those of the VLANs.
    let user = node.user_network.as_ref();
    let user = user.map(|_| NicConfig { mac: MacAddress::of_user_network(), vlan: None });
    let nic = |vlan: &u8| NicConfig { mac: MacAddress::of_node(*vlan, number), vlan: Some(*vlan) };
    Ok(MachineConfig {
        name: name.to_owned(),
        boot,
        memory: node.memory,
        vcpus: node.vcpus,
        disks: node.disks.iter().map(disk_config).collect(),
        pmem: node.pmem.clone(),
        vhost_user: node.vhost_user.clone(),
        nics: user.into_iter().chain(node.vlans.iter().map(nic)).collect(),
        shares: node.shares.clone(),
    })
}

/// The guest of a test has its power cut by the test, not by a failure of the host: unless somebody asks for more, what it
/// flushes is kept by the host's kernel.
fn disk_config(disk: &DiskConfig) -> DiskConfig {
    DiskConfig { flush: disk.flush.or(Some(FlushPolicy::Never)), ..disk.clone() }
}

fn tell_times(timeline: Timeline, shell_output: Arc<OnceLock<Instant>>) -> TellTimes {
    Arc::new(move || VmTimes {
        memory_ready: timeline.at(Phase::MemoryReady),
        kernel_loaded: timeline.at(Phase::KernelLoaded),
        guest_entered: timeline.at(Phase::GuestEntered),
        console_output: timeline.at(Phase::ConsoleOutput),
        shell_output: shell_output.get().copied(),
        init_started: timeline.at(Phase::InitStarted),
        target_reached: timeline.at(Phase::TargetReached),
        marks: timeline.marks().into_iter().map(|mark| (mark.number, mark.at)).collect(),
        marks_dropped: timeline.marks_dropped(),
    })
}

struct KvmVm {
    machine: Machine,
    network: Option<Arc<UserNetwork>>,
}

impl Vm for KvmVm {
    fn start(&self) -> Result<(), BoxError> {
        Ok(self.machine.start()?)
    }

    fn stop(&self) {
        self.machine.stop();
    }

    fn reset(&self) {
        self.machine.reset();
    }

    fn pause(&self) -> Result<(), BoxError> {
        Ok(self.machine.pause()?)
    }

    fn resume(&self) -> Result<(), BoxError> {
        Ok(self.machine.resume()?)
    }

    fn press_power_button(&self) {
        self.machine.press_power_button();
    }

    fn serial_input(&self, bytes: &[u8]) -> usize {
        self.machine.serial_input(bytes)
    }

    fn set_link(&self, nic: usize, up: bool) -> Result<(), BoxError> {
        Ok(self.machine.set_link(nic, up)?)
    }

    fn forward(&self, forward: PortForward) -> Result<SocketAddr, BoxError> {
        let network = self.network.as_ref().ok_or("it has no user network")?;
        Ok(network.forward(forward)?)
    }

    fn wait(&self, timeout: Option<Duration>) -> Option<Outcome> {
        self.machine.wait(timeout).map(outcome)
    }

    fn outcome(&self) -> Option<Outcome> {
        self.machine.outcome().map(outcome)
    }

    fn on_end(&self, callback: EndCallback) {
        self.machine.on_end(Box::new(move |how| callback(&outcome(how.clone()))));
    }
}

fn outcome(outcome: snowboot_vmm::Outcome) -> Outcome {
    match outcome {
        snowboot_vmm::Outcome::PowerOff => Outcome::PowerOff,
        snowboot_vmm::Outcome::Reset => Outcome::Reset,
        snowboot_vmm::Outcome::TripleFault => Outcome::TripleFault,
        snowboot_vmm::Outcome::Fault(what) => Outcome::Fault(what),
        snowboot_vmm::Outcome::Stopped => Outcome::Stopped,
    }
}

struct HostChannel(HostEnd);

impl Channel for HostChannel {
    fn write(&self, data: &[u8], deadline: Instant) -> io::Result<usize> {
        self.0.write(data, Some(deadline))
    }

    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        self.0.read(buffer, Some(deadline))
    }
}

impl FilePort for HostChannel {
    fn open(&self) -> io::Result<()> {
        self.0.open();
        Ok(())
    }

    fn finish(&self) {
        self.0.finish();
    }

    fn close(&self) {
        self.0.close();
    }

    fn find(&self) -> String {
        // udev makes the link; an initrd may have none.
        format!(
            "port=/dev/virtio-ports/{FILES_PORT}; if [ ! -c $port ]; then port=; \
             for at in /sys/class/virtio-ports/*; do \
             if [ -r \"$at/name\" ] && [ \"$(<\"$at/name\")\" = {FILES_PORT} ]; then port=/dev/${{at##*/}}; fi; \
             done; fi; [ -c \"$port\" ] || port="
        )
    }
}

#[cfg(test)]
mod tests {
    use snowboot_config::BootProfile;

    use super::*;

    fn cmdline(text: &str) -> String {
        let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
        machine_config("m", 1, &node).unwrap().boot.cmdline
    }

    #[test]
    fn a_bare_kernel_gets_the_standard_profile_or_what_the_manifest_says() {
        assert_eq!(cmdline("kernel = 'k'"), BootProfile::Standard.cmdline());
        assert_eq!(cmdline("kernel = 'k'\ncmdline = 'x'"), "x");
        assert_eq!(cmdline("kernel = 'k'\nprofile = 'plain'\ncmdline = 'x'"), "console=ttyS0 panic=1 x");
    }

    #[test]
    fn the_card_of_the_user_network_comes_before_those_of_vlans() {
        let nics = |text: &str| {
            let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
            machine_config("m", 1, &node).unwrap().nics.into_iter().map(|nic| (nic.mac.to_string(), nic.vlan))
        };
        let vlan = ("52:54:00:12:03:01".to_owned(), Some(3));
        assert!(nics("kernel = 'k'\nvlans = [3]").eq([vlan.clone()]));
        let user = ("52:54:00:12:34:56".to_owned(), None);
        assert!(nics("kernel = 'k'\nvlans = [3]\nuser-network = true").eq([user, vlan]));
    }

    #[test]
    fn disks_of_tests_do_not_wait_for_the_host_unless_they_are_told_to() {
        let text = "kernel = 'k'\nempty-disks = [1]\ndisks = [{ path = 'd', flush = 'always' }]";
        let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
        let flush: Vec<_> =
            machine_config("m", 1, &node).unwrap().disks.into_iter().map(|disk| disk.flush).collect();
        assert_eq!(flush, [Some(FlushPolicy::Always), Some(FlushPolicy::Never)]);
    }

    #[test]
    fn a_store_is_the_second_disk_or_the_first_persistent_memory() {
        let text = "kernel = 'k'\npmem = [{ path = 'p' }]\ndisks = [{ path = 'a' }, { path = 'b' }]";
        let node = NodeConfig::parse("m", Path::new("/m.toml"), text).unwrap();
        let mut config = machine_config("m", 1, &node).unwrap();
        let image = Path::new("/image");
        attach_store(&mut config, StoreDevice::Disk, image);
        let disks: Vec<_> = config.disks.iter().map(|disk| disk.path.clone().unwrap()).collect();
        assert_eq!(disks, ["/a", "/image", "/b"].map(PathBuf::from));
        assert!(config.disks[1].read_only);
        attach_store(&mut config, StoreDevice::Pmem, image);
        assert_eq!(config.pmem[0].path, image);
        config.disks.clear();
        attach_store(&mut config, StoreDevice::Disk, image);
        assert_eq!(config.disks.len(), 1);
    }

    #[test]
    fn a_toplevel_gets_only_a_profile_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("kernel", "k"), ("kernel-params", "mitigations=auto loglevel=4")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let toplevel = format!("toplevel = '{}'\ncmdline = 'x'\n", folder.path().display());
        let own = cmdline(&toplevel);
        assert!(own.starts_with("mitigations=auto loglevel=4 init=") && own.ends_with("/init x"), "{own}");
        let fast = cmdline(&format!("{toplevel}profile = 'fast'"));
        assert_eq!(fast, BootProfile::Fast.for_toplevel(&own));
        assert!(fast.len() > own.len() && fast.ends_with(&own), "{fast}");
    }
}
