//! Machines on KVM, by `snowboot-vmm`, joined by one switch per VLAN in this process.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use snowboot_config::{NodeConfig, PortForward, UplinkConfig, UserNetworkConfig};
use snowboot_devices::stream::{self, HostEnd};
use snowboot_devices::warnings::Warnings;
use snowboot_network::Switch;
use snowboot_uplink::Uplink;
use snowboot_uplink::gateway::UserNetwork;
use snowboot_vmm::{Machine, Phase, Timeline};

use crate::assembly::Workshop;
use crate::console::ConsoleWriter;
use crate::control::lock;
use crate::networks::{Networks, port_name};
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

/// Makes machines on KVM.
#[derive(Debug)]
pub struct KvmLauncher {
    workshop: Workshop,
    networks: Networks,
    user_networks: Mutex<BTreeMap<String, (UserNetworkConfig, Weak<UserNetwork>)>>,
    /// Those that the machines of a VLAN share.
    shared_networks: Mutex<BTreeMap<u8, Weak<UserNetwork>>>,
}

impl KvmLauncher {
    /// With this KVM device (`/dev/kvm` as a rule).
    #[must_use]
    pub fn new(kvm_device: impl Into<PathBuf>) -> Self {
        Self {
            workshop: Workshop::new(kvm_device),
            networks: Networks::default(),
            user_networks: Mutex::default(),
            shared_networks: Mutex::default(),
        }
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

    /// Where ports of the host's lead to a machine from: its own user network, or the first that it shares.
    fn way_in(&self, number: u8, node: &NodeConfig, own: Option<Arc<UserNetwork>>) -> WayIn {
        let shared = || {
            let networks = lock(&self.shared_networks);
            let network = node.vlans.iter().find_map(|vlan| networks.get(vlan)).cloned()?;
            Some(WayIn::Shared(network, UserNetworkConfig::shared_address(number)))
        };
        own.map(WayIn::Own).or_else(shared).unwrap_or(WayIn::None)
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
        let network = node.user_network.as_ref().map(|config| self.user_network(name, config)).transpose()?;
        let machine = self.workshop.build(name, number, node, |builder| {
            let mut builder = builder
                .warnings(Warnings::new(move |line| console.warn(line)))
                .serial_output(Box::new(serial))
                .console(device)
                .channel(FILES_PORT, files_device);
            if let Some(network) = &network {
                let switch = Switch::new();
                network.plug(switch.attach(&format!("{name}:user network")));
                builder = builder.plug(switch.attach(&format!("{name}:eth0")));
            }
            for (index, vlan) in (1..).zip(&node.vlans) {
                builder = builder.plug(self.networks.attach(*vlan, &port_name(name, index)));
            }
            Ok(builder)
        })?;
        let times = tell_times(machine.timeline().clone(), shell_output);
        let (shell, files) = (Arc::new(HostChannel(host)), Arc::new(HostChannel(files)));
        let way_in = self.way_in(number, node, network);
        Ok(Launched { vm: Arc::new(KvmVm { machine, way_in }), shell, files, times })
    }

    fn networks(&self) -> Networks {
        self.networks.clone()
    }

    fn open_uplinks(&self, uplinks: &[UplinkConfig]) -> Result<(), BoxError> {
        for UplinkConfig { network, leads_to } in uplinks {
            let port = self.networks.attach(*network, &snowboot_uplink::port_name(leads_to));
            let uplink = Uplink::open(leads_to, port)?;
            if let Uplink::UserNetwork(shared) = &uplink {
                lock(&self.shared_networks).insert(*network, Arc::downgrade(shared));
            }
            self.networks.keep(*network, uplink);
        }
        Ok(())
    }

    fn guest_resident(&self) -> Option<u64> {
        snowboot_vmm::resident_guest_memory()
    }
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
    way_in: WayIn,
}

/// What a machine's forwards are of.
enum WayIn {
    None,
    Own(Arc<UserNetwork>),
    /// A network's, which ends with the run, and the machine's address there.
    Shared(Weak<UserNetwork>, Option<Ipv4Addr>),
}

impl WayIn {
    /// The network, and the forward with the machine's own address in the place of none.
    fn of(&self, mut forward: PortForward) -> Result<(Arc<UserNetwork>, PortForward), BoxError> {
        match self {
            Self::None => {
                Err("it has no user network: give it `user-network`, or one of its networks".into())
            }
            Self::Own(network) => Ok((network.clone(), forward)),
            Self::Shared(network, address) => {
                if forward.guest.ip() == PortForward::GUEST {
                    let address =
                        address.ok_or("it has no address that is known: give the guest's address")?;
                    forward.guest.set_ip(address.into());
                }
                let network = network.upgrade().ok_or("the user network that it shares has ended")?;
                Ok((network, forward))
            }
        }
    }
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
        let (network, forward) = self.way_in.of(forward)?;
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
    use snowboot_config::UplinkKind;

    use super::*;

    #[test]
    fn forwards_of_a_machine_lead_to_it_where_it_shares_a_user_network() {
        let launcher = KvmLauncher::new("/dev/kvm");
        let uplink =
            UplinkConfig { network: 3, leads_to: UplinkKind::UserNetwork(UserNetworkConfig::default()) };
        launcher.open_uplinks(&[uplink]).unwrap();
        let node = |vlans: &str| {
            NodeConfig::parse("m", "/m.toml".as_ref(), &format!("kernel = 'k'\nvlans = {vlans}")).unwrap()
        };
        let forward = |number, vlans: &str, rule: &str| {
            let way_in = launcher.way_in(number, &node(vlans), None);
            way_in.of(rule.parse().unwrap()).map(|(_, forward)| forward.guest.to_string())
        };
        assert_eq!(forward(2, "[1, 3]", "tcp::0-:80").unwrap(), "10.0.2.16:80");
        assert_eq!(forward(250, "[3]", "tcp::0-10.0.2.215:80").unwrap(), "10.0.2.215:80");
        assert!(
            forward(250, "[3]", "tcp::0-:80").unwrap_err().to_string().contains("give the guest's address")
        );
        assert!(forward(2, "[1]", "tcp::0-:80").unwrap_err().to_string().contains("it has no user network"));
        let left = launcher.way_in(2, &node("[3]"), None);
        assert!(launcher.networks.stop().is_empty());
        assert!(left.of("tcp::0-:80".parse().unwrap()).unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn uplinks_are_ports_of_their_networks_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let uplink = |network, name: &str| UplinkConfig {
            network,
            leads_to: UplinkKind::VhostUser(folder.path().join(name)),
        };
        let launcher = KvmLauncher::new("/dev/kvm");
        launcher.open_uplinks(&[uplink(1, "a"), uplink(7, "b")]).unwrap();
        let ports = |vlan| launcher.networks.switch(vlan).counters().len();
        assert_eq!((ports(1), ports(7), ports(2)), (1, 1, 0));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let missing = UplinkConfig { network: 1, leads_to: UplinkKind::Vde(folder.path().join("none")) };
        let error = launcher.open_uplinks(&[missing]).unwrap_err().to_string();
        assert!(error.contains("none: is it running?"), "{error}");
        assert!(launcher.networks.stop().is_empty());
        assert_eq!((ports(1), ports(7)), (0, 0));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
