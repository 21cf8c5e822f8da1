//! UDP and pings: who of the guest speaks to the outside, and for how long answers find the way back.
//!
//! A guest's socket has one at the host, whatever it sends to, as with slirp: so servers that answer from another port, as those
//! of TFTP do, are heard. What it asks the resolver has one of its own, since that answer comes from another address than was asked.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{ForwardId, SocketId};

/// Sockets and pings of the guests' at once; the one unused for longest makes room. Each costs a descriptor of the host's.
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
    used: Duration,
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
    /// The flow of `owner`, made if there was none; with the one that had to make room.
    pub(super) fn of(&mut self, now: Duration, owner: Owner) -> (SocketId, Option<SocketId>) {
        if let Some(id) = self.find(now, owner) {
            return (id, None);
        }
        let evicted = if self.flows.len() < MOST_FLOWS { None } else { self.oldest() };
        if let Some(id) = evicted {
            self.forget(id);
        }
        let id = SocketId(self.next);
        self.next = self.next.wrapping_add(1);
        self.flows.insert(id, Flow { owner, used: now, peer: None });
        self.by_owner.insert(owner, id);
        (id, evicted)
    }

    /// The flow of `owner`, if there is one, which is used now.
    pub(super) fn find(&mut self, now: Duration, owner: Owner) -> Option<SocketId> {
        let id = *self.by_owner.get(&owner)?;
        self.flows.get_mut(&id)?.used = now;
        Some(id)
    }

    /// Notes that `peer` speaks to the guest through a forward; with the flow that had to make room.
    pub(super) fn forwarded(
        &mut self,
        now: Duration,
        owner: Owner,
        peer: (ForwardId, SocketAddr),
    ) -> Option<SocketId> {
        let (id, evicted) = self.of(now, owner);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.peer = Some(peer);
        }
        evicted
    }

    /// Where what a guest says is to go, if it answers somebody behind a forward.
    pub(super) fn peer(&mut self, now: Duration, owner: Owner) -> Option<(ForwardId, SocketAddr)> {
        let id = self.find(now, owner)?;
        self.flows.get(&id)?.peer
    }

    /// Who has a flow, which is used now.
    pub(super) fn owner(&mut self, now: Duration, id: SocketId) -> Option<Owner> {
        let flow = self.flows.get_mut(&id)?;
        flow.used = now;
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

    fn oldest(&self) -> Option<SocketId> {
        self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(id, _)| *id)
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
        let (first, _) = table.of(Duration::ZERO, socket(1));
        for port in 2..=u16::try_from(MOST_FLOWS).unwrap() {
            assert_eq!(table.of(Duration::from_secs(1), socket(port)).1, None);
        }
        assert_eq!(table.of(Duration::from_secs(2), socket(5000)).1, Some(first));
        assert_eq!((table.flows.len(), table.by_owner.len()), (MOST_FLOWS, MOST_FLOWS));
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut table = Datagrams::default();
        let (a, _) = table.of(Duration::ZERO, socket(1));
        let asks = Owner::Resolver(([10, 0, 2, 15], 1).into(), ([10, 0, 2, 3], 53).into());
        let (b, _) = table.of(Duration::ZERO, asks);
        assert_ne!(a, b);
        assert_eq!(table.deadline(), Some(ANSWER_WITHIN));
        assert_eq!(table.expire(ANSWER_WITHIN), [b]);
        assert_eq!(table.owner(ANSWER_WITHIN, a), Some(socket(1)));
        assert_eq!(table.expire(IDLE_AFTER), []);
        assert_eq!(table.expire(IDLE_AFTER + ANSWER_WITHIN), [a]);
        assert_eq!(table.deadline(), None);
    }
}
