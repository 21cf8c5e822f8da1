//! Reading a guest's frames, of which nothing is to be believed.
//!
//! Pure functions over untrusted bytes; nothing here indexes without asking.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::Guest;
use super::addresses::GATEWAY_MAC;
use super::emit::Pair;
use crate::Frame;
use crate::checksum::Sum;
use crate::frame::HEADER;
use crate::headers::word;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP_V6: u8 = 58;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const FRAGMENT: u8 = 44;

/// A frame for the gateway.
#[derive(Debug)]
pub(super) enum Incoming<'a> {
    Arp(&'a [u8]),
    Ip(Packet<'a>),
}

/// An IP packet, whose header was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// The Ethernet address that it came from.
    pub(super) mac: [u8; 6],
    /// Whose share of the tables it counts for.
    pub(super) sender: Guest,
    pub(super) pair: Pair,
    pub(super) protocol: u8,
    /// All of it, without what Ethernet pads it with.
    pub(super) whole: &'a [u8],
    pub(super) payload: &'a [u8],
    /// Where it belongs, if it is a fragment of a larger one.
    pub(super) piece: Option<Piece>,
    /// Nobody could have damaged it on its way: the sender left its checksum open.
    pub(super) trusted: bool,
}

/// The place of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) identification: u32,
    pub(super) offset: usize,
    pub(super) last: bool,
}

/// Reads a frame; `None` when it is not for the gateway, or nothing that it knows.
pub(super) fn read(frame: &Frame, sender: Guest) -> Option<Incoming<'_>> {
    let bytes = frame.bytes.as_slice();
    let &[to, mac, ..] = bytes.as_chunks::<6>().0 else { return None };
    let for_us = to == GATEWAY_MAC || to[0] & 1 != 0;
    if !for_us || mac[0] & 1 != 0 {
        return None;
    }
    let rest = bytes.get(HEADER..)?;
    let trusted = frame.offload.checksum.is_some();
    match word(bytes, 12)? {
        ARP => Some(Incoming::Arp(rest)),
        IPV4 => ipv4((mac, sender), rest, trusted).map(Incoming::Ip),
        IPV6 => ipv6((mac, sender), rest, trusted).map(Incoming::Ip),
        _ => None,
    }
}

fn ipv4((mac, sender): ([u8; 6], Guest), bytes: &[u8], trusted: bool) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 || packet.header_len() < 20 || !packet.verify_checksum() {
        return None;
    }
    let whole = bytes.get(..usize::from(packet.total_len()))?;
    let payload = whole.get(usize::from(packet.header_len())..)?;
    let (offset, last) = (usize::from(packet.frag_offset()), !packet.more_frags());
    let piece =
        (offset != 0 || !last).then(|| Piece { identification: u32::from(packet.ident()), offset, last });
    let pair = Pair { from: packet.src_addr().into(), to: packet.dst_addr().into() };
    Some(Packet { mac, sender, pair, protocol: packet.next_header().into(), whole, payload, piece, trusted })
}

fn ipv6((mac, sender): ([u8; 6], Guest), bytes: &[u8], trusted: bool) -> Option<Packet<'_>> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    if packet.version() != 6 {
        return None;
    }
    let whole = bytes.get(..usize::from(packet.payload_len()).checked_add(40)?)?;
    let payload = whole.get(40..)?;
    let pair = Pair { from: packet.src_addr().into(), to: packet.dst_addr().into() };
    let protocol = packet.next_header().into();
    let packet = Packet { mac, sender, pair, protocol, whole, payload, piece: None, trusted };
    if protocol == FRAGMENT { fragment(packet) } else { Some(packet) }
}

/// A packet behind a fragment header (RFC 8200, 4.5).
fn fragment(packet: Packet<'_>) -> Option<Packet<'_>> {
    let (head, payload) = packet.payload.split_first_chunk::<8>()?;
    let &[protocol, _, high, low, a, b, c, d] = head;
    let place = u16::from_be_bytes([high, low]);
    let piece = Piece {
        identification: u32::from_be_bytes([a, b, c, d]),
        offset: usize::from(place & 0xfff8),
        last: place & 1 == 0,
    };
    let whole = piece.offset == 0 && piece.last;
    Some(Packet { protocol, payload, piece: (!whole).then_some(piece), ..packet })
}

impl<'a> Packet<'a> {
    /// Whether the Internet checksum over the payload, with a pseudo header where the protocol has one, is right.
    fn is_intact(&self) -> bool {
        let sum = match self.protocol {
            ICMP => Sum::default(),
            protocol => self.pair.sum(protocol, self.payload.len()),
        };
        self.trusted || sum.add(self.payload).finish() == 0
    }

    /// Ends and data of a UDP datagram.
    pub(super) fn udp(&self) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
        let packet = UdpPacket::new_checked(self.payload).ok()?;
        let length = usize::from(packet.len());
        let data = self.payload.get(8..length)?;
        // UDP over IPv4 may go without (RFC 768).
        let unsummed = self.pair.from.is_ipv4() && packet.checksum() == 0;
        let exact = Packet { payload: self.payload.get(..length)?, ..*self };
        if !unsummed && !exact.is_intact() {
            return None;
        }
        let from = SocketAddr::new(self.pair.from, packet.src_port());
        Some((from, SocketAddr::new(self.pair.to, packet.dst_port()), data))
    }

    /// Ends and flags of a TCP segment.
    pub(super) fn tcp(&self) -> Option<Segment> {
        let packet = TcpPacket::new_checked(self.payload).ok()?;
        if packet.src_port() == 0 || packet.dst_port() == 0 || !self.is_intact() {
            return None;
        }
        Some(Segment {
            sender: self.sender,
            guest: SocketAddr::new(self.pair.from, packet.src_port()),
            remote: SocketAddr::new(self.pair.to, packet.dst_port()),
            opens: packet.syn() && !packet.ack() && !packet.rst() && !packet.fin(),
            resets: packet.rst(),
        })
    }

    /// Type, code, the next four bytes and data of an ICMP message.
    pub(super) fn icmp(&self) -> Option<([u8; 2], [u8; 4], &'a [u8])> {
        let (head, data) = self.payload.split_first_chunk::<8>()?;
        let &[kind, code, _, _, rest @ ..] = head;
        self.is_intact().then_some(([kind, code], rest, data))
    }
}

/// What matters of a TCP segment before the stack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sender: Guest,
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) opens: bool,
    pub(super) resets: bool,
}

/// Reads the address that an IPv6 neighbour solicitation is about (RFC 4861, 4.3), from what follows its first 8 bytes.
pub(super) fn solicited(data: &[u8]) -> Option<Ipv6Addr> {
    data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// Whether an IPv4 address is the unspecified one, as clients of DHCP have.
pub(super) fn is_nobody(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

/// The addresses of an IP packet.
pub(super) fn pair(packet: &[u8]) -> Option<Pair> {
    let address4 = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let address6 = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
    match packet.first()? >> 4 {
        4 => Some(Pair { from: address4(12)?.into(), to: address4(16)?.into() }),
        6 => Some(Pair { from: address6(8)?.into(), to: address6(24)?.into() }),
        _ => None,
    }
}
