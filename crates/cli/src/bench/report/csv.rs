//! A line for each run (RFC 4180, with line feeds alone).

use anyhow::Result;

use super::super::results::Results;

const HEAD: &str = "configuration,vmm,kernel,cmdline,run,user_seconds,system_seconds,cpu_seconds,wall_seconds,\
                    peak_rss_bytes,added_bytes,resident_bytes,proportional_bytes,marker_cpu_seconds,guest_seconds\n";

#[expect(clippy::unnecessary_wraps, reason = "every form has this face")]
pub(in super::super) fn text(results: &Results) -> Result<String> {
    let mut text = HEAD.to_owned();
    for measured in &results.configurations {
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let seconds = |seconds: Option<f64>| seconds.map(|it| format!("{it:.6}")).unwrap_or_default();
        let name = |name: &Option<String>| name.as_deref().map(quoted).unwrap_or_default();
        for (run, sample) in (1u64..).zip(&measured.samples) {
            let cells = [
                quoted(&measured.name),
                measured.vmm.name().to_owned(),
                name(&measured.kernel_name),
                name(&measured.cmdline_name),
                run.to_string(),
                format!("{:.6}", sample.user_seconds),
                format!("{:.6}", sample.system_seconds),
                format!("{:.6}", sample.cpu_seconds()),
                format!("{:.6}", sample.wall_seconds),
                sample.peak_rss_bytes.to_string(),
                bytes(sample.added_bytes),
                bytes(sample.resident_bytes),
                bytes(sample.proportional_bytes),
                seconds(sample.marker_cpu_seconds),
                seconds(sample.guest_seconds),
            ];
            text.push_str(&cells.join(","));
            text.push('\n');
        }
    }
    Ok(text)
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::results::tests::{measured, results};
    use super::super::super::vmm::Vmm;
    use super::*;

    #[test]
    fn each_run_has_its_line() {
        let results = results(vec![
            measured(Vmm::Snowboot, None, &[1.0]),
            measured(Vmm::QemuMicrovm, Some("a"), &[2.0, 4.0]),
        ]);
        let text = text(&results).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0].split(',').count(), 15);
        assert_eq!(
            lines[1],
            "snowboot,snowboot,,,1,0.750000,0.250000,1.000000,10.000000,67108864,3145728,41943040,31457280,0.750000,0.500000"
        );
        assert_eq!(
            lines[3],
            "qemu-microvm kernel=a,qemu-microvm,a,,2,3.000000,1.000000,4.000000,40.000000,67108864,,41943040,31457280,3.000000,2.000000"
        );
    }

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("a b"), "a b");
    }
}
