//! What an uplink has lost, and why: counted, and said once in a while. No peer can fill the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often losses are said at most: a guest or a peer could cause them without end.
const PAUSE: Duration = Duration::from_secs(10);

/// The losses of one uplink by their reasons. Clones count the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Losses {
    reasons: &'static [&'static str],
    counts: Arc<[AtomicU64]>,
}

impl Losses {
    pub(crate) fn new(reasons: &'static [&'static str]) -> Self {
        Self { reasons, counts: reasons.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts one frame more for reason number `reason`.
    pub(crate) fn count(&self, reason: usize) {
        if let Some(count) = self.counts.get(reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many frames were lost for which reason, those that were not left out.
    pub(crate) fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        self.reasons.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// Says what was lost since it was last said.
#[derive(Debug)]
pub(crate) struct Teller {
    losses: Losses,
    said: u64,
    again_at: Duration,
}

impl Teller {
    pub(crate) fn new(losses: Losses) -> Self {
        Self { losses, said: 0, again_at: Duration::ZERO }
    }

    /// The line to log at time `now`, if there is news and enough time has passed.
    pub(crate) fn line(&mut self, now: Duration) -> Option<String> {
        if now < self.again_at {
            return None;
        }
        let all = self.losses.all();
        let sum: u64 = all.iter().map(|(_, count)| count).sum();
        if sum == self.said {
            return None;
        }
        (self.said, self.again_at) = (sum, now.saturating_add(PAUSE));
        let parts: Vec<String> = all.iter().map(|(reason, count)| format!("{count} ({reason})")).collect();
        Some(format!("frames were dropped so far: {}", parts.join(", ")))
    }
}

/// Lets something be said once in a while.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    again_at: Duration,
}

impl Pace {
    /// Whether to speak now.
    pub(crate) fn may_speak(&mut self, now: Duration) -> bool {
        let may = now >= self.again_at;
        if may {
            self.again_at = now.saturating_add(PAUSE);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_all_and_said_at_times() {
        let losses = Losses::new(&["cut off", "too long"]);
        let mut teller = Teller::new(losses.clone());
        assert_eq!(teller.line(Duration::ZERO), None);
        losses.count(1);
        losses.count(2);
        assert_eq!(teller.line(Duration::ZERO).unwrap(), "frames were dropped so far: 1 (too long)");
        losses.count(0);
        assert_eq!(teller.line(PAUSE / 2), None);
        assert!(teller.line(PAUSE).unwrap().ends_with("1 (cut off), 1 (too long)"));
        assert_eq!(teller.line(PAUSE * 9), None);
    }

    #[test]
    fn who_is_paced_speaks_at_times() {
        let mut pace = Pace::default();
        let times = [0, 1, 9, 10, 11, 30].map(Duration::from_secs);
        assert_eq!(times.map(|now| pace.may_speak(now)), [true, false, false, true, false, true]);
    }
}
