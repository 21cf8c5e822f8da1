//! How long senders still wait for one receiver.
//!
//! Owned by the receiver's inbox, and told the time when somebody asks for room. A frame that waits holds up all that its
//! sender has for others, so a receiver may cost its senders only so much, *in all*: a bound for each wait alone can be
//! used up again and again.
//!
//! What tells a receiver that is merely slower than its senders from one that stalls them? Not the time that it is waited
//! for: under a bulk stream both are, nearly always. Nor that it takes something now and then, which costs the staller
//! nothing. It is the work done for the waiting: a receiver that keeps draining empties half of its inbox again and again,
//! and each time earns the waiting that it cost, up to [`EARNED`]. What is beyond that is a debt, which is forgiven slowly.
//! Once it has reached [`Limits::patience`], nobody waits until the inbox has been empty: an end that also the slowest
//! honest receiver reaches when its senders pause, and without which it would be waited for in ever smaller pieces.

use std::time::Duration;

use crate::Limits;

/// The part of the patience that half an inbox earns. With the default limits it is 250 ms, so whoever takes 1000 frames or
/// 2 MiB in a second is waited for without end. A guest that runs and has buffers takes many times that, and to a sender
/// it is no worse than a slow cable.
const EARNED: u32 = 4;

/// The part of the time without waiting that is forgiven: a receiver that earns nothing costs its senders a tenth of their
/// time in the long run, and is trusted again 10 s after it has cost them the default patience of 1 s.
const FORGIVEN: u32 = 10;

/// The account of one receiver.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// The waiting that it has neither earned nor been forgiven.
    debt: Duration,
    /// Up to when that is reckoned.
    reckoned: Duration,
    /// The debt reached the limit, and the inbox has not been empty since.
    spent: bool,
    closing: Option<Closing>,
}

/// The waiting since the inbox was closed.
#[derive(Debug)]
struct Closing {
    /// When whoever waits comes back by himself: what is later is not this receiver's fault.
    until: Duration,
    cost: Duration,
    /// It is over, though when is not known before somebody asks for room. That is at once, as whoever waited was woken.
    over: Option<Earns>,
}

/// Whether the waiting was for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earns {
    Yes,
    No,
}

impl Patience {
    /// How much longer senders wait at time `now`.
    pub(crate) fn left(&mut self, now: Duration, limits: &Limits) -> Duration {
        let passed = now.saturating_sub(self.reckoned);
        let mut waited = Duration::ZERO;
        let mut earned = Duration::ZERO;
        if let Some(closing) = &mut self.closing {
            waited = closing.until.min(now).saturating_sub(self.reckoned);
            closing.cost = closing.cost.saturating_add(waited);
            if closing.over == Some(Earns::Yes) {
                earned = closing.cost.min(limits.patience / EARNED);
            }
            if closing.over.is_some() {
                self.closing = None;
            }
        }
        self.debt = self.debt.saturating_add(waited).saturating_sub(earned);
        // Before anything is forgiven: whoever waited comes back late, and would find a moment's patience again and again.
        self.spent |= !waited.is_zero() && self.debt >= limits.patience;
        self.debt = self.debt.saturating_sub(passed.saturating_sub(waited) / FORGIVEN);
        self.reckoned = self.reckoned.max(now);
        if self.spent { Duration::ZERO } else { limits.patience.saturating_sub(self.debt) }
    }

    /// Somebody was told to wait until then.
    pub(crate) fn wait(&mut self, until: Duration) {
        self.closing.get_or_insert(Closing { until, cost: Duration::ZERO, over: None }).until = until;
    }

    /// The receiver has emptied half of its inbox. After nobody had the patience to see that, it earns nothing.
    pub(crate) fn half_empty(&mut self) {
        self.end(if self.spent { Earns::No } else { Earns::Yes });
    }

    /// The receiver has emptied its inbox.
    pub(crate) fn empty(&mut self) {
        self.spent = false;
    }

    /// The inbox was thrown away. That earns nothing, or a guest could stall others by resetting its network card.
    pub(crate) fn flushed(&mut self) {
        self.end(Earns::No);
        self.spent = false;
    }

    fn end(&mut self, earns: Earns) {
        if let Some(closing) = &mut self.closing {
            closing.over.get_or_insert(earns);
        }
    }
}
