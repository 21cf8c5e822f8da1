//! What a bench found, in the form that `--json` writes and `--baseline` reads.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::measure::Sample;
use super::stats::Spread;
use super::vmm::Vmm;

/// Of the JSON. It changes when a key goes away or means something else.
pub(super) const SCHEMA: u32 = 1;
/// Tells these files from other reports.
pub(super) const KIND: &str = "snowboot bench boot";
/// The lab sets it.
const LAB_VARIABLE: &str = "SNOWBOOT_LAB";
const EMULATED: &str = "emulated";

/// A whole bench.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) schema: u32,
    pub(super) kind: String,
    /// Version of the program that measured.
    pub(super) snowboot: String,
    /// That program is not built for speed.
    pub(super) debug_build: bool,
    pub(super) host: Host,
    pub(super) settings: Settings,
    /// In the order in which they ran in every round.
    pub(super) configurations: Vec<Measured>,
    /// VMMs that were not measured, each with the reason.
    pub(super) left_out: Vec<String>,
}

/// Where it was measured.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Host {
    /// Release of the host's kernel.
    pub(super) kernel: String,
    /// Model of its CPU.
    pub(super) cpu: String,
    pub(super) cpus: usize,
    /// It is the lab's emulated host: elapsed time means nothing.
    pub(super) emulated: bool,
}

/// What all runs had in common.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) memory_bytes: u64,
    pub(super) vcpus: u8,
    pub(super) runs: u32,
    pub(super) warm_up: u32,
    pub(super) marker: String,
    pub(super) timeout_seconds: u64,
    /// Every run of Snowboot unpacked its kernel.
    pub(super) cold_cache: bool,
    /// All VMMs had the same command line.
    pub(super) same_cmdline: bool,
}

/// One configuration and its runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) vmm: Vmm,
    /// What the VMM says of its version.
    pub(super) version: Option<String>,
    /// The name of its kernel, where several are compared.
    pub(super) kernel_name: Option<String>,
    /// The name of its command line, where several are compared.
    pub(super) cmdline_name: Option<String>,
    /// So many machines in one process, where that is compared.
    #[serde(default)]
    pub(super) machines: Option<u32>,
    pub(super) kernel: String,
    pub(super) initrd: String,
    pub(super) cmdline: String,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Runs that were made again, since they gave no figure.
    pub(super) failed_runs: u32,
    pub(super) samples: Vec<Sample>,
}

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    Cpu,
    Wall,
}

impl Metric {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU seconds",
            Self::Wall => "wall seconds",
        }
    }

    /// At the head of a column.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "CPU s",
            Self::Wall => "wall s",
        }
    }

    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Cpu => sample.cpu_seconds(),
            Self::Wall => sample.wall_seconds,
        }
    }
}

impl Measured {
    pub(super) fn values(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().map(|sample| metric.of(sample)).collect()
    }

    pub(super) fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(&self.values(metric))
    }

    /// Median of the memory that the VMM adds, in bytes.
    pub(super) fn added(&self) -> Option<u64> {
        median_of_bytes(self.samples.iter().map(|sample| sample.added_bytes).collect::<Option<_>>()?)
    }

    /// Mean of the VMM's own CPU time until the marker.
    pub(super) fn own_seconds(&self) -> Option<f64> {
        let own: Vec<f64> = self.samples.iter().map(Sample::own_seconds).collect::<Option<_>>()?;
        let count = u32::try_from(own.len()).ok().filter(|count| *count > 0)?;
        Some(own.iter().sum::<f64>() / f64::from(count))
    }

    /// Median of the most memory, in bytes.
    pub(super) fn peak_rss(&self) -> Option<u64> {
        median_of_bytes(self.samples.iter().map(|sample| sample.peak_rss_bytes).collect())
    }
}

fn median_of_bytes(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

impl Results {
    /// The figures that count here: in the lab elapsed time means nothing.
    pub(super) fn metrics(&self) -> &'static [Metric] {
        if self.host.emulated { &[Metric::Cpu] } else { &[Metric::Cpu, Metric::Wall] }
    }

    /// How many times this configuration's time the one of Snowboot is, with the same kernel and command line. Between
    /// Snowboot's own configurations it is the first one that others are compared with.
    pub(super) fn ratio(&self, of: &Measured, metric: Metric) -> Option<f64> {
        let mut snowboots = self.configurations.iter().filter(|other| other.vmm == Vmm::Snowboot);
        let reference = if of.vmm == Vmm::Snowboot {
            snowboots.next()?
        } else {
            snowboots.find(|other| {
                (&other.kernel_name, &other.cmdline_name) == (&of.kernel_name, &of.cmdline_name)
            })?
        };
        let (mine, its) = (reference.spread(metric)?.median, of.spread(metric)?.median);
        (its > 0.0 && reference.name != of.name).then(|| mine / its)
    }

    /// Reads what `--json` wrote.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let what = || format!("Cannot use the baseline {}", path.display());
        let text = fs::read(path).with_context(what)?;
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
            kind: String,
        }
        match serde_json::from_slice::<Head>(&text) {
            Ok(head) if head.kind == KIND && head.schema == SCHEMA => {}
            Ok(head) if head.kind == KIND => bail!(
                "Cannot use the baseline {}: it is of schema {}, and this Snowboot reads {SCHEMA}; measure it again",
                path.display(),
                head.schema
            ),
            _ => bail!(
                "Cannot use the baseline {}: it is not what `snowboot bench boot --json` writes",
                path.display()
            ),
        }
        serde_json::from_slice(&text).with_context(what)
    }
}

impl Host {
    pub(super) fn here() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            kernel: kernel.trim().to_owned(),
            cpu: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            emulated: std::env::var_os(LAB_VARIABLE).is_some_and(|value| value == EMULATED),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration with these CPU seconds, and ten times as many wall seconds.
    pub(in super::super) fn measured(vmm: Vmm, kernel: Option<&str>, cpu: &[f64]) -> Measured {
        let name = match kernel {
            Some(kernel) => format!("{} kernel={kernel}", vmm.name()),
            None => vmm.name().to_owned(),
        };
        let sample = |cpu: &f64| Sample {
            user_seconds: cpu * 0.75,
            system_seconds: cpu * 0.25,
            wall_seconds: cpu * 10.0,
            peak_rss_bytes: 64 << 20,
            added_bytes: (vmm == Vmm::Snowboot).then_some(3 << 20),
            resident_bytes: Some(40 << 20),
            proportional_bytes: Some(30 << 20),
            marker_cpu_seconds: Some(cpu * 0.75),
            guest_seconds: Some(cpu * 0.5),
        };
        Measured {
            name,
            vmm,
            version: Some("VMM 1.0".to_owned()),
            kernel_name: kernel.map(str::to_owned),
            cmdline_name: None,
            machines: None,
            kernel: "/boot/<vmlinuz> & \"co\"".to_owned(),
            initrd: "/i".to_owned(),
            cmdline: "console=ttyS0, quiet".to_owned(),
            command: vec!["/bin/vmm".to_owned(), "it's".to_owned()],
            failed_runs: 0,
            samples: cpu.iter().map(sample).collect(),
        }
    }

    pub(in super::super) fn results(configurations: Vec<Measured>) -> Results {
        Results {
            schema: SCHEMA,
            kind: KIND.to_owned(),
            snowboot: "1".to_owned(),
            debug_build: false,
            host: Host { kernel: "6.1".to_owned(), cpu: "A CPU".to_owned(), cpus: 2, emulated: false },
            settings: Settings {
                memory_bytes: 128 << 20,
                vcpus: 1,
                runs: 3,
                warm_up: 1,
                marker: "init".to_owned(),
                timeout_seconds: 60,
                cold_cache: false,
                same_cmdline: false,
            },
            configurations,
            left_out: vec!["firecracker: not found in PATH".to_owned()],
        }
    }

    #[test]
    fn a_ratio_is_to_snowboot_with_the_same_kernel() {
        let results = results(vec![
            measured(Vmm::Snowboot, Some("a"), &[1.0, 1.2, 1.1]),
            measured(Vmm::Qemu, Some("a"), &[2.2, 2.2, 2.2]),
            measured(Vmm::Snowboot, Some("b"), &[2.2]),
            measured(Vmm::Qemu, Some("b"), &[8.8]),
            measured(Vmm::Qemu, Some("c"), &[8.8]),
        ]);
        let ratio = |index: usize| results.ratio(&results.configurations[index], Metric::Cpu);
        assert_eq!(ratio(0), None);
        assert_eq!(ratio(1), Some(0.5));
        assert_eq!(ratio(2), Some(0.5));
        assert_eq!(ratio(3), Some(0.25));
        assert_eq!(ratio(4), None);
    }

    #[test]
    fn what_is_written_can_be_read_and_other_files_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b.json");
        let mut written = results(vec![measured(Vmm::CloudHypervisor, None, &[1.0, 2.0])]);
        fs::write(&file, serde_json::to_vec(&written).unwrap()).unwrap();
        let read = Results::read(&file).unwrap();
        assert_eq!(read.configurations[0].values(Metric::Cpu), [1.0, 2.0]);
        assert_eq!(read.configurations[0].vmm, Vmm::CloudHypervisor);
        assert_eq!(read.configurations[0].added(), None);
        written.schema = 9;
        fs::write(&file, serde_json::to_vec(&written).unwrap()).unwrap();
        assert!(Results::read(&file).unwrap_err().to_string().contains("schema 9"));
        fs::write(&file, "{}").unwrap();
        assert!(Results::read(&file).unwrap_err().to_string().contains("is not what"));
        assert!(
            format!("{:#}", Results::read(&folder.path().join("x")).unwrap_err()).contains("No such file")
        );
    }

    #[test]
    fn this_host_has_facts() {
        let host = Host::here();
        assert!(!host.kernel.is_empty() && host.cpus > 0);
    }
}
