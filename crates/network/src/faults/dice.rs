//! Random numbers by number: the same question always has the same answer.
//!
//! `mix` is the finalizer of `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), here of a
//! counter. It is no cryptography: whoever may set a seed knows what comes.

/// 2^64 divided by the golden ratio: the step of `SplitMix64`.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a number is drawn for. Each has the 16 numbers from its own on.
#[derive(Clone, Copy, Debug)]
pub(super) enum For {
    Loss,
    Burst,
    Duplicate,
    Corrupt,
    Bit,
    Reorder,
    Jitter,
}

/// The numbers of one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, from: &str, to: &str) -> Self {
        Self(mix(mix(mix(seed) ^ hash(from)) ^ hash(to)))
    }

    /// Number `index` of those that frame `number` has for something; `copy` is 1 for its duplicate.
    fn word(self, number: u64, copy: u64, what: For, index: u64) -> u64 {
        let frame = mix(self.0.wrapping_add(number.wrapping_mul(STEP)));
        let place = purpose(what).wrapping_add(index).wrapping_add(copy << 8).wrapping_add(1);
        mix(frame.wrapping_add(place.wrapping_mul(STEP)))
    }

    /// At least 0 and less than 1, in steps of 2^-32.
    pub(super) fn fraction(self, number: u64, copy: u64, what: For, index: u64) -> f64 {
        let top = u32::try_from(self.word(number, copy, what, index) >> 32).unwrap_or(u32::MAX);
        f64::from(top) / 4_294_967_296.0
    }

    /// Whether something of this probability happens.
    pub(super) fn happens(self, number: u64, copy: u64, what: For, probability: f64) -> bool {
        self.fraction(number, copy, what, 0) < probability
    }

    /// A number below `limit`, which is small.
    pub(super) fn below(self, number: u64, copy: u64, what: For, limit: u64) -> u64 {
        self.word(number, copy, what, 0).checked_rem(limit).unwrap_or(0)
    }
}

fn purpose(what: For) -> u64 {
    match what {
        For::Loss => 0x00,
        For::Burst => 0x10,
        For::Duplicate => 0x20,
        For::Corrupt => 0x30,
        For::Bit => 0x40,
        For::Reorder => 0x50,
        For::Jitter => 0x60,
    }
}

fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(STEP);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// FNV-1a, which does not change from one run to the next.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_begins_as_published() {
        // The reference implementation's first number for the seed 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn ways_frames_purposes_and_copies_have_numbers_of_their_own() {
        let dice = Dice::new(1, "a", "b");
        let all = [
            dice.word(0, 0, For::Loss, 0),
            dice.word(1, 0, For::Loss, 0),
            dice.word(0, 1, For::Loss, 0),
            dice.word(0, 0, For::Burst, 0),
            dice.word(0, 0, For::Loss, 1),
            Dice::new(1, "b", "a").word(0, 0, For::Loss, 0),
            Dice::new(2, "a", "b").word(0, 0, For::Loss, 0),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(dice.word(0, 0, For::Loss, 0), Dice::new(1, "a", "b").word(0, 0, For::Loss, 0));
    }

    #[test]
    fn happens_as_often_as_asked() {
        let dice = Dice::new(3, "a", "b");
        let count = |probability| (0..10_000).filter(|n| dice.happens(*n, 0, For::Loss, probability)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((900..1100).contains(&count(0.1)), "{}", count(0.1));
    }
}
