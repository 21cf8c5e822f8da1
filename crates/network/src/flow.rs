//! Which flow a frame belongs to, for receivers with several queues.

use crate::headers::{Headers, Ip, word};

/// Odd, and with bits all over: neighbouring addresses and ports come out far apart (Fibonacci hashing).
const MULTIPLIER: u32 = 0x9e37_79b1;

/// A number that all frames of a TCP connection or an exchange of UDP datagrams have, those of both directions; different
/// flows have different ones as a rule, evenly spread over all of them. `None` for all other frames, and for fragments,
/// whose first alone has the ports.
///
/// ```
/// assert_eq!(snowboot_network::flow(&[0xff; 60]), None);
/// ```
#[must_use]
pub fn flow(bytes: &[u8]) -> Option<u32> {
    let headers = Headers::find(bytes)?;
    // Source and destination lie beside each other, and so do their ports.
    let (at, pairs) = match headers.ip {
        Ip::V4 => (12, 4),
        Ip::V6 => (8, 16),
    };
    let addresses = headers.network_at.checked_add(at)?;
    let mut sum = 0u32;
    for pair in 0..pairs {
        let word = u32::from(word(bytes, addresses.checked_add(2 * pair)?)?);
        sum ^= word.rotate_left(if pair % 2 == 0 { 16 } else { 0 });
    }
    for port in 0..2 {
        sum = sum.wrapping_add(u32::from(word(bytes, headers.transport_at.checked_add(2 * port)?)?));
    }
    let sum = sum.wrapping_mul(MULTIPLIER);
    Some(sum ^ (sum >> 16))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A TCP or UDP packet over IPv4 between two hosts.
    fn packet(protocol: u8, from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend([8, 0]);
        bytes
            .extend([0x45, 0, 0, 60, 0, 0, 0, 0, 64, protocol, 0, 0, 192, 168, 1, from.0, 192, 168, 1, to.0]);
        bytes.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn both_directions_are_one_flow() {
        for protocol in [6, 17] {
            let there = flow(&packet(protocol, (1, 40_000), (2, 80)));
            assert!(there.is_some());
            assert_eq!(there, flow(&packet(protocol, (2, 80), (1, 40_000))));
            assert_ne!(there, flow(&packet(protocol, (1, 40_001), (2, 80))));
        }
    }

    #[test]
    fn a_tag_and_ip_version_6_change_nothing_about_that() {
        let plain = packet(6, (1, 40_000), (2, 80));
        let tagged = [&plain[..12], &[0x81, 0, 0, 5], &plain[12..]].concat();
        assert_eq!(flow(&tagged), flow(&plain));
        let over_6 = |from: u8, to: u8| {
            let (mut bytes, mut source, mut target) = (vec![2; 12], [0xfd; 16], [0xfd; 16]);
            (source[15], target[15]) = (from, to);
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            bytes.extend([source, target].concat());
            bytes.extend(&plain[34..]);
            bytes
        };
        assert!(flow(&over_6(1, 2)).is_some());
        assert_eq!(flow(&over_6(1, 2)), flow(&over_6(2, 1)));
        assert_ne!(flow(&over_6(1, 2)), flow(&over_6(1, 3)));
    }

    #[test]
    fn what_has_no_ports_is_no_flow() {
        let mut fragment = packet(17, (1, 40_000), (2, 80));
        fragment[20] = 0x20;
        assert_eq!(flow(&fragment), None);
        assert_eq!(flow(&packet(1, (1, 0), (2, 0))), None);
        assert_eq!(flow(&packet(6, (1, 1), (2, 2))[..36]), None);
    }

    #[test]
    fn flows_of_two_hosts_are_spread_over_few_queues() {
        let of_ports = |ports: std::ops::Range<u16>| {
            ports.filter_map(|port| flow(&packet(6, (1, port), (2, 80)))).map(|it| it % 4).collect::<Vec<_>>()
        };
        let queues = of_ports(40_000..40_400);
        for queue in 0..4 {
            let share = queues.iter().filter(|it| **it == queue).count();
            assert!((50..200).contains(&share), "queue {queue} has {share} of 400 flows");
        }
        let few: BTreeSet<u32> = of_ports(40_000..40_016).into_iter().collect();
        assert!(few.len() > 2, "{few:?}");
    }
}
