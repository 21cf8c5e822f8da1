//! How much memory the VMM adds to its machines.

use serde::Serialize;

/// Where the kernel tells the memory of this process (`proc(5)`).
const ROLLUP: &str = "/proc/self/smaps_rollup";

/// Resident memory of the process, split. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Of the whole process.
    pub resident: u64,
    /// Of the process before its machines were made: the interpreter, the program itself.
    pub base: u64,
    /// Of guest memory.
    pub guest: u64,
    /// Machines that were running.
    pub machines: usize,
    /// What is left, per running machine: what the VMM adds.
    pub overhead_per_machine: u64,
}

impl MemoryUse {
    pub(crate) fn new(resident: u64, base: u64, guest: u64, machines: usize) -> Self {
        let added = resident.saturating_sub(base).saturating_sub(guest);
        let overhead_per_machine =
            u64::try_from(machines).ok().and_then(|count| added.checked_div(count)).unwrap_or_default();
        Self { resident, base, guest, machines, overhead_per_machine }
    }
}

/// Resident bytes of this process.
pub(crate) fn resident() -> Option<u64> {
    let text = std::fs::read_to_string(ROLLUP).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Rss:")).and_then(kib)
}

/// Resident bytes of mappings of this process whose file is a memfd with this name.
#[cfg(feature = "kvm")]
pub(crate) fn resident_of_memfd(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps").ok()?;
    Some(sum_of_memfd(&text, name))
}

#[cfg(any(test, feature = "kvm"))]
fn sum_of_memfd(smaps: &str, name: &str) -> u64 {
    let wanted = format!("/memfd:{name}");
    let mut inside = false;
    let mut sum: u64 = 0;
    for line in smaps.lines() {
        // A mapping's first line begins with its address range; the lines about it begin with a word and a colon.
        let is_head = line.split_ascii_whitespace().next().is_some_and(|word| !word.ends_with(':'));
        if is_head {
            inside = line.contains(&wanted);
        } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside).and_then(kib) {
            sum = sum.saturating_add(size);
        }
    }
    sum
}

fn kib(text: &str) -> Option<u64> {
    let number: u64 = text.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_from_the_rest() {
        let smaps = "7f00-7f10 rw-s 00000000 00:01 3   /memfd:guest memory of a (deleted)\nSize: 64 kB\nRss:    40 kB\n\
                     7f10-7f20 rw-p 00000000 00:00 0 \nRss:   8 kB\n\
                     7f20-7f30 rw-s 00000000 00:01 4   /memfd:guest memory of b (deleted)\nRss:   2 kB\n";
        assert_eq!(sum_of_memfd(smaps, "guest memory of"), 42 * 1024);
        assert_eq!(MemoryUse::new(100, 30, 50, 2).overhead_per_machine, 10);
        assert_eq!(MemoryUse::new(100, 30, 50, 0).overhead_per_machine, 0);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident().unwrap() > 100_000);
    }
}
