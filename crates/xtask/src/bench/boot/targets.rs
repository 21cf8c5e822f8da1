//! The targets, each with what was measured.

use serde::Serialize;

use super::benches::{GENERIC, KERNELS, MACHINES, PACKED, SAME, SEVERAL, UNPACKED, USUAL};
use super::measured::{Configuration, Figures, Mean};

/// Bytes in a mebibyte.
const MIB: f64 = 1_048_576.0;

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) target: String,
    pub(super) limit: f64,
    /// What must not be greater than the limit; `None` where it could not be measured.
    pub(super) value: Option<f64>,
    /// The value with its unit, and the figures that it comes from; or why there is none.
    pub(super) measured: String,
}

impl Row {
    pub(super) fn is_held(&self) -> bool {
        self.value.is_some_and(|value| value <= self.limit)
    }

    /// In a word.
    pub(super) fn verdict(&self) -> &'static str {
        match self.value {
            None => "NOT MEASURED",
            Some(_) if self.is_held() => "held",
            Some(_) => "MISSED",
        }
    }
}

/// All targets.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let at_most = |limit: f64| format!("at most {limit:.2} x");
    let is = |what, target, limit, (value, measured)| Row { what, target, limit, value, measured };
    vec![
        is(
            "same tuned command line as Firecracker",
            at_most(0.70),
            0.70,
            against(figures, SAME, "firecracker"),
        ),
        is(
            "QEMU q35, each with its usual command line",
            at_most(0.30),
            0.30,
            against(figures, USUAL, "qemu"),
        ),
        is("Firecracker, each out of the box", at_most(0.45), 0.45, against(figures, USUAL, "firecracker")),
        is("the VMM's own share, cloud kernel", "at most 0.05 s".to_owned(), 0.05, own(figures, PACKED)),
        is(
            "the VMM's own share, larger generic kernel",
            "at most 0.05 s".to_owned(),
            0.05,
            own(figures, GENERIC),
        ),
        is("bzImage from the cache against ELF", "at most 1.03 x".to_owned(), 1.03, cached(figures)),
        is("memory that the VMM adds", "at most 3 MiB".to_owned(), 3.0, added(figures)),
        is(
            "8 machines at once in one process",
            "at most 8 x the CPU time of one".to_owned(),
            f64::from(MACHINES),
            several(figures),
        ),
    ]
}

/// Snowboot in a bench, whose kernel has no name there.
fn snowboot<'a>(figures: &'a Figures, bench: &str) -> Option<&'a Configuration> {
    figures.of(bench, "snowboot")
}

fn kernel<'a>(figures: &'a Figures, name: &str) -> Option<&'a Configuration> {
    figures.of(KERNELS, &format!("snowboot kernel={name}"))
}

/// Snowboot's median CPU time as a part of another VMM's.
fn against(figures: &Figures, bench: &str, vmm: &str) -> (Option<f64>, String) {
    let Some(other) = figures.of(bench, vmm) else {
        return (None, format!("{vmm} was not given; --{vmm} PATH names it"));
    };
    ratio(snowboot(figures, bench), Some(other))
}

fn cached(figures: &Figures) -> (Option<f64>, String) {
    ratio(kernel(figures, PACKED), kernel(figures, UNPACKED))
}

fn ratio(one: Option<&Configuration>, other: Option<&Configuration>) -> (Option<f64>, String) {
    let cpu = |it: Option<&Configuration>| Some(it?.cpu()?[1]);
    match (cpu(one), cpu(other)) {
        (Some(one), Some(other)) if other > 0.0 => {
            let ratio = one / other;
            (Some(ratio), format!("{ratio:.3} x ({one:.3} s / {other:.3} s)"))
        }
        _ => unknown(),
    }
}

fn own(figures: &Figures, name: &str) -> (Option<f64>, String) {
    let found = kernel(figures, name).and_then(|it| Some((it.own()?, it.cpu()?[1])));
    let Some((own, cpu)) = found else { return unknown() };
    (Some(own.mean), format!("{} of {cpu:.3} s", seconds(own)))
}

/// With what it may be off by.
pub(super) fn seconds(mean: Mean) -> String {
    match mean.error {
        Some(error) => format!("{:.3} ± {error:.3} s", mean.mean),
        None => format!("{:.3} s", mean.mean),
    }
}

fn added(figures: &Figures) -> (Option<f64>, String) {
    let bytes = snowboot(figures, USUAL).and_then(|it| it.bytes(|sample| sample.added_bytes));
    bytes.map_or_else(unknown, |bytes| (Some(mebibytes(bytes)), format!("{:.2} MiB", mebibytes(bytes))))
}

fn several(figures: &Figures) -> (Option<f64>, String) {
    let of = |count: u32| figures.of(SEVERAL, &format!("snowboot machines={count}"));
    let cpu = |it: &Configuration| Some(it.cpu()?[1]);
    let Some((one, all)) = of(1).zip(of(MACHINES)) else { return unknown() };
    let Some((once, together)) = cpu(one).zip(cpu(all)).filter(|(once, _)| *once > 0.0) else {
        return unknown();
    };
    let times = together / once;
    let resident = |it: &Configuration| it.bytes(|sample| sample.resident_bytes);
    let proportional = |it: &Configuration| it.bytes(|sample| sample.proportional_bytes);
    let memory = [resident(one), resident(all), proportional(all)].map(|bytes| bytes.map(mebibytes));
    let memory = match memory {
        [Some(one), Some(all), Some(each)] => format!(
            "; resident {all:.0} MiB, or {each:.0} MiB with shared pages once, against {MACHINES} x {one:.0} MiB"
        ),
        _ => String::new(),
    };
    (Some(times), format!("{times:.2} x ({together:.3} s / {once:.3} s){memory}"))
}

#[expect(clippy::cast_precision_loss, reason = "2^53 bytes are more than any host has")]
pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

fn unknown() -> (Option<f64>, String) {
    (None, "the host does not tell".to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::measured::tests::{bench, configuration};
    use super::*;

    /// All benches, with Snowboot at this time.
    pub(in super::super) fn figures(snowboot: f64, has_firecracker: bool) -> Figures {
        let named = |name: &str, cpu: f64| configuration(name, &[cpu, cpu, cpu]);
        let mut usual = vec![named("snowboot", snowboot), named("qemu", 2.0)];
        let several = [("snowboot machines=1", 1.0), ("snowboot machines=8", 7.0)];
        let several = several.map(|(name, times)| named(name, snowboot * times));
        let mut same = vec![named("snowboot", snowboot)];
        if has_firecracker {
            usual.push(named("firecracker", 1.5));
            same.push(named("firecracker", 0.8));
        }
        let kernels = ["elf", "bzimage", "generic"];
        let kernels = kernels.map(|name| named(&format!("snowboot kernel={name}"), snowboot));
        let mut figures = Figures::default();
        figures.add(USUAL, bench(&usual)).unwrap();
        figures.add(SAME, bench(&same)).unwrap();
        figures.add(KERNELS, bench(&kernels)).unwrap();
        figures.add(SEVERAL, bench(&several)).unwrap();
        figures
    }

    #[test]
    fn what_is_within_its_limit_is_held() {
        let rows = rows(&figures(0.48, true));
        assert!(rows.iter().all(Row::is_held), "{rows:#?}");
        let measured: Vec<&str> = rows.iter().map(|row| row.measured.as_str()).collect();
        assert_eq!(measured[0], "0.600 x (0.480 s / 0.800 s)");
        assert_eq!(measured[1], "0.240 x (0.480 s / 2.000 s)");
        assert_eq!(measured[3], "0.048 ± 0.000 s of 0.480 s");
        assert_eq!(measured[6], "2.00 MiB");
        assert_eq!(
            measured[7],
            "7.00 x (3.360 s / 0.480 s); resident 60 MiB, or 40 MiB with shared pages once, against 8 x 60 MiB"
        );
    }

    #[test]
    fn what_is_beyond_it_is_missed() {
        let rows = rows(&figures(0.9, true));
        let verdicts: Vec<&str> = rows.iter().map(Row::verdict).collect();
        assert_eq!(verdicts, ["MISSED", "MISSED", "MISSED", "MISSED", "MISSED", "held", "held", "held"]);
    }

    #[test]
    fn who_was_not_given_is_told() {
        let rows = rows(&figures(0.1, false));
        assert_eq!(
            (rows[0].verdict(), rows[1].verdict(), rows[2].verdict()),
            ("NOT MEASURED", "held", "NOT MEASURED")
        );
        assert_eq!(rows[0].measured, "firecracker was not given; --firecracker PATH names it");
        assert!(!rows[0].is_held());
    }
}
