//! Memory and huge pages.

use std::fs;
use std::path::Path;

use super::Check;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The smallest machine that a stock kernel boots in, and some more for this program.
const MEMORY_MISS: u64 = 256 * MIB;
/// Two machines of the default size.
const MEMORY_WARN: u64 = 2048 * MIB;
const CGROUPS: &str = "/sys/fs/cgroup";
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage";

pub(super) fn checks() -> Vec<Check> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let available = field(&meminfo, "MemAvailable:").map(|kib| kib.saturating_mul(KIB));
    let limit = cgroup_room(&read("/proc/self/cgroup"));
    let setting = |name: &str| chosen(&read(&format!("{TRANSPARENT}/{name}")));
    let reserved = field(&meminfo, "HugePages_Total:").unwrap_or(0);
    vec![
        check_memory(available, limit),
        check_huge_pages(&setting("enabled"), &setting("shmem_enabled"), reserved),
    ]
}

fn check_memory(available: Option<u64>, limit: Option<u64>) -> Check {
    let Some(bytes) = available.into_iter().chain(limit).min() else {
        return Check::warn("memory", "unknown: /proc/meminfo does not say", "mount /proc");
    };
    let whose = match limit {
        Some(limit) if limit == bytes => " left of what this control group may use",
        _ => " available",
    };
    let found = format!("{} MiB{whose}", bytes / MIB);
    if bytes < MEMORY_MISS {
        Check::miss("memory", found, "end other programs; a machine has 1024 MiB by default")
    } else if bytes < MEMORY_WARN {
        Check::warn("memory", found, "give machines less with `memory`; each has 1024 MiB by default")
    } else {
        Check::ok("memory", found)
    }
}

/// Huge pages make guests faster and are never needed, so this is for information. Guest memory is shared memory.
fn check_huge_pages(private: &str, shared: &str, reserved: u64) -> Check {
    Check::ok("huge-pages", format!("transparent {private}, for shared memory {shared}; {reserved} reserved"))
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// The word in brackets, as the kernel marks the choice.
fn chosen(setting: &str) -> String {
    let word = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or("unknown", |(word, _)| word).to_owned()
}

/// What is left of the tightest limit among this process's control group and those above it (version 2 of them).
fn cgroup_room(membership: &str) -> Option<u64> {
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new(CGROUPS).join(path);
    let number = |folder: &Path, name: &str| -> Option<u64> {
        fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    };
    group
        .ancestors()
        .take_while(|folder| folder.starts_with(CGROUPS))
        .filter_map(|folder| {
            let most = number(folder, "memory.max")?;
            let used = number(folder, "memory.current").unwrap_or(0);
            // Pages of files that nobody has used lately are counted as used, and given up at once.
            let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let cached = field(&stat, "inactive_file ").unwrap_or(0);
            Some(most.saturating_sub(used.saturating_sub(cached)))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_tighter_of_host_and_control_group_counts() {
        let check = check_memory(Some(8192 * MIB), Some(1024 * MIB));
        assert_eq!(check.status, Status::Warn);
        assert!(check.found.starts_with("1024 MiB left"), "{}", check.found);
        assert_eq!(check_memory(Some(8192 * MIB), None).status, Status::Ok);
        assert_eq!(check_memory(Some(100 * MIB), Some(8192 * MIB)).status, Status::Miss);
        assert_eq!(check_memory(None, None).status, Status::Warn);
    }

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(field("MemTotal:  5 kB\nMemAvailable:   123 kB\n", "MemAvailable:"), Some(123));
        assert_eq!(field("", "MemAvailable:"), None);
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen(""), "unknown");
    }
}
