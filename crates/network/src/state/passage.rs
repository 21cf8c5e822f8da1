//! The way of a frame to one receiver: at once, or through the faults of its way.

use std::sync::Arc;
use std::time::Duration;

use super::{PortId, State, count};
use crate::capture::{CaptureLimits, What};
use crate::faults::{Crossing, Flight, Impairment, Reason};
use crate::finish::{Finished, finish};
use crate::frame::{Accepts, Frame};
use crate::inbox::Audience;
use crate::switch::Wakes;
use crate::{Switch, Waker};

/// From one port to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) from: PortId,
    pub(crate) to: PortId,
}

impl State {
    /// Sets the faults of a way, in place of former ones.
    pub(crate) fn impair(&mut self, from: &str, to: &str, impairment: Option<Impairment>, now: Duration) {
        self.faults.get_or_insert_default().set(from, to, impairment, now);
        self.forget_idle();
    }

    /// Sets who cannot reach whom.
    pub(crate) fn partition(&mut self, groups: &[Vec<String>]) {
        self.faults.get_or_insert_default().partition(groups);
        self.forget_idle();
    }

    pub(crate) fn heal(&mut self) {
        if let Some(faults) = &mut self.faults {
            faults.heal();
        }
        self.forget_idle();
    }

    /// Without faults there is nothing to ask for every frame.
    fn forget_idle(&mut self) {
        self.faults.take_if(|faults| faults.is_idle());
    }

    /// Gives the former one back, to be dropped outside the lock.
    pub(crate) fn set_timer(&mut self, timer: Waker) -> Option<Waker> {
        self.timer.replace(timer)
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.faults.as_ref()?.air.deadline()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.faults.as_ref().map_or(0, |faults| faults.air.len())
    }

    /// Takes a frame to all others.
    pub(super) fn flood_with_faults(
        &mut self,
        from: PortId,
        only: Option<PortId>,
        frame: &Arc<Frame>,
        now: Duration,
        wakes: &mut Wakes,
    ) -> usize {
        let receivers: Vec<PortId> = self.ports.keys().copied().filter(|id| *id != from).collect();
        for to in &receivers {
            let audience = if Some(*to) == only { Audience::One } else { Audience::Several };
            self.pass(Way { from, to: *to }, Arc::clone(frame), audience, now, wakes);
        }
        receivers.len()
    }

    /// Takes a frame to a receiver, whatever is between.
    pub(super) fn pass(
        &mut self,
        way: Way,
        frame: Arc<Frame>,
        audience: Audience,
        now: Duration,
        wakes: &mut Wakes,
    ) {
        if self.is_separated(way) {
            return self.lose(way, &frame, Reason::Cut, now, wakes);
        }
        if !self.has_link(way) {
            return self.arrive(way, frame, audience, None, now, wakes);
        }
        // Faults happen to what is on the wire: single packets, all of whose checksums are there.
        match finish(Arc::unwrap_or_clone(frame), Accepts::default()) {
            Some(Finished::Whole(frame)) => self.cross(way, frame, audience, now, wakes),
            Some(Finished::Cut(packets)) => {
                self.add(way.to, packets.packets().saturating_sub(1));
                for packet in packets {
                    self.cross(way, packet, audience, now, wakes);
                }
            }
            None => self.count_lost(way),
        }
    }

    /// Lets all arrive whose time has come.
    pub(crate) fn land(&mut self, now: Duration, wakes: &mut Wakes) {
        let Some(faults) = &mut self.faults else { return };
        for flight in faults.air.take_held(now) {
            self.land_one(flight, now, wakes);
        }
        while let Some(flight) = self.faults.as_mut().and_then(|faults| faults.air.pop(now)) {
            self.land_one(flight, now, wakes);
        }
        self.forget_idle();
    }

    /// Loses what a port that goes away has sent or is to get.
    pub(super) fn ground(&mut self, id: PortId) {
        let Some(faults) = &mut self.faults else { return };
        for flight in faults.air.take_of(id) {
            let length = flight.frame.bytes.len();
            self.touch_down(flight.way, length);
            self.count_lost(flight.way);
        }
        self.forget_idle();
    }

    fn touch_down(&mut self, way: Way, length: usize) {
        if let Some(faults) = &mut self.faults {
            faults.air.landed(length);
        }
        self.with_link(way, |link| link.touch_down(length));
    }

    fn land_one(&mut self, flight: Flight, now: Duration, wakes: &mut Wakes) {
        let way = flight.way;
        let length = flight.frame.bytes.len();
        let is_full = self.ports.get(&way.to).is_some_and(|member| {
            member.link && member.ready && !member.inbox.fits(way.from, length, flight.audience, &self.limits)
        });
        let waits = flight.audience == Audience::One && !flight.is_overdue(now) && !self.is_separated(way);
        let Some(faults) = &mut self.faults else { return };
        if waits && (is_full || faults.air.is_held(way)) {
            return faults.air.hold(flight, now);
        }
        self.touch_down(way, length);
        // Who cuts a way means all that has not arrived.
        if self.is_separated(way) {
            return self.lose(way, &flight.frame, Reason::Cut, now, wakes);
        }
        self.arrive(way, flight.frame, flight.audience, Some(flight.crossing), now, wakes);
    }

    /// One packet, through the faults of its way.
    fn cross(&mut self, way: Way, frame: Frame, audience: Audience, now: Duration, wakes: &mut Wakes) {
        let length = frame.bytes.len();
        let fates = self.with_link(way, |link| link.judge(now, length));
        let [first, second] = fates.unwrap_or_default();
        let frame = Arc::new(frame);
        if let Some(fate) = second {
            self.add(way.to, 1);
            self.depart(way, Arc::clone(&frame), audience, first, now, wakes);
            return self.depart(way, frame, audience, Some(fate), now, wakes);
        }
        self.depart(way, frame, audience, first, now, wakes);
    }

    fn depart(
        &mut self,
        way: Way,
        frame: Arc<Frame>,
        audience: Audience,
        fate: Option<Result<Crossing, Reason>>,
        now: Duration,
        wakes: &mut Wakes,
    ) {
        let crossing = match fate {
            Some(Ok(crossing)) => crossing,
            Some(Err(reason)) => return self.lose(way, &frame, reason, now, wakes),
            None => return,
        };
        let frame = match crossing.flipped {
            Some(bit) => Arc::new(flip(Arc::unwrap_or_clone(frame), bit)),
            None => frame,
        };
        let is_held = self.faults.as_ref().is_some_and(|faults| faults.air.is_held(way));
        if crossing.due <= now && !is_held {
            return self.arrive(way, frame, audience, Some(crossing), now, wakes);
        }
        let length = frame.bytes.len();
        let has_room = self.faults.as_ref().is_some_and(|faults| faults.air.has_room(length));
        let took_off =
            self.with_link(way, |link| if has_room { link.take_off(length) } else { Err(Reason::Queue) });
        if let Some(Err(reason)) = took_off {
            return self.lose(way, &frame, reason, now, wakes);
        }
        let Some(faults) = &mut self.faults else { return };
        let before = faults.air.deadline();
        faults.air.push(Flight { way, frame, audience, crossing });
        if before.is_none_or(|before| crossing.due < before) {
            wakes.add(self.timer.as_ref());
        }
    }

    /// Queues a frame for its receiver, if there is room.
    fn arrive(
        &mut self,
        way: Way,
        frame: Arc<Frame>,
        audience: Audience,
        crossing: Option<Crossing>,
        now: Duration,
        wakes: &mut Wakes,
    ) {
        let Some(member) = self.ports.get_mut(&way.to) else { return };
        let admitted = member.admits(way.from, frame.bytes.len(), audience, &self.limits);
        let what = if admitted { crossing.map(What::Arrived) } else { Some(member.obstacle()) };
        if let (Some(captures), Some(what)) = (&mut self.captures, what) {
            captures.record(now, way, &frame, what, wakes);
        }
        if admitted {
            member.push(way.from, frame, audience, wakes);
        }
    }

    fn count_lost(&mut self, way: Way) {
        if let Some(member) = self.ports.get_mut(&way.to) {
            count(&mut member.counters.lost.faults, 1);
        }
    }

    /// Counts and records a frame that a fault has taken.
    fn lose(&mut self, way: Way, frame: &Frame, reason: Reason, now: Duration, wakes: &mut Wakes) {
        self.count_lost(way);
        if let Some(captures) = &mut self.captures {
            captures.record(now, way, frame, What::Dropped(reason), wakes);
        }
    }

    /// Begins a capture, in which each port is an interface.
    pub(crate) fn start_capture(&mut self, limits: CaptureLimits) -> u64 {
        let captures = self.captures.get_or_insert_default();
        for (id, member) in &self.ports {
            captures.name(*id, &member.name);
        }
        captures.start(limits)
    }

    fn add(&mut self, receiver: PortId, frames: usize) {
        if let Some(member) = self.ports.get_mut(&receiver) {
            count(&mut member.counters.added, frames);
        }
    }

    fn is_separated(&self, way: Way) -> bool {
        let names = self.names(way).zip(self.faults.as_ref());
        names.is_some_and(|((from, to), faults)| faults.separates(from, to))
    }

    fn has_link(&mut self, way: Way) -> bool {
        self.with_link(way, |_| ()).is_some()
    }

    /// Does something with the faults of a way, if it has some.
    fn with_link<T>(&mut self, way: Way, work: impl FnOnce(&mut crate::faults::Link) -> T) -> Option<T> {
        let (from, to) = (self.ports.get(&way.from)?, self.ports.get(&way.to)?);
        self.faults.as_mut()?.link(&from.name, &to.name).map(work)
    }

    fn names(&self, way: Way) -> Option<(&str, &str)> {
        Some((&self.ports.get(&way.from)?.name, &self.ports.get(&way.to)?.name))
    }
}

/// Flips a bit, counted from the start of the frame. Nobody knows its checksums to be right any more.
fn flip(mut frame: Frame, bit: usize) -> Frame {
    if let Some(byte) = frame.bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    frame.offload.data_valid = false;
    frame
}

impl Switch {
    /// Sets what is wrong with the way from the port named `from` to the one named `to`, in place of what was before; `None`
    /// is nothing. Ports of these names need not be attached yet, and may come and go. `now` is a time as in
    /// [`Port::send`](crate::Port::send).
    ///
    /// A frame of several packets (segmentation offload) is cut into them on such a way, and the checksums left to others are
    /// computed, since faults happen to single packets. Senders wait for a receiver that is full as ever, but not for the
    /// way: what it has no room for is lost.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn impair(
        &self,
        now: Duration,
        from: &str,
        to: &str,
        impairment: Option<Impairment>,
    ) -> Result<(), crate::WrongImpairment> {
        if let Some(impairment) = &impairment {
            impairment.check()?;
        }
        self.lock().impair(from, to, impairment, now);
        Ok(())
    }

    /// Lets ports of different groups reach each other no more, in place of a former partition. A port in no group reaches all
    /// others. What is under way between groups is lost.
    pub fn partition(&self, groups: &[Vec<String>]) {
        self.lock().partition(groups);
    }

    /// Takes away all faults and the partition. What is under way arrives when it was to.
    pub fn heal(&self) {
        self.lock().heal();
    }

    /// Sets who is told when [`Switch::deadline`] has come nearer.
    pub fn set_timer(&self, timer: Waker) {
        let former = self.lock().set_timer(timer);
        drop(former);
    }

    /// When [`Switch::advance`] is to be called, if it is. Without delays and rates it never is.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.lock().deadline()
    }

    /// Lets all frames arrive whose time has come.
    pub fn advance(&self, now: Duration) {
        let mut wakes = Wakes::default();
        self.lock().land(now, &mut wakes);
        wakes.call();
    }

    /// How many frames are under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight()
    }
}
