//! What a VMM adds to its guest's memory, as `/proc/PID/smaps` (proc(5)) shows it.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

/// How often a process without memory is looked at: it has ended, or is just about to run another program.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(2);

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// Resident bytes that are not guest memory; `None` when it cannot be told.
    pub(super) added: Option<u64>,
    /// All resident bytes; those that are mapped twice count twice.
    pub(super) resident: u64,
    /// Each page counts once, and one that several processes have is divided among them.
    pub(super) proportional: u64,
}

/// What a process has that runs `machines` with `guest` bytes each; `None` when it has ended. Guest memory is the mappings of
/// exactly that size: with more or fewer of them than machines it cannot be told.
pub(super) fn of_process(pid: Pid, guest: u64, machines: u32) -> Option<Memory> {
    let path = format!("/proc/{}/smaps", pid.as_raw_nonzero());
    for _ in 0..TRIES {
        let smaps = fs::read_to_string(&path).ok()?;
        if !smaps.is_empty() {
            return Some(of_smaps(&smaps, guest, machines));
        }
        std::thread::sleep(PAUSE);
    }
    None
}

fn of_smaps(smaps: &str, guest: u64, machines: u32) -> Memory {
    let mut total: u64 = 0;
    let mut proportional: u64 = 0;
    let mut in_guest: u64 = 0;
    let mut guest_mappings: u32 = 0;
    let mut is_guest = false;
    for line in smaps.lines() {
        // A mapping's first line begins with its addresses; the lines about it begin with a word and a colon.
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            is_guest = length(first) == Some(guest);
            guest_mappings = guest_mappings.saturating_add(u32::from(is_guest));
        } else if let Some(resident) = line.strip_prefix("Rss:").and_then(bytes) {
            total = total.saturating_add(resident);
            if is_guest {
                in_guest = in_guest.saturating_add(resident);
            }
        } else if let Some(share) = line.strip_prefix("Pss:").and_then(bytes) {
            proportional = proportional.saturating_add(share);
        }
    }
    let added = (guest_mappings == machines).then(|| total.saturating_sub(in_guest));
    Memory { added, resident: total, proportional }
}

/// Of an address range such as `7f00-7f10`.
fn length(range: &str) -> Option<u64> {
    let (start, end) = range.split_once('-')?;
    u64::from_str_radix(end, 16).ok()?.checked_sub(u64::from_str_radix(start, 16).ok()?)
}

fn bytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0008000000 rw-p 00000000 00:00 0 
Size:             131072 kB
Rss:               40000 kB
Pss:               20000 kB
7f0010000000-7f0010010000 rw-p 00000000 00:00 0 
Rss:                   8 kB
Pss:                   8 kB
7f0018000000-7f0018001000 r-xp 00000000 00:01 4   /usr/bin/vmm
Rss:                   2 kB
Pss:                   1 kB
";

    fn added(smaps: &str, guest: u64, machines: u32) -> Option<u64> {
        of_smaps(smaps, guest, machines).added
    }

    #[test]
    fn all_memory_is_counted_and_shares_too() {
        let memory = of_smaps(SMAPS, 128 << 20, 1);
        assert_eq!((memory.resident, memory.proportional), (40_010 << 10, 20_009 << 10));
    }

    #[test]
    fn guest_memory_is_known_by_its_size() {
        assert_eq!(added(SMAPS, 128 << 20, 1), Some(10 << 10));
        assert_eq!(added(&SMAPS.repeat(2), 128 << 20, 2), Some(20 << 10));
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        assert_eq!(added(SMAPS, 64 << 20, 1), None);
        assert_eq!(added(&SMAPS.repeat(2), 128 << 20, 1), None);
        assert_eq!(of_process(rustix::process::getpid(), 128 << 20, 1).unwrap().added, None);
    }
}
