//! The other ends of a VXLAN network, and which stations are behind them.

use std::net::SocketAddr;
use std::time::Duration;

use snowboot_network::{Station, Table};

/// Stations that are remembered behind one peer; the one learnt first makes room. As many as behind a port of a switch.
const LEARNED: usize = 1024;
/// How long one is known after its last frame, as IEEE 802.1D recommends.
const AGEING: Duration = Duration::from_secs(300);

/// The other ends.
#[derive(Debug)]
pub(super) struct Peers {
    addresses: Vec<SocketAddr>,
    stations: Table<usize>,
}

/// Who gets a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whom<'a> {
    One(&'a SocketAddr),
    All(&'a [SocketAddr]),
}

impl Peers {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, stations: Table::default() }
    }

    /// The peer that a datagram came from. Its port says little: ends choose one by the frame's addresses (RFC 7348, 5). So it
    /// counts only where several peers have the same address.
    pub(super) fn find(&self, from: SocketAddr) -> Option<usize> {
        if let Some(peer) = self.addresses.iter().position(|peer| *peer == from) {
            return Some(peer);
        }
        let mut alike = self.addresses.iter().enumerate().filter(|(_, peer)| peer.ip() == from.ip());
        match (alike.next(), alike.next()) {
            (Some((peer, _)), None) => Some(peer),
            _ => None,
        }
    }

    /// Notes that a frame from `station` came from a peer.
    pub(super) fn learn(&mut self, station: Station, peer: usize, now: Duration) {
        self.stations.learn(station, peer, now, LEARNED);
    }

    /// Who gets a frame to `station`.
    pub(super) fn whom(&self, station: Station, now: Duration) -> Whom<'_> {
        let known = if station.is_group() { None } else { self.stations.find(station, now, AGEING) };
        known.and_then(|peer| self.addresses.get(peer)).map_or(Whom::All(&self.addresses), Whom::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(last: u8) -> Station {
        Station::of(&[2, 0, 0, 0, 0, last, 2, 0, 0, 0, 0, 0xff, 0x88, 0xb5]).unwrap().0
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_is_known_by_its_address_and_by_its_port_where_that_is_needed() {
        let peers = ["192.0.2.1:4789", "192.0.2.2:1", "192.0.2.2:2"].map(address);
        let peers = Peers::new(peers.to_vec());
        for (from, found) in [
            ("192.0.2.1:4789", Some(0)),
            ("192.0.2.1:50000", Some(0)),
            ("192.0.2.2:2", Some(2)),
            ("192.0.2.2:50000", None),
            ("192.0.2.3:4789", None),
        ] {
            assert_eq!(peers.find(address(from)), found, "{from}");
        }
    }

    #[test]
    fn frames_go_where_their_station_was_seen_last_and_else_to_all() {
        let addresses = ["192.0.2.1:4789", "192.0.2.2:4789"].map(address);
        let mut peers = Peers::new(addresses.to_vec());
        let all = Whom::All(&addresses);
        assert_eq!(peers.whom(station(1), Duration::ZERO), all);
        peers.learn(station(1), 0, Duration::ZERO);
        assert_eq!(peers.whom(station(1), Duration::ZERO), Whom::One(&addresses[0]));
        assert_eq!(peers.whom(station(2), Duration::ZERO), all);
        peers.learn(station(1), 1, Duration::from_secs(1));
        assert_eq!(peers.whom(station(1), Duration::from_secs(300)), Whom::One(&addresses[1]));
        assert_eq!(peers.whom(station(1), Duration::from_secs(301)), all);
        let group = Station::of(&[0xff; 14]).unwrap().0;
        peers.learn(group, 0, Duration::ZERO);
        assert_eq!(peers.whom(group, Duration::ZERO), all);
    }

    #[test]
    fn a_peer_that_makes_up_stations_pushes_out_its_own() {
        let addresses = ["192.0.2.1:4789", "192.0.2.2:4789"].map(address);
        let mut peers = Peers::new(addresses.to_vec());
        peers.learn(station(1), 1, Duration::ZERO);
        for number in 0..=u16::try_from(LEARNED).unwrap() {
            let [high, low] = number.to_be_bytes();
            let bytes = [2, 0, 0, 9, high, low, 2, 0, 0, 0, 0, 0xff, 0x88, 0xb5];
            peers.learn(Station::of(&bytes).unwrap().0, 0, Duration::ZERO);
        }
        assert_eq!(peers.whom(station(1), Duration::ZERO), Whom::One(&addresses[1]));
        let first = Station::of(&[2, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap().0;
        assert_eq!(peers.whom(first, Duration::ZERO), Whom::All(&addresses));
    }
}
