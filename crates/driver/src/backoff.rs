//! How often a condition is probed when no event tells of it.

use std::time::Duration;

/// Pauses between probes: 5 ms, then half as much again each time, up to 400 ms.
///
/// The first probe comes at once. The cap keeps a long wait cheap: one probe costs the guest about three process starts,
/// so at 400 ms an idle guest spends a few percent of one CPU on being asked, while a wait ends at most 0.4 s late.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The first pause.
    pub const FIRST: Duration = Duration::from_millis(5);
    /// The longest pause.
    pub const CAP: Duration = Duration::from_millis(400);

    /// From the first pause.
    #[must_use]
    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The pause before the next probe.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 3 / 2).min(Self::CAP);
        pause
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
    fn grows_by_half_up_to_the_cap() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.pause(), Duration::from_millis(5));
        assert_eq!(backoff.pause(), Duration::from_micros(7500));
        let total: Duration = (0..100).map(|_| backoff.pause()).sum();
        assert_eq!(backoff.pause(), Backoff::CAP);
        assert!(total < Backoff::CAP * 100);
    }
}
