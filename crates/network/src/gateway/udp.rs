//! UDP and pings: who of the guest speaks to the outside, and for how long answers find the way back.
//!
//! A guest's socket has one at the host, whatever it sends to, as with slirp: so servers that answer from another port, as those
//! of TFTP do, are heard. What it asks the resolver has one of its own, since that answer comes from another address than was asked.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{ForwardId, Guest, SocketId, shares};

/// Sockets and pings of the guests' at once; each costs a descriptor of the host's. The one unused for longest makes room, of the guest
/// that has most of them, those that were used only once first: what floods the table does not come back.
pub(super) const MOST_FLOWS: usize = 128;
/// How long answers are waited for after a datagram in either direction (RFC 4787, REQ-5: not less than two minutes).
const IDLE_AFTER: Duration = Duration::from_secs(120);
/// The same for the resolver's and for pings, each of which is answered once and soon, or never.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Who has the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A socket of a guest's.
    Socket(SocketAddr),
    /// The same one, asking the resolver: at this address.
    Resolver(SocketAddr, SocketAddr),
    /// A guest, an address that it pings, and the identifier of its pings.
    Ping(IpAddr, IpAddr, u16),
    /// A guest's socket that somebody speaks to through a host forward, and that somebody as the guest sees it.
    Forward(SocketAddr, SocketAddr),
}

#[derive(Debug)]
struct Flow {
    owner: Owner,
    /// Whose share it is of.
    guest: Guest,
    used: Duration,
    /// It was used more than once, in either direction.
    again: bool,
    /// Where answers go that are for somebody behind a host forward.
    peer: Option<(ForwardId, SocketAddr)>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    flows: BTreeMap<SocketId, Flow>,
    by_owner: HashMap<Owner, SocketId>,
    next: u64,
}

impl Datagrams {
    /// The flow of `owner`, made if there was none, for `guest`; with the one that had to make room.
    pub(super) fn of(&mut self, now: Duration, owner: Owner, guest: Guest) -> (SocketId, Option<SocketId>) {
        if let Some(id) = self.find(now, owner) {
            return (id, None);
        }
        let evicted = if self.flows.len() < MOST_FLOWS { None } else { self.expendable(guest) };
        if let Some(id) = evicted {
            self.forget(id);
        }
        let id = SocketId(self.next);
        self.next = self.next.wrapping_add(1);
        self.flows.insert(id, Flow { owner, guest, used: now, again: false, peer: None });
        self.by_owner.insert(owner, id);
        (id, evicted)
    }

    /// The flow of `owner`, if there is one, which is used now.
    pub(super) fn find(&mut self, now: Duration, owner: Owner) -> Option<SocketId> {
        let id = *self.by_owner.get(&owner)?;
        self.flows.get_mut(&id)?.touch(now);
        Some(id)
    }

    /// Notes that `peer` speaks to `guest` through a forward: the address at which the guest sees it, and the flow that had to make
    /// room. That is `seen`, or another port of it where somebody else is seen there already. `None`: all ports are in use.
    pub(super) fn forwarded(
        &mut self,
        now: Duration,
        guest: SocketAddr,
        seen: SocketAddr,
        peer: (ForwardId, SocketAddr),
        share: Guest,
    ) -> Option<(SocketAddr, Option<SocketId>)> {
        let seen = self.place_of(guest, seen, peer)?;
        let (id, evicted) = self.of(now, Owner::Forward(guest, seen), share);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.peer = Some(peer);
        }
        Some((seen, evicted))
    }

    fn place_of(
        &self,
        guest: SocketAddr,
        seen: SocketAddr,
        peer: (ForwardId, SocketAddr),
    ) -> Option<SocketAddr> {
        let at = |seen: SocketAddr| self.flows.get(self.by_owner.get(&Owner::Forward(guest, seen))?)?.peer;
        if at(seen).is_none_or(|other| other == peer) {
            return Some(seen);
        }
        let known = self.flows.values().find_map(|flow| match flow.owner {
            Owner::Forward(to, seen) if to == guest && flow.peer == Some(peer) => Some(seen),
            _ => None,
        });
        let free = || {
            let ports = (1024..=u16::MAX).rev().map(|port| SocketAddr::new(seen.ip(), port));
            ports.into_iter().find(|seen| at(*seen).is_none())
        };
        known.or_else(free)
    }

    /// Where what a guest says is to go, if it answers somebody behind a forward.
    pub(super) fn peer(&mut self, now: Duration, owner: Owner) -> Option<(ForwardId, SocketAddr)> {
        let id = self.find(now, owner)?;
        self.flows.get(&id)?.peer
    }

    /// Who has a flow, which is used now.
    pub(super) fn owner(&mut self, now: Duration, id: SocketId) -> Option<Owner> {
        let flow = self.flows.get_mut(&id)?;
        flow.touch(now);
        Some(flow.owner)
    }

    /// Forgets what nobody used for long.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<SocketId> {
        let over = |flow: &Flow| now.saturating_sub(flow.used) >= patience(flow.owner);
        let over: Vec<SocketId> =
            self.flows.iter().filter(|(_, flow)| over(flow)).map(|(id, _)| *id).collect();
        over.iter().for_each(|id| self.forget(*id));
        over
    }

    /// When there will be something to forget.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.flows.values().map(|flow| flow.used.saturating_add(patience(flow.owner))).min()
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) -> Vec<SocketId> {
        let all: Vec<SocketId> = self.flows.keys().copied().collect();
        all.iter().for_each(|id| self.forget(*id));
        all
    }

    pub(super) fn forget(&mut self, id: SocketId) {
        if let Some(flow) = self.flows.remove(&id) {
            self.by_owner.remove(&flow.owner);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.flows.len()
    }

    /// The one unused for longest of the guest that has to make room for one of `guest`'s.
    fn expendable(&self, guest: Guest) -> Option<SocketId> {
        let victim = shares::victim(self.flows.values().map(|flow| flow.guest), guest);
        let of_victim =
            self.flows.iter().filter(|(_, flow)| victim.is_none_or(|victim| flow.guest == victim));
        of_victim.min_by_key(|(_, flow)| (flow.again, flow.used)).map(|(id, _)| *id)
    }
}

impl Flow {
    fn touch(&mut self, now: Duration) {
        (self.used, self.again) = (now, true);
    }
}

fn patience(owner: Owner) -> Duration {
    match owner {
        Owner::Socket(_) | Owner::Forward(..) => IDLE_AFTER,
        Owner::Resolver(..) | Owner::Ping(..) => ANSWER_WITHIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16) -> Owner {
        Owner::Socket(SocketAddr::from(([10, 0, 2, 15], port)))
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_makes_room() {
        let mut table = Datagrams::default();
        let (first, _) = table.of(Duration::ZERO, socket(1), Guest(0));
        for port in 2..=u16::try_from(MOST_FLOWS).unwrap() {
            assert_eq!(table.of(Duration::from_secs(1), socket(port), Guest(0)).1, None);
        }
        assert_eq!(table.of(Duration::from_secs(2), socket(5000), Guest(0)).1, Some(first));
        assert_eq!((table.flows.len(), table.by_owner.len()), (MOST_FLOWS, MOST_FLOWS));
    }

    #[test]
    fn a_greedy_guest_keeps_its_part_and_no_more() {
        let mut table = Datagrams::default();
        for port in 1..1000 {
            table.of(Duration::ZERO, socket(port), Guest(1));
        }
        // The others' are newer, and so would be the last to go.
        for port in 1..1000 {
            let owner = Owner::Socket(SocketAddr::from(([10, 0, 2, 16], port)));
            table.of(Duration::from_secs(1), owner, Guest(2));
            table.of(Duration::from_secs(2), socket(2000 + port), Guest(1));
        }
        let counts =
            [1, 2].map(|guest| table.flows.values().filter(|flow| flow.guest == Guest(guest)).count());
        assert_eq!(counts, [MOST_FLOWS / 2; 2]);
    }

    #[test]
    fn two_peers_at_one_address_are_told_apart() {
        let mut table = Datagrams::default();
        let (guest, seen) = (([10, 0, 2, 15], 53).into(), SocketAddr::from(([10, 0, 2, 2], 999)));
        let peer = |address: &str| (ForwardId(1), address.parse().unwrap());
        let mut forwarded = |peer| table.forwarded(Duration::ZERO, guest, seen, peer, Guest(0)).unwrap().0;
        assert_eq!(forwarded(peer("127.0.0.1:999")), seen);
        let other = SocketAddr::from(([10, 0, 2, 2], 65535));
        assert_eq!(forwarded(peer("[::1]:999")), other);
        assert_eq!((forwarded(peer("127.0.0.1:999")), forwarded(peer("[::1]:999"))), (seen, other));
        assert_eq!(table.peer(Duration::ZERO, Owner::Forward(guest, seen)), Some(peer("127.0.0.1:999")));
        assert_eq!(table.peer(Duration::ZERO, Owner::Forward(guest, other)), Some(peer("[::1]:999")));
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut table = Datagrams::default();
        let (a, _) = table.of(Duration::ZERO, socket(1), Guest(0));
        let asks = Owner::Resolver(([10, 0, 2, 15], 1).into(), ([10, 0, 2, 3], 53).into());
        let (b, _) = table.of(Duration::ZERO, asks, Guest(0));
        assert_ne!(a, b);
        assert_eq!(table.deadline(), Some(ANSWER_WITHIN));
        assert_eq!(table.expire(ANSWER_WITHIN), [b]);
        assert_eq!(table.owner(ANSWER_WITHIN, a), Some(socket(1)));
        assert_eq!(table.expire(IDLE_AFTER), []);
        assert_eq!(table.expire(IDLE_AFTER + ANSWER_WITHIN), [a]);
        assert_eq!(table.deadline(), None);
    }
}
