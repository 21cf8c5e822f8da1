//! Networks between machines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;

/// A network that has a name: a VLAN as all others are, with a number that addresses are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkConfig {
    /// The VLAN's number. No two names have the same one.
    pub vlan: u8,
    /// What it is for, in one line, for whoever reads about the test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The networks of a test that have names, by these.
pub type NamedNetworks = BTreeMap<String, NetworkConfig>;

/// What a network is called where nobody gave it a name: as scripts know it.
#[must_use]
pub fn vlan_name(vlan: u8) -> String {
    format!("vlan{vlan}")
}

/// The address that NixOS test machines have on a VLAN: 192.168.VLAN.NODE, in a network of 24 bits
/// (`networking.primaryIPAddress` where it is the machine's first one).
#[must_use]
pub fn vlan_address(vlan: u8, node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, vlan, node)
}

/// What a machine's cards are called in its guest: `eth0` leads to the host, `eth1` to the first VLAN, as on NixOS test machines.
#[must_use]
pub fn interface_name(card: usize) -> String {
    format!("eth{card}")
}
