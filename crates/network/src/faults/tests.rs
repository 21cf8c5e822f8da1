//! One way's decisions, by themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::{Burst, Crossing, Flap, Impairment, LONGEST, Link, Reason, Spread};

const MS: Duration = Duration::from_millis(1);

type Fates = Vec<[Option<Result<Crossing, Reason>>; 2]>;

fn link(impairment: Impairment) -> Link {
    impairment.check().unwrap();
    Link::new(impairment, "a:eth1", "b:eth1", Duration::ZERO)
}

/// What happens to `count` frames of 1000 bytes, one each millisecond.
fn run(impairment: Impairment, count: u32) -> Fates {
    let mut link = link(impairment);
    (0..count).map(|number| link.judge(MS * number, 1000)).collect()
}

fn losses(fates: &Fates) -> Vec<bool> {
    fates.iter().map(|fate| matches!(fate[0], Some(Err(Reason::Loss)))).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap())
}

#[test]
fn losses_are_as_many_as_asked_and_the_seed_says_which() {
    let lossy = |seed| losses(&run(Impairment { seed, loss: 0.2, ..Impairment::default() }, 5000));
    let lost = lossy(1).iter().filter(|lost| **lost).count();
    assert!((900..1100).contains(&lost), "{lost}");
    assert_eq!(lossy(1), lossy(1));
    assert_ne!(lossy(1), lossy(2));
}

#[test]
fn bursts_have_their_length() {
    let burst = Some(Burst { enter: 0.01, leave: 0.1, loss: 1.0 });
    let lost = losses(&run(Impairment { seed: 5, burst, ..Impairment::default() }, 50_000));
    let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
    let total = lost.iter().filter(|lost| **lost).count();
    let average = total / bursts;
    assert!((8..13).contains(&average), "{total} frames in {bursts} bursts");
}

#[test]
fn jitter_has_its_mean_and_spread() {
    for (spread, deviation) in [(Spread::Uniform, 5.77), (Spread::Normal, 10.0), (Spread::Pareto, 10.0)] {
        let mut link =
            link(Impairment { seed: 9, delay: MS * 100, jitter: MS * 10, spread, ..Impairment::default() });
        // Far enough from each other that order changes nothing.
        let late = (0..20_000u32).map(|number| {
            let now = Duration::from_secs(number.into());
            let [first, _] = link.judge(now, 100);
            (first.unwrap().unwrap().due - now).as_secs_f64() * 1000.0
        });
        let late: Vec<f64> = late.collect();
        let mean_delay = mean(&late);
        let squares: Vec<f64> = late.iter().map(|delay| (delay - mean_delay).powi(2)).collect();
        let found = mean(&squares).sqrt();
        assert!((mean_delay - 100.0).abs() < 0.5, "{spread:?}: mean {mean_delay}");
        // A Pareto distribution of this shape has a heavy tail, which is cut here.
        assert!((found - deviation).abs() < 0.15 * deviation, "{spread:?}: deviation {found}");
    }
}

#[test]
fn jitter_keeps_the_order_and_reordering_does_not() {
    let jittery = Impairment { seed: 3, delay: MS * 5, jitter: MS * 5, ..Impairment::default() };
    let dues = |fates: &Fates| fates.iter().map(|fate| fate[0].unwrap().unwrap().due).collect::<Vec<_>>();
    assert!(dues(&run(jittery.clone(), 1000)).is_sorted());
    let reordered = Impairment { reorder: 0.1, reorder_by: MS * 20, ..jittery };
    assert!(!dues(&run(reordered, 1000)).is_sorted());
}

#[test]
fn a_rate_spaces_frames_and_its_queue_overflows() {
    // 1000 bytes take 10 ms; 3000 bytes may wait.
    let slow = Impairment { rate: Some(800_000), queue: 3000, ..Impairment::default() };
    let mut way = link(slow);
    let fates: Vec<_> = (0..5).map(|_| way.judge(Duration::ZERO, 1000)[0].unwrap()).collect();
    let dues: Vec<_> = fates.iter().map(|fate| fate.map(|crossing| crossing.due)).collect();
    assert_eq!(dues, [Ok(MS * 10), Ok(MS * 20), Ok(MS * 30), Err(Reason::Queue), Err(Reason::Queue)]);
    assert_eq!(way.judge(MS * 15, 1000)[0].unwrap().map(|crossing| crossing.due), Ok(MS * 40));
    let mut tiny = link(Impairment { rate: Some(800_000), queue: 0, ..Impairment::default() });
    assert!(tiny.judge(Duration::ZERO, 1000)[0].unwrap().is_ok(), "one frame always has room");
}

#[test]
fn duplicates_and_flipped_bits() {
    let fates = run(Impairment { seed: 1, duplicate: 0.5, corrupt: 0.5, ..Impairment::default() }, 1000);
    let twice = fates.iter().filter(|fate| fate[1].is_some()).count();
    assert!((400..600).contains(&twice), "{twice}");
    let bits: BTreeSet<usize> = fates.iter().filter_map(|fate| fate[0]?.ok()?.flipped).collect();
    assert!(bits.len() > 300 && bits.iter().all(|bit| (14 * 8..1000 * 8).contains(bit)));
    let mut short = link(Impairment { corrupt: 1.0, ..Impairment::default() });
    assert_eq!(short.judge(Duration::ZERO, 14)[0].unwrap().unwrap().flipped, None);
}

#[test]
fn a_link_flaps_by_the_clock() {
    let flap = Some(Flap { up: MS * 20, down: MS * 10 });
    let fates = run(Impairment { flap, ..Impairment::default() }, 90);
    let up = |at: usize| fates[at][0].unwrap().is_ok();
    assert!((0..90).all(|at| up(at) == (at % 30 < 20)));
}

#[test]
fn values_out_of_range_are_named() {
    let wrong = |impairment: Impairment| impairment.check().unwrap_err().to_string();
    let none = Impairment::default();
    assert_eq!(wrong(Impairment { loss: 1.5, ..none.clone() }), "loss is 1.5: a probability is from 0 to 1");
    assert!(wrong(Impairment { duplicate: f64::NAN, ..none.clone() }).starts_with("duplicate is NaN"));
    assert!(wrong(Impairment { delay: LONGEST + MS, ..none.clone() }).contains("an hour"));
    assert!(wrong(Impairment { rate: Some(999), ..none.clone() }).contains("slowest"));
    assert!(wrong(Impairment { queue: usize::MAX, ..none.clone() }).contains("longest queue"));
    let flap = Some(Flap { up: MS, down: Duration::ZERO });
    assert!(wrong(Impairment { flap, ..none.clone() }).starts_with("flap down is 0"));
    assert_eq!(none.check(), Ok(()));
}

proptest! {
    /// The promise of the seed: neither the times nor the lengths of frames have a say in what is drawn.
    #[test]
    fn times_and_lengths_change_nothing_that_is_drawn(
        seed: u64,
        frames in prop::collection::vec((0..10_000u64, 60..1500usize), 1..200),
    ) {
        let burst = Some(Burst { enter: 0.1, leave: 0.3, loss: 0.9 });
        let faults = Impairment { seed, loss: 0.1, burst, duplicate: 0.2, reorder: 0.1, jitter: MS, ..Impairment::default() };
        let (mut even, mut odd) = (link(faults.clone()), link(faults));
        let shape = |fate: [Option<Result<Crossing, Reason>>; 2]| {
            fate.map(|one| one.map(|fate| fate.map(|crossing| (crossing.number, crossing.duplicate))))
        };
        let mut now = Duration::ZERO;
        for (pause, length) in frames {
            now += Duration::from_micros(pause);
            prop_assert_eq!(shape(even.judge(Duration::ZERO, 1000)), shape(odd.judge(now, length)));
        }
    }
}
