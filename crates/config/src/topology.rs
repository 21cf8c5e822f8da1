//! How the machines of a test are connected, worked out from their descriptions.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::Serialize;

use crate::{
    ForwardFrom, ForwardProtocol, MacAddress, Manifest, NamedNetworks, NodeConfig, PortForward,
    SocketForward, UplinkConfig, UplinkKind, UserNetworkConfig, interface_name, vlan_address, vlan_name,
};

/// The machines of a test with their network cards, and the networks between them. It is a part of reports, which
/// `docs/reports.md` describes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// The machines, in the order of their names.
    pub machines: Vec<TopologyMachine>,
    /// The networks, in the order of their numbers.
    pub networks: Vec<TopologyNetwork>,
}

/// A machine and its cards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyMachine {
    /// Its name.
    pub name: String,
    /// Its number, the last byte of its addresses.
    pub number: u8,
    /// Its cards, in the order in which its guest finds them.
    pub cards: Vec<Card>,
    /// What is behind the card that leads to the host.
    pub user_network: Option<TopologyUserNetwork>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// What it is called in the guest of a NixOS test machine.
    pub interface: String,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// The network that it is plugged into; `None` for the machine's user network.
    pub network: Option<String>,
    /// The address that the guest of a NixOS test machine has there. Other guests have the addresses that they give themselves.
    pub address: Ipv4Addr,
}

/// A way to the host: a machine's own, or that of all machines of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyUserNetwork {
    /// Whether the guest gets no further than the gateway and what is forwarded.
    pub restrict: bool,
    /// The resolver, where it is not the host's own.
    pub dns: Option<SocketAddr>,
    /// Ports that lead from one side to the other, as the manifest has them.
    pub forwards: Vec<TopologyForward>,
    /// Where machines share it: the addresses that they have by DHCP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<TopologyLease>,
}

/// What DHCP gives to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyLease {
    /// The machine.
    pub machine: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A port that leads to the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyForward {
    /// The side that connects.
    pub from: ForwardFrom,
    /// What is carried.
    pub protocol: ForwardProtocol,
    /// The host's end.
    pub host: HostEnd,
    /// The guest's end.
    pub guest: SocketAddr,
}

/// The end of a forward that is on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum HostEnd {
    /// A port; where the host listens at port 0, that is a free one.
    Address(SocketAddr),
    /// A Unix socket, as `unix:PATH`.
    Socket(String),
}

impl fmt::Display for HostEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(socket) => f.write_str(socket),
        }
    }
}

/// A network between machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyNetwork {
    /// As scripts know it: its own name, or `vlan` and the number.
    pub name: String,
    /// The VLAN's number.
    pub vlan: u8,
    /// What it is for.
    pub description: Option<String>,
    /// The cards that are plugged into it.
    pub members: Vec<Member>,
    /// Where else it leads.
    pub uplinks: Vec<String>,
    /// What its machines share as their way to the host; it is one of the uplinks.
    pub user_network: Option<TopologyUserNetwork>,
}

/// A card by its place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The machine.
    pub machine: String,
    /// Its card.
    pub interface: String,
}

impl Manifest {
    /// How the machines are connected.
    #[must_use]
    pub fn topology(&self) -> Topology {
        Topology::new(&self.networks, self.numbered(), &self.uplinks)
    }
}

impl Topology {
    /// Of these machines with their numbers, of networks that have names, also those that no machine is on, and of these uplinks.
    pub fn new<'a>(
        names: &NamedNetworks,
        machines: impl IntoIterator<Item = (u8, &'a str, &'a NodeConfig)>,
        uplinks: &[UplinkConfig],
    ) -> Self {
        let mut networks: BTreeMap<u8, TopologyNetwork> = names
            .iter()
            .map(|(name, network)| {
                let description = network.description.clone();
                (network.vlan, TopologyNetwork::new(name.clone(), network.vlan, description))
            })
            .collect();
        let mut machines: Vec<TopologyMachine> = machines
            .into_iter()
            .map(|(number, name, node)| machine(number, name, node, &mut networks))
            .collect();
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        for UplinkConfig { network, leads_to } in uplinks {
            let network = networks.entry(*network).or_insert_with(|| TopologyNetwork::unnamed(*network));
            network.uplinks.push(leads_to.to_string());
            if let UplinkKind::UserNetwork(config) = leads_to {
                let user_network = TopologyUserNetwork::new(config);
                network.user_network = Some(user_network.shared_by(&network.members, &machines));
            }
        }
        Self { machines, networks: networks.into_values().collect() }
    }
}

impl TopologyNetwork {
    fn new(name: String, vlan: u8, description: Option<String>) -> Self {
        Self { name, vlan, description, members: Vec::new(), uplinks: Vec::new(), user_network: None }
    }

    fn unnamed(vlan: u8) -> Self {
        Self::new(vlan_name(vlan), vlan, None)
    }
}

/// A machine, which becomes a member of its networks.
fn machine(
    number: u8,
    name: &str,
    node: &NodeConfig,
    networks: &mut BTreeMap<u8, TopologyNetwork>,
) -> TopologyMachine {
    let mut cards = Vec::new();
    if node.user_network.is_some() {
        cards.push(Card {
            interface: interface_name(0),
            mac: MacAddress::of_user_network(),
            network: None,
            address: PortForward::GUEST,
        });
    }
    for (index, vlan) in (1..).zip(&node.vlans) {
        let network = networks.entry(*vlan).or_insert_with(|| TopologyNetwork::unnamed(*vlan));
        let interface = interface_name(index);
        network.members.push(Member { machine: name.to_owned(), interface: interface.clone() });
        cards.push(Card {
            interface,
            mac: MacAddress::of_node(*vlan, number),
            network: Some(network.name.clone()),
            address: vlan_address(*vlan, number),
        });
    }
    let user_network = node.user_network.as_ref().map(TopologyUserNetwork::new);
    TopologyMachine { name: name.to_owned(), number, cards, user_network }
}

impl TopologyUserNetwork {
    fn new(config: &UserNetworkConfig) -> Self {
        let forward = |forward: &PortForward| TopologyForward {
            from: forward.from,
            protocol: forward.protocol,
            host: HostEnd::Address(forward.host),
            guest: forward.guest,
        };
        let socket = |forward: &SocketForward| TopologyForward {
            from: forward.from,
            protocol: ForwardProtocol::Tcp,
            host: HostEnd::Socket(format!("unix:{}", forward.host.display())),
            guest: forward.guest,
        };
        let sockets = config.forward_sockets.iter().map(socket);
        Self {
            restrict: config.restrict,
            dns: config.dns,
            forwards: config.forward_ports.iter().map(forward).chain(sockets).collect(),
            leases: Vec::new(),
        }
    }

    fn shared_by(mut self, members: &[Member], machines: &[TopologyMachine]) -> Self {
        let lease = |member: &Member| {
            let machine = machines.iter().find(|machine| machine.name == member.machine)?;
            let address = UserNetworkConfig::shared_address(machine.number)?;
            Some(TopologyLease { machine: machine.name.clone(), address })
        };
        self.leases = members.iter().filter_map(lease).collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn topology(text: &str) -> Topology {
        let text = format!("name = 't'\ntest-script = ''\n{text}");
        Manifest::parse(Path::new("/t.toml"), &text).unwrap().topology()
    }

    #[test]
    fn cards_are_in_the_order_in_which_guests_find_them() {
        let found = topology(
            "[networks.backbone]\nvlan = 7\n[networks.spare]\n[machines.b]\nkernel = 'k'\nvlans = ['backbone', 1]\n\
             user-network = true\n[machines.a]\nkernel = 'k'\nnumber = 9",
        );
        let cards = |at: usize| {
            let cards = found.machines[at].cards.iter();
            cards.map(|card| {
                let Card { interface, mac, network, address } = card;
                format!("{interface} {mac} {} {address}", network.as_deref().unwrap_or("-"))
            })
        };
        assert!(cards(0).eq(["eth1 52:54:00:12:01:09 vlan1 192.168.1.9"]));
        assert!(cards(1).eq([
            "eth0 52:54:00:12:34:56 - 10.0.2.15",
            "eth1 52:54:00:12:07:02 backbone 192.168.7.2",
            "eth2 52:54:00:12:01:02 vlan1 192.168.1.2"
        ]));
        let networks = found.networks.iter().map(|network| {
            let members: Vec<_> =
                network.members.iter().map(|it| format!("{}:{}", it.machine, it.interface)).collect();
            format!("{} {} {}", network.name, network.vlan, members.join(","))
        });
        assert!(networks.eq(["vlan1 1 a:eth1,b:eth2", "spare 2 ", "backbone 7 b:eth1"]));
    }

    #[test]
    fn reports_have_it_as_plain_data() {
        let found = topology(
            "uplinks = [{ tap = 'tap0' }]\n[networks.lan]\nvlan = 1\ndescription = 'all of them'\n[machines.a]\nkernel = 'k'\nvlans = ['lan']\n\
             user-network = { restrict = true, forward-ports = [{ host-port = 2222, guest-port = 22 },
             { host-socket = '/run/web', guest-port = 80 }] }",
        );
        let expected = json!({
            "machines": [{
                "name": "a",
                "number": 1,
                "cards": [
                    { "interface": "eth0", "mac": "52:54:00:12:34:56", "network": null, "address": "10.0.2.15" },
                    { "interface": "eth1", "mac": "52:54:00:12:01:01", "network": "lan", "address": "192.168.1.1" },
                ],
                "user_network": {
                    "restrict": true,
                    "dns": null,
                    "forwards": [
                        { "from": "host", "protocol": "tcp", "host": "127.0.0.1:2222", "guest": "10.0.2.15:22" },
                        { "from": "host", "protocol": "tcp", "host": "unix:/run/web", "guest": "10.0.2.15:80" },
                    ],
                },
            }],
            "networks": [{
                "name": "lan",
                "vlan": 1,
                "description": "all of them",
                "members": [{ "machine": "a", "interface": "eth1" }],
                "uplinks": ["TAP interface tap0"],
                "user_network": null,
            }],
        });
        assert_eq!(serde_json::to_value(&found).unwrap(), expected);
    }

    #[test]
    fn a_network_may_have_the_way_to_the_host() {
        let found = topology(
            "[networks.lan]\nvlan = 3\nuser-network = { restrict = true, forward-ports = [{ guest = 'b', guest-port = 80 }] }\n\
             [machines.a]\nkernel = 'k'\nvlans = ['lan']\n[machines.b]\nkernel = 'k'\nvlans = [3]\n\
             [machines.z]\nkernel = 'k'\nnumber = 250\nvlans = [3]",
        );
        let expected = json!({
            "restrict": true,
            "dns": null,
            "forwards": [{ "from": "host", "protocol": "tcp", "host": "127.0.0.1:0", "guest": "10.0.2.16:80" }],
            "leases": [{ "machine": "a", "address": "10.0.2.15" }, { "machine": "b", "address": "10.0.2.16" }],
        });
        let lan = &found.networks[0];
        assert_eq!(serde_json::to_value(&lan.user_network).unwrap(), expected);
        assert_eq!(lan.uplinks, ["user network, restricted"]);
        assert!(found.machines.iter().all(|machine| machine.user_network.is_none()));
    }
}
