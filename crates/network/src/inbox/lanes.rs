//! What waits for one receiver, by sender: each of them has a lane, and the receiver takes from all in turn.
//!
//! Owned by an inbox. A lane is in the order that its sender sent in. Of several lanes the next frame is that of the sender who has
//! cost the receiver least so far (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996): so whoever sends as fast as it can
//! gets no more of a receiver than anybody else who has something for it, and no less of what the others leave.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::frame::Frame;
use crate::inbox::Audience;
use crate::state::PortId;

/// What a frame costs its receiver besides its bytes, in bytes: descriptors, a header and a look at it take about as long as copying
/// so many. Without it, a sender of the shortest frames would get more than its part.
const COST: u64 = 2048;

/// So many frames, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

impl Load {
    /// One of so many equal parts of it.
    pub(super) fn part(self, parts: usize) -> Self {
        let part = |whole: usize| whole.checked_div(parts).unwrap_or(whole);
        Self { frames: part(self.frames), bytes: part(self.bytes) }
    }

    /// Three quarters of it, rounded up.
    pub(super) fn less_a_quarter(self) -> Self {
        let rest = |whole: usize| whole.saturating_sub(whole / 4);
        Self { frames: rest(self.frames), bytes: rest(self.bytes) }
    }

    /// Whether one more frame, of `length` bytes, stays within `limit`.
    pub(super) fn leaves_room(self, length: usize, limit: Self) -> bool {
        self.frames < limit.frames && self.bytes.saturating_add(length) <= limit.bytes
    }

    pub(super) fn is_within(self, limit: Self) -> bool {
        self.frames <= limit.frames && self.bytes <= limit.bytes
    }

    pub(super) fn add(&mut self, length: usize) {
        self.frames = self.frames.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length);
    }

    fn remove(&mut self, length: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }
}

/// The frames of one sender.
#[derive(Debug)]
struct Lane {
    from: PortId,
    frames: VecDeque<(Arc<Frame>, Audience)>,
    load: Load,
    flooded: Load,
    /// What its next frame begins at, on the receiver's account.
    begins: u64,
    /// Its sender is there no more.
    is_left: bool,
}

/// All lanes of a receiver.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    load: Load,
    flooded: Load,
    /// What the frame taken last began at.
    reached: u64,
}

impl Lanes {
    /// All that waits.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// What of it came to several receivers.
    pub(super) fn flooded(&self) -> Load {
        self.flooded
    }

    /// What of it is one sender's.
    pub(super) fn load_of(&self, sender: PortId) -> Load {
        self.lane(sender).map(|lane| lane.load).unwrap_or_default()
    }

    /// What one sender sent to several receivers.
    pub(super) fn flooded_of(&self, sender: PortId) -> Load {
        self.lane(sender).map(|lane| lane.flooded).unwrap_or_default()
    }

    /// Whose frames wait.
    pub(super) fn senders(&self) -> impl Iterator<Item = PortId> {
        self.lanes.iter().filter(|lane| !lane.frames.is_empty()).map(|lane| lane.from)
    }

    pub(super) fn push(&mut self, from: PortId, frame: Arc<Frame>, audience: Audience) {
        let length = frame.bytes.len();
        let reached = self.reached;
        let Some(lane) = self.lane_for(from) else { return };
        if lane.frames.is_empty() {
            // Having had nothing to say earns nothing.
            lane.begins = lane.begins.max(reached);
        }
        lane.load.add(length);
        lane.frames.push_back((frame, audience));
        if audience == Audience::Several {
            lane.flooded.add(length);
            self.flooded.add(length);
        }
        self.load.add(length);
    }

    /// The next frame; of equal ones, and of those whose senders have left, that of the lane that is older.
    pub(super) fn pop(&mut self) -> Option<Arc<Frame>> {
        let waiting = self.lanes.iter_mut().filter(|lane| !lane.frames.is_empty());
        let lane = waiting.min_by_key(|lane| if lane.is_left { None } else { Some(lane.begins) })?;
        let (frame, audience) = lane.frames.pop_front()?;
        let length = frame.bytes.len();
        self.reached = self.reached.max(lane.begins);
        lane.begins =
            lane.begins.saturating_add(COST).saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        lane.load.remove(length);
        if audience == Audience::Several {
            lane.flooded.remove(length);
            self.flooded.remove(length);
        }
        self.load.remove(length);
        if self.load.frames == 0 {
            // Nobody waits for anybody: all begin anew.
            self.reached = 0;
            self.lanes.iter_mut().for_each(|lane| lane.begins = 0);
        }
        Some(frame)
    }

    /// A sender has gone: what it left is taken first, so that who comes in its place does not overtake it.
    pub(super) fn leave(&mut self, sender: PortId) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.from == sender) {
            lane.is_left = true;
        }
    }

    fn lane(&self, sender: PortId) -> Option<&Lane> {
        self.lanes.iter().find(|lane| lane.from == sender)
    }

    /// The lane of a sender. Those that are empty and have nothing on their account make room for a new one, so that there are no
    /// more than ports.
    fn lane_for(&mut self, from: PortId) -> Option<&mut Lane> {
        if self.lane(from).is_none() {
            let reached = self.reached;
            let is_needed = |lane: &Lane| !lane.is_left && lane.begins > reached;
            self.lanes.retain(|lane| !lane.frames.is_empty() || is_needed(lane));
            let (load, flooded) = (Load::default(), Load::default());
            let frames = VecDeque::new();
            self.lanes.push(Lane { from, frames, load, flooded, begins: reached, is_left: false });
        }
        self.lanes.iter_mut().find(|lane| lane.from == from)
    }
}
