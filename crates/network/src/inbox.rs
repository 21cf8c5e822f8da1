//! The queue of frames towards one port, and who waits for room in it.
//!
//! Owned by the switch's state. It is *open* until a frame that is to wait finds no room; then it is *closed* to all
//! such frames until it has been emptied by half, and everybody who was turned away is told, first come first. So
//! senders take turns, and are not woken for every single frame.
//!
//! ```text
//!           no room                     half emptied: wake all
//!   open ───────────────► closed ──────────────────────────────► open
//!                            │  nothing taken for `stalled_after`,
//!                            │  or no `Patience` left
//!                            └─► nobody waits: what fits goes in, the rest is lost
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::Limits;
use crate::frame::Frame;
use crate::patience::Patience;
use crate::state::PortId;

/// Frames towards one port.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    frames: VecDeque<(Arc<Frame>, Audience)>,
    bytes: usize,
    /// What of these came to several receivers.
    flooded_frames: usize,
    flooded_bytes: usize,
    closed: Option<Closed>,
    patience: Patience,
    waiting: VecDeque<PortId>,
}

/// Who gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Only the owner of this queue, for which its sender may wait.
    One,
    /// Others too, so that it never waits. Such frames fill half of the queue at most: senders that are never told to wait
    /// could otherwise take all the room from those that are.
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
    /// Push now: the frame goes in or is lost.
    Now,
    /// Wait to be woken, or try again at this time.
    At(Duration),
}

impl Inbox {
    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Asks on behalf of `sender`, which is willing to wait, for room for a frame of `length` bytes.
    pub(crate) fn ask(&mut self, sender: PortId, length: usize, now: Duration, limits: &Limits) -> Room {
        let left = self.patience.left(now, limits);
        if self.closed.is_none() && self.fits(length, Audience::One, limits) {
            return Room::Now;
        }
        let closed = self.closed.get_or_insert(Closed { idle_since: now, taken: false });
        if std::mem::take(&mut closed.taken) {
            closed.idle_since = now;
        }
        let idle_until = closed.idle_since.saturating_add(limits.stalled_after);
        let until = now.saturating_add(left).min(idle_until);
        if now >= until {
            return Room::Now;
        }
        self.patience.wait(until);
        if !self.waiting.contains(&sender) {
            self.waiting.push_back(sender);
        }
        Room::At(until)
    }

    /// Queues a frame, which [`Inbox::fits`].
    pub(crate) fn push(&mut self, frame: Arc<Frame>, audience: Audience) {
        let length = frame.bytes.len();
        self.bytes = self.bytes.saturating_add(length);
        if audience == Audience::Several {
            self.flooded_frames = self.flooded_frames.saturating_add(1);
            self.flooded_bytes = self.flooded_bytes.saturating_add(length);
        }
        self.frames.push_back((frame, audience));
    }

    /// Takes the oldest frame, and whoever is to be woken because the queue has opened again.
    pub(crate) fn take(&mut self, limits: &Limits) -> Option<(Arc<Frame>, VecDeque<PortId>)> {
        let (frame, audience) = self.frames.pop_front()?;
        let length = frame.bytes.len();
        self.bytes = self.bytes.saturating_sub(length);
        if audience == Audience::Several {
            self.flooded_frames = self.flooded_frames.saturating_sub(1);
            self.flooded_bytes = self.flooded_bytes.saturating_sub(length);
        }
        let mut woken = VecDeque::new();
        if let Some(closed) = &mut self.closed {
            closed.taken = true;
            if self.frames.len() <= limits.queue_frames / 2 && self.bytes <= limits.queue_bytes / 2 {
                self.closed = None;
                self.patience.half_empty();
                woken = std::mem::take(&mut self.waiting);
            }
        }
        if self.frames.is_empty() {
            self.patience.empty();
        }
        Some((frame, woken))
    }

    /// Empties and opens the queue: the number of frames thrown away, and whoever is to be woken.
    pub(crate) fn flush(&mut self) -> (usize, VecDeque<PortId>) {
        let Inbox { frames, waiting, mut patience, .. } = std::mem::take(self);
        patience.flushed();
        self.patience = patience;
        (frames.len(), waiting)
    }

    /// Whoever waits, because waiting has become pointless.
    pub(crate) fn give_up(&mut self) -> VecDeque<PortId> {
        std::mem::take(&mut self.waiting)
    }

    /// Opens the queue, and gives whoever waits: the owner takes nothing for a while.
    pub(crate) fn rest(&mut self) -> VecDeque<PortId> {
        self.closed = None;
        self.give_up()
    }

    /// Forgets that `sender` waits.
    pub(crate) fn forget(&mut self, sender: PortId) {
        self.waiting.retain(|other| *other != sender);
    }

    /// Whether a frame of `length` bytes may be queued. A first one always may, so that no limit can stop traffic
    /// altogether.
    pub(crate) fn fits(&self, length: usize, audience: Audience, limits: &Limits) -> bool {
        let within = |frames: usize, bytes: usize, part: usize| {
            frames < limits.queue_frames / part && bytes.saturating_add(length) <= limits.queue_bytes / part
        };
        // In a hub there is no unicast to leave room for.
        let whole = audience == Audience::One || limits.is_hub();
        let share = whole || within(self.flooded_frames, self.flooded_bytes, 2);
        self.frames.is_empty() || (share && within(self.frames.len(), self.bytes, 1))
    }
}
