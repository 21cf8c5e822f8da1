//! Reading the headers of a frame: its tag, and the transport header of one that is to be cut.
//!
//! Pure functions over untrusted bytes; nothing here indexes without asking.

/// Tags before the Ethernet type: what Linux supports (`VLAN_MAX_DEPTH`).
const MOST_TAGS: usize = 8;
/// Extension headers before the transport header; hosts send one or two.
const MOST_EXTENSIONS: usize = 8;
/// All headers together. TCP over IPv4 with every option has 134 bytes; the rest is for tags and IPv6 extensions. The
/// headers are repeated in every packet, so this bounds how much one frame can grow: what has longer ones is not cut.
const LONGEST_HEADERS: usize = 512;

const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// An outer tag: its type, which tells customers' VLANs from providers', and the VLAN's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    kind: u16,
    number: u16,
}

impl Tag {
    /// The outer tag of a frame. One with the number 0 carries only a priority, and its frame belongs to no VLAN (IEEE
    /// 802.1Q, 9.6).
    pub(crate) fn find(bytes: &[u8]) -> Option<Self> {
        let kind = word(bytes, 12)?;
        if !TAGS.contains(&kind) {
            return None;
        }
        let number = word(bytes, 14)? & 0x0fff;
        (number != 0).then_some(Self { kind, number })
    }
}

/// The IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

/// The transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The protocol number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where the checksum is, from the start of the header (RFC 9293, 3.1; RFC 768).
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Where the headers of a packet begin, from the start of the frame. Made by [`Headers::find`], which saw that all three
/// lie within the frame, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) ip: Ip,
    pub(crate) transport: Transport,
    /// The IP header.
    pub(crate) network_at: usize,
    /// The TCP or UDP header.
    pub(crate) transport_at: usize,
    /// The payload; also the length of all headers.
    pub(crate) payload_at: usize,
    /// Whether packets can be made of it. Who takes the frame whole need not care.
    pub(crate) cuttable: bool,
}

impl Headers {
    /// Finds the headers of a whole TCP or UDP packet, behind any tags. `None` when there is something else.
    pub(crate) fn find(bytes: &[u8]) -> Option<Self> {
        let (kind, network_at) = ether_type(bytes)?;
        let (ip, carried) = match kind {
            IPV4 => (Ip::V4, ipv4(bytes, network_at)?),
            IPV6 => (Ip::V6, ipv6(bytes, network_at)?),
            _ => return None,
        };
        let transport_at = carried.at;
        let (transport, length) = match carried.protocol {
            TCP => (Transport::Tcp, usize::from(byte(bytes, transport_at.checked_add(12)?)? >> 4) * 4),
            UDP => (Transport::Udp, 8),
            _ => return None,
        };
        let payload_at = transport_at.checked_add(length)?;
        let right = length >= 8 && (transport == Transport::Udp || length >= 20);
        let cuttable = !carried.rerouted && payload_at <= LONGEST_HEADERS;
        let headers = Self { ip, transport, network_at, transport_at, payload_at, cuttable };
        (right && payload_at <= bytes.len()).then_some(headers)
    }
}

/// The Ethernet type behind all tags, and what comes after it.
fn ether_type(bytes: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12usize;
    for _ in 0..=MOST_TAGS {
        let kind = word(bytes, at)?;
        if !TAGS.contains(&kind) {
            return Some((kind, at + 2));
        }
        at += 4;
    }
    None
}

/// What an IP packet carries.
struct Carried {
    protocol: u8,
    at: usize,
    /// A routing header is still in use, so the transport checksum covers another destination than the IP header has (RFC
    /// 8200, 8.1).
    rerouted: bool,
}

/// What an IPv4 packet carries, unless it is a fragment (RFC 791).
fn ipv4(bytes: &[u8], at: usize) -> Option<Carried> {
    let first = byte(bytes, at)?;
    let length = usize::from(first & 0xf) * 4;
    let fragment = word(bytes, at + 6)? & 0x3fff != 0;
    let protocol = byte(bytes, at + 9)?;
    let carried = Carried { protocol, at: at + length, rerouted: false };
    (first >> 4 == 4 && length >= 20 && !fragment).then_some(carried)
}

/// The same for IPv6 (RFC 8200).
fn ipv6(bytes: &[u8], at: usize) -> Option<Carried> {
    if byte(bytes, at)? >> 4 != 6 {
        return None;
    }
    let mut protocol = byte(bytes, at + 6)?;
    let mut at = at + 40;
    let mut rerouted = false;
    for _ in 0..=MOST_EXTENSIONS {
        match protocol {
            HOP_BY_HOP | DESTINATION => {}
            ROUTING => rerouted |= byte(bytes, at + 3)? != 0,
            _ => return Some(Carried { protocol, at, rerouted }),
        }
        protocol = byte(bytes, at)?;
        at += (usize::from(byte(bytes, at + 1)?) + 1) * 8;
    }
    None
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The 16-bit number at `at`.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}
