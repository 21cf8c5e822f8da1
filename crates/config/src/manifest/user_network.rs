//! The user-mode network of a machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use super::table::Table;
use super::tree::{Fault, Value};
use crate::{ForwardFrom, PortForward, SocketForward, UserNetworkConfig, ValueError};

/// Whose network it is, and so whom its forwards can lead to.
#[derive(Debug)]
pub(super) enum Guests {
    /// One machine's.
    One,
    /// All machines of a network, by name, with what each of them gets by DHCP.
    Several(BTreeMap<String, Option<Ipv4Addr>>),
}

const KEYS: &[&str] = &["restrict", "dns", "forward-ports"];
const FORWARD_KEYS: &[&str] =
    &["from", "protocol", "host-address", "host-port", "host-socket", "guest-address", "guest-port", "guest"];

/// `true`, or a table of what it is to be like. Paths begin at `folder`.
pub(super) fn read(
    table: &Table<'_>,
    of: &str,
    folder: &Path,
    guests: &Guests,
) -> Result<Option<UserNetworkConfig>, Fault> {
    let Some(node) = table.get("user-network") else { return Ok(None) };
    match &node.value {
        Value::Boolean(wanted) => return Ok(wanted.then(UserNetworkConfig::default)),
        Value::Table(_) => {}
        other => {
            let message = format!("expected true, false or a table, found {}", other.kind());
            return Err(table.wrong("user-network", &message));
        }
    }
    let table = Table::read(node, &format!("the user network of {of}"), KEYS)?;
    let dns = table.text("dns")?.map(UserNetworkConfig::parse_dns).transpose();
    let mut network = UserNetworkConfig {
        restrict: table.boolean("restrict")?.unwrap_or(false),
        dns: dns.map_err(|error| table.wrong("dns", &error.to_string()))?,
        ..UserNetworkConfig::default()
    };
    let forwards = table.list("forward-ports")?.unwrap_or_default().iter().zip(1..);
    for (node, number) in forwards {
        let number: u32 = number;
        let table =
            Table::read(node, &format!("forward {number} of the user network of {of}"), FORWARD_KEYS)?;
        match table.text("host-socket")? {
            None => network.forward_ports.push(port_forward(&table, guests)?),
            Some(path) => network.forward_sockets.push(socket_forward(&table, path, folder, guests)?),
        }
    }
    Ok(Some(network))
}

fn port_forward(table: &Table<'_>, guests: &Guests) -> Result<PortForward, Fault> {
    let host: IpAddr = address(table, "host-address")?.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let (from, guest) = guest_end(table, guests)?;
    let forward = PortForward {
        from,
        protocol: parsed(table, "protocol")?.unwrap_or_default(),
        host: SocketAddr::new(host, port(table, "host-port")?),
        guest,
    };
    forward.check().map_err(|error| table.fault(&error.to_string()))
}

/// A path with variables is left for the run to find, as those of shares are.
fn socket_forward(
    table: &Table<'_>,
    path: &str,
    folder: &Path,
    guests: &Guests,
) -> Result<SocketForward, Fault> {
    if let Some(key) =
        ["protocol", "host-address", "host-port"].into_iter().find(|key| table.get(key).is_some())
    {
        return Err(
            table.wrong(key, "a forward with `host-socket` has none: it carries TCP to or from that socket")
        );
    }
    let (from, guest) = guest_end(table, guests)?;
    let host = if path.is_empty() || path.contains(['$', '"']) { path.into() } else { folder.join(path) };
    SocketForward { from, host, guest }.check().map_err(|error| table.fault(&error.to_string()))
}

fn guest_end(table: &Table<'_>, guests: &Guests) -> Result<(ForwardFrom, SocketAddr), Fault> {
    let from: ForwardFrom = parsed(table, "from")?.unwrap_or_default();
    let given: Option<IpAddr> = address(table, "guest-address")?;
    let named = named_guest(table, guests, from)?.map(IpAddr::V4);
    if given.is_some() && named.is_some() {
        return Err(table.wrong("guest-address", "`guest` is given too: keep one of the two"));
    }
    let guest = match (given.or(named), from, guests) {
        (Some(address), ..) => address,
        (None, ForwardFrom::Host, Guests::One) => PortForward::GUEST.into(),
        (None, ForwardFrom::Host, Guests::Several(_)) => {
            let message = "which machine it leads to is missing: give `guest`, its name, or `guest-address`";
            return Err(table.fault(message));
        }
        (None, ForwardFrom::Guest, _) => {
            return Err(table.fault("`guest-address`, what the guest is to connect to, is missing"));
        }
    };
    if let (ForwardFrom::Guest, Guests::Several(machines)) = (from, guests)
        && let Some((machine, _)) = machines.iter().find(|(_, of)| of.map(IpAddr::V4) == Some(guest))
    {
        let message = format!("{guest} is what `{machine}` has: choose another one of 10.0.2.0/24");
        return Err(table.wrong("guest-address", &message));
    }
    Ok((from, SocketAddr::new(guest, port(table, "guest-port")?)))
}

/// The address of the machine that a forward names.
fn named_guest(table: &Table<'_>, guests: &Guests, from: ForwardFrom) -> Result<Option<Ipv4Addr>, Fault> {
    let Some(name) = table.text("guest")? else { return Ok(None) };
    let wrong = |message: String| Err(table.wrong("guest", &message));
    let Guests::Several(machines) = guests else {
        return wrong("only forwards of a network's user network name a machine: leave it out".to_owned());
    };
    if from == ForwardFrom::Guest {
        return wrong("what the guest is to connect to is no machine: give `guest-address`".to_owned());
    }
    match machines.get(name) {
        Some(Some(address)) => Ok(Some(*address)),
        Some(None) => {
            let most = UserNetworkConfig::MOST_NUMBERED;
            wrong(format!(
                "`{name}` has a number above {most} and no address of its own: give `guest-address`"
            ))
        }
        None => {
            let names: Vec<&str> = machines.keys().map(String::as_str).collect();
            wrong(format!("no machine `{name}` is on this network; there are {}", names.join(", ")))
        }
    }
}

fn parsed<T: FromStr<Err = ValueError>>(table: &Table<'_>, key: &str) -> Result<Option<T>, Fault> {
    let word = table.text(key)?.map(str::parse).transpose();
    word.map_err(|error: ValueError| table.wrong(key, &error.to_string()))
}

/// NixOS writes an empty text where there is no address.
fn address<T: FromStr>(table: &Table<'_>, key: &str) -> Result<Option<T>, Fault> {
    let Some(text) = table.text(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = |_| table.wrong(key, &format!("`{text}` is no address that fits here"));
    text.parse().map(Some).map_err(wrong)
}

fn port(table: &Table<'_>, key: &str) -> Result<u16, Fault> {
    Ok(table.number(key, 0, u16::MAX.into())?.and_then(|port| u16::try_from(port).ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{ForwardProtocol, NodeConfig};

    fn network(text: &str) -> Result<Option<UserNetworkConfig>, String> {
        let text = format!("kernel = 'k'\n{text}");
        let node = NodeConfig::parse("m", Path::new("/t/m.toml"), &text);
        node.map(|node| node.user_network).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_none_unless_it_is_asked_for() {
        assert_eq!(network("").unwrap(), None);
        assert_eq!(network("user-network = false").unwrap(), None);
        assert_eq!(network("user-network = true").unwrap(), Some(UserNetworkConfig::default()));
        assert_eq!(network("user-network = {}").unwrap(), Some(UserNetworkConfig::default()));
    }

    #[test]
    fn forwards_have_the_defaults_of_nixos_but_listen_on_the_loopback() {
        let text = "user-network = { restrict = true, dns = '::1', forward-ports = [{ guest-port = 80 }, \
                    { protocol = 'udp', host-address = '0.0.0.0', host-port = 53, guest-address = '10.0.2.20', guest-port = 5353 }, \
                    { from = 'guest', host-address = '', host-port = 7, guest-address = '10.0.2.10', guest-port = 8 }] }";
        let network = network(text).unwrap().unwrap();
        assert_eq!((network.restrict, network.dns), (true, Some("[::1]:53".parse().unwrap())));
        let [first, second, third] = network.forward_ports.as_slice() else { panic!("{network:?}") };
        assert_eq!(*first, PortForward::from_host(ForwardProtocol::Tcp, 0, 80));
        assert_eq!((second.protocol, second.host), (ForwardProtocol::Udp, "0.0.0.0:53".parse().unwrap()));
        assert_eq!(second.guest, "10.0.2.20:5353".parse().unwrap());
        assert_eq!((third.from, third.host), (ForwardFrom::Guest, "127.0.0.1:7".parse().unwrap()));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = "kernel = 'k'\nuser-network = { restrict = true, dns = '::1', forward-ports = [{ guest-port = 80 }] }";
        let node = NodeConfig::parse("m", Path::new("/t/m.toml"), text).unwrap();
        let written = serde_json::to_value(&node.user_network).unwrap();
        let text = format!("{{ \"kernel\": \"k\", \"user-network\": {written} }}");
        let again = NodeConfig::parse("m", Path::new("/t/m.json"), &text).unwrap();
        assert_eq!(again.user_network, node.user_network);
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        for (text, part) in [
            ("user-network = 'on'", "expected true, false or a table, found a text"),
            ("user-network = { restricted = true }", "did you mean `restrict`"),
            ("user-network = { dns = 'localhost' }", "`localhost` is no resolver"),
            ("user-network = { forward-ports = [{}] }", "a forward needs a guest port"),
            (
                "user-network = { forward-ports = [{ guest-port = 70000 }] }",
                "out of range: choose 0 to 65535",
            ),
            (
                "user-network = { forward-ports = [{ guest-port = 1, protocol = 'sctp' }] }",
                "no forward of `sctp`",
            ),
            (
                "user-network = { forward-ports = [{ guest-port = 1, guest-address = '192.0.2.1' }] }",
                "not in the user network",
            ),
            (
                "user-network = { forward-ports = [{ guest-port = 1, from = 'guest', host-port = 1 }] }",
                "`guest-address`, what the guest is to connect to, is missing",
            ),
            (
                "user-network = { forward-ports = [{ guest-port = 1, from = 'guest', guest-address = '10.0.2.9' }] }",
                "needs a host port",
            ),
            (
                "user-network = { forward-ports = [{ guest-port = 1, from = 'guest', guest-address = '10.0.2.3', host-port = 1 }] }",
                "10.0.2.3 is taken",
            ),
            (
                "user-network = { forward-ports = [{ guest-port = 1, host-address = 'localhost' }] }",
                "`localhost` is no address",
            ),
        ] {
            let error = network(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn sockets_are_forwarded_too() {
        let text = r#"user-network = { forward-ports = [
            { host-socket = "run/web", guest-port = 80 },
            { from = "guest", host-socket = "$TMPDIR/service", guest-address = "10.0.2.100", guest-port = 7 },
            { host-port = 8080, guest-port = 80 } ] }"#;
        let found = network(text).unwrap().unwrap();
        assert_eq!(found.forward_ports.len(), 1);
        let [web, service] = found.forward_sockets.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (web.host.as_path(), web.guest),
            (Path::new("/t/run/web"), "10.0.2.15:80".parse().unwrap())
        );
        assert!(service.has_variables() && service.from == ForwardFrom::Guest);
        // What was read is written so that it can be read again.
        let json = serde_json::json!({ "kernel": "k", "user-network": found }).to_string();
        let node = NodeConfig::parse("m", Path::new("/t/m.json"), &json).unwrap();
        assert_eq!(node.user_network, Some(found.clone()));
        for (forward, part) in [
            ("host-socket = '/s'", "needs a guest port"),
            ("host-socket = '', guest-port = 1", "needs the socket's path"),
            ("host-socket = '/s', guest-port = 1, host-port = 2", "a forward with `host-socket` has none"),
            ("host-socket = '/s', guest-port = 1, protocol = 'udp'", "a forward with `host-socket` has none"),
            ("from = 'guest', host-socket = '/s', guest-port = 1", "`guest-address`"),
        ] {
            let error =
                network(&format!("user-network = {{ forward-ports = [{{ {forward} }}] }}")).unwrap_err();
            assert!(error.contains(part), "{forward}: {error}");
        }
    }
}
