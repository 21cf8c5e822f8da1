//! Ports and sockets that lead from one side of a user-mode network to the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ValueError;
use crate::share::has_variables;

/// A Unix socket of the host's (`SOCK_STREAM`) and a TCP port of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "FlatSocket", try_from = "FlatSocket")]
pub struct SocketForward {
    /// The side that connects.
    pub from: ForwardFrom,
    /// The socket. From the host: it is made. From the guest: somebody listens there by the time that the guest connects.
    pub host: PathBuf,
    /// The guest's end. From the guest: what it connects to.
    pub guest: SocketAddr,
}

/// One as manifests have it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FlatSocket {
    from: ForwardFrom,
    host_socket: PathBuf,
    guest_address: IpAddr,
    guest_port: u16,
}

impl From<SocketForward> for FlatSocket {
    fn from(SocketForward { from, host, guest }: SocketForward) -> Self {
        Self { from, host_socket: host, guest_address: guest.ip(), guest_port: guest.port() }
    }
}

impl TryFrom<FlatSocket> for SocketForward {
    type Error = ValueError;

    fn try_from(flat: FlatSocket) -> Result<Self, ValueError> {
        let guest = SocketAddr::new(flat.guest_address, flat.guest_port);
        Self { from: flat.from, host: flat.host_socket, guest }.check()
    }
}

/// A port of one side that leads to a port of the other.
///
/// Host and guest may have different versions of IP where the host connects: what comes by the other one, the guest sees coming from
/// the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Flat", try_from = "Flat")]
pub struct PortForward {
    /// The side that connects.
    pub from: ForwardFrom,
    /// What is carried.
    pub protocol: ForwardProtocol,
    /// The host's end. From the host: where it listens, port 0 for a free one.
    pub host: SocketAddr,
    /// The guest's end. From the guest: what it connects to.
    pub guest: SocketAddr,
}

/// A forward as manifests have it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Flat {
    from: ForwardFrom,
    protocol: ForwardProtocol,
    host_address: IpAddr,
    host_port: u16,
    guest_address: IpAddr,
    guest_port: u16,
}

impl From<PortForward> for Flat {
    fn from(forward: PortForward) -> Self {
        Self {
            from: forward.from,
            protocol: forward.protocol,
            host_address: forward.host.ip(),
            host_port: forward.host.port(),
            guest_address: forward.guest.ip(),
            guest_port: forward.guest.port(),
        }
    }
}

impl TryFrom<Flat> for PortForward {
    type Error = ValueError;

    fn try_from(flat: Flat) -> Result<Self, ValueError> {
        let host = SocketAddr::new(flat.host_address, flat.host_port);
        let guest = SocketAddr::new(flat.guest_address, flat.guest_port);
        Self { from: flat.from, protocol: flat.protocol, host, guest }.check()
    }
}

/// Which side of a forward connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardFrom {
    /// Programs of the host reach a port of the guest's: QEMU's `hostfwd`.
    #[default]
    Host,
    /// The guest reaches a port of the host's: QEMU's `guestfwd`.
    Guest,
}

/// What a forward carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
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
            guest: (Self::GUEST, guest_port).into(),
        }
    }

    /// # Errors
    /// When it cannot be: the text says why.
    pub fn check(self) -> Result<Self, ValueError> {
        check_guest(self.from, self.guest)?;
        check_host(self.from, self.host.ip())?;
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

/// The network of guests over IPv6, a /64.
const PREFIX_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0);

/// The guest's end of a forward.
fn check_guest(from: ForwardFrom, guest: SocketAddr) -> Result<(), ValueError> {
    let address = guest.ip();
    if guest.port() == 0 {
        return Err(ValueError("a forward needs a guest port, 1 to 65535".to_owned()));
    }
    let (network, is_inside, last) = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, last] = v4.octets();
            ("10.0.2.0/24", [a, b, c] == [10, 0, 2] && !matches!(last, 0 | 255), u64::from(last))
        }
        IpAddr::V6(v6) => {
            let last = v6.to_bits() & u128::from(u64::MAX);
            let is_inside = v6.to_bits() ^ last == PREFIX_V6.to_bits() && last != 0;
            ("fec0::/64", is_inside, u64::try_from(last).unwrap_or_default())
        }
    };
    if !is_inside {
        return Err(ValueError(format!("the guest address {address} is not in the user network, {network}")));
    }
    // 2 is the gateway, 3 the resolver, and 15 the guest itself.
    match (from, last) {
        (ForwardFrom::Host, 2 | 3) => Err(ValueError(format!(
            "the guest address {address} is the gateway's own: name one that a guest has"
        ))),
        (ForwardFrom::Guest, 2 | 3 | 15) => {
            Err(ValueError(format!("the guest address {address} is taken: choose another one of {network}")))
        }
        _ => Ok(()),
    }
}

/// The host's end of a forward.
fn check_host(from: ForwardFrom, host: IpAddr) -> Result<(), ValueError> {
    let wrong = |why: &str| Err(ValueError(format!("the host address {host} {why}")));
    match host {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            wrong("is one of IPv4 in the clothes of IPv6: write it as one of IPv4")
        }
        _ if host.is_multicast() || host == IpAddr::V4(Ipv4Addr::BROADCAST) => {
            wrong("is no single host's: name one of this host's, or its loopback")
        }
        _ if host.is_unspecified() && from == ForwardFrom::Guest => {
            wrong("is all of this host's and none to connect to: name one, such as its loopback")
        }
        _ => Ok(()),
    }
}

/// QEMU's way to write a forward from the host (`hostfwd` of `-netdev user`, `hostfwd_add` of its monitor), such as
/// `tcp:127.0.0.1:8080-10.0.2.15:80` or `tcp:[::1]:8080-[fec0::15]:80`. What is left out is TCP, the host's loopback, and what the
/// guest gets by DHCP.
impl FromStr for PortForward {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is no forward such as tcp::8080-:80"));
        let (host, guest) = text.rsplit_once('-').ok_or_else(wrong)?;
        let (protocol, host) = match host.split_once(':').ok_or_else(wrong)? {
            ("", host) => (ForwardProtocol::Tcp, host),
            (protocol, host) => (protocol.parse()?, host),
        };
        let (host, host_port) = end(text, host)?;
        let (guest, guest_port) = end(text, guest)?;
        let mut forward = Self::from_host(protocol, host_port, guest_port);
        if let Some(host) = host {
            forward.host.set_ip(host);
        }
        if let Some(guest) = guest {
            forward.guest.set_ip(guest);
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
        let (address, port) = end(text, guest)?;
        let guest = SocketAddr::new(address.unwrap_or(PortForward::GUEST.into()), port);
        Self { from: ForwardFrom::Host, host: host.into(), guest }.check()
    }
}

/// One end of the forward `rule`: an address, which may be left out, and a port. Addresses of IPv6 are in brackets, since they
/// have colons themselves.
fn end(rule: &str, text: &str) -> Result<(Option<IpAddr>, u16), ValueError> {
    let wrong = |why: &str| ValueError(format!("`{rule}` is no forward such as tcp::8080-:80: {why}"));
    let (address, port) =
        text.rsplit_once(':').ok_or_else(|| wrong(&format!("`{text}` has no colon before its port")))?;
    let port = port.parse().map_err(|_| wrong(&format!("`{port}` is no port")))?;
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bracketed {
        None if address.is_empty() => return Ok((None, port)),
        None if address.contains(':') => {
            return Err(wrong(&format!("an address of IPv6 is in brackets: [{address}]:{port}")));
        }
        None => address.parse().map(IpAddr::V4).ok(),
        Some(inside) => inside.parse().map(IpAddr::V6).ok(),
    };
    let address = address.ok_or_else(|| wrong(&format!("`{text}` does not begin with an address")))?;
    Ok((Some(address), port))
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

    fn tcp(host: u16, guest: u16) -> PortForward {
        PortForward::from_host(ForwardProtocol::Tcp, host, guest)
    }

    #[test]
    fn forwards_are_written_as_qemu_has_them() {
        assert_eq!("tcp::8080-:80".parse(), Ok(tcp(8080, 80)));
        assert_eq!("::0-:80".parse(), Ok(tcp(0, 80)));
        let udp =
            PortForward { protocol: ForwardProtocol::Udp, host: "[::1]:53".parse().unwrap(), ..tcp(0, 5353) };
        assert_eq!("udp:[::1]:53-10.0.2.15:5353".parse(), Ok(udp));
        let six = PortForward {
            host: "[::]:8080".parse().unwrap(),
            guest: "[fec0::5054:ff:fe12:3456]:80".parse().unwrap(),
            ..tcp(0, 1)
        };
        assert_eq!("tcp:[::]:8080-[fec0::5054:ff:fe12:3456]:80".parse(), Ok(six));
        let four_to_six = PortForward { guest: "[fec0::15]:80".parse().unwrap(), ..tcp(8080, 1) };
        assert_eq!("tcp::8080-[fec0::15]:80".parse(), Ok(four_to_six));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (text, part) in [
            ("", "`` is no forward such as tcp::8080-:80"),
            ("tcp", "is no forward such as"),
            ("tcp::80", "is no forward such as"),
            ("8080-80", "is no forward such as"),
            ("tcp::x-:80", "`x` is no port"),
            ("tcp:80-:80", "`80` has no colon before its port"),
            ("sctp::1-:1", "there is no forward of `sctp`"),
            ("tcp::1-:0", "needs a guest port"),
            ("tcp:h:1-:1", "`h:1` does not begin with an address"),
            ("tcp:[10.0.0.1]:1-:1", "does not begin with an address"),
            ("tcp:[fe80::1%eth0]:1-:1", "does not begin with an address"),
            ("tcp:::1:8080-:80", "an address of IPv6 is in brackets: [::1]:8080"),
            ("tcp::1-fec0::15:1", "an address of IPv6 is in brackets: [fec0::15]:1"),
            ("tcp::1-[::1]:1", "::1 is not in the user network, fec0::/64"),
            ("tcp::1-[fec0:0:0:1::15]:1", "is not in the user network, fec0::/64"),
            ("tcp::1-[fec0::]:1", "is not in the user network, fec0::/64"),
            ("tcp::1-[fec0::2]:1", "fec0::2 is the gateway's own"),
            ("tcp::1-10.0.2.3:1", "10.0.2.3 is the gateway's own"),
            ("tcp::1-192.0.2.1:1", "192.0.2.1 is not in the user network, 10.0.2.0/24"),
            ("tcp:[::ffff:127.0.0.1]:1-:1", "in the clothes of IPv6"),
            ("udp:[ff02::1]:1-:1", "is no single host's"),
            ("tcp:255.255.255.255:1-:1", "is no single host's"),
            ("tcp::65536-:1", "`65536` is no port"),
        ] {
            let error = text.parse::<PortForward>().unwrap_err().0;
            assert!(error.contains(part), "{text}: {error}");
        }
        let guest = PortForward {
            from: ForwardFrom::Guest,
            host: "[::]:7".parse().unwrap(),
            guest: "[fec0::100]:7".parse().unwrap(),
            ..tcp(0, 1)
        };
        assert!(guest.check().unwrap_err().0.contains("none to connect to"));
        assert!(PortForward { host: "[::1]:7".parse().unwrap(), ..guest }.check().is_ok());
        let taken =
            PortForward { host: "[::1]:7".parse().unwrap(), guest: "[fec0::3]:7".parse().unwrap(), ..guest };
        assert!(taken.check().unwrap_err().0.contains("fec0::3 is taken"));
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
        assert_eq!("unix:s-[fec0::16]:80".parse(), Ok(socket("s", "[fec0::16]:80")));
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
        }

        /// Whatever is a forward can be written, and is the same one then.
        #[test]
        fn what_is_written_is_read_again(host in prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)
        ], last in 1..u64::MAX, six: bool, ports: (u16, u16), udp: bool) {
            let protocol = if udp { ForwardProtocol::Udp } else { ForwardProtocol::Tcp };
            let guest: IpAddr = if six {
                Ipv6Addr::from_bits(PREFIX_V6.to_bits() | u128::from(last)).into()
            } else {
                Ipv4Addr::new(10, 0, 2, u8::try_from(last % 256).unwrap()).into()
            };
            let forward = PortForward {
                protocol,
                host: SocketAddr::new(host, ports.0),
                guest: SocketAddr::new(guest, ports.1),
                ..tcp(0, 1)
            };
            let Ok(forward) = forward.check() else { return Ok(()) };
            let name = if udp { "udp" } else { "tcp" };
            prop_assert_eq!(format!("{name}:{}-{}", forward.host, forward.guest).parse(), Ok(forward));
            let json = serde_json::to_string(&forward).unwrap();
            prop_assert_eq!(serde_json::from_str::<PortForward>(&json).unwrap(), forward);
        }
    }
}
