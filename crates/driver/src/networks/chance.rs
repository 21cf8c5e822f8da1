//! The seed of a run: what faults that have no seed of their own draw theirs from, so that one number makes all of them again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::control::lock;

/// A run's seed, and how often it was drawn from.
///
/// What is drawn follows from the seed, the network, the two machines and how many were drawn for these before: not from when that
/// was, nor from what other ways had, so that threads of a script do not take each other's.
#[derive(Debug)]
pub(crate) struct Chance {
    seed: u64,
    drawn: Mutex<BTreeMap<(u8, String, String), u64>>,
    is_used: AtomicBool,
}

impl Chance {
    /// Of `seed`, or of a number that nobody chose.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        // Short enough to be typed. The standard library's hasher begins with a number of the kernel's.
        let any = || RandomState::new().hash_one(0u8) >> 32;
        let seed = seed.unwrap_or_else(any);
        Self { seed, drawn: Mutex::default(), is_used: AtomicBool::new(false) }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether anything was drawn.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// The next seed for a way, and whether it is the first of the run.
    pub(crate) fn draw(&self, vlan: u8, from: &str, to: &str) -> (u64, bool) {
        let mut drawn = lock(&self.drawn);
        let count = drawn.entry((vlan, from.to_owned(), to.to_owned())).or_default();
        let words = format!("{vlan}\n{from}\n{to}\n{count}");
        *count = count.saturating_add(1);
        drop(drawn);
        let is_first = !self.is_used.swap(true, Ordering::Relaxed);
        (derived(self.seed, &words), is_first)
    }
}

/// FNV-1a of the words, stirred with the seed by the finalizer of `SplitMix64`: the same in every version and on every host. The
/// upper half is short enough to be typed.
fn derived(seed: u64, words: &str) -> u64 {
    let hash = words.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash ^ mix(seed)) >> 32
}

fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_seeds_in_whatever_order_ways_ask() {
        let (one, other) = (Chance::new(Some(7)), Chance::new(Some(7)));
        let first = [one.draw(1, "a", "b"), one.draw(1, "a", "b"), one.draw(1, "b", "a")];
        let second = [other.draw(1, "b", "a"), other.draw(1, "a", "b"), other.draw(1, "a", "b")];
        assert_eq!(first.map(|(seed, _)| seed), [second[1].0, second[2].0, second[0].0]);
        assert_eq!(first.map(|(_, is_first)| is_first), [true, false, false]);
        // Printed numbers have to mean the same tomorrow.
        assert_eq!(derived(7, "1\na\nb\n0"), first[0].0);
        let different = [
            first[0].0,
            first[1].0,
            first[2].0,
            one.draw(2, "a", "b").0,
            one.draw(1, "ab", "").0,
            Chance::new(Some(8)).draw(1, "a", "b").0,
        ];
        let distinct: std::collections::BTreeSet<u64> = different.into_iter().collect();
        assert_eq!(distinct.len(), different.len());
        assert!(different.iter().all(|seed| *seed <= u64::from(u32::MAX)));
    }

    #[test]
    fn runs_without_a_seed_have_different_ones() {
        let (one, other) = (Chance::new(None), Chance::new(None));
        assert_ne!(one.seed(), other.seed());
        assert!(!one.is_used());
        one.draw(1, "a", "b");
        assert!(one.is_used());
    }
}
