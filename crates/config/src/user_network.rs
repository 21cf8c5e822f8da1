//! The user-mode network: a machine's way to the host and out, or that of all machines of a network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{PortForward, SocketForward, ValueError};

/// A network card whose other end is a gateway, as QEMU's `-netdev user` is: 10.0.2.0/24 with DHCP, a resolver and the
/// host's loopback at 10.0.2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "FlatNetwork", from = "FlatNetwork")]
pub struct UserNetworkConfig {
    /// The guest gets no further than the gateway and what is forwarded: `virtualisation.restrictNetwork` of NixOS.
    pub restrict: bool,
    /// The resolver behind 10.0.2.3; without it, the first one of the host's `/etc/resolv.conf`.
    pub dns: Option<SocketAddr>,
    /// Ports that lead from one side to the other: `virtualisation.forwardPorts` of NixOS.
    pub forward_ports: Vec<PortForward>,
    /// Unix sockets of the host's that lead to a port of the guest's, or the other way.
    pub forward_sockets: Vec<SocketForward>,
}

/// One as manifests have it: ports and sockets are one list.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FlatNetwork {
    restrict: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns: Option<SocketAddr>,
    forward_ports: Vec<AnyForward>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AnyForward {
    Port(PortForward),
    Socket(SocketForward),
}

impl From<UserNetworkConfig> for FlatNetwork {
    fn from(UserNetworkConfig { restrict, dns, forward_ports, forward_sockets }: UserNetworkConfig) -> Self {
        let ports = forward_ports.into_iter().map(AnyForward::Port);
        let sockets = forward_sockets.into_iter().map(AnyForward::Socket);
        Self { restrict, dns, forward_ports: ports.chain(sockets).collect() }
    }
}

impl From<FlatNetwork> for UserNetworkConfig {
    fn from(FlatNetwork { restrict, dns, forward_ports }: FlatNetwork) -> Self {
        let mut network = Self { restrict, dns, ..Self::default() };
        for forward in forward_ports {
            match forward {
                AnyForward::Port(port) => network.forward_ports.push(port),
                AnyForward::Socket(socket) => network.forward_sockets.push(socket),
            }
        }
        network
    }
}

impl UserNetworkConfig {
    /// The port of DNS.
    const DNS: u16 = 53;

    /// The greatest number of a machine with an address of its own where several share a user network.
    pub const MOST_NUMBERED: u8 = 200;

    /// What the machine of this number gets by DHCP where several share a user network: 10.0.2.15 for number 1, and so on up to
    /// [`Self::MOST_NUMBERED`]. Others get what is free from 10.0.2.215 on.
    #[must_use]
    pub fn shared_address(number: u8) -> Option<Ipv4Addr> {
        let [a, b, c, first] = PortForward::GUEST.octets();
        let place = number.checked_sub(1).filter(|place| *place < Self::MOST_NUMBERED)?;
        Some(Ipv4Addr::new(a, b, c, first.checked_add(place)?))
    }

    /// A resolver: an address, with a port other than 53 if it has one.
    ///
    /// # Errors
    /// When it is no such text.
    pub fn parse_dns(text: &str) -> Result<SocketAddr, ValueError> {
        let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, Self::DNS));
        address.or_else(|_| text.parse()).map_err(|_| {
            ValueError(format!(
                "`{text}` is no resolver: give an IP address such as 192.0.2.1, or 127.0.0.1:5353"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn machines_that_share_a_network_have_addresses_by_their_numbers() {
        let address = |number| UserNetworkConfig::shared_address(number).map(|it| it.to_string());
        assert_eq!(address(1).as_deref(), Some("10.0.2.15"));
        assert_eq!(address(200).as_deref(), Some("10.0.2.214"));
        assert_eq!((address(0), address(201), address(255)), (None, None, None));
    }

    proptest! {
        #[test]
        fn no_resolver_is_too_odd(text in "([\\[\\]:0-9.-]|\\PC){0,12}") {
            if let Ok(address) = UserNetworkConfig::parse_dns(&text) {
                prop_assert_eq!(UserNetworkConfig::parse_dns(&address.to_string()), Ok(address));
            }
        }
    }
}
