//! Ports of a test's network that lead to elsewhere: to the host, to switches of other programs, to other hosts.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{UserNetworkConfig, ValueError};

/// A port of a network that leads to elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UplinkConfig {
    /// The VLAN whose switch it is a port of.
    pub network: u8,
    /// Where it leads.
    #[serde(flatten)]
    pub leads_to: UplinkKind,
}

/// Where an uplink leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkKind {
    /// A TAP interface of the host, which is made where it is not there.
    Tap(InterfaceName),
    /// The folder of a `vde_switch`.
    Vde(PathBuf),
    /// Switches of other hosts.
    Vxlan(VxlanConfig),
    /// A socket that machines of other VMMs plug their network cards into.
    VhostUser(PathBuf),
    /// A gateway to the host that the machines of the network share.
    UserNetwork(UserNetworkConfig),
}

impl fmt::Display for UplinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(interface) => write!(f, "TAP interface {interface}"),
            Self::Vde(switch) => write!(f, "vde_switch {}", switch.display()),
            Self::Vxlan(config) => {
                let peers: Vec<String> = config.peers.iter().map(ToString::to_string).collect();
                write!(f, "VXLAN {} with {}", config.vni, peers.join(", "))
            }
            Self::UserNetwork(config) if config.restrict => f.write_str("user network, restricted"),
            Self::UserNetwork(_) => f.write_str("user network"),
            Self::VhostUser(socket) => write!(f, "vhost-user socket {}", socket.display()),
        }
    }
}

/// The name of a network interface of the host: 1 to 15 bytes without slashes, colons, percent signs and white space (Linux,
/// `dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// `IFNAMSIZ`, without the zero at its end.
    pub const LONGEST: usize = 15;

    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(name: &str) -> Result<Self, ValueError> {
        if name.len() > Self::LONGEST {
            let longest = Self::LONGEST;
            return Err(ValueError(format!(
                "Interface name `{name}` is too long: Linux takes {longest} bytes at most"
            )));
        }
        let is_wrong = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        if name.is_empty() || name == "." || name == ".." || name.contains(is_wrong) {
            return Err(ValueError(format!(
                "`{name}` cannot be the name of an interface: choose letters, digits, `-` and `_`"
            )));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = ValueError;

    fn try_from(name: String) -> Result<Self, ValueError> {
        name.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A VXLAN network (RFC 7348), as one of its ends sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "VxlanParts", into = "VxlanParts")]
pub struct VxlanConfig {
    vni: u32,
    local: SocketAddr,
    peers: Vec<SocketAddr>,
}

impl VxlanConfig {
    /// The port of a VXLAN end where none is named (RFC 7348, 5).
    pub const PORT: u16 = 4789;
    /// The greatest identifier of a network, of 24 bits.
    pub const MAX_VNI: u32 = 0xff_ffff;
    /// The most peers: each frame to all of them is sent so many times.
    pub const MAX_PEERS: usize = 64;

    /// Network `vni`, by a socket at `local`, with these other ends.
    ///
    /// # Errors
    /// When the identifier has more than 24 bits, there are no peers or too many, or an address cannot be sent to from `local`.
    pub fn new(vni: u32, local: SocketAddr, peers: Vec<SocketAddr>) -> Result<Self, ValueError> {
        if vni > Self::MAX_VNI {
            return Err(ValueError(format!("VNI {vni} is out of range: choose 0 to {}", Self::MAX_VNI)));
        }
        if peers.is_empty() || peers.len() > Self::MAX_PEERS {
            let most = Self::MAX_PEERS;
            return Err(ValueError(format!("{} peers: a VXLAN end has 1 to {most}", peers.len())));
        }
        check_local(local)?;
        for (index, peer) in peers.iter().enumerate() {
            check_peer(*peer, local)?;
            if peers.iter().take(index).any(|earlier| earlier == peer) {
                return Err(ValueError(format!("Peer {peer} is named twice")));
            }
        }
        Ok(Self { vni, local, peers })
    }

    /// Reads an address with or without a port; without one it is [`Self::PORT`].
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse_address(text: &str) -> Result<SocketAddr, ValueError> {
        let without_port = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, Self::PORT));
        without_port.or_else(|_| text.parse()).map_err(|_| {
            ValueError(format!(
                "`{text}` is no address such as 192.0.2.1, 192.0.2.1:4789 or [2001:db8::1]:4789"
            ))
        })
    }

    /// The network's identifier, of 24 bits.
    #[must_use]
    pub fn vni(&self) -> u32 {
        self.vni
    }

    /// Where the own socket is.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other ends.
    #[must_use]
    pub fn peers(&self) -> &[SocketAddr] {
        &self.peers
    }
}

fn check_local(local: SocketAddr) -> Result<(), ValueError> {
    if local.ip().is_multicast() {
        return Err(ValueError(format!("{local} is a multicast address: name one of this host's")));
    }
    if local.port() == 0 {
        return Err(ValueError(format!("{local} has no port: peers could not send to it")));
    }
    Ok(())
}

fn check_peer(peer: SocketAddr, local: SocketAddr) -> Result<(), ValueError> {
    if peer.is_ipv4() != local.is_ipv4() {
        return Err(ValueError(format!(
            "Peer {peer} cannot be reached from {local}: choose both of IPv4 or both of IPv6"
        )));
    }
    if peer.ip().is_multicast() || peer.ip().is_unspecified() || peer.port() == 0 {
        return Err(ValueError(format!("Peer {peer} is no address of one host: name each peer")));
    }
    if peer == local {
        return Err(ValueError(format!("Peer {peer} is this end itself")));
    }
    Ok(())
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VxlanParts {
    vni: u32,
    local: String,
    peers: Vec<String>,
}

impl TryFrom<VxlanParts> for VxlanConfig {
    type Error = ValueError;

    fn try_from(parts: VxlanParts) -> Result<Self, ValueError> {
        let peers = parts.peers.iter().map(|peer| Self::parse_address(peer)).collect::<Result<_, _>>()?;
        Self::new(parts.vni, Self::parse_address(&parts.local)?, peers)
    }
}

impl From<VxlanConfig> for VxlanParts {
    fn from(config: VxlanConfig) -> Self {
        let peers = config.peers.iter().map(ToString::to_string).collect();
        Self { vni: config.vni, local: config.local.to_string(), peers }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_interfaces_are_what_linux_takes() {
        for name in ["tap0", "a", "br-lan_1.7", "abcdefghijklmno"] {
            assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
        }
        for (name, part) in [
            ("abcdefghijklmnop", "too long: Linux takes 15 bytes"),
            ("", "cannot be the name"),
            ("..", "cannot be the name"),
            ("a/b", "cannot be the name"),
            ("tap%d", "cannot be the name"),
            ("a b", "cannot be the name"),
            ("eth0:1", "cannot be the name"),
        ] {
            let error = name.parse::<InterfaceName>().unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
    }

    #[test]
    fn addresses_have_the_port_of_the_standard_unless_they_name_one() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:4789"),
            ("192.0.2.1:8472", "192.0.2.1:8472"),
            ("2001:db8::1", "[2001:db8::1]:4789"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            assert_eq!(VxlanConfig::parse_address(text).unwrap().to_string(), address);
        }
        for text in ["", "host", "192.0.2.1:", "192.0.2.1:65536", "[2001:db8::1]"] {
            assert!(VxlanConfig::parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ends_that_cannot_be_are_refused() {
        let new = |vni, local: &str, peers: &[&str]| {
            let address = |text: &str| VxlanConfig::parse_address(text).unwrap();
            VxlanConfig::new(vni, address(local), peers.iter().map(|peer| address(peer)).collect())
        };
        assert!(new(VxlanConfig::MAX_VNI, "0.0.0.0", &["192.0.2.1", "192.0.2.1:1"]).is_ok());
        let many: Vec<String> = (0..=VxlanConfig::MAX_PEERS).map(|last| format!("192.0.2.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (vni, local, peers, part) in [
            (1 << 24, "0.0.0.0", &["192.0.2.1"][..], "choose 0 to 16777215"),
            (1, "0.0.0.0", &[], "0 peers"),
            (1, "0.0.0.0", &many, "65 peers"),
            (1, "::", &["192.0.2.1"], "both of IPv4 or both of IPv6"),
            (1, "0.0.0.0", &["239.0.0.1"], "no address of one host"),
            (1, "0.0.0.0", &["192.0.2.1:0"], "no address of one host"),
            (1, "0.0.0.0", &["192.0.2.1", "192.0.2.1:4789"], "named twice"),
            (1, "192.0.2.1", &["192.0.2.1"], "this end itself"),
            (1, "192.0.2.1:0", &["192.0.2.2"], "has no port"),
            (1, "224.0.0.1", &["192.0.2.2"], "multicast"),
        ] {
            let error = new(vni, local, peers).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused(text in "\\PC{0,40}") {
            if let Ok(address) = VxlanConfig::parse_address(&text) {
                prop_assert_eq!(VxlanConfig::parse_address(&address.to_string()).unwrap(), address);
            }
        }
    }
}
