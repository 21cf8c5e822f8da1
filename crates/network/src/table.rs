//! Which station is behind which port, or whatever else frames go through.
//!
//! Owned by the switch's state, and by tunnels. Bounded per port, so that a guest which makes up addresses pushes out its own only.
//!
//! Tags of VLANs pass this switch as in a hub, so the same address may well be behind one port in one VLAN and behind
//! another in the next: a guest that bridges two VLANs over one card repeats what others send. With one table for all,
//! each such frame would move the others' addresses to the bridge. So each outer tag has a table of its own (IEEE 802.1Q
//! calls it independent learning).

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::headers::Tag;

/// An Ethernet address.
pub(crate) type Address = [u8; 6];

/// Who sends or is meant: an address, in the VLAN of the frame's outer tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Station {
    pub(crate) tag: Option<Tag>,
    pub(crate) address: Address,
}

impl Station {
    /// Whom a frame is meant for, and who sends it; `None` if it is not even two addresses long.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<(Self, Self)> {
        let &[to, from, ..] = frame.as_chunks::<6>().0 else { return None };
        let tag = Tag::find(frame);
        Some((Self { tag, address: to }, Self { tag, address: from }))
    }

    /// Whether frames to this address are for more than one station (IEEE 802, the I/G bit).
    #[must_use]
    pub fn is_group(self) -> bool {
        self.address[0] & 1 != 0
    }
}

#[derive(Debug)]
struct Entry<P> {
    port: P,
    seen: Duration,
}

/// The learning table.
///
/// The map is keyed by what guests choose, hence the standard hasher, which they cannot predict.
#[derive(Debug)]
pub struct Table<P> {
    entries: HashMap<Station, Entry<P>>,
    /// The stations of each port, oldest first: exactly those whose entry names the port.
    by_port: HashMap<P, VecDeque<Station>>,
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_port: HashMap::new() }
    }
}

impl<P: Copy + Eq + Hash> Table<P> {
    /// Notes that a frame from `station` came through `port`. When the port has `limit` stations already, the one
    /// learnt first makes room.
    pub fn learn(&mut self, station: Station, port: P, now: Duration, limit: usize) {
        if station.is_group() || limit == 0 {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&station) {
            entry.seen = now;
            if entry.port == port {
                return;
            }
            let left = std::mem::replace(&mut entry.port, port);
            if let Some(stations) = self.by_port.get_mut(&left) {
                stations.retain(|other| *other != station);
            }
        } else {
            self.entries.insert(station, Entry { port, seen: now });
        }
        let stations = self.by_port.entry(port).or_default();
        stations.push_back(station);
        if stations.len() > limit
            && let Some(oldest) = stations.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// The port behind which `station` was seen less than `ageing` ago.
    #[must_use]
    pub fn find(&self, station: Station, now: Duration, ageing: Duration) -> Option<P> {
        let entry = self.entries.get(&station)?;
        (now.saturating_sub(entry.seen) < ageing).then_some(entry.port)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets everything behind `port`.
    pub fn forget(&mut self, port: P) {
        for station in self.by_port.remove(&port).unwrap_or_default() {
            self.entries.remove(&station);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::PortId;

    const AGEING: Duration = Duration::from_secs(300);
    const LEFT: PortId = PortId(1);
    const RIGHT: PortId = PortId(2);

    fn station(last: u8) -> Station {
        Station { tag: None, address: [2, 0, 0, 0, 0, last] }
    }

    fn consistent(table: &Table<PortId>) {
        let listed: usize = table.by_port.values().map(VecDeque::len).sum();
        assert_eq!(listed, table.entries.len());
        for (port, stations) in &table.by_port {
            assert!(stations.iter().all(|station| table.entries[station].port == *port));
        }
    }

    #[test]
    fn entries_age_unless_seen_again() {
        let mut table = Table::default();
        table.learn(station(1), LEFT, Duration::ZERO, 4);
        assert_eq!(table.find(station(1), Duration::from_secs(299), AGEING), Some(LEFT));
        assert_eq!(table.find(station(1), Duration::from_secs(300), AGEING), None);
        table.learn(station(1), LEFT, Duration::from_secs(200), 4);
        assert_eq!(table.find(station(1), Duration::from_secs(499), AGEING), Some(LEFT));
        consistent(&table);
    }

    #[test]
    fn the_oldest_of_the_same_port_makes_room() {
        let mut table = Table::default();
        table.learn(station(100), RIGHT, Duration::ZERO, 3);
        for last in 1..=5 {
            table.learn(station(last), LEFT, Duration::from_secs(1), 3);
            consistent(&table);
        }
        let known = |last| table.find(station(last), Duration::from_secs(1), AGEING);
        assert_eq!((1..=5).map(known).collect::<Vec<_>>(), [None, None, Some(LEFT), Some(LEFT), Some(LEFT)]);
        assert_eq!(known(100), Some(RIGHT));
    }

    #[test]
    fn moving_to_a_full_port_and_forgetting_keep_the_lists_exact() {
        let mut table = Table::default();
        table.learn(station(1), LEFT, Duration::ZERO, 1);
        table.learn(station(2), RIGHT, Duration::ZERO, 1);
        table.learn(station(1), RIGHT, Duration::ZERO, 1);
        consistent(&table);
        assert_eq!(table.find(station(1), Duration::ZERO, AGEING), Some(RIGHT));
        assert_eq!(table.find(station(2), Duration::ZERO, AGEING), None);
        table.forget(RIGHT);
        consistent(&table);
        assert!(table.entries.is_empty());
    }

    #[test]
    fn groups_are_not_learnt() {
        let mut table = Table::default();
        table.learn(Station { tag: None, address: [0xff; 6] }, LEFT, Duration::ZERO, 4);
        table.learn(Station { tag: None, address: [1, 0, 0x5e, 0, 0, 1] }, LEFT, Duration::ZERO, 4);
        assert!(table.entries.is_empty());
    }
}
