//! The queue of frames towards one port, and who waits for room in it.
//!
//! Owned by the switch's state. It is *open* until a frame that is to wait finds no room; then it is *closed* to such
//! frames until everybody who was turned away has been told, first come first, that what is his is half empty again. So
//! senders take turns, and are not woken for every single frame.
//!
//! ```text
//!           no room                 half emptied: all are woken
//!   open ───────────────► closed ──────────────────────────────► open
//!                            │  nothing taken for `stalled_after`,
//!                            │  or no `Patience` left
//!                            └─► nobody waits: what fits goes in, the rest is lost
//! ```
//!
//! Where several senders have something for the port, each has an equal part of the queue to fill, and is turned away and told by
//! how full that one is. So nobody is kept out by who fills all of it, and by [`Lanes`] nobody gets more of the receiver than
//! his part.

mod lanes;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use self::lanes::{Lanes, Load};
use crate::Limits;
use crate::frame::Frame;
use crate::patience::Patience;
use crate::state::PortId;

/// Frames towards one port.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    lanes: Lanes,
    closed: Option<Closed>,
    patience: Patience,
    /// What was taken while it was closed, since that was last half of a queue.
    drained: Load,
    waiting: VecDeque<PortId>,
    /// Who was told that there is room for him: he may come although it is closed, and his part is kept for him. With whether the
    /// queue has opened since: whoever has not come by the next time has no use for it.
    told: Vec<(PortId, bool)>,
}

/// Who gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Only the owner of this queue, for which its sender may wait.
    One,
    /// Others too, so that it never waits. Such frames fill half of the queue at most: senders that are never told to wait
    /// could otherwise take all the room from those that are. Those of one sender fill three quarters of that half, so that who
    /// sends nothing else but broadcasts leaves room for others' questions.
    Several,
}

#[derive(Debug)]
struct Closed {
    /// When it was last seen that something had been taken.
    idle_since: Duration,
    /// Something was taken since then. Taking has no time of its own: the next sender supplies it.
    taken: bool,
}

/// The answer to a sender that is willing to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Push now: there is room.
    Now,
    /// Push now, and if there is no room, it is lost: this receiver is not worth waiting for.
    Late,
    /// Wait to be woken, or try again at this time.
    At(Duration),
}

impl Inbox {
    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.load().frames == 0
    }

    /// Asks on behalf of `sender`, which is willing to wait, for room for a frame of `length` bytes.
    pub(crate) fn ask(&mut self, sender: PortId, length: usize, now: Duration, limits: &Limits) -> Room {
        let left = self.patience.left(now, limits);
        let is_let_in = self.closed.is_none() || self.was_told(sender);
        if is_let_in
            && self.has_part_left(sender, length, limits)
            && self.fits(sender, length, Audience::One, limits)
        {
            self.waiting.retain(|other| *other != sender);
            return Room::Now;
        }
        self.told.retain(|(other, _)| *other != sender);
        let closed = self.closed.get_or_insert(Closed { idle_since: now, taken: false });
        if std::mem::take(&mut closed.taken) {
            closed.idle_since = now;
        }
        let idle_until = closed.idle_since.saturating_add(limits.stalled_after);
        let until = now.saturating_add(left).min(idle_until);
        if now >= until {
            return Room::Late;
        }
        self.patience.wait(until);
        if !self.waiting.contains(&sender) {
            self.waiting.push_back(sender);
        }
        Room::At(until)
    }

    /// Queues a frame of `sender`'s, which [`Inbox::fits`].
    pub(crate) fn push(&mut self, sender: PortId, frame: Arc<Frame>, audience: Audience) {
        self.lanes.push(sender, frame, audience);
    }

    /// Takes the next frame, and whoever is to be woken because there is room for them again.
    pub(crate) fn take(&mut self, limits: &Limits) -> Option<(Arc<Frame>, VecDeque<PortId>)> {
        let frame = self.lanes.pop()?;
        let mut woken = VecDeque::new();
        if let Some(closed) = &mut self.closed {
            closed.taken = true;
            self.drained.add(frame.bytes.len());
            let half = whole(limits).part(2);
            let half_empty = self.lanes.load().is_within(half);
            // Where others have filled it again meanwhile, it was no less work to take so many.
            if half_empty || !self.drained.is_within(half) {
                self.drained = Load::default();
                self.patience.half_empty();
            }
            woken = self.next_ones(limits);
            if self.waiting.is_empty() && (half_empty || !woken.is_empty()) {
                self.closed = None;
                self.told.retain(|(_, is_old)| !is_old);
                self.told.iter_mut().for_each(|(_, is_old)| *is_old = true);
            }
        }
        if self.is_empty() {
            self.patience.empty();
        }
        Some((frame, woken))
    }

    /// Empties and opens the queue: the number of frames thrown away, and whoever is to be woken.
    pub(crate) fn flush(&mut self) -> (usize, VecDeque<PortId>) {
        let Inbox { lanes, waiting, mut patience, .. } = std::mem::take(self);
        patience.flushed();
        self.patience = patience;
        (lanes.load().frames, waiting)
    }

    /// Whoever waits, because waiting has become pointless.
    pub(crate) fn give_up(&mut self) -> VecDeque<PortId> {
        std::mem::take(&mut self.waiting)
    }

    /// Opens the queue, and gives whoever waits: the owner takes nothing for a while.
    pub(crate) fn rest(&mut self) -> VecDeque<PortId> {
        self.closed = None;
        self.told.clear();
        self.give_up()
    }

    /// Forgets that `sender` waits.
    pub(crate) fn forget(&mut self, sender: PortId) {
        self.waiting.retain(|other| *other != sender);
        self.told.retain(|(other, _)| *other != sender);
    }

    fn was_told(&self, sender: PortId) -> bool {
        self.told.iter().any(|(told, _)| *told == sender)
    }

    /// A sender has gone, and what it sent is still there.
    pub(crate) fn leave(&mut self, sender: PortId) {
        self.forget(sender);
        self.lanes.leave(sender);
    }

    /// Whether a frame of `length` bytes of `sender`'s may be queued. A first one always may, so that no limit can stop traffic
    /// altogether.
    pub(crate) fn fits(&self, sender: PortId, length: usize, audience: Audience, limits: &Limits) -> bool {
        let (whole, load) = (whole(limits), self.lanes.load());
        // In a hub there is no unicast to leave room for.
        let is_free = audience == Audience::One || limits.is_hub();
        let share = is_free || {
            let (half, flooded) = (whole.part(2), self.lanes.flooded());
            let own = half.less_a_quarter();
            let sent = self.lanes.flooded_of(sender);
            flooded.leaves_room(length, half) && (sent.frames == 0 || sent.leaves_room(length, own))
        };
        load.frames == 0 || (share && load.leaves_room(length, whole))
    }

    /// How many senders have something for this port, `sender` among them.
    fn contenders(&self, sender: PortId) -> usize {
        let others = self.lanes.senders().filter(|other| *other != sender).count();
        let has_nothing_here = |id: PortId| id != sender && self.lanes.load_of(id).frames == 0;
        let told = self.told.iter().map(|(told, _)| told);
        let waiting = self.waiting.iter().chain(told).filter(|id| has_nothing_here(**id)).count();
        1usize.saturating_add(others).saturating_add(waiting)
    }

    /// Whether one more frame fits into `sender`'s part of the queue. It is all his where he is alone.
    fn has_part_left(&self, sender: PortId, length: usize, limits: &Limits) -> bool {
        let contenders = self.contenders(sender);
        let own = self.lanes.load_of(sender);
        contenders == 1 || own.frames == 0 || own.leaves_room(length, whole(limits).part(contenders))
    }

    /// Takes those whose part is half empty from those who wait.
    fn next_ones(&mut self, limits: &Limits) -> VecDeque<PortId> {
        let may_come = |id: &PortId| {
            let half = whole(limits).part(self.contenders(*id)).part(2);
            // Who has sent all that there is waits until it is half empty, and others for room.
            self.lanes.load_of(*id).is_within(half) && self.fits(*id, 0, Audience::One, limits)
        };
        let woken: VecDeque<PortId> = self.waiting.iter().filter(|id| may_come(id)).copied().collect();
        self.waiting.retain(|id| !woken.contains(id));
        self.told.extend(woken.iter().map(|id| (*id, false)));
        woken
    }
}

/// All that a queue has room for.
fn whole(limits: &Limits) -> Load {
    Load { frames: limits.queue_frames, bytes: limits.queue_bytes }
}
