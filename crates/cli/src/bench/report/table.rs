//! Results as text for the terminal.

use super::super::baseline::Change;
use super::super::results::Results;
use super::{grid, notes, seconds, subject};

/// What was measured, the table, the command lines, and how to read it.
pub(in super::super) fn text(results: &Results) -> String {
    let (head, rows) = grid(results);
    let head = head.into_iter().map(str::to_owned).collect();
    let mut text = format!("{}\n\n{}\n", subject(results), columns(&[vec![head], rows].concat()));
    text.push_str(&cmdlines(results));
    text.push('\n');
    for note in notes(results) {
        text.push_str(&format!("{note}\n"));
    }
    text
}

/// The kernels' command lines; one where all are the same.
fn cmdlines(results: &Results) -> String {
    let all = &results.configurations;
    if let [first, others @ ..] = all.as_slice()
        && others.iter().all(|other| other.cmdline == first.cmdline)
    {
        return format!("kernel command line:\n  {}\n", first.cmdline);
    }
    let lines: Vec<_> = all.iter().map(|it| vec![it.name.clone(), it.cmdline.clone()]).collect();
    format!("kernel command lines:\n{}", left_columns(&lines))
}

/// What has changed since the baseline.
pub(in super::super) fn changes(changes: &[Change], doubts: &[String]) -> String {
    let head = ["configuration", "", "baseline", "now", "change", "p", ""].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for change in changes {
        let verdict = match change {
            _ if change.is_regression => "SLOWER",
            _ if change.too_few => "too few runs to tell",
            _ if !change.is_significant() => "no difference beyond chance",
            _ if change.percent() < 0.0 => "faster",
            _ => "slower",
        };
        rows.push(vec![
            change.name.clone(),
            change.metric.name().to_owned(),
            seconds(change.before),
            seconds(change.now),
            format!("{:+.1} %", change.percent()),
            format!("{:.4}", change.p),
            verdict.to_owned(),
        ]);
    }
    let mut text = format!("\nsince the baseline:\n{}", columns(&rows));
    for doubt in doubts {
        text.push_str(&format!("Mind: {doubt}.\n"));
    }
    text
}

/// The first column is text, the others are figures, to the right.
fn columns(rows: &[Vec<String>]) -> String {
    aligned(rows, |column| column > 0)
}

fn left_columns(rows: &[Vec<String>]) -> String {
    aligned(rows, |_| false)
}

fn aligned(rows: &[Vec<String>], is_right: impl Fn(usize) -> bool) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell =
                if is_right(column) { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::baseline::compare;
    use super::super::super::results::tests::{measured, results};
    use super::super::super::vmm::Vmm;
    use super::*;

    #[test]
    fn a_row_tells_medians_ends_ratios_and_memory() {
        let mut results = results(vec![
            measured(Vmm::Snowboot, None, &[0.5, 0.52, 0.51]),
            measured(Vmm::Qemu, None, &[2.0, 2.04, 2.08]),
        ]);
        let text = text(&results);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("Boot to `init` with 128 MiB and 1 vCPU, 1 warm-up run; A CPU (2 CPUs)")
        );
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(lines[3]),
            "snowboot 3 0.510 0.500 to 0.520 - 5.100 5.000 to 5.200 - 0.128 3.0 MiB 64.0 MiB"
        );
        assert_eq!(
            words(lines[4]),
            "qemu 3 2.040 2.000 to 2.080 0.25 x 20.400 20.000 to 20.800 0.25 x 0.510 n/a 64.0 MiB"
        );
        assert_eq!(lines[3].find("3.0 MiB").map(|at| at + 7), lines[4].find("n/a").map(|at| at + 3));
        assert!(text.contains("command line:\n  console=ttyS0, quiet\n"), "{text}");
        results.configurations[0].cmdline.push('x');
        let text = super::text(&results);
        assert!(
            text.contains("lines:\n  snowboot  console=ttyS0, quietx\n  qemu      console=ttyS0, quiet\n")
        );
    }

    #[test]
    fn changes_are_told_with_their_verdict() {
        let bench = |cpu: &[f64]| results(vec![measured(Vmm::Snowboot, None, cpu)]);
        let verdict = |before: &[f64], now: &[f64]| {
            let found = compare(&bench(before), &bench(now), 2.0);
            changes(&found, &["x".to_owned()])
        };
        let base = [1.0, 1.01, 1.02, 1.03, 1.04];
        assert!(verdict(&base, &base.map(|value| value + 0.1)).contains("+9.8 %  0.0079  SLOWER\n"));
        assert!(verdict(&base, &base.map(|value| value - 0.1)).contains("faster\n"));
        assert!(verdict(&base, &base.map(|value| value + 0.001)).contains("beyond chance\n"));
        assert!(verdict(&[1.0], &[2.0]).contains("too few runs"));
        assert!(verdict(&[1.0], &[2.0]).ends_with("Mind: x.\n"));
    }
}
