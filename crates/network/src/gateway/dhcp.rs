//! The DHCP server (RFC 2131): a few addresses from 10.0.2.15 on, each for the Ethernet address that asked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};

use super::addresses::{GATEWAY_V4, GUEST_V4, MASK_V4, RESOLVER_V4};

/// The ports of servers and clients.
pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;

/// Addresses to give away, as many as slirp has: a machine needs one, one that bridges containers some more.
const MOST_LEASES: u8 = 16;
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
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<u8, Lease>);

#[derive(Debug)]
struct Lease {
    /// `None`: somebody found the address in use.
    mac: Option<[u8; 6]>,
    acknowledged: bool,
    seen: Duration,
}

impl Leases {
    /// Answers a message, if that is called for.
    pub(super) fn answer(&mut self, now: Duration, restrict: bool, message: &[u8]) -> Option<Answer> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let mac = request.client_hardware_address.0;
        match request.message_type {
            DhcpMessageType::Discover => {
                let address = self.find_or_take(now, mac, request.requested_ip)?;
                reply(&request, DhcpMessageType::Offer, Some(address), restrict)
            }
            DhcpMessageType::Request => {
                if request.server_identifier.is_some_and(|server| server != GATEWAY_V4) {
                    self.release(mac);
                    return None;
                }
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                if self.find_or_take(now, mac, Some(wanted)) != Some(wanted) {
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
    fn find_or_take(&mut self, now: Duration, mac: [u8; 6], wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let number = self.of(mac).or_else(|| self.free(now, wanted))?;
        let lease = self.0.entry(number).or_insert(Lease { mac: None, acknowledged: false, seen: now });
        if lease.mac != Some(mac) {
            *lease = Lease { mac: Some(mac), acknowledged: false, seen: now };
        } else if !lease.acknowledged {
            lease.seen = now;
        }
        Some(address(number))
    }

    fn of(&self, mac: [u8; 6]) -> Option<u8> {
        self.0.iter().find(|(_, lease)| lease.mac == Some(mac)).map(|(number, _)| *number)
    }

    fn free(&self, now: Duration, wanted: Option<Ipv4Addr>) -> Option<u8> {
        let is_free = |number: &u8| self.0.get(number).is_none_or(|lease| lease.is_over(now));
        let wanted = (0..MOST_LEASES).find(|number| Some(address(*number)) == wanted);
        wanted.filter(is_free).or_else(|| (0..MOST_LEASES).find(is_free))
    }

    fn acknowledge(&mut self, now: Duration, mac: [u8; 6]) {
        if let Some(lease) = self.0.values_mut().find(|lease| lease.mac == Some(mac)) {
            (lease.acknowledged, lease.seen) = (true, now);
        }
    }

    fn release(&mut self, mac: [u8; 6]) {
        self.0.retain(|_, lease| lease.mac != Some(mac));
    }

    fn set_aside(&mut self, now: Duration, mac: [u8; 6]) {
        if let Some(lease) = self.0.values_mut().find(|lease| lease.mac == Some(mac)) {
            *lease = Lease { mac: None, acknowledged: false, seen: now };
        }
    }
}

impl Lease {
    fn is_over(&self, now: Duration) -> bool {
        let length = if self.acknowledged { LEASE } else { OFFER };
        now.saturating_sub(self.seen) >= length
    }
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
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::EthernetAddress;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn message(kind: DhcpMessageType, last: u8, wanted: Option<Ipv4Addr>) -> Vec<u8> {
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: 7,
            secs: 0,
            client_hardware_address: EthernetAddress([0x52, 0x54, 0, 0, 0, last]),
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
        let answer = leases.answer(now, false, &message(kind, last, wanted))?;
        let packet = DhcpPacket::new_checked(answer.message.as_slice()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        Some((repr.message_type, repr.your_ip))
    }

    #[test]
    fn the_first_guest_gets_15_and_everything_that_it_needs() {
        let mut leases = Leases::default();
        let offer = ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None);
        assert_eq!(offer, Some((DhcpMessageType::Offer, GUEST_V4)));
        let answer =
            leases.answer(NOW, false, &message(DhcpMessageType::Request, 1, Some(GUEST_V4))).unwrap();
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
            Leases::default().answer(NOW, true, &message(DhcpMessageType::Discover, 1, None)).unwrap();
        let packet = DhcpPacket::new_checked(answer.message.as_slice()).unwrap();
        let repr = DhcpRepr::parse(&packet).unwrap();
        assert_eq!((repr.router, repr.dns_servers), (None, None));
    }

    #[test]
    fn an_address_is_kept_for_who_has_it_and_others_are_refused_it() {
        let mut leases = Leases::default();
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
        let mut leases = Leases::default();
        ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None).unwrap();
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Decline, 1, None), None);
        assert_ne!(ask(&mut leases, NOW, DhcpMessageType::Discover, 1, None).unwrap().1, GUEST_V4);
        assert_eq!(ask(&mut leases, OFFER, DhcpMessageType::Discover, 2, None).unwrap().1, GUEST_V4);
    }

    #[test]
    fn starvation_lasts_no_longer_than_offers() {
        let mut leases = Leases::default();
        ask(&mut leases, NOW, DhcpMessageType::Request, 0, Some(GUEST_V4)).unwrap();
        for last in 1..=255 {
            ask(&mut leases, NOW, DhcpMessageType::Discover, last, None);
        }
        assert_eq!(leases.0.len(), usize::from(MOST_LEASES));
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Discover, 200, None), None);
        // Who has an address keeps it, and the offers make room.
        assert_eq!(ask(&mut leases, NOW, DhcpMessageType::Discover, 0, None).unwrap().1, GUEST_V4);
        assert!(ask(&mut leases, OFFER, DhcpMessageType::Discover, 200, None).is_some());
        assert_eq!(ask(&mut leases, OFFER, DhcpMessageType::Discover, 0, None).unwrap().1, GUEST_V4);
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Leases::default().answer(NOW, false, &bytes);
        }

        #[test]
        fn no_damage_is_too_odd(at in 0usize..320, value: u8, cut in 0usize..320) {
            let mut bytes = message(DhcpMessageType::Request, 1, Some(GUEST_V4));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut.max(1));
            let mut leases = Leases::default();
            let _ = leases.answer(NOW, false, &bytes);
            prop_assert!(leases.0.len() <= 1);
        }
    }
}
