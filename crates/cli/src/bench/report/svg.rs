//! The runs as a drawing: a row for each configuration with a dot for each run, a bar from the least to the most, and
//! the median. A panel for each figure that counts.

use std::fmt::Write;

use anyhow::Result;

use super::super::results::{Measured, Metric, Results};
use super::super::vmm::Vmm;
use super::{escaped, seconds};

const WIDTH: f64 = 900.0;
const RIGHT: f64 = 30.0;
const ROW: f64 = 26.0;
const TITLE: f64 = 30.0;
const AXIS: f64 = 34.0;
/// Width of a letter, about.
const LETTER: f64 = 7.2;
/// The axis has about so many marks.
const MARKS: f64 = 8.0;

/// A file of its own.
#[expect(clippy::unnecessary_wraps, reason = "every form has this face")]
pub(in super::super) fn text(results: &Results) -> Result<String> {
    Ok(format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}", drawing(results)))
}

/// The element alone, for a page.
pub(super) fn drawing(results: &Results) -> String {
    let rows = &results.configurations;
    let panel = TITLE + ROW * count(rows.len()) + AXIS;
    let height = panel * count(results.metrics().len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        escaped(&super::subject(results))
    );
    for (index, metric) in results.metrics().iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate(0 {})\">", panel * count(index));
        draw_panel(&mut svg, rows, *metric);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Where values are, from left to right.
struct Scale {
    left: f64,
    most: f64,
    step: f64,
}

impl Scale {
    fn new(rows: &[Measured], metric: Metric) -> Self {
        let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let left = (LETTER * count(longest) + 20.0).min(WIDTH / 2.0);
        let most =
            rows.iter().filter_map(|row| row.spread(metric)).map(|spread| spread.max).fold(0.0, f64::max);
        let step = round_step(most / MARKS);
        Self { left, most: (most / step).ceil().max(1.0) * step, step }
    }

    fn x(&self, value: f64) -> f64 {
        (WIDTH - RIGHT - self.left).mul_add(value / self.most, self.left)
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 || !least.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least).unwrap_or(10.0);
    factor * power
}

fn draw_panel(svg: &mut String, rows: &[Measured], metric: Metric) {
    let scale = Scale::new(rows, metric);
    let bottom = TITLE + ROW * count(rows.len());
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"20\" font-weight=\"bold\">{} to the marker</text>",
        scale.left,
        metric.name()
    );
    let mut mark = 0.0;
    while mark * scale.step <= scale.most * 1.001 {
        let (x, value) = (scale.x(mark * scale.step), format_mark(mark * scale.step, scale.step));
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TITLE}V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{value}</text>",
            bottom + 16.0
        );
        mark += 1.0;
    }
    for (index, row) in rows.iter().enumerate() {
        draw_row(svg, row, metric, &scale, ROW.mul_add(count(index) + 0.5, TITLE));
    }
}

fn draw_row(svg: &mut String, row: &Measured, metric: Metric, scale: &Scale, y: f64) {
    let colour = if row.vmm == Vmm::Snowboot { "#1769aa" } else { "#8a5a00" };
    let name = escaped(&row.name);
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
        scale.left - 8.0,
        y + 4.0
    );
    let Some(spread) = row.spread(metric) else { return };
    let _ = writeln!(
        svg,
        "<path d=\"M{:.1} {y:.1}H{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        scale.x(spread.min),
        scale.x(spread.max)
    );
    for value in row.values(metric) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.35\"/>",
            scale.x(value)
        );
    }
    let _ = writeln!(
        svg,
        "<path d=\"M{:.1} {:.1}v16\" stroke=\"{colour}\" stroke-width=\"3\"><title>{name}: median {} s</title></path>",
        scale.x(spread.median),
        y - 8.0,
        seconds(spread.median)
    );
}

/// With the digits that its step needs.
fn format_mark(value: f64, step: f64) -> String {
    match step {
        step if step >= 1.0 => format!("{value:.0}"),
        step if step >= 0.1 => format!("{value:.1}"),
        step if step >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::{measured, results};
    use super::*;

    #[test]
    fn every_run_has_its_dot_in_every_panel() {
        let mut odd = measured(Vmm::Qemu, Some("<a>&"), &[2.0, 2.5]);
        odd.samples.push(odd.samples[0]);
        let mut results = results(vec![measured(Vmm::Snowboot, None, &[0.5, 0.6]), odd]);
        let drawn = text(&results).unwrap();
        let document = roxmltree::Document::parse(&drawn).unwrap();
        let dots = |name: &str| {
            document
                .descendants()
                .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", name)))
                .count()
        };
        assert_eq!(dots("circle"), 10);
        assert!(document.descendants().any(|node| node.text() == Some("qemu kernel=<a>&")));
        for node in document.descendants().filter(|node| node.has_attribute("cx")) {
            let x: f64 = node.attribute("cx").unwrap().parse().unwrap();
            assert!((0.0..=WIDTH - RIGHT).contains(&x), "{x}");
        }
        results.host.emulated = true;
        assert_eq!(text(&results).unwrap().matches("<circle").count(), 5, "CPU seconds alone");
        assert!(!text(&results).unwrap().contains("wall seconds"));
    }

    #[test]
    fn marks_are_round() {
        for (least, step) in [(0.43, 0.5), (0.011, 0.02), (3.0, 5.0), (7.0, 10.0), (0.0, 1.0)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
        assert_eq!(format_mark(0.15, 0.05), "0.15");
        let scale = Scale::new(&[measured(Vmm::Snowboot, None, &[])], Metric::Cpu);
        assert!(scale.x(0.0).is_finite());
    }
}
