//! Ports of a test's networks that lead to elsewhere.

use std::path::Path;

use super::table::Table;
use super::tree::{Fault, Node, Value};
use super::{Manifest, networks};
use crate::{InterfaceName, NamedNetworks, UplinkConfig, UplinkKind, ValueError, VxlanConfig};

const KINDS: &[&str] = &["tap", "vde", "vxlan", "vhost-user"];
const KEYS: &[&str] = &["network", "tap", "vde", "vxlan", "vhost-user"];
const VXLAN_KEYS: &[&str] = &["vni", "local", "peers"];

pub(super) fn read(
    table: &Table<'_>,
    folder: &Path,
    networks: &NamedNetworks,
) -> Result<Vec<UplinkConfig>, Fault> {
    let items = table.list("uplinks")?.unwrap_or_default();
    let uplink = |(index, item): (usize, &Node)| {
        let of = format!("uplink {}", index + 1);
        let table = Table::read(item, &of, KEYS)?;
        Ok(UplinkConfig { network: network(&table, networks)?, leads_to: kind(&table, &of, folder)? })
    };
    items.iter().enumerate().map(uplink).collect()
}

fn network(table: &Table<'_>, networks: &NamedNetworks) -> Result<u8, Fault> {
    match table.get("network") {
        Some(node) => networks::vlan(node, networks).map_err(|why| table.wrong("network", &why)),
        None => Ok(Manifest::DEFAULT_VLANS.first().copied().unwrap_or_default()),
    }
}

fn kind(table: &Table<'_>, of: &str, folder: &Path) -> Result<UplinkKind, Fault> {
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
            ("{ network = 1 }", "where it leads is missing: give one of tap, vde, vxlan, vhost-user"),
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
