//! Order statistics of samples, and whether two sets of them differ.

/// The most samples of a side for which all orders are counted; with more, or with ties, the normal distribution serves.
const EXACT_MAX: usize = 50;

/// What a set of samples says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` without samples.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self { median: median_of_sorted(&sorted)?, min: *sorted.first()?, max: *sorted.last()? })
    }
}

/// The value in the middle, or the mean of the two there.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    median_of_sorted(&sorted(samples))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The two-sided p of the Mann-Whitney U test: how likely two sets of the same kind are to differ by as much as these
/// two do, judged by the order of their values alone. `None` when a set is empty.
///
/// Without ties and with up to 50 samples a side it is exact; otherwise the normal approximation, with the correction
/// for ties and that for continuity (Mann and Whitney 1947; Lehmann, Nonparametrics, 1.4).
pub(super) fn mann_whitney(first: &[f64], second: &[f64]) -> Option<f64> {
    let (n, m) = (count(first)?, count(second)?);
    let mut greater = 0.0;
    let mut ties = false;
    for a in first {
        for b in second {
            match a.total_cmp(b) {
                std::cmp::Ordering::Greater => greater += 1.0,
                std::cmp::Ordering::Equal => {
                    greater += 0.5;
                    ties = true;
                }
                std::cmp::Ordering::Less => {}
            }
        }
    }
    let smaller = f64::min(greater, n.mul_add(m, -greater));
    let p = if ties || first.len().max(second.len()) > EXACT_MAX {
        approximate(first, second, n, m, smaller)
    } else {
        exact(first.len(), second.len(), smaller)
    };
    Some(p.clamp(0.0, 1.0))
}

/// The smallest p that sets of these sizes can have: the one when none of their values overlap.
pub(super) fn smallest_p(first: usize, second: usize) -> f64 {
    exact(first.min(EXACT_MAX), second.min(EXACT_MAX), 0.0)
}

fn count(samples: &[f64]) -> Option<f64> {
    u32::try_from(samples.len()).ok().filter(|count| *count > 0).map(f64::from)
}

/// Counts the orders of `first` and `second` values by their U: the next value is the largest of the first set, which
/// is greater than all of the second, or it is of the second set.
fn exact(first: usize, second: usize, u: f64) -> f64 {
    // orders[m][u] for the number of first values so far.
    let most = first.saturating_mul(second);
    let mut orders = vec![unit(most); second.saturating_add(1)];
    for _ in 0..first {
        let mut previous: Vec<f64> = Vec::new();
        for (m, row) in orders.iter_mut().enumerate() {
            let mut next: Vec<f64> = (0..=most)
                .map(|u| u.checked_sub(m).and_then(|u| row.get(u)).copied().unwrap_or(0.0))
                .collect();
            for (sum, before) in next.iter_mut().zip(&previous) {
                *sum += before;
            }
            previous.clone_from(&next);
            *row = next;
        }
    }
    let row = orders.last().map(Vec::as_slice).unwrap_or_default();
    let as_extreme: f64 =
        row.iter().zip(0u32..).filter(|(_, at)| f64::from(*at) <= u).map(|(count, _)| count).sum();
    2.0 * as_extreme / row.iter().sum::<f64>()
}

fn unit(most: usize) -> Vec<f64> {
    let mut row = vec![0.0; most.saturating_add(1)];
    if let Some(none) = row.first_mut() {
        *none = 1.0;
    }
    row
}

fn approximate(first: &[f64], second: &[f64], n: f64, m: f64, smaller: f64) -> f64 {
    let total = n + m;
    let all = sorted(&[first, second].concat());
    let ties: f64 = all
        .chunk_by(|a, b| a.total_cmp(b).is_eq())
        .filter_map(count)
        .map(|tied| tied.mul_add(tied * tied, -tied))
        .sum();
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        // All values are the same.
        return 1.0;
    }
    let distance = (n * m / 2.0 - smaller - 0.5) / variance.sqrt();
    // Both tails of the normal distribution.
    libm::erfc(distance / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(found: Option<f64>, expected: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-6), "{found:?}, not {expected}");
    }

    #[test]
    fn medians_and_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn small_sets_without_ties_are_exact() {
        // Of the 20 orders of 3 and 3 values two are as extreme; 252 of 5 and 5 of which 2 (1 + 1 + 2) have U <= 2.
        assert_near(mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1);
        assert_near(mann_whitney(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0]), 0.1);
        assert_near(mann_whitney(&[1.0, 2.0, 3.0, 4.0, 7.0], &[5.0, 6.0, 8.0, 9.0, 10.0]), 8.0 / 252.0);
        assert_near(mann_whitney(&[1.0, 4.0], &[2.0, 3.0]), 1.0);
        assert_near(mann_whitney(&[1.0], &[2.0, 3.0, 4.0]), 0.5);
        assert_eq!(mann_whitney(&[], &[1.0]), None);
    }

    #[test]
    fn the_test_gives_the_values_of_scipy() {
        // scipy.stats.mannwhitneyu, method "exact".
        let first = [0.512, 0.515, 0.509, 0.511, 0.514, 0.513, 0.510, 0.516, 0.508, 0.517];
        let second = [0.519, 0.5135, 0.521, 0.5145, 0.523, 0.5155, 0.525, 0.526, 0.5165, 0.528];
        assert_near(mann_whitney(&first, &second), 0.001_504_687);
        // Method "asymptotic": with ties, and with many samples.
        let first = [1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 4.0];
        let second = [2.0, 3.0, 4.0, 5.0, 5.0, 6.0, 7.0, 7.0];
        assert_near(mann_whitney(&first, &second), 0.039_716_087);
        let many: Vec<f64> = (0..60).map(f64::from).collect();
        let later: Vec<f64> = many.iter().map(|value| value + 7.5).collect();
        assert_near(mann_whitney(&many, &later), 0.026_945_856);
        assert_near(mann_whitney(&[1.0, 1.0, 1.0], &[1.0, 1.0]), 1.0);
        assert_near(mann_whitney(&[1.0, 2.0], &[1.0, 2.0]), 1.0);
    }

    #[test]
    fn few_samples_cannot_tell() {
        assert_near(Some(smallest_p(3, 3)), 0.1);
        assert_near(Some(smallest_p(5, 5)), 2.0 / 252.0);
        assert!(smallest_p(200, 200) < 1e-9);
    }
}
