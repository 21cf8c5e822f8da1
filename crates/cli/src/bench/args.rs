//! The command line of `snowboot bench boot`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, ValueEnum};
use snowboot_config::{MemorySize, ValueError, VcpuCount};

use super::vmm::Vmm;

const AFTER_HELP: &str = "\
A run is timed from the start of the VMM's program until the marker is on the guest's serial console; then the VMM is
killed. What counts is the CPU time of its process, the guest's included; elapsed time is shown beside it. The VMMs take
turns, so that whatever else the host does hits all of them. docs/bench.md tells more.

VMMs are called qemu, qemu-microvm, firecracker and cloud-hypervisor, and snowboot for --vmm.

Each VMM gets the command line that its users give it, unless --cmdline or --same-cmdline gives all of them the same.
Without --initrd the guest is a program of a few bytes that writes the marker. VMMs that take no bzImage (Firecracker)
get the kernel unpacked.

Exit status:
  0  measured, and Snowboot is not slower than in the baseline
  1  something could not be run or written, or Snowboot is slower than in the baseline: by more than --allow percent,
     and with p < 0.05 (Mann-Whitney U test)
  2  the command line is wrong
  129, 130, 131, 143  SIGHUP, SIGINT (Ctrl-C), SIGQUIT or SIGTERM ended it: there are no results

Examples:
  snowboot bench boot --kernel bzImage
  snowboot bench boot --kernel bzImage --against qemu,firecracker --vmm firecracker=./firecracker --same-cmdline
  snowboot bench boot --kernel bzImage --initrd initrd --marker 'Welcome to' --runs 20 --html boot.html
  snowboot bench boot --kernel old=bzImage.old --kernel new=bzImage --against none
  snowboot bench boot --kernel bzImage --compare-cmdline 'a=console=ttyS0' --compare-cmdline 'b=console=ttyS0 quiet'
  snowboot bench boot --kernel bzImage --against none --json before.json
  snowboot bench boot --kernel bzImage --against none --baseline before.json";

/// Machines in one process: far more than one host boots at once, and few enough to have numbers on the command line.
pub(super) const MACHINES_MAX: i64 = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("boot").args(["toplevel", "kernel"]).required(true))]
pub(super) struct BootArgs {
    /// A NixOS toplevel: the folder that `nixos-rebuild build` links to as ./result
    #[arg(value_name = "TOPLEVEL", conflicts_with = "initrd")]
    pub(super) toplevel: Option<PathBuf>,
    #[arg(
        long,
        value_name = "[NAME=]FILE",
        value_parser = OsStringValueParser::new().map(named_file),
        help = "A bzImage or an ELF vmlinux; repeat it with a NAME for each to compare kernels"
    )]
    pub(super) kernel: Vec<NamedFile>,
    /// The initial RAM disk of --kernel; --marker says what its init writes first
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(super) initrd: Option<PathBuf>,
    #[arg(
        long,
        value_name = "[NAME=]FILE",
        requires = "kernel",
        value_parser = OsStringValueParser::new().map(named_file),
        help = "That kernel's ELF vmlinux, for VMMs that take no bzImage [default: unpacked]"
    )]
    pub(super) elf_kernel: Vec<NamedFile>,
    /// Text on the console that ends a boot
    #[arg(long, value_name = "TEXT", value_parser = marker)]
    pub(super) marker: Option<String>,
    /// The kernel's command line, for all VMMs; it goes after a toplevel's own
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) cmdline: Option<String>,
    /// Measure with this command line, too, under this name; repeat it for more
    #[arg(long, value_name = "NAME=TEXT", value_parser = named_text)]
    pub(super) compare_cmdline: Vec<(String, String)>,
    /// Give all VMMs the command line that Snowboot's users give
    #[arg(long)]
    pub(super) same_cmdline: bool,
    /// Guest memory, such as 512, 512M or 2G
    #[arg(short, long, value_name = "SIZE", default_value = "128M")]
    pub(super) memory: MemorySize,
    /// Number of vCPUs, 1 to 32
    #[arg(short = 'c', long, alias = "cpus", value_name = "N", default_value = "1", value_parser = vcpus)]
    pub(super) vcpus: VcpuCount,
    /// Runs that count, of each configuration
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) runs: u32,
    /// Runs before them that do not count: they fill caches
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(super) warm_up: u32,
    /// Measure so many machines of Snowboot in one process, too, started at once
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=MACHINES_MAX))]
    pub(super) machines: Vec<u32>,
    /// Give Snowboot an empty kernel cache in every run: it unpacks the kernel each time
    #[arg(long)]
    pub(super) cold_cache: bool,
    #[arg(
        long,
        value_name = "VMM,...",
        value_delimiter = ',',
        hide_possible_values = true,
        help = "VMMs to compare with, or none [default: those that are found]"
    )]
    pub(super) against: Option<Vec<Against>>,
    #[arg(
        long,
        value_name = "VMM=PATH",
        value_parser = OsStringValueParser::new().try_map(program),
        help = "Where a VMM's program is, also another Snowboot's; repeat it [default: in PATH]"
    )]
    pub(super) vmm: Vec<(Vmm, PathBuf)>,
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        help = "Give up on a run after this time [default: 60, and 600 in the lab]"
    )]
    pub(super) timeout: Option<u64>,
    /// Compare with what an earlier --json wrote
    #[arg(long, value_name = "FILE")]
    pub(super) baseline: Option<PathBuf>,
    /// By how many percent Snowboot's median may be over the baseline's
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = percent, requires = "baseline")]
    pub(super) allow: f64,
    #[command(flatten)]
    pub(super) files: Files,
}

impl BootArgs {
    /// How long a run may take, in seconds.
    pub(super) fn timeout(&self, is_lab: bool) -> u64 {
        self.timeout.unwrap_or(if is_lab { 600 } else { 60 })
    }
}

/// Where results go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Reports")]
pub(super) struct Files {
    /// Write everything to FILE: the host, command lines, every run
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write a line for each run to FILE
    #[arg(long, value_name = "FILE")]
    pub(super) csv: Option<PathBuf>,
    /// Draw the runs to FILE
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Write one page to FILE: table, drawing, command lines
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

/// What `--against` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Against {
    None,
    Qemu,
    QemuMicrovm,
    Firecracker,
    CloudHypervisor,
}

impl Against {
    pub(super) fn vmm(self) -> Option<Vmm> {
        match self {
            Self::None => None,
            Self::Qemu => Some(Vmm::Qemu),
            Self::QemuMicrovm => Some(Vmm::QemuMicrovm),
            Self::Firecracker => Some(Vmm::Firecracker),
            Self::CloudHypervisor => Some(Vmm::CloudHypervisor),
        }
    }
}

/// `FILE` or `NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedFile {
    pub(super) name: Option<String>,
    pub(super) file: PathBuf,
}

/// What is before the first `=` is a name when it can be one. A file `a=b` is written `./a=b`.
fn named_file(text: OsString) -> NamedFile {
    match text.to_str().and_then(|text| text.split_once('=')) {
        Some((name, file)) if is_name(name) => {
            NamedFile { name: Some(name.to_owned()), file: PathBuf::from(file) }
        }
        _ => NamedFile { name: None, file: PathBuf::from(text) },
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
}

fn named_text(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, text)) if is_name(name) => Ok((name.to_owned(), text.to_owned())),
        _ => Err("write a name of letters, digits and - _ . +, then = and the command line".to_owned()),
    }
}

fn program(text: OsString) -> Result<(Vmm, PathBuf), String> {
    let wrong = || {
        let names: Vec<&str> = Vmm::value_variants().iter().map(|vmm| vmm.name()).collect();
        format!("write VMM=PATH, where VMM is one of {}", names.join(", "))
    };
    let (name, path) = text.to_str().and_then(|text| text.split_once('=')).ok_or_else(wrong)?;
    let vmm = Vmm::value_variants().iter().find(|vmm| vmm.name() == name).ok_or_else(wrong)?;
    if path.is_empty() { Err(wrong()) } else { Ok((*vmm, PathBuf::from(path))) }
}

fn marker(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err("it must be text within one line".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn vcpus(text: &str) -> Result<VcpuCount, ValueError> {
    let count: u8 = text.parse().map_err(|_| {
        ValueError(format!("`{text}` is not a number of vCPUs: choose 1 to {}", VcpuCount::MAX))
    })?;
    VcpuCount::try_from(count)
}

fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|number| (0.0..=1000.0).contains(number))
        .ok_or_else(|| "it is not a percentage from 0 to 1000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_before_an_equals_sign_is_a_name_when_it_can_be_one() {
        let parse = |text: &str| {
            let found = named_file(text.into());
            (found.name, found.file.to_str().unwrap().to_owned())
        };
        assert_eq!(parse("new-6.1=/boot/a=b"), (Some("new-6.1".to_owned()), "/boot/a=b".to_owned()));
        assert_eq!(parse("./a=b"), (None, "./a=b".to_owned()));
        assert_eq!(parse("bzImage"), (None, "bzImage".to_owned()));
        assert_eq!(named_text("a=console=ttyS0 x"), Ok(("a".to_owned(), "console=ttyS0 x".to_owned())));
        assert!(named_text("console").is_err() && named_text("a b=c").is_err());
    }

    #[test]
    fn a_program_has_the_name_of_a_vmm() {
        assert_eq!(program("qemu-microvm=/q=r".into()), Ok((Vmm::QemuMicrovm, PathBuf::from("/q=r"))));
        for wrong in ["bochs=/b", "qemu", "qemu="] {
            assert!(program(wrong.into()).is_err_and(|why| why.contains("cloud-hypervisor")), "{wrong}");
        }
    }

    #[test]
    fn percentages_and_markers_are_checked() {
        assert_eq!(percent("2.5%"), Ok(2.5));
        assert!(percent("-1").is_err() && percent("NaN").is_err() && percent("x").is_err());
        assert!(marker("a\nb").is_err() && marker(" ").is_err() && marker("a b").is_ok());
    }
}
