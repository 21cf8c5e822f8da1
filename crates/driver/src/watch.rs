//! The loop under every wait for a fact in a guest.
//!
//! A wait looks, pauses in proportion to what a look costs ([`Backoff`]), and has one last look when the time is up.
//! Where bash by itself can tell whether it is worth looking, the pauses are in the guest ([`Slice`]): a look there starts
//! no process, so that it can come every few milliseconds. The shell is never held longer than about a slice, so that
//! other threads of the test get their turn.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::machine::{MachineHandle, Reply};

/// How long a look may take in a wait without time: it has to take one. (No time would be no limit to the guest.)
pub(crate) const LEAST_LOOK: Duration = Duration::from_secs(1);

/// The exit status of a slice that saw nothing until its end. It needs no pause after it; one of another status does.
const NOT_YET: i32 = 3;

/// One look of a wait.
pub(crate) struct Look {
    /// What is left of the wait's time.
    pub(crate) left: Duration,
    /// Whether no other look comes after it.
    pub(crate) is_last: bool,
    /// How many looks it was, for the error.
    pub(crate) times: u64,
    /// Whether it has paused in the guest.
    pub(crate) has_paused: bool,
}

/// A wait whose time is up.
pub(crate) struct Missed<L> {
    /// What the last look gave.
    pub(crate) last: L,
    looks: u64,
    waited: Duration,
    timeout: Duration,
}

impl<L> Missed<L> {
    /// `within 5 s`, with remarks.
    pub(crate) fn within(&self, remarks: &str) -> String {
        let seconds = self.timeout.as_secs_f64();
        let looked = match self.looks {
            1 => "looked once".to_owned(),
            looks => format!("looked {looks} times"),
        };
        // A look under way when the time was up may have held the wait up.
        let late = self.waited > self.timeout.saturating_add(LEAST_LOOK);
        let waited = if late { format!(" in {:.1} s", self.waited.as_secs_f64()) } else { String::new() };
        format!("within {seconds} s ({remarks}{looked}{waited})")
    }
}

impl MachineHandle {
    /// Looks until a look breaks. The inner error is that the time is up.
    pub(crate) fn watch<T, L>(
        &self,
        timeout: Duration,
        look: impl FnMut(&mut Look) -> Result<ControlFlow<T, L>, Error>,
    ) -> Result<Result<T, Missed<L>>, Error> {
        self.watch_with(timeout, look, |time| self.control().pause(time))
    }

    /// The same with a pause that something may end early.
    pub(crate) fn watch_with<T, L>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&mut Look) -> Result<ControlFlow<T, L>, Error>,
        mut pause: impl FnMut(Duration) -> Result<(), Error>,
    ) -> Result<Result<T, Missed<L>>, Error> {
        let began = Instant::now();
        let deadline = began.checked_add(timeout);
        let left =
            || deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let mut backoff = Backoff::new();
        let mut looks: u64 = 0;
        loop {
            let start = Instant::now();
            let left_now = left();
            let mut now = Look { left: left_now, is_last: left_now.is_zero(), times: 1, has_paused: false };
            let last = match look(&mut now)? {
                ControlFlow::Break(found) => return Ok(Ok(found)),
                ControlFlow::Continue(last) => last,
            };
            looks = looks.saturating_add(now.times);
            if now.is_last {
                return Ok(Err(Missed { last, looks, waited: began.elapsed(), timeout }));
            }
            if !now.has_paused {
                pause(backoff.pause(start.elapsed()).min(left()))?;
            }
        }
    }
}

/// How a guest looks by itself for a while, in one command.
pub(crate) struct Slice {
    length: Duration,
    pause: Duration,
}

impl Slice {
    /// Slices of about this length.
    pub(crate) fn new(length: Duration) -> Self {
        Self { length, pause: Backoff::FIRST }
    }

    /// A command that ends with status 0 as soon as `good` does. That is asked at first and then when `hint` does, which
    /// should start no process. Ends with [`NOT_YET`] after a slice that ends with the wait, and with another status where
    /// the hint alone does not do or `good` gave up by itself.
    ///
    /// Both are bash, each the body of a function. The pause is a `read` from a pipe that never delivers: what the
    /// shell's own standard input would deliver is the driver's next command.
    pub(crate) fn command(&self, good: &str, hint: &str, left: Duration) -> String {
        let length = self.length.min(left).as_micros();
        // Where the clock does not count, or goes back, this does.
        let most = length / self.pause.as_micros().max(1) + 1;
        let pause = self.pause.as_secs_f64();
        // Lines of their own: a name may end in a comment. What goes wrong is said on the console once, not at each look.
        format!(
            "g() {{ {good}\n}}\nk() {{ {hint}\n}}\nt() {{ t=${{EPOCHREALTIME:-0}}; t=${{t/[!0-9]}}; }}\n\
             t; e=$((t + {length})); g && exit 0\nexec 2>/dev/null\nk && exit 4\nexec {{p}}<> <(:)\n\
             for ((i = 1; i < {most}; i++)); do t; ((t < e)) || break; read -rt {pause} -u $p || :\n\
             k || continue; g && exit 0; exit 4; done\necho $i; exit {NOT_YET}"
        )
    }

    /// Learns from the answer to such a command, which took this long, and notes it in the look.
    pub(crate) fn learn(&mut self, reply: &Reply, took: Duration, look: &mut Look) {
        let looks = if reply.status == NOT_YET { reply.output.trim().parse().ok() } else { None };
        let Some(looks) = looks.filter(|looks: &u32| *looks > 0) else { return };
        look.times = looks.into();
        look.has_paused = looks > 1;
        let cost = took.saturating_sub(self.pause.saturating_mul(looks - 1)) / looks;
        self.pause = Backoff::longest(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_learns_what_a_look_costs() {
        let mut slice = Slice::new(Duration::from_secs(1));
        let mut look = Look { left: Duration::MAX, is_last: false, times: 1, has_paused: false };
        let reply = |status, output: &str| Reply { status, output: output.to_owned() };
        // 100 looks of 5 ms each, besides the pauses.
        slice.learn(&reply(NOT_YET, "100\n"), Duration::from_millis(99 * 5 + 500), &mut look);
        assert_eq!((slice.pause, look.times, look.has_paused), (Duration::from_millis(20), 100, true));
        slice.learn(&reply(4, "1\n"), Duration::ZERO, &mut look);
        slice.learn(&reply(NOT_YET, "what?"), Duration::ZERO, &mut look);
        assert_eq!((slice.pause, look.times), (Duration::from_millis(20), 100));
        slice.learn(&reply(NOT_YET, "1\n"), Duration::ZERO, &mut look);
        assert_eq!((slice.pause, look.times, look.has_paused), (Backoff::FIRST, 1, false));
    }

    #[test]
    fn a_late_end_is_told() {
        let mut missed = Missed {
            last: (),
            looks: 1,
            waited: Duration::from_millis(5100),
            timeout: Duration::from_secs(5),
        };
        assert_eq!(missed.within(""), "within 5 s (looked once)");
        (missed.looks, missed.waited) = (7, Duration::from_secs(9));
        assert_eq!(
            missed.within("last exit code 1, "),
            "within 5 s (last exit code 1, looked 7 times in 9.0 s)"
        );
    }
}
