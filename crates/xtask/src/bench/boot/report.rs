//! The targets as Markdown and JSON.

use anyhow::Result;
use serde_json::json;

use super::benches::{KERNELS, Rivals, SAME, SEVERAL, USUAL};
use super::measured::{Configuration, Figures};
use super::targets::{Row, mebibytes, seconds};
use crate::bench::results::said;

/// What the targets came to, and the figures behind.
pub(super) fn markdown(rows: &[Row], figures: &Figures, rivals: &Rivals) -> String {
    let mut text = format!("{}\n\n", subject(figures));
    let head = ["what", "target", "measured", ""].map(str::to_owned).to_vec();
    let cells = |row: &Row| {
        vec![row.what.to_owned(), row.target.clone(), row.measured.clone(), row.verdict().to_owned()]
    };
    text.push_str(&table(&head, rows.iter().map(cells)));
    for (name, given) in [
        ("Firecracker", rivals.firecracker.is_some()),
        ("Cloud Hypervisor", rivals.cloud_hypervisor.is_some()),
    ] {
        if !given {
            text.push_str(&format!("\n{name} was not given.\n"));
        }
    }
    text.push_str("\nThe figures behind it:\n\n");
    let head =
        ["configuration", "CPU s", "min to max", "own s", "VMM adds", "version"].map(str::to_owned).to_vec();
    text.push_str(&table(&head, configurations(figures).map(|(bench, it)| line(bench, it))));
    text.push_str(&cmdlines(figures));
    text
}

fn configurations(figures: &Figures) -> impl Iterator<Item = (&'static str, &Configuration)> {
    figures.all().flat_map(|(bench, measured)| measured.configurations.iter().map(move |it| (bench, it)))
}

/// The kernels' command lines, each with those who had it.
fn cmdlines(figures: &Figures) -> String {
    let mut lines: Vec<(&str, Vec<&str>)> = Vec::new();
    for (_, it) in configurations(figures) {
        match lines.iter_mut().find(|(cmdline, _)| *cmdline == it.cmdline) {
            Some((_, names)) if names.contains(&it.name.as_str()) => {}
            Some((_, names)) => names.push(&it.name),
            None => lines.push((&it.cmdline, vec![&it.name])),
        }
    }
    let lines = lines.iter().map(|(cmdline, names)| format!("- `{cmdline}`: {}\n", names.join(", ")));
    format!("\nCommand lines:\n\n{}", lines.collect::<String>())
}

/// How and where it was measured.
fn subject(figures: &Figures) -> String {
    let Some((_, first)) = figures.all().next() else { return String::new() };
    let (host, settings) = (&first.host, &first.settings);
    let lab = if host.emulated {
        "in the lab with --icount (CPU seconds are counted instructions, but for several machines in one process)"
    } else {
        "directly"
    };
    format!(
        "{} at {}: {} runs each, {} MiB and {} vCPU, to the first line of init; {lab}, {}, Linux {}.",
        said("date", &["-u", "+%F"]),
        said("git", &["describe", "--always", "--dirty"]),
        settings.runs,
        settings.memory_bytes >> 20,
        settings.vcpus,
        host.cpu,
        host.kernel
    )
}

fn line(bench: &str, it: &Configuration) -> Vec<String> {
    let what = match bench {
        USUAL => "usual command lines",
        SAME => "tuned command line",
        KERNELS | SEVERAL => "usual command line",
        other => other,
    };
    let unknown = || "n/a".to_owned();
    let cpu = it.cpu();
    let added = it.bytes(|sample| sample.added_bytes);
    vec![
        format!("{}, {what}", it.name),
        cpu.map_or_else(unknown, |[_, median, _]| format!("{median:.3}")),
        cpu.map_or_else(unknown, |[min, _, max]| format!("{min:.3} to {max:.3}")),
        it.own().map_or_else(unknown, seconds),
        added.map_or_else(unknown, |bytes| format!("{:.2} MiB", mebibytes(bytes))),
        it.version.clone().unwrap_or_else(unknown).replace('|', "/"),
    ]
}

/// A table whose columns stand under each other in the source, too.
fn table(head: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut rows: Vec<Vec<String>> = std::iter::once(head.to_vec()).chain(rows).collect();
    let mut widths = vec![3; head.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    rows.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        text.push_str(&format!("|{}\n", cells.collect::<String>()));
    }
    text
}

/// Everything: the targets, and all that `snowboot bench boot --json` wrote.
pub(super) fn json(rows: &[Row], figures: &Figures) -> Result<String> {
    let rows: Vec<_> = rows.iter().map(|row| (row, row.verdict())).collect();
    let rows = rows.iter().map(|(row, verdict)| json!({ "target": row, "verdict": verdict }));
    let all = json!({ "rows": rows.collect::<Vec<_>>(), "benches": figures.raw });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::targets::{rows, tests::figures};
    use super::*;

    #[test]
    fn the_tables_tell_targets_figures_and_who_is_missing() {
        let figures = figures(0.48, false);
        let text = markdown(&rows(&figures), &figures, &Rivals::default());
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains("| 0.240 x (0.480 s / 2.000 s) | held |"), "{text}");
        assert!(
            squeezed.contains("| NOT MEASURED |") && squeezed.contains("Firecracker was not given."),
            "{text}"
        );
        assert!(
            squeezed.contains("| qemu, usual command lines | 2.000 | 2.000 to 2.000 | 0.200 ± 0.000 s | 2.00 MiB | qemu 1.0 |"),
            "{text}"
        );
        assert!(
            text.contains("\n- `console=ttyS0`: snowboot kernel=elf, snowboot kernel=bzimage, "),
            "{text}"
        );
        let widths: Vec<usize> =
            text.lines().filter(|line| line.starts_with("| snow")).map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&json(&rows(&figures), &figures).unwrap()).unwrap();
        assert_eq!(json["rows"][1]["verdict"], "held");
        assert_eq!(json["benches"]["usual"]["configurations"][1]["name"], "qemu");
    }
}
