//! Comparing with an earlier bench, configuration by configuration.

use super::results::{Metric, Results};
use super::stats::{mann_whitney, median, smallest_p};
use super::vmm::Vmm;

/// A difference that would come by chance less often than this is believed.
pub(super) const SIGNIFICANT: f64 = 0.05;

/// How one figure of one configuration has changed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) metric: Metric,
    pub(super) before: f64,
    pub(super) now: f64,
    pub(super) p: f64,
    /// Too few runs for any difference to be believed.
    pub(super) too_few: bool,
    /// It is Snowboot, and it is slower by more than is allowed.
    pub(super) is_regression: bool,
}

impl Change {
    /// In percent of the earlier median.
    pub(super) fn percent(&self) -> f64 {
        if self.before > 0.0 { (self.now / self.before - 1.0) * 100.0 } else { 0.0 }
    }

    pub(super) fn is_significant(&self) -> bool {
        self.p < SIGNIFICANT
    }
}

/// What has changed since `before`, of what both have. Snowboot may become slower by `allowed` percent.
pub(super) fn compare(before: &Results, now: &Results, allowed: f64) -> Vec<Change> {
    let mut changes = Vec::new();
    let metrics = if before.host.emulated { before.metrics() } else { now.metrics() };
    for measured in &now.configurations {
        let Some(earlier) = before.configurations.iter().find(|other| other.name == measured.name) else {
            continue;
        };
        for metric in metrics {
            let (old, new) = (earlier.values(*metric), measured.values(*metric));
            let (Some(was), Some(is), Some(p)) = (median(&old), median(&new), mann_whitney(&old, &new))
            else {
                continue;
            };
            let mut change = Change {
                name: measured.name.clone(),
                metric: *metric,
                before: was,
                now: is,
                p,
                too_few: smallest_p(old.len(), new.len()) >= SIGNIFICANT,
                is_regression: false,
            };
            change.is_regression =
                measured.vmm == Vmm::Snowboot && change.is_significant() && change.percent() > allowed;
            changes.push(change);
        }
    }
    changes
}

/// What makes the two hard to compare, each in a sentence.
pub(super) fn doubts(before: &Results, now: &Results) -> Vec<String> {
    let mut doubts = Vec::new();
    if before.host != now.host {
        let of = |results: &Results| {
            let host = &results.host;
            let lab = if host.emulated { ", emulated" } else { "" };
            format!("{} ({} CPUs{lab}) with Linux {}", host.cpu, host.cpus, host.kernel)
        };
        doubts.push(format!("the baseline is of another host: {}; this one is {}", of(before), of(now)));
    }
    if (before.settings.memory_bytes, before.settings.vcpus)
        != (now.settings.memory_bytes, now.settings.vcpus)
    {
        doubts.push("the baseline's guests had another amount of memory or of vCPUs".to_owned());
    }
    for measured in &now.configurations {
        match before.configurations.iter().find(|other| other.name == measured.name) {
            None => doubts.push(format!("{} is not in the baseline", measured.name)),
            Some(earlier) if earlier.cmdline != measured.cmdline => {
                doubts.push(format!("{} had another command line in the baseline", measured.name));
            }
            Some(_) => {}
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{measured, results};
    use super::*;

    fn changes(before: &[f64], now: &[f64], vmm: Vmm) -> Vec<Change> {
        let bench = |cpu: &[f64]| results(vec![measured(vmm, None, cpu)]);
        compare(&bench(before), &bench(now), 2.0)
    }

    #[test]
    fn slower_beyond_chance_and_beyond_what_is_allowed_is_a_regression() {
        let before = [1.00, 1.01, 1.02, 1.03, 1.04];
        let by = |percent: f64| before.map(|value| value * (1.0 + percent / 100.0));
        let found = changes(&before, &by(10.0), Vmm::Snowboot);
        assert_eq!(found.len(), 2, "CPU and wall");
        assert!(found.iter().all(|change| change.is_regression && (change.percent() - 10.0).abs() < 1e-9));
        // Faster, slower by less, of another VMM, or by chance: none.
        assert!(!changes(&before, &by(-10.0), Vmm::Snowboot)[0].is_regression);
        assert!(!changes(&before, &by(10.0), Vmm::Qemu)[0].is_regression);
        let steady = [1.0, 1.000_1, 1.000_2, 1.000_3, 1.000_4];
        let slightly = changes(&steady, &steady.map(|value| value * 1.01), Vmm::Snowboot);
        assert!(slightly[0].is_significant() && !slightly[0].is_regression);
        let noisy = changes(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.5, 2.5, 3.5, 4.5, 5.5], Vmm::Snowboot);
        assert!(!noisy[0].is_significant() && !noisy[0].is_regression && noisy[0].percent() > 2.0);
    }

    #[test]
    fn too_few_runs_are_told() {
        let few = changes(&[1.0, 1.0, 1.0], &[2.0, 2.0, 2.0], Vmm::Snowboot);
        assert!(few[0].too_few);
        assert!(!changes(&[1.0; 5], &[2.0; 5], Vmm::Snowboot)[0].too_few);
    }

    #[test]
    fn in_the_lab_only_cpu_time_is_compared() {
        let mut now = results(vec![measured(Vmm::Snowboot, None, &[1.0])]);
        now.host.emulated = true;
        let before = results(vec![measured(Vmm::Snowboot, None, &[1.0])]);
        for found in [compare(&before, &now, 2.0), compare(&now, &before, 2.0)] {
            assert_eq!(found.iter().map(|change| change.metric).collect::<Vec<_>>(), [Metric::Cpu]);
        }
    }

    #[test]
    fn what_differs_beside_the_figures_is_told() {
        let before = results(vec![measured(Vmm::Snowboot, None, &[1.0])]);
        assert_eq!(doubts(&before, &before), Vec::<String>::new());
        let mut now = results(vec![measured(Vmm::Snowboot, None, &[1.0]), measured(Vmm::Qemu, None, &[1.0])]);
        now.host.cpu = "Another".to_owned();
        now.settings.vcpus = 2;
        now.configurations[0].cmdline.push('x');
        let told = doubts(&before, &now).join("; ");
        for part in ["another host", "vCPUs", "snowboot had another command line", "qemu is not in"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
