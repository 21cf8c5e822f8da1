//! The forms in which results are shown.

pub(super) mod csv;
pub(super) mod html;
pub(super) mod json;
pub(super) mod svg;
pub(super) mod table;

use std::borrow::Cow;

use quick_xml::escape::escape;

use super::results::{Measured, Results};
use super::vmm::Vmm;

/// Where a figure cannot be told.
const UNKNOWN: &str = "n/a";

/// The columns of a table and its rows, one for each configuration.
fn grid(results: &Results) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let mut head = vec!["configuration", "runs"];
    for metric in results.metrics() {
        head.extend([metric.unit(), "min to max", "Snowboot"]);
    }
    head.extend(["own s", "VMM adds", "peak"]);
    (head, results.configurations.iter().map(|measured| row(results, measured)).collect())
}

fn row(results: &Results, measured: &Measured) -> Vec<String> {
    let mut cells = vec![measured.name.clone(), measured.samples.len().to_string()];
    for metric in results.metrics() {
        match measured.spread(*metric) {
            Some(spread) => cells.extend([
                seconds(spread.median),
                format!("{} to {}", seconds(spread.min), seconds(spread.max)),
            ]),
            None => cells.extend([UNKNOWN.to_owned(), UNKNOWN.to_owned()]),
        }
        let ratio = results.ratio(measured, *metric);
        cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x")));
    }
    cells.push(measured.own_seconds().map_or_else(|| UNKNOWN.to_owned(), |own| format!("{own:.3}")));
    cells.extend([mebibytes(measured.added()), mebibytes(measured.peak_rss())]);
    cells
}

/// What is needed to read the table.
fn notes(results: &Results) -> Vec<String> {
    let mut notes = Vec::new();
    if results.host.emulated {
        notes.push(
            "This is the lab's emulated host, where elapsed (wall) times mean nothing: they are left out. With \
             `--icount`, CPU seconds are counted instructions, and they are what counts."
                .to_owned(),
        );
    }
    notes.push(if results.settings.same_cmdline {
        "All VMMs had the same command line.".to_owned()
    } else {
        "Each VMM had its own usual command line; --same-cmdline gives all of them the same.".to_owned()
    });
    match results.configurations.iter().filter(|measured| measured.vmm == Vmm::Snowboot).count() {
        _ if results.configurations.len() < 2 => {}
        1 => notes.push("Snowboot: how many times the row's time Snowboot takes.".to_owned()),
        _ => notes.push(
            "Snowboot: how many times the row's time Snowboot takes with the same kernel and command line; in its own \
             rows, how many times the first one takes."
                .to_owned(),
        ),
    }
    notes.push(
        "own s: CPU seconds until the marker that were not the guest's; the mean of all runs.".to_owned(),
    );
    notes.push("VMM adds: resident memory of its process beside the guest's.".to_owned());
    if results.debug_build {
        notes.push(
            "This Snowboot is a debug build; one built with `cargo build --release` is quicker.".to_owned(),
        );
    }
    if results.settings.cold_cache {
        notes.push("Snowboot unpacked its kernel in every run.".to_owned());
    }
    for measured in &results.configurations {
        if measured.failed_runs > 0 {
            let (name, count) = (&measured.name, measured.failed_runs);
            notes.push(format!("{name}: {count} runs gave no figure and were made again."));
        }
    }
    notes.extend(results.left_out.iter().map(|why| format!("Left out: {why}.")));
    notes
}

/// What was measured, in one line.
fn subject(results: &Results) -> String {
    let (settings, host) = (&results.settings, &results.host);
    format!(
        "Boot to `{}` with {} MiB and {} vCPU{}, {} warm-up run{}; {} ({} CPU{}), Linux {}, Snowboot {}",
        settings.marker,
        settings.memory_bytes >> 20,
        settings.vcpus,
        plural(settings.vcpus == 1),
        settings.warm_up,
        plural(settings.warm_up == 1),
        host.cpu,
        host.cpus,
        plural(host.cpus == 1),
        host.kernel,
        results.snowboot
    )
}

fn plural(is_one: bool) -> &'static str {
    if is_one { "" } else { "s" }
}

/// To a millisecond, and short times to a tenth of it.
fn seconds(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { format!("{value:.3}") }
}

fn mebibytes(bytes: Option<u64>) -> String {
    let tenths = |bytes: u64| bytes.saturating_mul(10).saturating_add(1 << 19) >> 20;
    bytes.map_or_else(
        || UNKNOWN.to_owned(),
        |bytes| format!("{}.{} MiB", tenths(bytes) / 10, tenths(bytes) % 10),
    )
}

/// Text for SVG and HTML, without what neither can hold.
fn escaped(text: &str) -> String {
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    let text: Cow<'_, str> =
        if text.contains(is_bad) { text.replace(is_bad, " ").into() } else { text.into() };
    escape(text).into_owned()
}

/// A command as a shell takes it.
fn shell_words(words: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    let quoted = |word: &String| {
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{measured, results};
    use super::*;

    #[test]
    fn figures_have_their_digits() {
        assert_eq!(seconds(0.051_23), "0.0512");
        assert_eq!(seconds(2.581_6), "2.582");
        assert_eq!(mebibytes(Some(3 << 20)), "3.0 MiB");
        assert_eq!(mebibytes(Some((3 << 20) + (1 << 19))), "3.5 MiB");
        assert_eq!(mebibytes(None), "n/a");
    }

    #[test]
    fn words_are_quoted_for_a_shell_and_text_for_a_page() {
        let words = ["/bin/vmm", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(shell_words(&words), r"/bin/vmm 'a b' 'it'\''s' ''");
        assert_eq!(escaped("<a href=\"x\">&\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&amp; ");
    }

    #[test]
    fn what_must_be_known_is_noted() {
        let mut results = results(vec![measured(Vmm::Snowboot, None, &[1.0])]);
        let told = |results: &Results| notes(results).join("\n");
        assert!(told(&results).contains("its own usual command line"));
        assert!(told(&results).contains("Left out: firecracker: not found in PATH."));
        assert!(!told(&results).contains("mean nothing") && !told(&results).contains("how many times"));
        let mut several = super::super::results::tests::results(vec![
            measured(Vmm::Snowboot, None, &[1.0]),
            measured(Vmm::Qemu, None, &[1.0]),
        ]);
        assert!(told(&several).contains("Snowboot takes."));
        several.configurations.push(measured(Vmm::Snowboot, Some("a"), &[1.0]));
        assert!(told(&several).contains("in its own rows"));
        results.host.emulated = true;
        results.settings.same_cmdline = true;
        results.settings.cold_cache = true;
        results.debug_build = true;
        results.configurations[0].failed_runs = 2;
        for part in
            ["mean nothing", "the same command line", "in every run", "snowboot: 2 runs", "debug build"]
        {
            assert!(told(&results).contains(part), "{part}");
        }
    }
}
