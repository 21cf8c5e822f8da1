//! What the switch knows and decides: pure state and time, behind the lock that `switch.rs` holds.
//!
//! It calls nobody: wakers are collected, and called by the port's methods after unlocking.

mod passage;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::capture::{Captures, What};
use crate::faults::Faults;
use crate::frame::{Accepts, Frame};
use crate::inbox::{Audience, Inbox, Room};
use crate::switch::Wakes;
use crate::table::{Station, Table};
use crate::{Counters, Full, Limits, Waker};

pub(crate) use passage::Way;

/// Names a port for as long as the switch lives: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PortId(pub(crate) u64);

/// A frame that has passed all checks, or why it did not. Its bytes are not copied under the lock: several receivers share
/// them until they take them.
pub(crate) enum Admission {
    Frame { frame: Arc<Frame>, to: Station, from: Station },
    BadLength,
    Malformed,
}

/// The ports and what was learnt.
pub(crate) struct State {
    limits: Limits,
    next: u64,
    ports: BTreeMap<PortId, Member>,
    table: Table<PortId>,
    /// Whatever is between ports, if anything is.
    faults: Option<Box<Faults>>,
    /// Who is told when frames under way are to arrive earlier than any before.
    timer: Option<Waker>,
    /// Who keeps what passes, if anybody does.
    pub(crate) captures: Option<Box<Captures>>,
}

/// The switch's side of a port.
struct Member {
    name: String,
    link: bool,
    ready: bool,
    accepts: Accepts,
    waker: Option<Waker>,
    inbox: Inbox,
    counters: Counters,
}

/// Where a frame goes.
enum Route {
    Nowhere,
    One(PortId),
    /// All other ports.
    Flood {
        /// The one of them that has it to itself.
        only: Option<PortId>,
    },
}

impl State {
    pub(crate) fn new(limits: Limits) -> Self {
        let (ports, table) = (BTreeMap::new(), Table::default());
        Self { limits, next: 0, ports, table, faults: None, timer: None, captures: None }
    }

    pub(crate) fn attach(&mut self, name: &str) -> PortId {
        let id = PortId(self.next);
        self.next = self.next.wrapping_add(1);
        let member = Member {
            name: name.to_owned(),
            link: true,
            ready: false,
            accepts: Accepts::default(),
            waker: None,
            inbox: Inbox::default(),
            counters: Counters::default(),
        };
        self.ports.insert(id, member);
        if let Some(captures) = &mut self.captures {
            captures.name(id, name);
        }
        id
    }

    /// Removes a port: nobody waits for it, it waits for nobody, and its addresses are unknown.
    pub(crate) fn detach(&mut self, id: PortId, wakes: &mut Wakes) {
        self.ground(id);
        let Some(mut member) = self.ports.remove(&id) else { return };
        if let Some(captures) = &mut self.captures {
            captures.forget(id);
        }
        self.table.forget(id);
        for other in self.ports.values_mut() {
            other.inbox.leave(id);
        }
        let (_, waiting) = member.inbox.flush();
        self.wake(waiting, wakes);
    }

    pub(crate) fn counters(&self) -> Vec<(String, Counters)> {
        self.ports.values().map(|member| (member.name.clone(), member.counters)).collect()
    }

    pub(crate) fn counters_of(&self, id: PortId) -> Counters {
        self.ports.get(&id).map(|member| member.counters).unwrap_or_default()
    }

    pub(crate) fn is_waiting(&self, id: PortId) -> bool {
        self.ports.get(&id).is_some_and(|member| !member.inbox.is_empty())
    }

    pub(crate) fn link(&self, id: PortId) -> bool {
        self.ports.get(&id).is_some_and(|member| member.link)
    }

    #[cfg(test)]
    pub(crate) fn stations_known(&self) -> usize {
        self.table.len()
    }

    /// Gives the former waker back, to be dropped outside the lock.
    pub(crate) fn set_waker(&mut self, id: PortId, waker: Waker) -> Option<Waker> {
        self.ports.get_mut(&id)?.waker.replace(waker)
    }

    pub(crate) fn set_accepts(&mut self, id: PortId, accepts: Accepts) {
        if let Some(member) = self.ports.get_mut(&id) {
            member.accepts = accepts;
        }
    }

    pub(crate) fn set_ready(&mut self, id: PortId, ready: bool, wakes: &mut Wakes) {
        let Some(member) = self.ports.get_mut(&id) else { return };
        member.ready = ready;
        if !ready {
            let waiting = member.flush();
            self.wake(waiting, wakes);
        }
    }

    pub(crate) fn rest(&mut self, id: PortId, wakes: &mut Wakes) {
        let Some(member) = self.ports.get_mut(&id) else { return };
        member.ready = false;
        let waiting = member.inbox.rest();
        self.wake(waiting, wakes);
    }

    /// A bridge forgets what is behind a link that goes down, or frames would be sent there although the station has
    /// turned to another of its links.
    pub(crate) fn set_link(&mut self, id: PortId, up: bool, wakes: &mut Wakes) {
        let Some(member) = self.ports.get_mut(&id) else { return };
        if std::mem::replace(&mut member.link, up) && !up {
            let waiting = member.flush();
            self.table.forget(id);
            self.wake(waiting, wakes);
        }
    }

    /// Takes the next frame for `id`, with what its owner accepts.
    pub(crate) fn take(&mut self, id: PortId, wakes: &mut Wakes) -> Option<(Arc<Frame>, Accepts)> {
        let member = self.ports.get_mut(&id)?;
        let (frame, waiting) = member.inbox.take(&self.limits)?;
        let accepts = member.accepts;
        count(&mut member.counters.received, 1);
        count(&mut member.counters.received_bytes, frame.bytes.len());
        self.wake(waiting, wakes);
        Some((frame, accepts))
    }

    /// Notes what became of a frame that was taken: so many packets, or, with `None`, nothing.
    pub(crate) fn note_cut(&mut self, id: PortId, packets: Option<usize>) {
        let Some(Member { counters, .. }) = self.ports.get_mut(&id) else { return };
        match packets {
            Some(packets) => count(&mut counters.segments, packets),
            None => {
                counters.received = counters.received.saturating_sub(1);
                count(&mut counters.lost.unfinished, 1);
            }
        }
    }

    /// Forwards a frame, or gives it back to be sent again.
    pub(crate) fn send(
        &mut self,
        id: PortId,
        now: Duration,
        admission: Admission,
        wakes: &mut Wakes,
    ) -> Result<(), Full> {
        let Some(sender) = self.ports.get_mut(&id) else { return Ok(()) };
        let (frame, to, from) = match admission {
            Admission::Frame { .. } if !sender.link => {
                return sender.refuse(|refused| &mut refused.link_down);
            }
            Admission::BadLength => return sender.refuse(|refused| &mut refused.length),
            Admission::Malformed => return sender.refuse(|refused| &mut refused.malformed),
            Admission::Frame { frame, to, from } => (frame, to, from),
        };
        self.table.learn(from, id, now, self.limits.learned);
        if self.faults.is_some() {
            self.land(now, wakes);
        }
        let length = frame.bytes.len();
        let route = self.route(id, to, now);
        if let Some(retry_at) = self.must_wait(id, &route, length, now, wakes) {
            if let Some(sender) = self.ports.get_mut(&id) {
                count(&mut sender.counters.held_back, 1);
            }
            return Err(Full { frame: Arc::unwrap_or_clone(frame), retry_at });
        }
        if let Some(captures) = &mut self.captures {
            captures.sent(now, id, &frame, wakes);
        }
        let copies = match route {
            Route::Nowhere => 0,
            Route::One(to) => self.unicast(Way { from: id, to }, frame, now, wakes),
            Route::Flood { only } => self.flood(id, only, &frame, now, wakes),
        };
        if let Some(Member { counters, .. }) = self.ports.get_mut(&id) {
            count(&mut counters.sent, 1);
            count(&mut counters.copies, copies);
            if copies == 0 {
                count(&mut counters.refused.nowhere, 1);
            } else {
                count(&mut counters.forwarded, 1);
                count(&mut counters.forwarded_bytes, length);
            }
        }
        Ok(())
    }

    /// The port behind which a station was seen last.
    pub(crate) fn whence(&self, station: Station, now: Duration) -> Option<PortId> {
        self.table.find(station, now, self.limits.ageing)
    }

    fn route(&self, sender: PortId, to: Station, now: Duration) -> Route {
        let known = if to.is_group() { None } else { self.table.find(to, now, self.limits.ageing) };
        match known {
            Some(port) if port == sender => Route::Nowhere,
            Some(port) => Route::One(port),
            None => Route::Flood { only: self.only_receiver(sender) },
        }
    }

    /// The one port besides `sender` that has a link and a ready owner, or else the one that has a link.
    fn only_receiver(&self, sender: PortId) -> Option<PortId> {
        let linked = || self.ports.iter().filter(|(id, member)| **id != sender && member.link);
        let ready = linked().filter(|(_, member)| member.ready);
        only(ready).or_else(|| only(linked())).map(|(id, _)| *id)
    }

    /// Until when the frame has to wait, if it has a single ready receiver and that one is full.
    fn must_wait(
        &mut self,
        sender: PortId,
        route: &Route,
        length: usize,
        now: Duration,
        wakes: &mut Wakes,
    ) -> Option<Duration> {
        let receiver = match route {
            Route::Nowhere => return None,
            Route::One(receiver) => *receiver,
            Route::Flood { only } => (*only)?,
        };
        let member = self.ports.get_mut(&receiver).filter(|member| member.link && member.ready)?;
        match member.inbox.ask(sender, length, now, &self.limits) {
            Room::At(time) => Some(time),
            Room::Now => None,
            Room::Late => {
                // The others' waiting has ended too, if there was any.
                member.inbox.forget(sender);
                let waiting = member.inbox.give_up();
                self.wake(waiting, wakes);
                None
            }
        }
    }

    fn unicast(&mut self, way: Way, frame: Arc<Frame>, now: Duration, wakes: &mut Wakes) -> usize {
        if self.faults.is_some() {
            self.pass(way, frame, Audience::One, now, wakes);
            return 1;
        }
        let Some(member) = self.ports.get_mut(&way.to) else { return 0 };
        if member.admits(way.from, frame.bytes.len(), Audience::One, &self.limits) {
            member.push(way.from, frame, Audience::One, wakes);
        } else if let Some(captures) = &mut self.captures {
            captures.record(now, way, &frame, member.obstacle(), wakes);
        }
        1
    }

    fn flood(
        &mut self,
        sender: PortId,
        only: Option<PortId>,
        frame: &Arc<Frame>,
        now: Duration,
        wakes: &mut Wakes,
    ) -> usize {
        if self.faults.is_some() {
            return self.flood_with_faults(sender, only, frame, now, wakes);
        }
        let mut copies = 0;
        for (id, member) in self.ports.iter_mut().filter(|(id, _)| **id != sender) {
            copies += 1;
            let audience = if Some(*id) == only { Audience::One } else { Audience::Several };
            if member.admits(sender, frame.bytes.len(), audience, &self.limits) {
                member.push(sender, Arc::clone(frame), audience, wakes);
            } else if let Some(captures) = &mut self.captures {
                let way = Way { from: sender, to: *id };
                captures.record(now, way, frame, member.obstacle(), wakes);
            }
        }
        copies
    }

    fn wake(&self, waiting: VecDeque<PortId>, wakes: &mut Wakes) {
        for id in waiting {
            wakes.add(self.ports.get(&id).and_then(|member| member.waker.as_ref()));
        }
    }
}

impl Member {
    /// Counts a frame from the owner that goes nowhere.
    fn refuse(&mut self, reason: impl FnOnce(&mut crate::Refused) -> &mut u64) -> Result<(), Full> {
        count(&mut self.counters.sent, 1);
        count(reason(&mut self.counters.refused), 1);
        Ok(())
    }

    /// Whether a frame of `length` bytes can be queued; counts it as lost if not.
    fn admits(&mut self, from: PortId, length: usize, audience: Audience, limits: &Limits) -> bool {
        let lost = &mut self.counters.lost;
        if !self.link {
            count(&mut lost.link_down, 1);
            return false;
        }
        let fits = self.inbox.fits(from, length, audience, limits);
        if !fits {
            count(&mut lost.full, 1);
        }
        fits
    }

    /// Why it was not.
    fn obstacle(&self) -> What {
        if self.link { What::Full } else { What::LinkDown }
    }

    /// Queues a frame that was admitted; its owner is woken for the first one.
    fn push(&mut self, from: PortId, frame: Arc<Frame>, audience: Audience, wakes: &mut Wakes) {
        if self.inbox.is_empty() {
            wakes.add(self.waker.as_ref());
        }
        count(&mut self.counters.arrived, 1);
        self.inbox.push(from, frame, audience);
    }

    /// Throws away what is queued: whoever waits is to be woken.
    fn flush(&mut self) -> VecDeque<PortId> {
        let (frames, waiting) = self.inbox.flush();
        count(&mut self.counters.lost.flushed, frames);
        waiting
    }
}

/// The item, if there is just one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// Adds to a counter, which stays at its maximum rather than lie.
fn count(counter: &mut u64, number: usize) {
    *counter = counter.saturating_add(u64::try_from(number).unwrap_or(u64::MAX));
}
