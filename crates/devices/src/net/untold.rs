//! Telling the driver that its frames are sent: a moment later, as it nearly always finds out before.
//!
//! A driver looks at what is sent whenever it sends or receives something. A question and its answer so cost a guest one
//! interrupt, for the answer, and not one for the question, too. What holds frames back until it is told (a socket's send buffer, a
//! ring that is full) has room for some, so much is told at once.

use std::io;
use std::time::Duration;

use snowboot_virtio::{Interrupt, Queue, QueueFault};

use crate::timer::Timer;

/// How long a driver is not told: what network cards wait, more or less, and less than a guest takes from one frame of a
/// conversation to the next.
const MOMENT: Duration = Duration::from_micros(50);
/// Bytes of frames that it is not told of: Linux lets a TCP connection wait with more than this on their way.
const MOST_BYTES: usize = 4096;

/// What the drivers' transmit queues, a pair of queues each, have not been told.
#[derive(Debug)]
pub(super) struct Untold {
    pub(super) timer: Timer,
    pairs: Vec<Option<Waiting>>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    until: Duration,
    bytes: usize,
}

impl Untold {
    pub(super) fn new(pairs: u16) -> io::Result<Self> {
        Ok(Self { timer: Timer::new()?, pairs: vec![None; usize::from(pairs)] })
    }

    /// Whether there is anything.
    pub(super) fn is_waiting(&self) -> bool {
        self.pairs.iter().any(Option::is_some)
    }

    pub(super) fn clear(&mut self) {
        self.pairs.fill(None);
        self.timer.clear();
    }

    /// Before a turn of the queue: what the driver has found by itself need not be told any more.
    pub(super) fn look(
        &mut self,
        pair: u16,
        queue: &mut Queue,
        interrupt: &Interrupt,
    ) -> Result<(), QueueFault> {
        let Some(waiting) = self.pairs.get_mut(usize::from(pair)) else { return Ok(()) };
        if waiting.is_some() && !queue.owes_interrupt()? {
            *waiting = None;
            queue.signal(interrupt)?;
        }
        Ok(())
    }

    /// After a turn that has sent `bytes`.
    pub(super) fn add(
        &mut self,
        pair: u16,
        bytes: usize,
        now: Duration,
        queue: &mut Queue,
        interrupt: &Interrupt,
    ) -> Result<(), QueueFault> {
        let Some(place) = self.pairs.get_mut(usize::from(pair)) else { return queue.signal(interrupt) };
        let before = place.map_or(0, |waiting| waiting.bytes);
        let bytes = before.saturating_add(bytes);
        if bytes > MOST_BYTES || !queue.owes_interrupt()? {
            *place = None;
            return queue.signal(interrupt);
        }
        match place {
            Some(waiting) => waiting.bytes = bytes,
            None => {
                *place = Some(Waiting { until: now.saturating_add(MOMENT), bytes });
                self.timer.set(MOMENT);
            }
        }
        Ok(())
    }

    /// The pairs whose drivers have waited for long enough; the timer goes off again for the others.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<u16> {
        let mut due = Vec::new();
        for (pair, waiting) in (0..).zip(&mut self.pairs) {
            if waiting.take_if(|waiting| waiting.until <= now).is_some() {
                due.push(pair);
            }
        }
        match self.pairs.iter().flatten().map(|waiting| waiting.until).min() {
            Some(next) => self.timer.set(next.saturating_sub(now)),
            None => self.timer.clear(),
        }
        due
    }

    /// All of them, as if they had waited for long enough.
    pub(super) fn take_all(&mut self) -> Vec<u16> {
        self.take_due(Duration::MAX)
    }
}
