//! The user-mode network: a machine's way to the host and out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;

/// A network card whose other end is a gateway, as QEMU's `-netdev user` is: 10.0.2.0/24 with DHCP, a resolver and the
/// host's loopback at 10.0.2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserNetworkConfig {
    /// The guest gets no further than the gateway and what is forwarded: `virtualisation.restrictNetwork` of NixOS.
    pub restrict: bool,
    /// The resolver behind 10.0.2.3; without it, the first one of the host's `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<SocketAddr>,
    /// Ports that lead from one side to the other: `virtualisation.forwardPorts` of NixOS.
    pub forward_ports: Vec<PortForward>,
}

/// A port of one side that leads to a port of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Flat")]
pub struct PortForward {
    /// The side that connects.
    pub from: ForwardFrom,
    /// What is carried.
    pub protocol: ForwardProtocol,
    /// The host's end. From the host: where it listens, port 0 for a free one.
    pub host: SocketAddr,
    /// The guest's end. From the guest: what it connects to.
    pub guest: SocketAddrV4,
}

/// A forward as manifests have it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Flat {
    from: ForwardFrom,
    protocol: ForwardProtocol,
    host_address: IpAddr,
    host_port: u16,
    guest_address: Ipv4Addr,
    guest_port: u16,
}

impl From<PortForward> for Flat {
    fn from(forward: PortForward) -> Self {
        Self {
            from: forward.from,
            protocol: forward.protocol,
            host_address: forward.host.ip(),
            host_port: forward.host.port(),
            guest_address: *forward.guest.ip(),
            guest_port: forward.guest.port(),
        }
    }
}

/// Which side of a forward connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardFrom {
    /// Programs of the host reach a port of the guest's: QEMU's `hostfwd`.
    #[default]
    Host,
    /// The guest reaches a port of the host's: QEMU's `guestfwd`.
    Guest,
}

/// What a forward carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl UserNetworkConfig {
    /// The port of DNS.
    const DNS: u16 = 53;

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

impl PortForward {
    /// Where forwards from the host lead unless they say otherwise: what the guest gets by DHCP.
    pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    /// Of a port of the host's, on its loopback, that leads to one of the guest's.
    #[must_use]
    pub fn from_host(protocol: ForwardProtocol, host_port: u16, guest_port: u16) -> Self {
        Self {
            from: ForwardFrom::Host,
            protocol,
            host: (Ipv4Addr::LOCALHOST, host_port).into(),
            guest: SocketAddrV4::new(Self::GUEST, guest_port),
        }
    }

    /// # Errors
    /// When it cannot be: the text says why.
    pub fn check(self) -> Result<Self, ValueError> {
        let wrong = |why: String| Err(ValueError(why));
        let [a, b, c, last] = self.guest.ip().octets();
        if self.guest.port() == 0 {
            return wrong("a forward needs a guest port, 1 to 65535".to_owned());
        }
        if [a, b, c] != [10, 0, 2] || matches!(last, 0 | 255) {
            let address = self.guest.ip();
            return wrong(format!("the guest address {address} is not in the user network, 10.0.2.0/24"));
        }
        if self.from == ForwardFrom::Host {
            return Ok(self);
        }
        if self.protocol == ForwardProtocol::Udp {
            return wrong("forwards from the guest carry TCP only; it reaches UDP at 10.0.2.2".to_owned());
        }
        if self.host.port() == 0 {
            return wrong("a forward from the guest needs a host port, 1 to 65535".to_owned());
        }
        // 2 is the gateway, 3 the resolver, and 15 the guest itself.
        if matches!(last, 2 | 3 | 15) {
            return wrong(format!(
                "the guest address {} is taken: choose another one of 10.0.2.0/24",
                self.guest.ip()
            ));
        }
        Ok(self)
    }
}

/// QEMU's way to write a forward from the host (`hostfwd` of `-netdev user`, `hostfwd_add` of its monitor), such as
/// `tcp:127.0.0.1:8080-10.0.2.15:80`. What is left out is TCP, the host's loopback, and what the guest gets by DHCP.
impl FromStr for PortForward {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is no forward such as tcp::8080-:80"));
        let (host, guest) = text.rsplit_once('-').ok_or_else(wrong)?;
        let (protocol, host) = match host.split_once(':').ok_or_else(wrong)? {
            ("", host) => (ForwardProtocol::Tcp, host),
            (protocol, host) => (protocol.parse()?, host),
        };
        let end = |text: &str| -> Result<(Option<IpAddr>, u16), ValueError> {
            let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            let address = if bare.is_empty() { None } else { Some(bare.parse().map_err(|_| wrong())?) };
            Ok((address, port.parse().map_err(|_| wrong())?))
        };
        let ((host, host_port), (guest, guest_port)) = (end(host)?, end(guest)?);
        let mut forward = Self::from_host(protocol, host_port, guest_port);
        if let Some(host) = host {
            forward.host.set_ip(host);
        }
        match guest {
            None => {}
            Some(IpAddr::V4(guest)) => forward.guest.set_ip(guest),
            Some(IpAddr::V6(_)) => return Err(wrong()),
        }
        forward.check()
    }
}

impl FromStr for ForwardFrom {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "host" => Ok(Self::Host),
            "guest" => Ok(Self::Guest),
            _ => Err(ValueError(format!("a forward is not from `{text}`: choose host or guest"))),
        }
    }
}

impl FromStr for ForwardProtocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ValueError(format!("there is no forward of `{text}`: choose tcp or udp"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forwards_are_written_as_qemu_has_them() {
        let tcp = |host, guest| PortForward::from_host(ForwardProtocol::Tcp, host, guest);
        assert_eq!("tcp::8080-:80".parse(), Ok(tcp(8080, 80)));
        assert_eq!("::0-:80".parse(), Ok(tcp(0, 80)));
        let udp =
            PortForward { protocol: ForwardProtocol::Udp, host: "[::1]:53".parse().unwrap(), ..tcp(0, 5353) };
        assert_eq!("udp:[::1]:53-10.0.2.15:5353".parse(), Ok(udp));
        for text in [
            "",
            "tcp",
            "tcp::80",
            "8080-80",
            "tcp::x-:80",
            "sctp::1-:1",
            "tcp::1-:0",
            "tcp:h:1-:1",
            "tcp::1-[::1]:1",
            "tcp::1-192.0.2.1:1",
            "tcp::65536-:1",
        ] {
            assert!(text.parse::<PortForward>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(tcp|udp|[\\[\\]:0-9.-]|\\PC){0,12}") {
            let _ = text.parse::<PortForward>();
            let _ = UserNetworkConfig::parse_dns(&text);
        }
    }
}
