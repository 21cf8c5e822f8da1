//! A topology as tables for people.

use std::net::SocketAddr;

use snowboot_config::{
    ForwardFrom, HostEnd, Topology, TopologyForward, TopologyLease, TopologyMachine, TopologyNetwork,
    TopologyUserNetwork,
};

/// Columns that a line may take before the members of a network go on in the next one.
const WIDTH: usize = 100;
/// Between two columns.
const GAP: &str = "  ";

/// What stands in the place of a network behind cards that lead to the host.
const USER_NETWORK: &str = "user network";

/// Rows of cells. The last cell of a row may be as long as it wants.
type Rows = Vec<Vec<String>>;

/// All of it.
pub(super) fn write(test: &str, topology: &Topology) -> String {
    let (machines, networks) = (topology.machines.len(), topology.networks.len());
    let mut text = format!("{test}: {}, {}\n", counted(machines, "machine"), counted(networks, "network"));
    let cards = topology.machines.iter().flat_map(cards);
    let head = ["machine", "card", "Ethernet address", "network", "IPv4 address on NixOS"];
    section(&mut text, head.map(str::to_owned).to_vec(), cards.collect());
    if networks > 0 {
        let members = topology.networks.iter().flat_map(|network| members(network, topology));
        section(&mut text, ["network", "VLAN", "machines"].map(str::to_owned).to_vec(), members.collect());
    }
    let own = topology.machines.iter().map(|machine| (&machine.name, &machine.user_network));
    let shared = topology.networks.iter().map(|network| (&network.name, &network.user_network));
    let user_networks = own.chain(shared).filter_map(|(name, network)| Some((name, network.as_ref()?)));
    let user_networks: Rows = user_networks.flat_map(|(name, network)| user_network(name, network)).collect();
    if !user_networks.is_empty() {
        section(&mut text, [USER_NETWORK, "what it does"].map(str::to_owned).to_vec(), user_networks);
    }
    text
}

fn counted(number: usize, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// A table below an empty line, with columns as wide as what is in them.
fn section(text: &mut String, head: Vec<String>, rows: Rows) {
    text.push('\n');
    let rows: Rows = std::iter::once(head).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
        text.push('\n');
    }
}

/// A row for each card, the first of them with the machine's name.
fn cards(machine: &TopologyMachine) -> Rows {
    let mut names = std::iter::once(machine.name.clone()).chain(std::iter::repeat(String::new()));
    if machine.cards.is_empty() {
        return vec![vec![machine.name.clone(), "none".to_owned()]];
    }
    let row = |card: &snowboot_config::Card| {
        vec![
            names.next().unwrap_or_default(),
            card.interface.clone(),
            card.mac.to_string(),
            card.network.clone().unwrap_or_else(|| USER_NETWORK.to_owned()),
            card.address.to_string(),
        ]
    };
    machine.cards.iter().map(row).collect()
}

/// The machines of a network, in lines of at most [`WIDTH`] columns, below what it is for.
fn members(network: &TopologyNetwork, topology: &Topology) -> Rows {
    let names = topology.networks.iter().map(|network| network.name.chars().count());
    // The number of a VLAN has no more digits than its heading has letters.
    let before = names.max().unwrap_or_default().max("network".len()) + "VLAN".len() + 2 * GAP.len();
    let room = WIDTH.saturating_sub(before);
    let mut lines: Vec<String> = network.description.iter().cloned().collect();
    let mut line = String::new();
    for (index, member) in network.members.iter().enumerate() {
        let comma = if index + 1 < network.members.len() { "," } else { "" };
        let part = format!("{} ({}){comma}", member.machine, member.interface);
        if !line.is_empty() && line.len() + 1 + part.len() > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&part);
    }
    if !line.is_empty() {
        lines.push(line);
    } else if network.uplinks.is_empty() {
        lines.push("none".to_owned());
    }
    lines.extend(network.uplinks.iter().map(|uplink| format!("elsewhere: {uplink}")));
    let heads = [network.name.clone(), network.vlan.to_string()];
    let heads = std::iter::once(heads).chain(std::iter::repeat([String::new(), String::new()]));
    heads.zip(lines).map(|([name, vlan], line)| vec![name, vlan, line]).collect()
}

/// What the way to the host of a machine, or of a network, is like.
fn user_network(name: &str, network: &TopologyUserNetwork) -> Rows {
    let lines = std::iter::once(reach(network))
        .chain(network.leases.iter().map(lease))
        .chain(network.forwards.iter().map(forward));
    let names = std::iter::once(name.to_owned()).chain(std::iter::repeat(String::new()));
    names.zip(lines).map(|(name, line)| vec![name, line]).collect()
}

/// What DHCP gives.
pub(super) fn lease(lease: &TopologyLease) -> String {
    format!("{} gets {}", lease.machine, lease.address)
}

/// How far its guest gets.
pub(super) fn reach(network: &TopologyUserNetwork) -> String {
    let reach =
        if network.restrict { "restricted to what is forwarded" } else { "reaches what the host reaches" };
    let resolver = network.dns.map(|dns: SocketAddr| format!(", resolver {dns}")).unwrap_or_default();
    format!("{reach}{resolver}")
}

/// From who connects to who is connected to.
pub(super) fn forward(forward: &TopologyForward) -> String {
    let protocol = match forward.protocol {
        snowboot_config::ForwardProtocol::Tcp => "tcp",
        snowboot_config::ForwardProtocol::Udp => "udp",
    };
    let host = match (forward.from, &forward.host) {
        (ForwardFrom::Host, HostEnd::Address(at)) if at.port() == 0 => {
            format!("host {}, a free port", at.ip())
        }
        _ => format!("host {}", forward.host),
    };
    match forward.from {
        ForwardFrom::Host => format!("{protocol} from {host} to guest {}", forward.guest),
        ForwardFrom::Guest => format!("{protocol} from guest to {} leads to {host}", forward.guest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::{ROUTED, topology};

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let expected = "\
routed: 3 machines, 3 networks

machine   card  Ethernet address   network       IPv4 address on NixOS
client    eth0  52:54:00:12:34:56  user network  10.0.2.15
          eth1  52:54:00:12:01:01  vlan1         192.168.1.1
lonely    none
router-1  eth0  52:54:00:12:34:56  user network  10.0.2.15
          eth1  52:54:00:12:01:c8  vlan1         192.168.1.200
          eth2  52:54:00:12:07:c8  backbone      192.168.7.200

network   VLAN  machines
vlan1     1     client (eth1), router-1 (eth1)
spare     2     none
backbone  7     between the \"routers\"
                router-1 (eth2)

user network  what it does
client        restricted to what is forwarded, resolver [::1]:53
              tcp from host 127.0.0.1:2222 to guest 10.0.2.15:22
              tcp from guest to 10.0.2.100:7 leads to host 127.0.0.1:7777
router-1      reaches what the host reaches
";
        assert_eq!(write("routed", &topology(ROUTED)), expected);
    }

    #[test]
    fn a_way_to_the_host_may_be_a_networks() {
        let text = "[networks.lan]\nvlan = 3\nuser-network = { forward-ports = [{ guest = 'b', guest-port = 80, host-address = '::1' }] }\n\
                    [machines.a]\nkernel = 'k'\nvlans = ['lan']\n[machines.b]\nkernel = 'k'\nvlans = ['lan']";
        let expected = "
network  VLAN  machines
lan      3     a (eth1), b (eth1)
               elsewhere: user network

user network  what it does
lan           reaches what the host reaches
              a gets 10.0.2.15
              b gets 10.0.2.16
              tcp from host ::1, a free port to guest 10.0.2.16:80
";
        let written = write("t", &topology(text));
        assert!(written.ends_with(expected), "{written}");
    }

    #[test]
    fn one_machine_is_as_readable_as_many() {
        let one = write("t", &topology("[machines.m]\nkernel = 'k'"));
        let expected = "t: 1 machine, 1 network\n\n\
            machine  card  Ethernet address   network  IPv4 address on NixOS\n\
            m        eth1  52:54:00:12:01:01  vlan1    192.168.1.1\n\n\
            network  VLAN  machines\nvlan1    1     m (eth1)\n";
        assert_eq!(one, expected);
        let none = write("t", &topology("[machines.m]\nkernel = 'k'\nvlans = []"));
        let head = "machine  card  Ethernet address  network  IPv4 address on NixOS";
        assert_eq!(none, format!("t: 1 machine, no networks\n\n{head}\nm        none\n"));
    }

    #[test]
    fn many_members_go_on_in_the_next_line() {
        let machines: String =
            (1..=32).map(|number| format!("[machines.node-{number:02}]\nkernel = 'k'\n")).collect();
        let text = write("t", &topology(&machines));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        let members: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("vlan1")).collect();
        assert!(members.len() > 4 && members[1].starts_with("               node-"), "{text}");
        assert!(members[0].ends_with(',') && !text.trim_end().ends_with(','), "{text}");
        for number in 1..=32 {
            assert!(members.concat().contains(&format!("node-{number:02} (eth1)")), "{text}");
        }
    }
}
