//! What `snowboot bench boot --json` wrote, as far as it is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::benches::Bench;

/// All benches.
#[derive(Debug, Default)]
pub(super) struct Figures {
    benches: BTreeMap<&'static str, Measured>,
    /// As they were written.
    pub(super) raw: BTreeMap<&'static str, Value>,
}

/// One bench.
#[derive(Debug, Deserialize)]
pub(super) struct Measured {
    pub(super) host: Host,
    pub(super) settings: Settings,
    pub(super) configurations: Vec<Configuration>,
}

/// Where it was measured.
#[derive(Debug, Deserialize)]
pub(super) struct Host {
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) emulated: bool,
}

/// What all runs had in common.
#[derive(Debug, Deserialize)]
pub(super) struct Settings {
    pub(super) memory_bytes: u64,
    pub(super) vcpus: u8,
    pub(super) runs: u32,
}

/// One VMM with one kernel.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) cmdline: String,
    pub(super) samples: Vec<Sample>,
}

/// One run.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Sample {
    pub(super) user_seconds: f64,
    pub(super) system_seconds: f64,
    pub(super) added_bytes: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) proportional_bytes: Option<u64>,
    pub(super) marker_cpu_seconds: Option<f64>,
    pub(super) guest_seconds: Option<f64>,
}

/// A mean, and by how much such a mean would differ next time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    pub(super) mean: f64,
    /// The standard error; none of a single run.
    pub(super) error: Option<f64>,
}

impl Figures {
    /// Reads what the benches wrote; one that did not get to its end wrote nothing.
    pub(super) fn read(benches: &[Bench], folder: &Path) -> Result<Self> {
        let mut figures = Self::default();
        let written =
            benches.iter().map(|bench| (bench, bench.file(folder))).filter(|(_, file)| file.exists());
        for (bench, file) in written {
            let text =
                fs::read(&file).with_context(|| format!("There are no results in {}", file.display()))?;
            let wrong = || format!("{} has other figures", file.display());
            figures
                .add(bench.name, serde_json::from_slice(&text).with_context(wrong)?)
                .with_context(wrong)?;
        }
        Ok(figures)
    }

    /// Adds a bench.
    pub(super) fn add(&mut self, bench: &'static str, raw: Value) -> Result<()> {
        self.benches.insert(bench, Measured::deserialize(&raw)?);
        self.raw.insert(bench, raw);
        Ok(())
    }

    /// All benches by their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &Measured)> {
        self.benches.iter().map(|(name, bench)| (*name, bench))
    }

    /// A row of a bench; `None` where it was not measured.
    pub(super) fn of(&self, bench: &str, configuration: &str) -> Option<&Configuration> {
        self.benches.get(bench)?.configurations.iter().find(|it| it.name == configuration)
    }
}

impl Configuration {
    /// CPU seconds of the VMM's process until it is gone: the least, the median and the most.
    pub(super) fn cpu(&self) -> Option<[f64; 3]> {
        let mut all: Vec<f64> =
            self.samples.iter().map(|sample| sample.user_seconds + sample.system_seconds).collect();
        all.sort_by(f64::total_cmp);
        Some([*all.first()?, median(&all)?, *all.last()?])
    }

    /// CPU seconds until the marker that were not the guest's.
    pub(super) fn own(&self) -> Option<Mean> {
        let own: Vec<f64> = self
            .samples
            .iter()
            .map(|sample| Some(sample.marker_cpu_seconds? - sample.guest_seconds?))
            .collect::<Option<_>>()?;
        Mean::of(&own)
    }

    /// The median of some bytes.
    pub(super) fn bytes(&self, of: impl Fn(&Sample) -> Option<u64>) -> Option<u64> {
        let mut all: Vec<u64> = self.samples.iter().map(of).collect::<Option<_>>()?;
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }
}

impl Mean {
    fn of(values: &[f64]) -> Option<Self> {
        let count = f64::from(u32::try_from(values.len()).ok().filter(|count| *count > 0)?);
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (count > 1.0).then(|| (squares / (count - 1.0) / count).sqrt());
        Some(Self { mean, error })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration whose runs took these CPU seconds, a tenth of them the VMM's own.
    pub(in super::super) fn configuration(name: &str, cpu: &[f64]) -> Value {
        let sample = |cpu: &f64| {
            serde_json::json!({
                "user_seconds": cpu * 0.75, "system_seconds": cpu * 0.25, "wall_seconds": 9.0,
                "peak_rss_bytes": 1, "added_bytes": 2 << 20, "resident_bytes": 60 << 20,
                "proportional_bytes": 40 << 20, "marker_cpu_seconds": cpu, "guest_seconds": cpu * 0.9,
            })
        };
        let samples: Vec<Value> = cpu.iter().map(sample).collect();
        serde_json::json!({
            "name": name, "version": format!("{name} 1.0"), "cmdline": "console=ttyS0", "samples": samples
        })
    }

    /// A bench of these.
    pub(in super::super) fn bench(configurations: &[Value]) -> Value {
        serde_json::json!({
            "host": { "kernel": "6.1", "cpu": "A CPU", "cpus": 1, "emulated": true },
            "settings": { "memory_bytes": 128 << 20, "vcpus": 1, "runs": 3 },
            "configurations": configurations,
        })
    }

    #[test]
    fn figures_are_medians_and_means() {
        let mut figures = Figures::default();
        figures.add("usual", bench(&[configuration("snowboot", &[1.0, 3.0, 2.0, 2.2])])).unwrap();
        let found = figures.of("usual", "snowboot").unwrap();
        assert_eq!(found.cpu(), Some([1.0, 2.1, 3.0]));
        assert!((found.own().unwrap().mean - 0.205).abs() < 1e-9);
        assert_eq!(found.bytes(|sample| sample.added_bytes), Some(2 << 20));
        assert!(figures.of("usual", "qemu").is_none() && figures.of("same", "snowboot").is_none());
    }

    #[test]
    fn the_error_of_a_mean_is_of_the_sample() {
        // Mean 2, deviations 1, 0, 1: variance 1, so the error is the root of a third.
        let mean = Mean::of(&[1.0, 2.0, 3.0]).unwrap();
        assert!(
            (mean.mean - 2.0).abs() < 1e-12 && (mean.error.unwrap() - (1.0_f64 / 3.0).sqrt()).abs() < 1e-12
        );
        assert_eq!(Mean::of(&[5.0]), Some(Mean { mean: 5.0, error: None }));
        assert_eq!(Mean::of(&[]), None);
    }
}
