//! Frames that are under way: they have left one port, and are to arrive at another later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::link::Crossing;
use super::{AIR_BYTES, AIR_FRAMES};
use crate::frame::Frame;
use crate::inbox::Audience;
use crate::state::{PortId, Way};

/// When a frame that has found no room is tried again.
const AGAIN: Duration = Duration::from_millis(1);
/// How late it may become so: as long as senders wait for a receiver in all.
const LATEST: Duration = Duration::from_secs(1);

/// A frame under way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) way: Way,
    pub(crate) frame: Arc<Frame>,
    pub(crate) audience: Audience,
    pub(crate) crossing: Crossing,
}

impl Flight {
    /// Whether its receiver has had no room for it for too long.
    pub(crate) fn is_overdue(&self, now: Duration) -> bool {
        now.saturating_sub(self.crossing.due) >= LATEST
    }
}

/// All of them, by the time of their arrival, and then by their order.
#[derive(Debug, Default)]
pub(crate) struct Air {
    flights: BTreeMap<(Duration, u64), Flight>,
    /// Those whose receiver has no room, in their order, so that none overtakes another.
    held: BTreeMap<Way, VecDeque<Flight>>,
    /// When to look at these again.
    again: Option<Duration>,
    next: u64,
    frames: usize,
    bytes: usize,
}

impl Air {
    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// How many frames are.
    pub(crate) fn len(&self) -> usize {
        self.frames
    }

    /// Whether a frame of `length` bytes may leave.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.frames < AIR_FRAMES && self.bytes.saturating_add(length) <= AIR_BYTES
    }

    /// When something is to be done.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let first = self.flights.first_key_value().map(|((due, _), _)| *due);
        first.into_iter().chain(self.again).min()
    }

    /// Sends a frame, which there is room for.
    pub(crate) fn push(&mut self, flight: Flight) {
        self.frames = self.frames.saturating_add(1);
        self.bytes = self.bytes.saturating_add(flight.frame.bytes.len());
        self.flights.insert((flight.crossing.due, self.next), flight);
        self.next = self.next.wrapping_add(1);
    }

    /// A frame that is to arrive by now, other than those that are held back.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Flight> {
        let first = self.flights.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// Takes out all that a port has sent or is to get.
    pub(crate) fn take_of(&mut self, port: PortId) -> Vec<Flight> {
        let is_of = |way: Way| way.from == port || way.to == port;
        let flying = self.flights.extract_if(.., |_, flight| is_of(flight.way)).map(|(_, flight)| flight);
        let mut taken: Vec<Flight> = flying.collect();
        taken.extend(self.held.extract_if(.., |way, _| is_of(*way)).flat_map(|(_, flights)| flights));
        taken
    }

    /// Notes that one has arrived or is lost.
    pub(crate) fn landed(&mut self, length: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }

    /// Whether frames of the same way are held back.
    pub(crate) fn is_held(&self, way: Way) -> bool {
        self.held.contains_key(&way)
    }

    /// Holds a frame back, behind the others of its way.
    pub(crate) fn hold(&mut self, flight: Flight, now: Duration) {
        self.held.entry(flight.way).or_default().push_back(flight);
        self.again.get_or_insert(now.saturating_add(AGAIN));
    }

    /// All that is held back, when it is time to look at it.
    pub(crate) fn take_held(&mut self, now: Duration) -> Vec<Flight> {
        if self.again.is_none_or(|again| again > now) {
            return Vec::new();
        }
        self.again = None;
        std::mem::take(&mut self.held).into_values().flatten().collect()
    }
}
