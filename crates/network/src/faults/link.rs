//! One way with faults: what happens to each of its frames.

use std::time::Duration;

use super::dice::{Dice, For};
use super::{Impairment, Reason, Spread, WAY_BYTES, WAY_FRAMES};
use crate::frame::HEADER;

/// The furthest that a Pareto distribution goes, in standard deviations.
const FURTHEST: f64 = 20.0;

/// The way from one port to another.
#[derive(Debug)]
pub(crate) struct Link {
    impairment: Impairment,
    dice: Dice,
    /// When the faults were set.
    since: Duration,
    /// Frames so far.
    number: u64,
    in_burst: bool,
    /// When the last frame so far has gone out, where there is a rate.
    busy_until: Duration,
    /// When the last frame that keeps its place arrives.
    last_due: Duration,
    /// What has not arrived.
    frames: usize,
    bytes: usize,
}

/// A frame that arrives, now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crossing {
    /// Its number on this way, from 0.
    pub(crate) number: u64,
    pub(crate) due: Duration,
    /// The bit of the frame that is flipped, from 0.
    pub(crate) flipped: Option<usize>,
    /// It is the second of two.
    pub(crate) duplicate: bool,
}

impl Link {
    pub(super) fn new(impairment: Impairment, from: &str, to: &str, now: Duration) -> Self {
        Self {
            dice: Dice::new(impairment.seed, from, to),
            impairment,
            since: now,
            number: 0,
            in_burst: false,
            busy_until: Duration::ZERO,
            last_due: Duration::ZERO,
            frames: 0,
            bytes: 0,
        }
    }

    /// Takes over what is under way, which is not to be overtaken.
    pub(super) fn after(mut self, former: Option<Self>) -> Self {
        if let Some(former) = former {
            (self.frames, self.bytes, self.last_due) = (former.frames, former.bytes, former.last_due);
        }
        self
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.impairment.cut
    }

    /// What happens to the next frame: it is lost, or it arrives, and maybe its duplicate with its own fate.
    pub(crate) fn judge(&mut self, now: Duration, length: usize) -> [Option<Result<Crossing, Reason>>; 2] {
        if self.is_down(now) {
            return [Some(Err(Reason::Flap)), None];
        }
        let number = self.number;
        self.number = number.wrapping_add(1);
        if self.is_lost(number) {
            return [Some(Err(Reason::Loss)), None];
        }
        let twice = self.dice.happens(number, 0, For::Duplicate, self.impairment.duplicate);
        let first = self.cross(number, false, now, length);
        [Some(first), twice.then(|| self.cross(number, true, now, length))]
    }

    /// Notes that a frame is under way, if there is room.
    pub(crate) fn take_off(&mut self, length: usize) -> Result<(), Reason> {
        let bytes = self.bytes.saturating_add(length);
        if self.frames >= WAY_FRAMES || (bytes > WAY_BYTES && self.frames > 0) {
            return Err(Reason::Queue);
        }
        self.frames = self.frames.saturating_add(1);
        self.bytes = bytes;
        Ok(())
    }

    /// Notes that it is no longer.
    pub(crate) fn touch_down(&mut self, length: usize) {
        self.frames = self.frames.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }

    pub(crate) fn is_down(&self, now: Duration) -> bool {
        let Some(flap) = self.impairment.flap else { return false };
        let whole = flap.up.saturating_add(flap.down).as_nanos();
        let at = now.saturating_sub(self.since).as_nanos().checked_rem(whole).unwrap_or(0);
        at >= flap.up.as_nanos()
    }

    /// A step of the bursts, and whether the frame is lost.
    fn is_lost(&mut self, number: u64) -> bool {
        let mut loss = self.impairment.loss;
        if let Some(burst) = self.impairment.burst {
            let turn = if self.in_burst { burst.leave } else { burst.enter };
            self.in_burst ^= self.dice.happens(number, 0, For::Burst, turn);
            if self.in_burst {
                loss = burst.loss;
            }
        }
        self.dice.happens(number, 0, For::Loss, loss)
    }

    /// One of the two, on its way.
    fn cross(
        &mut self,
        number: u64,
        duplicate: bool,
        now: Duration,
        length: usize,
    ) -> Result<Crossing, Reason> {
        let copy = u64::from(duplicate);
        let sent = self.transmit(now, length)?;
        let mut due = sent.saturating_add(self.latency(number, copy));
        if self.dice.happens(number, copy, For::Reorder, self.impairment.reorder) {
            due = due.saturating_add(self.impairment.reorder_by);
        } else {
            due = due.max(self.last_due);
            self.last_due = due;
        }
        let flipped = self.flipped(number, copy, length);
        Ok(Crossing { number, due, flipped, duplicate })
    }

    /// When the frame has gone out at the rate that there is.
    fn transmit(&mut self, now: Duration, length: usize) -> Result<Duration, Reason> {
        let Some(rate) = self.impairment.rate else { return Ok(now) };
        let waits = self.busy_until.saturating_sub(now);
        let room = time_of(self.impairment.queue, rate);
        let takes = time_of(length, rate);
        if !waits.is_zero() && waits.saturating_add(takes) > room {
            return Err(Reason::Queue);
        }
        self.busy_until = now.saturating_add(waits).saturating_add(takes);
        Ok(self.busy_until)
    }

    fn latency(&self, number: u64, copy: u64) -> Duration {
        let Impairment { delay, jitter, spread, .. } = self.impairment;
        if jitter.is_zero() {
            return delay;
        }
        let fraction = |index| self.dice.fraction(number, copy, For::Jitter, index);
        let away = match spread {
            Spread::Uniform => fraction(0) * 2.0 - 1.0,
            // The variance of a uniform number is 1/12.
            Spread::Normal => (0..12).map(fraction).sum::<f64>() - 6.0,
            Spread::Pareto => pareto(fraction(0)),
        };
        let by = jitter.mul_f64(away.abs());
        if away < 0.0 { delay.saturating_sub(by) } else { delay.saturating_add(by) }
    }

    fn flipped(&self, number: u64, copy: u64, length: usize) -> Option<usize> {
        let bits = length.checked_sub(HEADER)?.checked_mul(8).filter(|bits| *bits > 0)?;
        let corrupt = self.dice.happens(number, copy, For::Corrupt, self.impairment.corrupt);
        let bit = self.dice.below(number, copy, For::Bit, u64::try_from(bits).ok()?);
        corrupt.then_some(usize::try_from(bit).ok()?.checked_add(HEADER * 8)?)
    }
}

/// A number of a Pareto distribution with the shape 3, whose mean is 3/2 and whose variance 3/4, shifted and scaled to 0 and 1.
fn pareto(fraction: f64) -> f64 {
    let drawn = 1.0 / libm::cbrt(1.0 - fraction);
    ((drawn - 1.5) / libm::sqrt(0.75)).min(FURTHEST)
}

/// How long so many bytes take.
fn time_of(bytes: usize, rate: u64) -> Duration {
    let bits = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(8_000_000_000);
    let nanoseconds = bits.checked_div(u128::from(rate)).unwrap_or(u128::MAX);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
