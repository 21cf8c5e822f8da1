//! The user-mode network: a machine's way to the host and out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;
use crate::share::has_variables;

/// A network card whose other end is a gateway, as QEMU's `-netdev user` is: 10.0.2.0/24 with DHCP, a resolver and the
/// host's loopback at 10.0.2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "FlatNetwork")]
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
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FlatNetwork {
    restrict: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<SocketAddr>,
    forward_ports: Vec<AnyForward>,
}

#[derive(Serialize)]
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

/// A Unix socket of the host's (`SOCK_STREAM`) and a TCP port of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "FlatSocket")]
pub struct SocketForward {
    /// The side that connects.
    pub from: ForwardFrom,
    /// The socket. From the host: it is made. From the guest: somebody listens there by the time that the guest connects.
    pub host: PathBuf,
    /// The guest's end. From the guest: what it connects to.
    pub guest: SocketAddrV4,
}

/// One as manifests have it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct FlatSocket {
    from: ForwardFrom,
    host_socket: PathBuf,
    guest_address: Ipv4Addr,
    guest_port: u16,
}

impl From<SocketForward> for FlatSocket {
    fn from(SocketForward { from, host, guest }: SocketForward) -> Self {
        Self { from, host_socket: host, guest_address: *guest.ip(), guest_port: guest.port() }
    }
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
        check_guest(self.from, self.guest)?;
        let wrong = |why: &str| Err(ValueError(why.to_owned()));
        if self.from == ForwardFrom::Host {
            return Ok(self);
        }
        if self.protocol == ForwardProtocol::Udp {
            return wrong("forwards from the guest carry TCP only; it reaches UDP at 10.0.2.2");
        }
        if self.host.port() == 0 {
            return wrong("a forward from the guest needs a host port, 1 to 65535");
        }
        Ok(self)
    }
}

impl SocketForward {
    /// The longest path that a socket's address holds (unix(7)), without the zero behind it.
    const LONGEST: usize = 107;

    /// # Errors
    /// When it cannot be: the text says why.
    pub fn check(self) -> Result<Self, ValueError> {
        check_guest(self.from, self.guest)?;
        if self.host.as_os_str().is_empty() {
            return Err(ValueError("a forward of a socket needs the socket's path".to_owned()));
        }
        Ok(self)
    }

    /// Whether its path is given by variables, as those of shares can be.
    #[must_use]
    pub fn has_variables(&self) -> bool {
        has_variables(&self.host)
    }

    /// Whether the path is one that a socket can have.
    ///
    /// # Errors
    /// When it is too long.
    pub fn check_path(path: &Path) -> Result<(), ValueError> {
        let length = path.as_os_str().len();
        if length <= Self::LONGEST {
            return Ok(());
        }
        let most = Self::LONGEST;
        Err(ValueError(format!(
            "the path {} of a socket has {length} bytes; {most} are possible",
            path.display()
        )))
    }
}

/// The guest's end of a forward.
fn check_guest(from: ForwardFrom, guest: SocketAddrV4) -> Result<(), ValueError> {
    let (address, [a, b, c, last]) = (guest.ip(), guest.ip().octets());
    if guest.port() == 0 {
        return Err(ValueError("a forward needs a guest port, 1 to 65535".to_owned()));
    }
    if [a, b, c] != [10, 0, 2] || matches!(last, 0 | 255) {
        return Err(ValueError(format!(
            "the guest address {address} is not in the user network, 10.0.2.0/24"
        )));
    }
    // 2 is the gateway, 3 the resolver, and 15 the guest itself.
    if from == ForwardFrom::Guest && matches!(last, 2 | 3 | 15) {
        return Err(ValueError(format!(
            "the guest address {address} is taken: choose another one of 10.0.2.0/24"
        )));
    }
    Ok(())
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

/// The same for a socket, such as `unix:/run/user/1000/web-:80`.
impl FromStr for SocketForward {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is no forward such as unix:/run/guest.socket-:80"));
        let (host, guest) =
            text.strip_prefix("unix:").and_then(|rest| rest.rsplit_once('-')).ok_or_else(wrong)?;
        let (address, port) = guest.rsplit_once(':').ok_or_else(wrong)?;
        let address =
            if address.is_empty() { PortForward::GUEST } else { address.parse().map_err(|_| wrong())? };
        let guest = SocketAddrV4::new(address, port.parse().map_err(|_| wrong())?);
        Self { from: ForwardFrom::Host, host: host.into(), guest }.check()
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

    #[test]
    fn forwards_of_sockets_are_written_alike() {
        let socket = |host: &str, guest: &str| SocketForward {
            from: ForwardFrom::Host,
            host: host.into(),
            guest: guest.parse().unwrap(),
        };
        assert_eq!("unix:/run/a-b-:80".parse(), Ok(socket("/run/a-b", "10.0.2.15:80")));
        assert_eq!("unix:s-10.0.2.16:80".parse(), Ok(socket("s", "10.0.2.16:80")));
        for text in
            ["unix:", "unix:-:80", "unix:/s", "unix:/s-:0", "unix:/s-:x", "unix:/s-192.0.2.1:80", "/s-:80"]
        {
            assert!(text.parse::<SocketForward>().is_err(), "{text}");
        }
        assert!(SocketForward::check_path(Path::new(&"x".repeat(107))).is_ok());
        assert!(SocketForward::check_path(Path::new(&"x".repeat(108))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(tcp|udp|[\\[\\]:0-9.-]|\\PC){0,12}") {
            let _ = text.parse::<PortForward>();
            let _ = text.parse::<SocketForward>();
            let _ = UserNetworkConfig::parse_dns(&text);
        }
    }
}
