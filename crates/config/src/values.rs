//! Values that cannot be wrong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A value is out of its range or not of its form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ValueError(pub String);

const MIB: u64 = 1 << 20;

/// Guest memory: whole MiB from 64 MiB to 64 GiB. Written as MiB (`512`) or with a unit (`"512M"`, `"2G"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct MemorySize(u64);

impl MemorySize {
    /// The smallest: below it a stock distribution kernel does not come up.
    pub const MIN_MIB: u64 = 64;
    /// The largest.
    pub const MAX_MIB: u64 = 64 * 1024;
    /// What a NixOS test machine has (`virtualisation.memorySize`).
    pub const DEFAULT: Self = Self(1024);

    /// From MiB.
    ///
    /// # Errors
    /// When out of range.
    pub fn from_mib(mib: u64) -> Result<Self, ValueError> {
        if (Self::MIN_MIB..=Self::MAX_MIB).contains(&mib) {
            Ok(Self(mib))
        } else {
            Err(ValueError(format!("Memory of {mib} MiB is out of range: choose 64 MiB to 64 GiB")))
        }
    }

    /// In MiB.
    #[must_use]
    pub fn mib(self) -> u64 {
        self.0
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(MIB)
    }
}

impl Default for MemorySize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for MemorySize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong =
            || ValueError(format!("Memory size `{text}` is not a number of MiB such as 512, 512M or 2G"));
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let scale = match unit.to_ascii_lowercase().as_str() {
            "" | "m" | "mb" | "mib" => 1,
            "g" | "gb" | "gib" => 1024,
            _ => return Err(wrong()),
        };
        Self::from_mib(number.checked_mul(scale).ok_or_else(wrong)?)
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Mib(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Mib(mib) => Self::from_mib(mib),
            Form::Text(text) => text.parse(),
        }
        .map_err(serde::de::Error::custom)
    }
}

/// Number of vCPUs, 1 to 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// The most vCPUs of one machine.
    pub const MAX: u8 = 32;

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for VcpuCount {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u8> for VcpuCount {
    type Error = ValueError;

    fn try_from(count: u8) -> Result<Self, ValueError> {
        if (1..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(ValueError(format!("{count} vCPUs are out of range: choose 1 to 32")))
        }
    }
}

impl From<VcpuCount> for u8 {
    fn from(count: VcpuCount) -> Self {
        count.0
    }
}

/// An Ethernet address of one machine (not a group address), written `52:54:00:12:01:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address that NixOS test machines have on a VLAN: `52:54:00:12:VLAN:NODE`.
    #[must_use]
    pub fn of_node(vlan: u8, node: u8) -> Self {
        Self([0x52, 0x54, 0x00, 0x12, vlan, node])
    }

    /// The address that QEMU gives a card by default, and so that of the card on the user network of NixOS test machines:
    /// `52:54:00:12:34:56`.
    #[must_use]
    pub fn of_user_network() -> Self {
        Self([0x52, 0x54, 0x00, 0x12, 0x34, 0x56])
    }

    /// The six bytes, in transmission order.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError(format!("`{text}` is not an Ethernet address such as 52:54:00:12:01:02"));
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if octets[0] & 1 == 1 {
            return Err(ValueError(format!("`{text}` is a group address; a network card needs its own")));
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
