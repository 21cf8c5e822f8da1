//! Which address is behind which port.
//!
//! Owned by the switch's state. Bounded per port, so that a guest which makes up addresses pushes out its own only.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::state::PortId;

/// An Ethernet address.
pub(crate) type Address = [u8; 6];

/// Whether frames to this address are for more than one station (IEEE 802, the I/G bit).
pub(crate) fn is_group(address: Address) -> bool {
    address[0] & 1 != 0
}

#[derive(Debug)]
struct Entry {
    port: PortId,
    seen: Duration,
}

/// The learning table.
///
/// The map is keyed by what guests choose, hence the standard hasher, which they cannot predict.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: HashMap<Address, Entry>,
    /// The addresses of each port, oldest first: exactly those whose entry names the port.
    by_port: HashMap<PortId, VecDeque<Address>>,
}

impl Table {
    /// Notes that a frame from `address` came through `port`. When the port has `limit` addresses already, the one
    /// learnt first makes room.
    pub(crate) fn learn(&mut self, address: Address, port: PortId, now: Duration, limit: usize) {
        if is_group(address) || limit == 0 {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.seen = now;
            if entry.port == port {
                return;
            }
            let left = std::mem::replace(&mut entry.port, port);
            if let Some(addresses) = self.by_port.get_mut(&left) {
                addresses.retain(|other| *other != address);
            }
        } else {
            self.entries.insert(address, Entry { port, seen: now });
        }
        let addresses = self.by_port.entry(port).or_default();
        addresses.push_back(address);
        if addresses.len() > limit
            && let Some(oldest) = addresses.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// The port behind which `address` was seen less than `ageing` ago.
    pub(crate) fn find(&self, address: Address, now: Duration, ageing: Duration) -> Option<PortId> {
        let entry = self.entries.get(&address)?;
        (now.saturating_sub(entry.seen) < ageing).then_some(entry.port)
    }

    /// Forgets everything behind `port`.
    pub(crate) fn forget(&mut self, port: PortId) {
        for address in self.by_port.remove(&port).unwrap_or_default() {
            self.entries.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGEING: Duration = Duration::from_secs(300);
    const LEFT: PortId = PortId(1);
    const RIGHT: PortId = PortId(2);

    fn address(last: u8) -> Address {
        [2, 0, 0, 0, 0, last]
    }

    fn consistent(table: &Table) {
        let listed: usize = table.by_port.values().map(VecDeque::len).sum();
        assert_eq!(listed, table.entries.len());
        for (port, addresses) in &table.by_port {
            assert!(addresses.iter().all(|address| table.entries[address].port == *port));
        }
    }

    #[test]
    fn entries_age_unless_seen_again() {
        let mut table = Table::default();
        table.learn(address(1), LEFT, Duration::ZERO, 4);
        assert_eq!(table.find(address(1), Duration::from_secs(299), AGEING), Some(LEFT));
        assert_eq!(table.find(address(1), Duration::from_secs(300), AGEING), None);
        table.learn(address(1), LEFT, Duration::from_secs(200), 4);
        assert_eq!(table.find(address(1), Duration::from_secs(499), AGEING), Some(LEFT));
        consistent(&table);
    }

    #[test]
    fn the_oldest_of_the_same_port_makes_room() {
        let mut table = Table::default();
        table.learn(address(100), RIGHT, Duration::ZERO, 3);
        for last in 1..=5 {
            table.learn(address(last), LEFT, Duration::from_secs(1), 3);
            consistent(&table);
        }
        let known = |last| table.find(address(last), Duration::from_secs(1), AGEING);
        assert_eq!((1..=5).map(known).collect::<Vec<_>>(), [None, None, Some(LEFT), Some(LEFT), Some(LEFT)]);
        assert_eq!(known(100), Some(RIGHT));
    }

    #[test]
    fn moving_to_a_full_port_and_forgetting_keep_the_lists_exact() {
        let mut table = Table::default();
        table.learn(address(1), LEFT, Duration::ZERO, 1);
        table.learn(address(2), RIGHT, Duration::ZERO, 1);
        table.learn(address(1), RIGHT, Duration::ZERO, 1);
        consistent(&table);
        assert_eq!(table.find(address(1), Duration::ZERO, AGEING), Some(RIGHT));
        assert_eq!(table.find(address(2), Duration::ZERO, AGEING), None);
        table.forget(RIGHT);
        consistent(&table);
        assert!(table.entries.is_empty());
    }

    #[test]
    fn groups_are_not_learnt() {
        let mut table = Table::default();
        table.learn([0xff; 6], LEFT, Duration::ZERO, 4);
        table.learn([1, 0, 0x5e, 0, 0, 1], LEFT, Duration::ZERO, 4);
        assert!(table.entries.is_empty());
    }
}
