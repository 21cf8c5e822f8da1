//! How long a run may take.
//!
//! On the lab's emulated host with `--icount` the kernel's clocks count instructions, and while nothing runs they jump to
//! whatever is waited for: a minute is over while a file is being read. The battery-backed clock there is the real one.

use std::fs;
use std::time::{Duration, Instant};

/// Seconds that the first battery-backed clock shows (Documentation/admin-guide/rtc.rst).
const BATTERY_CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";
/// How often that clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Which clock tells how long a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Kernel,
    Battery,
}

/// A limit that has begun.
#[derive(Debug)]
pub(super) struct Limit {
    allowed: Duration,
    start: Instant,
    battery_start: Option<Duration>,
}

impl Limit {
    pub(super) fn start(allowed: Duration, clock: Clock) -> Self {
        let battery_start = (clock == Clock::Battery).then(battery_time).flatten();
        Self { allowed, start: Instant::now(), battery_start }
    }

    /// How long something may be waited for until this is asked again; `None` once the time is up.
    pub(super) fn left(&self) -> Option<Duration> {
        let Some(start) = self.battery_start else { return self.allowed.checked_sub(self.start.elapsed()) };
        let elapsed = battery_time().map_or(Duration::ZERO, |now| now.saturating_sub(start));
        self.allowed.checked_sub(elapsed).map(|left| left.min(LOOK))
    }
}

fn battery_time() -> Option<Duration> {
    let seconds = fs::read_to_string(BATTERY_CLOCK).ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_ends() {
        let allowed = Duration::from_secs(1000);
        let limit = Limit::start(allowed, Clock::Kernel);
        assert!(limit.left().is_some_and(|left| left > LOOK && left <= allowed));
        assert_eq!(Limit::start(Duration::ZERO, Clock::Kernel).left(), None);
    }

    #[test]
    fn the_battery_clock_is_looked_at_again_and_again() {
        let allowed = Duration::from_secs(1000);
        let limit = |start| Limit { allowed, start: Instant::now(), battery_start: Some(start) };
        // A host without such a clock has none that says that the time is up.
        let now = battery_time().unwrap_or_default();
        assert_eq!(limit(now).left(), Some(LOOK));
        assert_eq!(limit(now.saturating_sub(allowed * 2)).left().is_none(), battery_time().is_some());
    }
}
