//! How often a condition is probed when no event tells of it.

use std::time::Duration;

/// Pauses between probes, in proportion to what a probe costs.
///
/// The first probe comes at once. Pauses grow by half each time, from 5 ms (or a quarter of what a probe takes) to four
/// times what a probe takes, and never over 400 ms. So a wait ends about one pause late at most (some 10 ms where a probe
/// takes 3 ms) and being asked costs a guest a fifth of one CPU at most, wherever it runs.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The first pause, and the shortest.
    pub const FIRST: Duration = Duration::from_millis(5);
    /// The longest pause.
    pub const CAP: Duration = Duration::from_millis(400);
    /// The longest pause as a multiple of what a probe takes.
    const SHARE: u32 = 4;

    /// From the first pause.
    #[must_use]
    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The pause after a probe that took this long.
    pub fn pause(&mut self, cost: Duration) -> Duration {
        let pause = self.next.max(cost / Self::SHARE).min(Self::longest(cost));
        self.next = pause.saturating_mul(3) / 2;
        pause
    }

    /// The longest pause after probes that take this long.
    #[must_use]
    pub fn longest(cost: Duration) -> Duration {
        cost.saturating_mul(Self::SHARE).clamp(Self::FIRST, Self::CAP)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_by_half_up_to_four_times_the_cost() {
        let cost = Duration::from_millis(3);
        let mut backoff = Backoff::new();
        assert_eq!(backoff.pause(cost), Duration::from_millis(5));
        assert_eq!(backoff.pause(cost), Duration::from_micros(7500));
        assert!((0..100).all(|_| backoff.pause(cost) <= Duration::from_millis(12)));
        assert_eq!(backoff.pause(cost), Duration::from_millis(12));
    }

    #[test]
    fn dear_probes_are_made_seldom_and_free_ones_not_without_pause() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.pause(Duration::from_secs(1)), Duration::from_millis(250));
        assert!((0..9).all(|_| backoff.pause(Duration::MAX) == Backoff::CAP));
        assert!((0..9).all(|_| backoff.pause(Duration::ZERO) == Backoff::FIRST));
    }
}
