//! What is measured: the benches, each one run of `snowboot bench boot`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A command line for quick boots that has nothing of any VMM in it: Firecracker's, quiet, without probes for devices
/// that it has not. It is given to both.
pub(super) const TUNED: &str = "quiet console=ttyS0 reboot=k panic=1 8250.nr_uarts=1 i8042.noaux i8042.nomux \
    i8042.dumbkbd i8042.nokbd cryptomgr.notests no_timer_check tsc=reliable mitigations=off random.trust_cpu=on \
    rcupdate.rcu_expedited=1";
/// In seconds of real time. QEMU loses a guest now and then where it counts instructions, which would not end; such a run is
/// made once more.
const TIMEOUT: &str = "120";
/// The same for several machines, which are measured without counting, and slowly where a host is busy.
const TIMEOUT_OF_SEVERAL: &str = "600";
/// Machines in one process.
pub(super) const MACHINES: u32 = 8;

/// The names of the benches.
pub(super) const USUAL: &str = "usual";
pub(super) const SAME: &str = "same";
pub(super) const KERNELS: &str = "kernels";
pub(super) const SEVERAL: &str = "several";

/// The names of kernels in [`KERNELS`].
pub(super) const UNPACKED: &str = "elf";
pub(super) const PACKED: &str = "bzimage";
pub(super) const GENERIC: &str = "generic";

/// Debian's kernels: the one for clouds in two forms, and the stock one, which is larger.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) packed: PathBuf,
    pub(super) unpacked: PathBuf,
    pub(super) generic: PathBuf,
}

/// The programs of VMMs that were given.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    pub(super) firecracker: Option<PathBuf>,
    pub(super) cloud_hypervisor: Option<PathBuf>,
}

/// As a shell reads it as one word.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// One run of `snowboot bench boot`.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    words: Vec<String>,
}

impl Bench {
    /// Where its results are.
    pub(super) fn file(&self, folder: &Path) -> PathBuf {
        folder.join(self.name).with_added_extension("json")
    }

    /// A shell's line that runs it. Its tables go to the standard error: the standard output is for the targets.
    pub(super) fn shell_line(&self, snowboot: &Path, json: &Path) -> Result<String> {
        let words = ["bench", "boot"].map(str::to_owned).into_iter().chain(self.words.iter().cloned());
        let words = [text(snowboot)?].into_iter().chain(words).chain(["--json".to_owned(), text(json)?]);
        let words: Vec<String> = words.map(|word| quoted(&word)).collect();
        Ok(format!("echo '==> {}' >&2\n{} >&2\n", self.what, words.join(" ")))
    }
}

/// All benches.
pub(super) fn plan(kernels: &Kernels, rivals: &Rivals, runs: u32) -> Vec<Bench> {
    let kernel = |file: &Path| vec!["--kernel".to_owned(), file.display().to_string()];
    let named = |name: &str, file: &Path| vec!["--kernel".to_owned(), format!("{name}={}", file.display())];
    let elf = vec!["--elf-kernel".to_owned(), kernels.unpacked.display().to_string()];
    let runs_within =
        |limit: &str| ["--timeout", limit, "--runs", &runs.to_string()].map(str::to_owned).to_vec();
    let runs = runs_within(TIMEOUT);
    let firecracker = option("firecracker", rivals.firecracker.as_deref());
    let all = option("cloud-hypervisor", rivals.cloud_hypervisor.as_deref());
    let words = |parts: &[&[String]]| parts.concat();
    let several = ["--machines".to_owned(), format!("1,{MACHINES}")];
    let against = |names: &[(&str, bool)]| {
        let names: Vec<&str> = names.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        vec!["--against".to_owned(), if names.is_empty() { "none".to_owned() } else { names.join(",") }]
    };
    let has_firecracker = rivals.firecracker.is_some();
    let everyone = [
        ("qemu", true),
        ("firecracker", has_firecracker),
        ("cloud-hypervisor", rivals.cloud_hypervisor.is_some()),
    ];
    vec![
        Bench {
            name: USUAL,
            what: "each VMM with its usual command line",
            words: words(&[&kernel(&kernels.packed), &elf, &against(&everyone), &firecracker, &all, &runs]),
        },
        Bench {
            name: SAME,
            what: "the same tuned command line",
            words: words(&[
                &kernel(&kernels.packed),
                &elf,
                &against(&[("firecracker", has_firecracker)]),
                &firecracker,
                &["--cmdline".to_owned(), TUNED.to_owned()],
                &runs,
            ]),
        },
        Bench {
            name: KERNELS,
            what: "Snowboot with several kernels",
            words: words(&[
                &named(UNPACKED, &kernels.unpacked),
                &named(PACKED, &kernels.packed),
                &named(GENERIC, &kernels.generic),
                &against(&[]),
                &runs,
            ]),
        },
        Bench {
            name: SEVERAL,
            what: "several machines in one process",
            words: words(&[
                &kernel(&kernels.packed),
                &against(&[]),
                &several,
                &runs_within(TIMEOUT_OF_SEVERAL),
            ]),
        },
    ]
}

fn option(vmm: &str, program: Option<&Path>) -> Vec<String> {
    program.map_or_else(Vec::new, |path| vec!["--vmm".to_owned(), format!("{vmm}={}", path.display())])
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8; rename it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rivals: &Rivals) -> Vec<String> {
        let [packed, unpacked, generic] = ["/bz", "/elf", "/big"].map(PathBuf::from);
        let benches = plan(&Kernels { packed, unpacked, generic }, rivals, 3);
        let line = |bench: &Bench| bench.shell_line(Path::new("/it's"), Path::new("/a.json")).unwrap();
        benches.iter().map(line).collect()
    }

    #[test]
    fn those_who_are_given_are_measured() {
        let rivals = Rivals { firecracker: Some("/fc".into()), cloud_hypervisor: Some("/ch".into()) };
        let all = lines(&rivals);
        assert!(
            all[0].contains(r"'/it'\''s' 'bench' 'boot' '--kernel' '/bz' '--elf-kernel' '/elf'"),
            "{}",
            all[0]
        );
        assert!(
            all[0].contains("'qemu,firecracker,cloud-hypervisor' '--vmm' 'firecracker=/fc'"),
            "{}",
            all[0]
        );
        assert!(all[0].contains("'--timeout' '120' '--runs' '3' '--json' '/a.json' >&2\n"), "{}", all[0]);
        assert!(all[1].contains("'--against' 'firecracker' '--vmm' 'firecracker=/fc' '--cmdline' 'quiet "));
        assert!(
            all[2]
                .contains("'elf=/elf' '--kernel' 'bzimage=/bz' '--kernel' 'generic=/big' '--against' 'none'")
        );
        assert!(
            all[3].contains("'--against' 'none' '--machines' '1,8' '--timeout' '600' '--runs' '3'"),
            "{}",
            all[3]
        );
        let few = lines(&Rivals::default());
        assert!(few[0].contains("'--against' 'qemu' '--timeout'"), "{}", few[0]);
        assert!(few[1].contains("'--against' 'none' '--cmdline'"), "{}", few[1]);
    }

    #[test]
    fn the_tuned_command_line_is_one_line() {
        assert!(!TUNED.contains("  ") && TUNED.split(' ').count() == 15, "{TUNED}");
    }
}
