//! Writing packets: IP, UDP, ICMP, and the Ethernet header around them.

use std::net::{IpAddr, SocketAddr};

use super::packet::{ICMP, ICMP_V6, UDP};
use crate::checksum::Sum;
use crate::frame::HEADER;

/// The longest IP packet on the guest's network, which is that of every Ethernet.
pub(super) const MTU: usize = 1500;
/// Payload of a packet that is one fragment of several, over either IP: a multiple of 8.
const FRAGMENT: usize = 1440;
const FRAGMENT_HEADER: u8 = 44;
const MORE: u16 = 1;
const TTL: u8 = 64;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

impl Pair {
    pub(super) fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }

    /// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
    pub(super) fn sum(self, protocol: u8, length: usize) -> Sum {
        let sum = Sum::default()
            .add_number(u32::from(protocol))
            .add_number(u32::try_from(length).unwrap_or(u32::MAX));
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => sum.add(&from.octets()).add(&to.octets()),
            (from, to) => sum.add(&to_v6(from)).add(&to_v6(to)),
        }
    }
}

fn to_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// IP packets with `payload`: one, or as many fragments as it takes. None for what IP cannot carry.
pub(super) fn packets(pair: Pair, protocol: u8, payload: &[u8], identification: u16) -> Vec<Vec<u8>> {
    if payload.len() > usize::from(u16::MAX) - 40 {
        return Vec::new();
    }
    if payload.len() + 40 <= MTU {
        return packet(pair, protocol, payload, None).into_iter().collect();
    }
    let pieces = payload.chunks(FRAGMENT).scan(0usize, |at, piece| {
        let offset = *at;
        *at += piece.len();
        Some((offset, piece))
    });
    let whole = |(offset, piece): (usize, &[u8])| {
        let last = offset + piece.len() == payload.len();
        let fragment = Fragment { identification, offset: u16::try_from(offset).ok()?, last };
        packet(pair, protocol, piece, Some(fragment))
    };
    pieces.filter_map(whole).collect()
}

#[derive(Clone, Copy)]
struct Fragment {
    identification: u16,
    offset: u16,
    last: bool,
}

/// One IP packet.
fn packet(pair: Pair, protocol: u8, payload: &[u8], fragment: Option<Fragment>) -> Option<Vec<u8>> {
    match (pair.from, pair.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(payload.len().checked_add(20)?).ok()?;
            let (identification, place) = match fragment {
                None => (0, 0x4000),
                Some(fragment) => {
                    let more = if fragment.last { 0 } else { 0x2000 };
                    (fragment.identification, more | (fragment.offset / 8))
                }
            };
            let mut bytes = vec![0x45, 0];
            bytes.extend(length.to_be_bytes());
            bytes.extend(identification.to_be_bytes());
            bytes.extend(u16::to_be_bytes(place));
            let [ttl, protocol] = [TTL, protocol];
            let addresses = [from.octets(), to.octets()].concat();
            let sum = Sum::default().add(&bytes).add(&[ttl, protocol]).add(&addresses).finish();
            bytes.extend([ttl, protocol]);
            bytes.extend(sum.to_be_bytes());
            bytes.extend(addresses);
            bytes.extend(payload);
            Some(bytes)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let extension = fragment.map_or(Vec::new(), |fragment| {
                let more = if fragment.last { 0 } else { MORE };
                let place = (fragment.offset | more).to_be_bytes();
                let identification = u32::from(fragment.identification).to_be_bytes();
                [&[protocol, 0][..], &place, &identification].concat()
            });
            let next = if extension.is_empty() { protocol } else { FRAGMENT_HEADER };
            let length = u16::try_from(payload.len().checked_add(extension.len())?).ok()?;
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend(length.to_be_bytes());
            // Neighbour discovery is only believed with this limit (RFC 4861, 6.1).
            bytes.extend([next, if next == ICMP_V6 { 255 } else { TTL }]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
            bytes.extend(extension);
            bytes.extend(payload);
            Some(bytes)
        }
        _ => None,
    }
}

/// A UDP datagram with its header and checksum (RFC 768).
pub(super) fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(data.len().checked_add(8)?).ok()?;
    let pair = Pair { from: from.ip(), to: to.ip() };
    let head = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    let sum = pair.sum(UDP, usize::from(length)).add(&head).add(data).finish_transport();
    let mut datagram = head;
    datagram.truncate(6);
    datagram.extend(sum.to_be_bytes());
    datagram.extend(data);
    Some(datagram)
}

/// An ICMP message of either version: type and code, the next four bytes, and data (RFC 792, RFC 4443).
pub(super) fn icmp(pair: Pair, kind: [u8; 2], rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = data.len().saturating_add(8);
    let pseudo = match pair.from {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => pair.sum(ICMP_V6, length),
    };
    let sum = pseudo.add(&kind).add(&rest).add(data).finish();
    [&kind[..], &sum.to_be_bytes(), &rest, data].concat()
}

/// The protocol number of ICMP for an address.
pub(super) fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { ICMP } else { ICMP_V6 }
}

/// Ethernet type of an IP packet to `address`.
pub(super) fn ether_type(address: IpAddr) -> [u8; 2] {
    if address.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] }
}

/// A frame around `packet`.
pub(super) fn frame(to: [u8; 6], from: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + packet.len());
    bytes.extend(to);
    bytes.extend(from);
    bytes.extend(kind);
    bytes.extend(packet);
    bytes
}
