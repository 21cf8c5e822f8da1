//! Ports of a test's networks that lead to elsewhere.

use std::collections::BTreeSet;
use std::path::Path;

use super::table::Table;
use super::tree::{Fault, Node, Value};
use super::user_network::{self, Guests};
use super::{Manifest, networks};
use crate::{
    InterfaceName, NamedNetworks, NodeConfig, UplinkConfig, UplinkKind, UserNetworkConfig, ValueError,
    VxlanConfig,
};

const KINDS: &[&str] = &["tap", "vde", "vxlan", "vhost-user", "user-network"];
const KEYS: &[&str] = &["network", "tap", "vde", "vxlan", "vhost-user", "user-network"];
const VXLAN_KEYS: &[&str] = &["vni", "local", "peers"];

/// The machines of a test, with number and name.
pub(super) type Machines<'a> = [(u8, &'a str, &'a NodeConfig)];

/// Reads the `uplinks` of a manifest, and the user networks that named networks have.
pub(super) fn read(
    table: &Table<'_>,
    folder: &Path,
    networks: &NamedNetworks,
    machines: &Machines<'_>,
) -> Result<Vec<UplinkConfig>, Fault> {
    let mut uplinks = of_networks(table, folder, networks, machines)?;
    let mut gateways: BTreeSet<u8> = uplinks.iter().map(|uplink| uplink.network).collect();
    for (item, number) in table.list("uplinks")?.unwrap_or_default().iter().zip(1..) {
        let number: u32 = number;
        let of = format!("uplink {number}");
        let table = Table::read(item, &of, KEYS)?;
        let network = network(&table, networks)?;
        let leads_to = kind(&table, &of, folder, &guests(network, machines))?;
        if matches!(leads_to, UplinkKind::UserNetwork(_)) && !gateways.insert(network) {
            return Err(table.wrong("user-network", "its network has one already: keep one of the two"));
        }
        uplinks.push(UplinkConfig { network, leads_to });
    }
    Ok(uplinks)
}

/// Those that are a key of the network itself.
fn of_networks(
    table: &Table<'_>,
    folder: &Path,
    networks: &NamedNetworks,
    machines: &Machines<'_>,
) -> Result<Vec<UplinkConfig>, Fault> {
    let mut uplinks = Vec::new();
    for entry in table.names("networks")?.unwrap_or_default() {
        let Some(network) = networks.get(&entry.key).map(|network| network.vlan) else { continue };
        let of = format!("network `{}`", entry.key.escape_debug());
        let table = Table::read(&entry.node, &of, networks::KEYS)?;
        let config = user_network::read(&table, &of, folder, &guests(network, machines))?;
        let leads_to = config.map(UplinkKind::UserNetwork);
        uplinks.extend(leads_to.map(|leads_to| UplinkConfig { network, leads_to }));
    }
    Ok(uplinks)
}

/// The machines that are on a network, with what they get by DHCP of a gateway there.
fn guests(network: u8, machines: &Machines<'_>) -> Guests {
    let here = machines.iter().filter(|(_, _, node)| node.vlans.contains(&network));
    let guests =
        here.map(|(number, name, _)| ((*name).to_owned(), UserNetworkConfig::shared_address(*number)));
    Guests::Several(guests.collect())
}

fn network(table: &Table<'_>, networks: &NamedNetworks) -> Result<u8, Fault> {
    match table.get("network") {
        Some(node) => networks::vlan(node, networks).map_err(|why| table.wrong("network", &why)),
        None => Ok(Manifest::DEFAULT_VLANS.first().copied().unwrap_or_default()),
    }
}

fn kind(table: &Table<'_>, of: &str, folder: &Path, guests: &Guests) -> Result<UplinkKind, Fault> {
    let given: Vec<&str> = KINDS.iter().copied().filter(|key| table.get(key).is_some()).collect();
    let kind = match given.as_slice() {
        [kind] => *kind,
        [first, second, ..] => {
            let message = format!("`{first}` is given too: an uplink leads to one place");
            return Err(table.wrong(second, &message));
        }
        [] => {
            let message = format!("where it leads is missing: give one of {}", KINDS.join(", "));
            return Err(table.fault(&message));
        }
    };
    let path = |key| table.path(key, folder).map(Option::unwrap_or_default);
    match kind {
        "tap" => Ok(UplinkKind::Tap(interface(table)?)),
        "vde" => path("vde").map(UplinkKind::Vde),
        "vhost-user" => path("vhost-user").map(UplinkKind::VhostUser),
        "user-network" => match user_network::read(table, of, folder, guests)? {
            Some(config) => Ok(UplinkKind::UserNetwork(config)),
            None => Err(table.wrong("user-network", "an uplink without one leads nowhere: leave it out")),
        },
        _ => vxlan(table, of).map(UplinkKind::Vxlan),
    }
}

fn interface(table: &Table<'_>) -> Result<InterfaceName, Fault> {
    let name = table.text("tap")?.unwrap_or_default();
    name.parse().map_err(|error: ValueError| table.wrong("tap", &error.to_string()))
}

fn vxlan(table: &Table<'_>, of: &str) -> Result<VxlanConfig, Fault> {
    let Some(node) = table.get("vxlan") else { return Err(table.fault("`vxlan` is missing")) };
    let vxlan = Table::read(node, &format!("the VXLAN of {of}"), VXLAN_KEYS)?;
    let missing = |key: &str| vxlan.fault(&format!("`{key}` is missing"));
    let vni = vxlan.number("vni", 0, VxlanConfig::MAX_VNI.into())?.ok_or_else(|| missing("vni"))?;
    let wrong = |key: &'static str| {
        let vxlan = &vxlan;
        move |error: ValueError| vxlan.wrong(key, &error.to_string())
    };
    let local = vxlan.text("local")?.ok_or_else(|| missing("local"))?;
    let local = VxlanConfig::parse_address(local).map_err(wrong("local"))?;
    let peers = vxlan.list("peers")?.ok_or_else(|| missing("peers"))?;
    let peer = |item: &Node| match &item.value {
        Value::Text(text) => VxlanConfig::parse_address(text).map_err(wrong("peers")),
        other => Err(vxlan.wrong("peers", &format!("expected addresses, found {}", other.kind()))),
    };
    let peers = peers.iter().map(peer).collect::<Result<_, _>>()?;
    VxlanConfig::new(u32::try_from(vni).unwrap_or(u32::MAX), local, peers).map_err(wrong("peers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplinks(text: &str) -> Result<Vec<UplinkConfig>, String> {
        let text = format!("name = 't'\ntest-script = ''\nuplinks = [{text}]\n[machines.m]\nkernel = 'k'\n");
        let manifest = Manifest::parse(Path::new("/t/m.toml"), &text);
        manifest.map(|manifest| manifest.uplinks).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_is_read_and_written_again() {
        let found = uplinks(
            "{ tap = 'tap0' }, { network = 7, vde = 'vde.ctl' }, { vhost-user = '/run/net' }, \
             { network = 0, vxlan = { vni = 42, local = '192.0.2.1', peers = ['192.0.2.2', '192.0.2.3:8472'] } }",
        )
        .unwrap();
        let [tap, vde, vhost_user, vxlan] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((tap.network, &tap.leads_to), (1, &UplinkKind::Tap("tap0".parse().unwrap())));
        assert_eq!((vde.network, &vde.leads_to), (7, &UplinkKind::Vde("/t/vde.ctl".into())));
        assert_eq!(vhost_user.leads_to, UplinkKind::VhostUser("/run/net".into()));
        let UplinkKind::Vxlan(config) = &vxlan.leads_to else { panic!("{vxlan:?}") };
        assert_eq!((vxlan.network, config.vni(), config.local()), (0, 42, "192.0.2.1:4789".parse().unwrap()));
        assert_eq!(config.peers(), ["192.0.2.2:4789".parse().unwrap(), "192.0.2.3:8472".parse().unwrap()]);
        for uplink in &found {
            let text = serde_json::to_string(uplink).unwrap();
            assert_eq!(serde_json::from_str::<UplinkConfig>(&text).unwrap(), *uplink, "{text}");
        }
    }

    /// Machines `a`, `b` and, with number 250, `z`: the first two on `lan`, VLAN 3.
    fn with_lan(networks: &str, uplinks: &str) -> Result<Manifest, String> {
        let text = format!(
            "name = 't'\ntest-script = ''\nuplinks = [{uplinks}]\n[networks.lan]\nvlan = 3\n{networks}\n\
             [machines.a]\nkernel = 'k'\nvlans = ['lan']\n[machines.b]\nkernel = 'k'\nvlans = [1, 'lan']\n\
             [machines.z]\nkernel = 'k'\nnumber = 250\nvlans = ['lan']\n[machines.other]\nkernel = 'k'\n"
        );
        Manifest::parse(Path::new("/t/m.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn machines_of_a_network_can_share_a_user_network() {
        let config = "{ restrict = true, forward-ports = [{ guest = 'b', guest-port = 22 }, \
             { guest-address = 'fec0::15', guest-port = 80, host-address = '::1' }, \
             { from = 'guest', guest-address = '10.0.2.100', guest-port = 7, host-socket = 's' }] }";
        let by_network = with_lan(&format!("user-network = {config}"), "").unwrap();
        let by_uplink = with_lan("", &format!("{{ network = 'lan', user-network = {config} }}")).unwrap();
        assert_eq!(by_network, by_uplink);
        let [UplinkConfig { network: 3, leads_to: UplinkKind::UserNetwork(found) }] =
            by_network.uplinks.as_slice()
        else {
            panic!("{by_network:?}")
        };
        let guests: Vec<String> = found.forward_ports.iter().map(|it| it.guest.to_string()).collect();
        assert_eq!(guests, ["10.0.2.16:22", "[fec0::15]:80"]);
        assert_eq!((found.restrict, found.forward_sockets[0].host.as_path()), (true, Path::new("/t/s")));
        // What was read is written so that it can be read again.
        let json = serde_json::to_string(&by_network).unwrap();
        assert_eq!(Manifest::parse(Path::new("/t/m.json"), &json).unwrap(), by_network);
        let one: UplinkConfig =
            serde_json::from_value(serde_json::to_value(&by_network.uplinks[0]).unwrap()).unwrap();
        assert_eq!(one, by_network.uplinks[0]);
        assert!(with_lan("user-network = false", "").unwrap().uplinks.is_empty());
        let numbered = with_lan("", "{ user-network = true }").unwrap();
        assert_eq!(numbered.uplinks[0].network, 1);
    }

    #[test]
    fn what_a_shared_user_network_cannot_be_is_said() {
        let forward = |keys: &str| format!("user-network = {{ forward-ports = [{{ {keys} }}] }}");
        for (network, uplinks, part) in [
            ("user-network = true", "{ network = 3, user-network = true }", "its network has one already"),
            ("", "{ user-network = false }", "an uplink without one leads nowhere"),
            ("user-network = 7", "", "expected true, false or a table"),
            (&forward("guest-port = 80"), "", "which machine it leads to is missing: give `guest`"),
            (
                &forward("guest-port = 80, guest = 'other'"),
                "",
                "no machine `other` is on this network; there are a, b, z",
            ),
            (&forward("guest-port = 80, guest = 'z'"), "", "a number above 200"),
            (
                &forward("guest-port = 80, guest = 'a', guest-address = '10.0.2.15'"),
                "",
                "`guest-address` of forward 1 of the user network of network `lan`: `guest` is given too",
            ),
            (
                &forward("guest-port = 80, guest = 'a', from = 'guest', host-port = 1"),
                "",
                "what the guest is to connect to is no machine",
            ),
            (
                &forward("guest-port = 80, guest-address = '10.0.2.16', from = 'guest', host-port = 1"),
                "",
                "10.0.2.16 is what `b` has",
            ),
        ] {
            let error = with_lan(network, uplinks).unwrap_err();
            assert!(error.contains(part), "{network} {uplinks}: {error}");
        }
    }

    #[test]
    fn networks_may_be_given_by_name_and_keep_their_numbers() {
        let text = "name = 't'\ntest-script = ''\nuplinks = [{ tap = 'a', network = 'lan' }, { tap = 'b', network = 2 }]\n\
                    [networks.lan]\n[networks.wan]\n[machines.m]\nkernel = 'k'\n";
        let manifest = Manifest::parse(Path::new("/t/m.toml"), text).unwrap();
        // 1 is the machine's.
        let numbers: Vec<u8> = manifest.networks.values().map(|network| network.vlan).collect();
        assert_eq!(numbers, [3, 4]);
        assert!(manifest.uplinks.iter().map(|uplink| uplink.network).eq([3, 2]));
    }

    #[test]
    fn what_is_wrong_with_them_is_said() {
        for (text, part) in [
            (
                "{ network = 1 }",
                "where it leads is missing: give one of tap, vde, vxlan, vhost-user, user-network",
            ),
            ("{ tap = 'a', vde = 'b' }", "`vde` of uplink 1: `tap` is given too"),
            ("{ tap = 'a', network = 256 }", "choose 0 to 255"),
            ("{ tap = 'a', network = 'lan' }", "no network is called `lan`"),
            ("{ tap = 'a-name-too-long-for-it' }", "`tap` of uplink 1: Interface name"),
            ("{ vde = '' }", "expected a path"),
            ("{ taps = 'a' }", "did you mean `tap`?"),
            ("{ vxlan = { vni = 42, local = '192.0.2.1' } }", "`peers` is missing of the VXLAN of uplink 1"),
            ("{ vxlan = { local = '192.0.2.1', peers = [] } }", "`vni` is missing"),
            ("{ vxlan = { vni = 16777216, local = '::1', peers = [] } }", "choose 0 to 16777215"),
            (
                "{ vxlan = { vni = 1, local = 'x', peers = [] } }",
                "`local` of the VXLAN of uplink 1: `x` is no",
            ),
            ("{ vxlan = { vni = 1, local = '::1', peers = [1] } }", "expected addresses, found a number"),
            ("{ vxlan = { vni = 1, local = '::1', peers = ['192.0.2.1'] } }", "both of IPv6"),
        ] {
            let error = uplinks(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
