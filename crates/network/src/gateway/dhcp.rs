//! The DHCP server (RFC 2131): a few addresses from 10.0.2.15 on, each for the Ethernet address that asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};

use super::Guest;
use super::addresses::{GATEWAY_V4, GUEST_V4, MASK_V4, RESOLVER_V4};

/// The ports of servers and clients.
pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;

/// Addresses that a guest may have, as many as slirp gives away: a machine needs one, one that bridges containers some more.
pub(super) const MOST_LEASES: u8 = 16;
/// What machines of Snowboot's have before the VLAN's and their own number in the Ethernet addresses of their cards.
const MACHINES: [u8; 4] = [0x52, 0x54, 0x00, 0x12];
/// In a shared network, machines with numbers up to this one have addresses that nobody else gets: 10.0.2.15 for number 1.
const NUMBERED: u8 = 200;
/// How many addresses a shared network has from 10.0.2.15 on, up to 10.0.2.254. Those of no number are for whoever comes.
const SHARED: u8 = 240;
/// How long an address is promised for, as slirp does: longer than any test.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// How long an offer that nobody took up, or an address that somebody found in use, is kept from others.
const OFFER: Duration = Duration::from_secs(60);
/// The least length of a message: that of BOOTP (RFC 1542, 2.1), which some clients insist on.
const LEAST: usize = 300;

/// An answer to a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) message: Vec<u8>,
    /// The Ethernet address to send it to; everybody's where the client asked for that.
    pub(super) mac: [u8; 6],
    /// An address that is the client's from now on.
    pub(super) granted: Option<Ipv4Addr>,
}

/// Who has which address.
#[derive(Debug)]
pub(super) struct Leases {
    by_number: BTreeMap<u8, Lease>,
    shared: bool,
    /// Addresses that lead elsewhere.
    taken: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
struct Lease {
    /// `None`: somebody found the address in use.
    mac: Option<[u8; 6]>,
    /// Whose share it is of, whatever Ethernet address it was asked for with.
    guest: Guest,
    acknowledged: bool,
    seen: Duration,
}

impl Leases {
    /// Of a network that has one guest, or is `shared` by several. None gets what is `taken`.
    pub(super) fn new(shared: bool, taken: Vec<IpAddr>) -> Self {
        Self { by_number: BTreeMap::new(), shared, taken }
    }

    /// Answers a message, if that is called for.
    pub(super) fn answer(
        &mut self,
        now: Duration,
        guest: Guest,
        restrict: bool,
        message: &[u8],
    ) -> Option<Answer> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let mac = request.client_hardware_address.0;
        match request.message_type {
            DhcpMessageType::Discover => {
                let address = self.find_or_take(now, (guest, mac), request.requested_ip)?;
                reply(&request, DhcpMessageType::Offer, Some(address), restrict)
            }
            DhcpMessageType::Request => {
                if request.server_identifier.is_some_and(|server| server != GATEWAY_V4) {
                    self.release(mac);
                    return None;
                }
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                if self.find_or_take(now, (guest, mac), Some(wanted)) != Some(wanted) {
                    return reply(&request, DhcpMessageType::Nak, None, restrict);
                }
                self.acknowledge(now, mac);
                reply(&request, DhcpMessageType::Ack, Some(wanted), restrict)
            }
            DhcpMessageType::Inform => reply(&request, DhcpMessageType::Ack, None, restrict),
            DhcpMessageType::Release => {
                self.release(mac);
                None
            }
            DhcpMessageType::Decline => {
                self.set_aside(now, mac);
                None
            }
            _ => None,
        }
    }

    /// The address that `mac` has; otherwise one that is free, `wanted` if it is.
    fn find_or_take(
        &mut self,
        now: Duration,
        (guest, mac): (Guest, [u8; 6]),
        wanted: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let number = self.of(mac).or_else(|| self.free(now, (guest, mac), wanted))?;
        let new = Lease { mac: Some(mac), guest, acknowledged: false, seen: now };
        let lease = self.by_number.entry(number).or_insert_with(|| new.clone());
        if lease.mac != Some(mac) {
            *lease = new;
        } else if !lease.acknowledged {
            lease.seen = now;
        }
        Some(address(number))
    }

    fn of(&self, mac: [u8; 6]) -> Option<u8> {
        self.by_number.iter().find(|(_, lease)| lease.mac == Some(mac)).map(|(number, _)| *number)
    }

    /// What follows from the number of a machine comes first, then what is wanted.
    fn free(&self, now: Duration, (guest, mac): (Guest, [u8; 6]), wanted: Option<Ipv4Addr>) -> Option<u8> {
        let theirs = self.by_number.values().filter(|lease| lease.guest == guest && !lease.is_over(now));
        if theirs.count() >= usize::from(MOST_LEASES) {
            return None;
        }
        let is_free = |number: &u8| {
            let is_taken = self.taken.contains(&address(*number).into());
            !is_taken && self.by_number.get(number).is_none_or(|lease| lease.is_over(now))
        };
        let own = self.shared.then(|| of_machine(mac)).flatten();
        let mut others = if self.shared { NUMBERED..SHARED } else { 0..MOST_LEASES };
        let wanted = others.clone().find(|number| Some(address(*number)) == wanted);
        own.filter(is_free).or(wanted.filter(is_free)).or_else(|| others.find(is_free))
    }

    fn acknowledge(&mut self, now: Duration, mac: [u8; 6]) {
        if let Some(lease) = self.by_number.values_mut().find(|lease| lease.mac == Some(mac)) {
            (lease.acknowledged, lease.seen) = (true, now);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.by_number.len()
    }

    fn release(&mut self, mac: [u8; 6]) {
        self.by_number.retain(|_, lease| lease.mac != Some(mac));
    }

    fn set_aside(&mut self, now: Duration, mac: [u8; 6]) {
        if let Some(lease) = self.by_number.values_mut().find(|lease| lease.mac == Some(mac)) {
            *lease = Lease { mac: None, guest: lease.guest, acknowledged: false, seen: now };
        }
    }
}

impl Lease {
    fn is_over(&self, now: Duration) -> bool {
        let length = if self.acknowledged { LEASE } else { OFFER };
        now.saturating_sub(self.seen) >= length
    }
}

/// The place of a machine's address, by the last byte of its card's Ethernet address.
fn of_machine(mac: [u8; 6]) -> Option<u8> {
    let [a, b, c, d, _, number] = mac;
    let is_machine = [a, b, c, d] == MACHINES && (1..=NUMBERED).contains(&number);
    is_machine.then(|| number.saturating_sub(1))
}

fn address(number: u8) -> Ipv4Addr {
    let [a, b, c, first] = GUEST_V4.octets();
    Ipv4Addr::new(a, b, c, first.saturating_add(number))
}

/// Restricted guests are told of no way out, as by slirp.
fn reply(
    request: &DhcpRepr<'_>,
    kind: DhcpMessageType,
    address: Option<Ipv4Addr>,
    restrict: bool,
) -> Option<Answer> {
    let refused = kind == DhcpMessageType::Nak;
    let informs = !refused;
    let repr = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if informs { request.client_ip } else { Ipv4Addr::UNSPECIFIED },
        your_ip: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        server_ip: GATEWAY_V4,
        router: (informs && !restrict).then_some(GATEWAY_V4),
        subnet_mask: informs.then_some(MASK_V4),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY_V4),
        parameter_request_list: None,
        dns_servers: (informs && !restrict).then(|| [RESOLVER_V4].into_iter().collect()),
        max_size: None,
        lease_duration: address.and_then(|_| u32::try_from(LEASE.as_secs()).ok()),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut message = vec![0; repr.buffer_len().max(LEAST)];
    repr.emit(&mut DhcpPacket::new_unchecked(message.as_mut_slice())).ok()?;
    // Who has no address yet and no way to hear a packet for it says so; a refusal is for everybody (RFC 2131, 4.1).
    let everybody = request.broadcast || refused;
    let mac = if everybody { [0xff; 6] } else { request.client_hardware_address.0 };
    let granted = address.filter(|_| kind == DhcpMessageType::Ack);
    Some(Answer { message, mac, granted })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::EthernetAddress;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn alone() -> Leases {
        Leases::new(false, Vec::new())
    }

    fn message(kind: DhcpMessageType, last: u8, wanted: Option<Ipv4Addr>) -> Vec<u8> {
        message_of([0x52, 0x54, 0, 0, 0, last], kind, wanted)
    }

    /// What a client says, that has no address yet.
    pub(in crate::gateway) fn message_of(
        mac: [u8; 6],
        kind: DhcpMessageType,
        wanted: Option<Ipv4Addr>,
    ) -> Vec<u8> {
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress(mac),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: wanted,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(bytes.as_mut_slice())).unwrap();
        bytes
    }

    /// Kind and address of the answer.
    fn ask(
        leases: &mut Leases,
        now: Duration,
        kind: DhcpMessageType,
        last: u8,
        wanted: Option<Ipv4Addr>,
    ) -> Option<(DhcpMessageType, Ipv4Addr)> {
        let answer = leases.answer(now, Guest(0), false, &message(kind, last, wanted))?;
        let packet = DhcpPacket::new_checked(answer.message.as_slice()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        Some((repr.message_type, repr.your_ip))
    }

    #[test]
    fn the_first_guest_gets_15_and_everything_that_it_needs() {
        let mut leases = alone();
        let offer = ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None);
        assert_eq!(offer, Some((DhcpMessageType::Offer, GUEST_V4)));
        let answer = leases
            .answer(NOW, Guest(0), false, &message(DhcpMessageType::Request, 1, Some(GUEST_V4)))
            .unwrap();
        assert_eq!((answer.granted, answer.mac), (Some(GUEST_V4), [0x52, 0x54, 0, 0, 0, 1]));
        let packet = DhcpPacket::new_checked(answer.message.as_slice()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((repr.router, repr.subnet_mask), (Some(GATEWAY_V4), Some(MASK_V4)));
        assert_eq!(repr.dns_servers.unwrap().as_slice(), [RESOLVER_V4]);
        assert_eq!(repr.lease_duration, Some(86400));
    }

    #[test]
    fn a_restricted_guest_is_told_of_no_way_out() {
        let answer =
            alone().answer(NOW, Guest(0), true, &message(DhcpMessageType::Discover, 1, None)).unwrap();
        let packet = DhcpPacket::new_checked(answer.message.as_slice()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((repr.router, repr.dns_servers), (None, None));
    }

    #[test]
    fn an_address_is_kept_for_who_has_it_and_others_are_refused_it() {
        let mut leases = alone();
        ask(&mut leases, NOW, DhcpMessageType::Request, 1, Some(GUEST_V4)).unwrap();
        let other = ask(&mut leases, NOW, DhcpMessageType::Request, 2, Some(GUEST_V4));
        assert_eq!(other, Some((DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED)));
        let elsewhere = ask(&mut leases, NOW, DhcpMessageType::Request, 1, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(elsewhere.unwrap().0, DhcpMessageType::Nak);
        let again = ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None);
        assert_eq!(again, Some((DhcpMessageType::Offer, GUEST_V4)));
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Release, 1, None), None);
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Discover, 3, None).unwrap().1, GUEST_V4);
    }

    #[test]
    fn an_address_in_use_is_set_aside_for_a_while() {
        let mut leases = alone();
        ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None).unwrap();
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Decline, 1, None), None);
        assert_ne!(ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None).unwrap().1, GUEST_V4);
        assert_eq!(ask(&mut leases, OFFER, DhcpMessageType::Discover, 2, None).unwrap().1, GUEST_V4);
    }

    #[test]
    fn starvation_lasts_no_longer_than_offers() {
        let mut leases = alone();
        ask(&mut leases, NOW, DhcpMessageType::Request, 0, Some(GUEST_V4)).unwrap();
        for last in 1..=255 {
            ask(&mut leases, NOW, DhcpMessageType::Discover, last, None);
        }
        assert_eq!(leases.by_number.len(), usize::from(MOST_LEASES));
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Discover, 200, None), None);
        // Who has an address keeps it, and the offers make room.
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Discover, 0, None).unwrap().1, GUEST_V4);
        assert!(ask(&mut leases, OFFER, DhcpMessageType::Discover, 200, None).is_some());
        assert_eq!(ask(&mut leases, OFFER, DhcpMessageType::Discover, 0, None).unwrap().1, GUEST_V4);
    }

    /// What a guest is offered for a card.
    fn offered(leases: &mut Leases, guest: u64, mac: [u8; 6], wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let message = message_of(mac, DhcpMessageType::Discover, wanted);
        let answer = leases.answer(NOW, Guest(guest), false, &message)?;
        let packet = DhcpPacket::new_checked(answer.message.as_slice()).unwrap();
        Some(DhcpRepr::parse(&packet).unwrap().your_ip)
    }

    #[test]
    fn machines_of_a_shared_network_have_addresses_by_their_numbers() {
        let mut leases = Leases::new(true, vec![[10, 0, 2, 17].into(), [10, 0, 2, 215].into()]);
        let machine = |vlan, number| [0x52, 0x54, 0, 0x12, vlan, number];
        let at = |last| Some(Ipv4Addr::new(10, 0, 2, last));
        // In whatever order they come, and whatever somebody else would like.
        assert_eq!(offered(&mut leases, 9, [2, 0, 0, 0, 0, 1], at(16)), at(216));
        assert_eq!(offered(&mut leases, 2, machine(1, 2), None), at(16));
        assert_eq!(offered(&mut leases, 1, machine(1, 1), at(16)), at(15));
        assert_eq!(offered(&mut leases, 200, machine(1, 200), None), at(214));
        // What is taken, in use or beyond the numbers is made up for.
        assert_eq!(offered(&mut leases, 3, machine(1, 3), None), at(217));
        assert_eq!(offered(&mut leases, 3, machine(2, 2), None), at(218));
        assert_eq!(offered(&mut leases, 4, machine(1, 201), at(254)), at(254));
    }

    #[test]
    fn a_guest_cannot_take_all_addresses() {
        let mut leases = Leases::new(true, Vec::new());
        let got = |leases: &mut Leases, guest, range: std::ops::Range<u8>| {
            range.filter_map(|last| offered(leases, guest, [2, 0, 0, 0, 0, last], None)).count()
        };
        assert_eq!(got(&mut leases, 1, 0..200), usize::from(MOST_LEASES));
        assert_eq!(got(&mut leases, 2, 200..210), 10);
        // Made up addresses of machines are as many as others, and do not keep the machines from theirs.
        let forged =
            (1..=200).filter(|n| offered(&mut leases, 3, [0x52, 0x54, 0, 0x12, 1, *n], None).is_some());
        assert_eq!(forged.count(), usize::from(MOST_LEASES));
        let own = offered(&mut leases, 4, [0x52, 0x54, 0, 0x12, 1, 2], None);
        assert_eq!(own, Some(Ipv4Addr::new(10, 0, 2, 16)));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = alone().answer(NOW, Guest(0), false, &bytes);
        }

        #[test]
        fn no_damage_is_too_odd(at in 0usize..320, value: u8, cut in 0usize..320) {
            let mut bytes = message(DhcpMessageType::Request, 1, Some(GUEST_V4));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut.max(1));
            let mut leases = alone();
            let _ = leases.answer(NOW, Guest(0), false, &bytes);
            prop_assert!(leases.by_number.len() <= 1);
        }
    }
}
