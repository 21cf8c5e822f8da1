//! Who is at which Ethernet address: ARP (RFC 826), neighbour discovery and router advertisements (RFC 4861).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::addresses::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, RESOLVER_V6, ROUTER_V6};
use super::emit::{self, MTU, Pair};
use super::{Guest, shares};

/// Addresses known of one guest. One that was heard of only once makes room, or else the one not heard of for longest: whoever makes
/// up addresses does not come back to them. A machine has three, one that bridges containers some more.
pub(super) const MOST_OF_GUEST: usize = 64;
/// Addresses known at once: three of each of as many machines as have addresses. One of the guest that has most of them makes room.
const MOST_NEIGHBORS: usize = 768;
/// The least time between two questions for an address: a guest that is not there is asked for at every try to reach it.
const PAUSE: Duration = Duration::from_millis(200);

const ARP_TYPE: [u8; 2] = [0x08, 0x06];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Types of neighbour discovery, with a code of 0.
pub(super) const ROUTER_SOLICITATION: [u8; 2] = [133, 0];
pub(super) const NEIGHBOR_SOLICITATION: [u8; 2] = [135, 0];
const ROUTER_ADVERTISEMENT: [u8; 2] = [134, 0];
const NEIGHBOR_ADVERTISEMENT: [u8; 2] = [136, 0];

/// How long guests may use the router and its prefix without hearing of it again: 0xffffffff is for ever, and a router cannot
/// say more than 9000 s (RFC 4861, 6.2.1).
const ROUTER_LIFETIME: u16 = 9000;
const FOR_EVER: [u8; 4] = [0xff; 4];

#[derive(Debug)]
struct Neighbor {
    address: IpAddr,
    mac: [u8; 6],
    /// Who said so, and whose share it is of.
    guest: Guest,
    /// It was heard of more than once.
    again: bool,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Neighbors {
    /// The one heard of last at the end.
    known: VecDeque<Neighbor>,
    /// Which addresses were asked for less than [`PAUSE`] ago; no more of them than may be known.
    asked: VecDeque<(IpAddr, Duration)>,
}

impl Neighbors {
    /// Notes where an address was seen.
    pub(super) fn learn(&mut self, address: IpAddr, mac: [u8; 6], guest: Guest) {
        if mac[0] & 1 != 0 {
            return;
        }
        let known = self.known.iter().rposition(|known| known.address == address);
        let former = known.and_then(|at| self.known.remove(at));
        if former.is_none() {
            self.make_room(guest);
        }
        self.known.push_back(Neighbor { address, mac, guest, again: former.is_some() });
    }

    fn make_room(&mut self, guest: Guest) {
        let owners = self.known.iter().map(|known| known.guest);
        let is_greedy = owners.clone().filter(|owner| *owner == guest).count() >= MOST_OF_GUEST;
        if !is_greedy && self.known.len() < MOST_NEIGHBORS {
            return;
        }
        let victim = if is_greedy { Some(guest) } else { shares::victim(owners, guest) };
        let theirs = self.known.iter().enumerate();
        let theirs = theirs.filter(|(_, known)| victim.is_none_or(|victim| known.guest == victim));
        if let Some((at, _)) = theirs.min_by_key(|(_, known)| known.again) {
            self.known.remove(at);
        }
    }

    pub(super) fn find(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.known.iter().rfind(|known| known.address == address).map(|known| known.mac)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// The guest that has an address, as far as that is known.
    pub(super) fn guest_at(&self, address: IpAddr) -> Guest {
        let known = self.known.iter().rfind(|known| known.address == address);
        known.map_or(Guest::UNKNOWN, |known| known.guest)
    }

    /// A frame that asks for an address, unless that was just done.
    pub(super) fn ask(&mut self, now: Duration, address: IpAddr) -> Option<Vec<u8>> {
        self.asked.retain(|(_, asked)| now.saturating_sub(*asked) < PAUSE);
        if self.asked.len() >= MOST_NEIGHBORS || self.asked.iter().any(|(known, _)| *known == address) {
            return None;
        }
        self.asked.push_back((address, now));
        match address {
            IpAddr::V4(v4) => Some(arp(ArpOperation::Request, GATEWAY_V4, BROADCAST, v4)),
            IpAddr::V6(v6) => solicitation(v6),
        }
    }

    /// Answers ARP, and learns from it. `is_own`: whether the gateway has an address.
    pub(super) fn arp(
        &mut self,
        bytes: &[u8],
        guest: Guest,
        is_own: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Vec<u8>> {
        let packet = ArpPacket::new_checked(bytes).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        if super::addresses::is_guest(source_protocol_addr.into()) && !is_own(source_protocol_addr) {
            self.learn(source_protocol_addr.into(), source_hardware_addr.0, guest);
        }
        let asked = operation == ArpOperation::Request && is_own(target_protocol_addr);
        asked.then(|| {
            arp(ArpOperation::Reply, target_protocol_addr, source_hardware_addr.0, source_protocol_addr)
        })
    }
}

fn arp(operation: ArpOperation, from: Ipv4Addr, mac: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
    let asks = operation == ArpOperation::Request;
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(GATEWAY_MAC),
        source_protocol_addr: from,
        target_hardware_addr: EthernetAddress(if asks { [0; 6] } else { mac }),
        target_protocol_addr: to,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(bytes.as_mut_slice()));
    emit::frame(mac, GATEWAY_MAC, ARP_TYPE, &bytes)
}

/// Asks the one who has `address`, at the group address that it listens to (RFC 4291, 2.7.1).
fn solicitation(address: Ipv6Addr) -> Option<Vec<u8>> {
    let [.., a, b, c] = address.octets();
    let [.., high, low] = [u16::from(a) | 0xff00, u16::from_be_bytes([b, c])];
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low);
    let data = [&address.octets()[..], &[1, 1], &GATEWAY_MAC].concat();
    let pair = Pair { from: ROUTER_V6.into(), to: group.into() };
    discovery(pair, [0x33, 0x33, 0xff, a, b, c], NEIGHBOR_SOLICITATION, [0; 4], &data)
}

/// Tells `to` that the gateway has `address`.
pub(super) fn advertisement(address: Ipv6Addr, to: Ipv6Addr, mac: [u8; 6]) -> Option<Vec<u8>> {
    const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
    const ROUTER_OVERRIDE: u8 = 0xa0;
    // Who is looking whether an address is free has none to be answered at (RFC 4861, 7.2.4).
    let nobody = to.is_unspecified();
    let flags = if nobody { ROUTER_OVERRIDE } else { ROUTER_SOLICITED_OVERRIDE };
    let data = [&address.octets()[..], &[2, 1], &GATEWAY_MAC].concat();
    let (to, mac) = if nobody { (ALL_NODES, [0x33, 0x33, 0, 0, 0, 1]) } else { (to, mac) };
    let pair = Pair { from: address.into(), to: to.into() };
    discovery(pair, mac, NEIGHBOR_ADVERTISEMENT, [flags, 0, 0, 0], &data)
}

/// Tells the one at `mac`, who has asked, of the prefix `fec0::/64`, to make addresses of, and, unless they are restricted, of the router and the
/// resolver (RFC 8106).
pub(super) fn router_advertisement(restrict: bool, mac: [u8; 6]) -> Option<Vec<u8>> {
    const HOPS: u8 = 64;
    const ON_LINK_AND_AUTONOMOUS: u8 = 0xc0;
    let lifetime = if restrict { 0 } else { ROUTER_LIFETIME };
    let [high, low] = lifetime.to_be_bytes();
    let mut data = vec![0; 8]; // reachable and retransmission times: unspecified
    data.extend([1, 1]);
    data.extend(GATEWAY_MAC);
    data.extend([5, 1, 0, 0]);
    data.extend(u32::try_from(MTU).unwrap_or(0).to_be_bytes());
    data.extend([3, 4, 64, ON_LINK_AND_AUTONOMOUS]);
    data.extend([FOR_EVER, FOR_EVER, [0; 4]].concat());
    let [a, b, c, d, ..] = GATEWAY_V6.segments();
    data.extend([a, b, c, d].map(u16::to_be_bytes).concat());
    data.extend([0; 8]);
    if !restrict {
        data.extend([25, 3, 0, 0]);
        data.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
        data.extend(RESOLVER_V6.octets());
    }
    let pair = Pair { from: ROUTER_V6.into(), to: ALL_NODES.into() };
    // The packet is for all nodes, the frame for one of them: nobody can have the others flooded.
    discovery(pair, mac, ROUTER_ADVERTISEMENT, [HOPS, 0, high, low], &data)
}

fn discovery(pair: Pair, mac: [u8; 6], kind: [u8; 2], rest: [u8; 4], data: &[u8]) -> Option<Vec<u8>> {
    let message = emit::icmp(pair, kind, rest, data);
    let packet = emit::packets(pair, emit::icmp_of(pair.from), &message, 0).pop()?;
    Some(emit::frame(mac, GATEWAY_MAC, emit::ether_type(pair.to), &packet))
}
