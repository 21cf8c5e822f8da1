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

fn kib(text: &str) -> Option<u64> {
    let number: u64 = text.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_from_the_rest() {
        assert_eq!(MemoryUse::new(100, 30, 50, 2).overhead_per_machine, 10);
        assert_eq!(MemoryUse::new(100, 30, 50, 0).overhead_per_machine, 0);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident().unwrap() > 100_000);
    }
}
