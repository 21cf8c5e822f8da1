//! What a benchmark says about many times of the same thing.

use serde::Serialize;

/// How times are spread; all in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of these times; none when there are no times. Every figure is a time that was measured: the smallest that is not
    /// below the wanted part of them ("nearest rank").
    pub(super) fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let percentile = |percent: usize| {
            let rank = sorted.len().saturating_mul(percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied()
        };
        Some(Self {
            min: sorted.first().copied()?,
            median: percentile(50)?,
            p90: percentile(90)?,
            p99: percentile(99)?,
            max: sorted.last().copied()?,
        })
    }

    /// The names of the columns of [`Self::row`].
    pub(super) fn head() -> String {
        ["min", "median", "p90", "p99", "max"].map(|name| format!("{name:>9}")).concat()
    }

    /// One line of a table, in milliseconds.
    pub(super) fn row(&self) -> String {
        [self.min, self.median, self.p90, self.p99, self.max]
            .map(|time| format!("{:>9.3}", milliseconds(time)))
            .concat()
    }
}

/// From microseconds.
pub(super) fn milliseconds(microseconds: f64) -> f64 {
    microseconds / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_times_that_were_measured() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let spread = Spread::of(&times).unwrap();
        assert_eq!(spread, Spread { min: 1.0, median: 100.0, p90: 180.0, p99: 198.0, max: 200.0 });
        let odd = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!(odd, Spread { min: 1.0, median: 2.0, p90: 3.0, p99: 3.0, max: 3.0 });
    }

    #[test]
    fn one_time_is_all_figures_and_none_is_no_spread() {
        assert_eq!(Spread::of(&[7.0]), Some(Spread { min: 7.0, median: 7.0, p90: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_row_stands_under_its_head() {
        let row = Spread::of(&[1500.0]).unwrap().row();
        assert_eq!(row, "    1.500".repeat(5));
        assert_eq!(row.len(), Spread::head().len());
    }
}
