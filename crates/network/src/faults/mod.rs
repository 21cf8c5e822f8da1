//! What can be wrong with the way from one port of a switch to another, and what decides on it.
//!
//! A fault is on a *way*: from one port to another, by the names that they were attached with, so that it outlives a reset of
//! a machine. Everything random is drawn by number ([`dice`]): the frames of a way are counted from the moment its
//! faults were set, and what happens to number *n* depends on the seed, the way and *n* alone. Only what is about time
//! (rate, flapping, order of arrival) depends on when a frame was sent.
//!
//! Frames under way are bounded for each way ([`WAY_FRAMES`], [`WAY_BYTES`]) and in all ([`AIR_BYTES`]).

mod air;
mod dice;
mod link;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub(crate) use air::{Air, Flight};
pub(crate) use link::{Crossing, Link};

/// Frames under way from one port to another: what a gigabit has in 80 ms.
const WAY_FRAMES: usize = 8192;
/// Their bytes: the same.
const WAY_BYTES: usize = 16 << 20;
/// Bytes under way in a whole switch, which bounds what many ways take together.
const AIR_BYTES: usize = 64 << 20;
/// Frames under way in a whole switch: a hundred bytes of bookkeeping each.
const AIR_FRAMES: usize = 65_536;

/// The longest delay, jitter or phase of flapping: nobody waits for longer, and sums stay far from overflow.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// The slowest rate, in bits per second: the longest frame takes half a minute.
pub const SLOWEST: u64 = 1000;
/// The longest queue in front of a rate, in bytes.
pub const LONGEST_QUEUE: usize = WAY_BYTES;

/// What is wrong with the way from one port to another. The default is nothing.
///
/// A frame meets it in this order: cut, flapping, loss, duplication, corruption, rate, delay. A probability is from 0 to 1,
/// for each frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// What all that is random is drawn from.
    pub seed: u64,
    /// Nothing passes.
    pub cut: bool,
    /// Nothing passes from time to time.
    pub flap: Option<Flap>,
    /// That a frame is lost, outside of bursts.
    pub loss: f64,
    /// Times in which more is lost.
    pub burst: Option<Burst>,
    /// That a frame arrives twice.
    pub duplicate: f64,
    /// That one bit behind the Ethernet header is flipped.
    pub corrupt: f64,
    /// Bits of frames per second, from the destination address on.
    pub rate: Option<u64>,
    /// Bytes that wait for their turn at that rate; a frame that finds no room is lost. One frame always has room.
    pub queue: usize,
    /// How long a frame takes.
    pub delay: Duration,
    /// How far that varies. Frames keep their order all the same.
    pub jitter: Duration,
    /// In which way it varies.
    pub spread: Spread,
    /// That a frame is held back, so that later ones overtake it.
    pub reorder: f64,
    /// For how long.
    pub reorder_by: Duration,
}

impl Default for Impairment {
    /// A queue of 256 KiB, and 5 ms for frames that are overtaken; they count once there is a rate or reordering.
    fn default() -> Self {
        Self {
            seed: 0,
            cut: false,
            flap: None,
            loss: 0.0,
            burst: None,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue: 256 << 10,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            spread: Spread::Uniform,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
        }
    }
}

/// How jitter is spread around the delay. What would be less than no delay is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// As often anywhere from `delay - jitter` to `delay + jitter`.
    #[default]
    Uniform,
    /// Around `delay`, with `jitter` as the standard deviation: a sum of twelve uniform numbers, so within six of them.
    Normal,
    /// Mostly a little less than `delay`, now and then much more: a Pareto distribution with the shape 3, shifted and scaled to the
    /// mean `delay` and the standard deviation `jitter`, at most 20 of these later.
    Pareto,
}

/// Losses in bursts: the model of Gilbert and Elliott, with a step for every frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// That a burst begins, at a frame outside of one.
    pub enter: f64,
    /// That it ends, at a frame in it: a burst has 1/`leave` frames on average.
    pub leave: f64,
    /// That a frame in it is lost.
    pub loss: f64,
}

/// A link that is up and down by turns, from the moment it was set on, up first. It goes by the clock, not by a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// How long frames pass.
    pub up: Duration,
    /// How long none does.
    pub down: Duration,
}

/// A value that an [`Impairment`] cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}: {rule}")]
pub struct WrongImpairment {
    name: &'static str,
    value: String,
    rule: &'static str,
}

impl Impairment {
    /// Checks all values.
    ///
    /// # Errors
    /// Names the first that is out of range.
    pub fn check(&self) -> Result<(), WrongImpairment> {
        let burst = self.burst.unwrap_or(Burst { enter: 0.0, leave: 0.0, loss: 0.0 });
        let probabilities = [
            ("loss", self.loss),
            ("burst_enter", burst.enter),
            ("burst_leave", burst.leave),
            ("burst_loss", burst.loss),
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
            ("reorder", self.reorder),
        ];
        for (name, value) in probabilities {
            let rule = "a probability is from 0 to 1";
            require((0.0..=1.0).contains(&value), name, value, rule)?;
        }
        let flap = self.flap.unwrap_or(Flap { up: Duration::from_secs(1), down: Duration::from_secs(1) });
        let times = [
            ("delay", self.delay),
            ("jitter", self.jitter),
            ("reorder_by", self.reorder_by),
            ("flap up", flap.up),
            ("flap down", flap.down),
        ];
        for (name, value) in times {
            require(value <= LONGEST, name, value.as_secs_f64(), "an hour (3600 s) is the longest time")?;
        }
        for (name, value) in [("flap up", flap.up), ("flap down", flap.down)] {
            let rule = "a link that flaps is up and down for at least a millisecond (0.001 s)";
            require(value >= Duration::from_millis(1), name, value.as_secs_f64(), rule)?;
        }
        let rate = self.rate.unwrap_or(SLOWEST);
        require(rate >= SLOWEST, "rate", rate, "1000 bits per second is the slowest rate")?;
        require(self.queue <= LONGEST_QUEUE, "queue", self.queue, "16 MiB is the longest queue")
    }
}

fn require(
    holds: bool,
    name: &'static str,
    value: impl fmt::Display,
    rule: &'static str,
) -> Result<(), WrongImpairment> {
    if holds { Ok(()) } else { Err(WrongImpairment { name, value: value.to_string(), rule }) }
}

/// Why a frame does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The way is cut, or its ends are in different groups of a partition.
    Cut,
    /// The link is down as it flaps.
    Flap,
    /// The dice said so.
    Loss,
    /// There are too many frames in front of it.
    Queue,
}

/// All faults of a switch.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// By the names of the port that sends and the one that receives.
    links: BTreeMap<String, BTreeMap<String, Link>>,
    /// Groups of ports that do not reach each other; who is in none reaches all.
    groups: BTreeMap<String, usize>,
    pub(crate) air: Air,
}

impl Faults {
    /// Sets the faults of a way, in place of former ones.
    pub(crate) fn set(&mut self, from: &str, to: &str, impairment: Option<Impairment>, now: Duration) {
        let links = self.links.entry(from.to_owned()).or_default();
        match impairment {
            Some(impairment) => {
                let former = links.remove(to);
                links.insert(to.to_owned(), Link::new(impairment, from, to, now).after(former));
            }
            None => {
                links.remove(to);
            }
        }
        self.links.retain(|_, links| !links.is_empty());
    }

    /// Sets who cannot reach whom, in place of a former partition.
    pub(crate) fn partition(&mut self, groups: &[Vec<String>]) {
        let numbered = groups.iter().enumerate();
        self.groups = numbered
            .flat_map(|(number, names)| names.iter().map(move |name| (name.clone(), number)))
            .collect();
    }

    /// Takes all faults away. What is under way arrives.
    pub(crate) fn heal(&mut self) {
        self.links.clear();
        self.groups.clear();
    }

    /// Whether nothing passes from one to the other.
    pub(crate) fn separates(&self, from: &str, to: &str) -> bool {
        let apart = self.groups.get(from).zip(self.groups.get(to)).is_some_and(|(from, to)| from != to);
        apart || self.links.get(from).and_then(|links| links.get(to)).is_some_and(Link::is_cut)
    }

    /// The faults of a way.
    pub(crate) fn link(&mut self, from: &str, to: &str) -> Option<&mut Link> {
        self.links.get_mut(from)?.get_mut(to)
    }

    /// Whether there is nothing that could happen to a frame.
    pub(crate) fn is_idle(&self) -> bool {
        self.links.is_empty() && self.groups.is_empty() && self.air.is_empty()
    }
}
