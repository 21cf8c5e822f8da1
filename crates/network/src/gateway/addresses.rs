//! The gateway's addresses, as QEMU's user network (slirp) has them, and where a guest's packets may go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Config;

/// The gateway's Ethernet address: that of slirp, whose last four bytes are its IPv4 address.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
/// The gateway, and the host's loopback services.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The host's resolver.
pub const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// What the first guest gets by DHCP, and where host forwards go unless they say otherwise.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The mask of the network, a /24.
pub(super) const MASK_V4: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// The gateway, and the host's loopback services, over IPv6. The network is a /64.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
/// The host's resolver over IPv6.
pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3);
/// The gateway's link-local address, which it advertises itself as a router from.
pub(super) const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// The port of DNS: the only one that the resolver's address has.
const DNS: u16 = 53;

/// Where the host's side is to send something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address of the host or beyond.
    Address(SocketAddr),
    /// Whatever resolver the host uses.
    Resolver,
    /// A socket of the host's without an address, by the number that a [`GuestForward`](super::GuestForward) has for it.
    Socket(usize),
}

/// Transport protocols that are carried to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Whether the gateway itself has `address`.
pub(super) fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == GATEWAY_V4 || address == RESOLVER_V4,
        IpAddr::V6(address) => [GATEWAY_V6, RESOLVER_V6, ROUTER_V6].contains(&address),
    }
}

/// Whether the gateway says that it has `address`: its own ones, and those that lead to the host.
pub(super) fn answers(config: &Config, address: IpAddr) -> bool {
    is_own(address) || config.guest_forwards.iter().any(|forward| forward.guest.ip() == address)
}

/// Whether a guest can be at `address`: in the network, and not the gateway's.
pub(super) fn is_guest(address: IpAddr) -> bool {
    let inside = match address {
        IpAddr::V4(address) => is_inside_v4(address) && !matches!(address.octets()[3], 0 | 255),
        IpAddr::V6(address) => is_inside_v6(address) || address.is_unicast_link_local(),
    };
    inside && !is_own(address)
}

fn is_inside_v4(address: Ipv4Addr) -> bool {
    address & MASK_V4 == GATEWAY_V4 & MASK_V4
}

fn is_inside_v6(address: Ipv6Addr) -> bool {
    address.segments()[..4] == GATEWAY_V6.segments()[..4]
}

/// Whether an address beyond the network is one host's, and not one that means something else to each host.
fn is_beyond(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let special = v4.is_loopback() || v4.is_multicast() || v4.is_link_local() || v4.octets()[0] == 0;
            !special && v4.octets()[0] < 240 && !is_inside_v4(v4)
        }
        IpAddr::V6(v6) => {
            let special = v6.is_loopback() || v6.is_multicast() || v6.is_unspecified();
            // The IPv4-mapped ones would be a way around the rules for IPv4.
            !special && !v6.is_unicast_link_local() && v6.to_ipv4().is_none() && !is_inside_v6(v6)
        }
    }
}

/// Where the host's side is to take what a guest sends to `to`; `None` when it must not.
pub(super) fn target(config: &Config, protocol: Protocol, to: SocketAddr) -> Option<Target> {
    let forward = config.guest_forwards.iter().find(|forward| forward.guest == to);
    if let (Protocol::Tcp, Some(forward)) = (protocol, forward) {
        return Some(forward.host);
    }
    if config.restrict || to.port() == 0 {
        return None;
    }
    let address = match to.ip() {
        IpAddr::V4(GATEWAY_V4) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(GATEWAY_V6) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(RESOLVER_V4) | IpAddr::V6(RESOLVER_V6) => {
            return (to.port() == DNS).then_some(Target::Resolver);
        }
        beyond if is_beyond(beyond) => beyond,
        _ => return None,
    };
    Some(Target::Address(SocketAddr::new(address, to.port())))
}

/// Where pings of `to` go; `None` when nowhere. The gateway's own addresses never come here.
pub(super) fn ping_target(config: &Config, to: IpAddr) -> Option<IpAddr> {
    (!config.restrict && is_beyond(to)).then_some(to)
}

/// What guests see of an address of the host's side: its loopback is the gateway.
pub(super) fn as_seen(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_unspecified() => GATEWAY_V4.into(),
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => GATEWAY_V6.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// What the guest at `guest` sees of who comes through a forward: an address that its answers find the way to. The gateway stands
/// for those of the other IP, and for those that the guest would look for in its own network.
pub(super) fn as_seen_by_guest(peer: SocketAddr, guest: IpAddr) -> SocketAddr {
    let seen = as_seen(peer);
    let gateway = if guest.is_ipv4() { IpAddr::from(GATEWAY_V4) } else { GATEWAY_V6.into() };
    let reachable = seen.is_ipv4() == guest.is_ipv4() && is_beyond(seen.ip());
    SocketAddr::new(if reachable { seen.ip() } else { gateway }, seen.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::GuestForward;

    fn to(text: &str, config: &Config) -> Option<Target> {
        target(config, Protocol::Tcp, text.parse().unwrap())
    }

    fn address(text: &str) -> Option<Target> {
        Some(Target::Address(text.parse().unwrap()))
    }

    #[test]
    fn the_gateway_is_the_hosts_loopback_and_the_resolver_only_resolves() {
        let config = Config::default();
        assert_eq!(to("10.0.2.2:80", &config), address("127.0.0.1:80"));
        assert_eq!(to("[fec0::2]:80", &config), address("[::1]:80"));
        assert_eq!(to("10.0.2.3:53", &config), Some(Target::Resolver));
        assert_eq!(to("[fec0::3]:53", &config), Some(Target::Resolver));
        assert_eq!(to("10.0.2.3:80", &config), None);
        assert_eq!(to("192.0.2.1:443", &config), address("192.0.2.1:443"));
        assert_eq!(to("[2001:db8::1]:443", &config), address("[2001:db8::1]:443"));
    }

    #[test]
    fn addresses_that_mean_another_thing_to_the_host_are_not_reached() {
        for text in [
            "127.0.0.1:80",
            "0.0.0.0:80",
            "10.0.2.99:80",
            "169.254.169.254:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "192.0.2.1:0",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[fec0::99]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(to(text, &Config::default()), None, "{text}");
        }
    }

    #[test]
    fn restricted_guests_reach_what_they_were_given() {
        let guest = "10.0.2.100:7".parse().unwrap();
        let host = Target::Address("127.0.0.1:7777".parse().unwrap());
        let config = Config {
            restrict: true,
            guest_forwards: vec![GuestForward { guest, host }],
            ..Config::default()
        };
        assert_eq!(to("10.0.2.100:7", &config), address("127.0.0.1:7777"));
        for text in ["10.0.2.2:80", "10.0.2.3:53", "192.0.2.1:1", "10.0.2.100:8"] {
            assert_eq!(to(text, &config), None, "{text}");
        }
        assert_eq!(target(&config, Protocol::Udp, guest), None);
        assert_eq!(ping_target(&config, "192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn a_guest_sees_the_hosts_loopback_as_the_gateway() {
        for (host, seen) in [
            ("127.0.0.1:5", "10.0.2.2:5"),
            ("127.8.8.8:5", "10.0.2.2:5"),
            ("[::1]:5", "[fec0::2]:5"),
            ("[::ffff:127.0.0.1]:5", "10.0.2.2:5"),
            ("192.0.2.7:5", "192.0.2.7:5"),
        ] {
            assert_eq!(as_seen(host.parse().unwrap()), seen.parse().unwrap(), "{host}");
        }
    }

    #[test]
    fn who_comes_through_a_forward_is_seen_where_answers_reach_him() {
        for (peer, guest, seen) in [
            ("192.0.2.7:5", "10.0.2.15", "192.0.2.7:5"),
            ("[2001:db8::7]:5", "fec0::15", "[2001:db8::7]:5"),
            ("[2001:db8::7]:5", "10.0.2.15", "10.0.2.2:5"),
            ("192.0.2.7:5", "fec0::15", "[fec0::2]:5"),
            ("[::1]:5", "10.0.2.15", "10.0.2.2:5"),
            ("127.0.0.1:5", "fec0::15", "[fec0::2]:5"),
            // The host may be in networks that are numbered alike.
            ("10.0.2.77:5", "10.0.2.15", "10.0.2.2:5"),
            ("[fec0::77]:5", "fec0::15", "[fec0::2]:5"),
            ("[fe80::7]:5", "fec0::15", "[fec0::2]:5"),
        ] {
            let found = as_seen_by_guest(peer.parse().unwrap(), guest.parse().unwrap());
            assert_eq!(found, seen.parse().unwrap(), "{peer} to {guest}");
        }
    }
}
