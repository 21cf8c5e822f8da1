//! What the figures say: a row for each target, and all figures.

use serde::{Deserialize, Serialize};

/// What the script measured of one way to join guests, in one kind of traffic.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
pub(super) struct Figure {
    pub(super) way: String,
    pub(super) part: String,
    /// Median, and all of them: bytes, round trips or datagrams that arrived, for each CPU second of all that took part.
    pub(super) rate: f64,
    pub(super) all: Vec<f64>,
    /// How many of them there were.
    pub(super) counts: Vec<u64>,
    /// How often the guests left for the host; empty where that does not say.
    #[serde(default)]
    pub(super) exits: Vec<u64>,
}

impl Figure {
    /// Exits for each of `unit`: of the run that had fewest.
    fn exits_each(&self, unit: f64) -> Option<f64> {
        let each = self.exits.iter().zip(&self.counts).map(|(exits, count)| {
            let [exits, count] =
                [*exits, *count].map(|number| u32::try_from(number).map_or(f64::NAN, f64::from));
            exits * unit / count
        });
        each.min_by(f64::total_cmp)
    }
}

/// Snowboot's own name among the ways.
const OURS: &str = "snowboot";

/// What is to be held: so many times the rate of another way.
#[derive(Debug)]
struct Target {
    part: &'static str,
    what: &'static str,
    way: &'static str,
    least: f64,
}

const TARGETS: &[Target] = &[
    target("tcp", "TCP between guests", "qemu + vde_switch", 3.0),
    target("tcp", "TCP between guests", "firecracker + bridge", 1.2),
    target("trips", "round trips of 1 byte over TCP", "qemu + vde_switch", 2.0),
    target("udp", "UDP frames of 60 bytes", "qemu + vde_switch", 3.0),
    target("gateway", "TCP to the host", "qemu slirp", 2.0),
    target("gateway", "TCP to the host", "qemu + passt", 1.0),
];

const fn target(part: &'static str, what: &'static str, way: &'static str, least: f64) -> Target {
    Target { part, what, way, least }
}

/// A target and how many times it was.
#[derive(Debug)]
pub(super) struct Row {
    target: &'static Target,
    /// Snowboot's rate and the other's.
    measured: Option<(f64, f64)>,
}

impl Row {
    /// Whether it was measured, and reached.
    pub(super) fn is_held(&self) -> bool {
        self.measured.is_some_and(|(ours, theirs)| ours / theirs >= self.target.least)
    }
}

/// Of the kinds of traffic that were measured, what became of each target.
pub(super) fn judge(figures: &[Figure]) -> Vec<Row> {
    let rate = |part: &str, way: &str| {
        figures.iter().find(|it| it.part == part && it.way == way).map(|figure| figure.rate)
    };
    let is_there = |target: &&Target| figures.iter().any(|figure| figure.part == target.part);
    let row = |target: &'static Target| Row {
        target,
        measured: rate(target.part, OURS).zip(rate(target.part, target.way)),
    };
    TARGETS.iter().filter(is_there).map(row).collect()
}

/// As Markdown: the targets, then all figures.
pub(super) fn table(rows: &[Row], figures: &[Figure]) -> String {
    let mut text = "| what | against | target | measured | |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        let Target { what, way, least, .. } = row.target;
        let measured = row
            .measured
            .map_or("not measured".to_owned(), |(ours, theirs)| format!("{:.2} x", ours / theirs));
        let verdict = if row.is_held() { "held" } else { "MISSED" };
        text.push_str(&format!("| {what} | {way} | at least {least:.1} x | {measured} | {verdict} |\n"));
    }
    text.push_str(
        "\n| traffic | way | per CPU second | min to max | exits each | arrived |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for figure in figures {
        let Figure { way, part, rate, all, counts, .. } = figure;
        let (unit, scale) = match part.as_str() {
            "tcp" | "gateway" => ("MiB", 1_048_576.0),
            "udp" => ("datagrams", 1.0),
            _ => ("round trips", 1.0),
        };
        let min = all.iter().copied().fold(f64::INFINITY, f64::min) / scale;
        let max = all.iter().copied().fold(0.0, f64::max) / scale;
        // On an emulated host there may be less than one.
        let digits = if max < 10.0 { 2 } else { 0 };
        let exits = figure.exits_each(scale).map_or("n/a".to_owned(), |each| format!("{each:.1}"));
        let arrived = counts.iter().min().copied().unwrap_or_default();
        text.push_str(&format!(
            "| {part} | {way} | {:.digits$} {unit} | {min:.digits$} to {max:.digits$} | {exits} | {arrived} |\n",
            rate / scale
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(way: &str, part: &str, rate: f64) -> Figure {
        Figure {
            way: way.to_owned(),
            part: part.to_owned(),
            rate,
            all: vec![rate / 2.0, rate * 2.0],
            counts: vec![9, 8],
            exits: vec![27, 32],
        }
    }

    #[test]
    fn a_target_is_held_by_the_rate_and_missed_where_nothing_was_measured() {
        let figures = [
            figure("snowboot", "tcp", 300.0 * 1_048_576.0),
            figure("qemu + vde_switch", "tcp", 100.0 * 1_048_576.0),
            figure("snowboot", "udp", 299.0),
            figure("qemu + vde_switch", "udp", 100.0),
        ];
        let rows = judge(&figures);
        assert_eq!(rows.iter().map(Row::is_held).collect::<Vec<_>>(), [true, false, false]);
        let text = table(&rows, &figures);
        assert!(text.contains("| at least 3.0 x | 3.00 x | held |\n"), "{text}");
        assert!(
            text.contains("| firecracker + bridge | at least 1.2 x | not measured | MISSED |\n"),
            "{text}"
        );
        assert!(text.contains("| tcp | snowboot | 300 MiB | 150 to 600 | "), "{text}");
        assert!(text.contains("| udp | snowboot | 299 datagrams | 150 to 598 | 3.0 | 8 |\n"), "{text}");
    }
}
