//! What a VMM adds to its guest's memory, as `/proc/PID/smaps` (proc(5)) shows it.

use std::fs;

use rustix::process::Pid;

/// Resident bytes of the process that are not in guest memory, which is the one mapping of exactly `guest` bytes. `None`
/// when there is none, or several, or the process has ended.
pub(super) fn added(pid: Pid, guest: u64) -> Option<u64> {
    beside_guest(&fs::read_to_string(format!("/proc/{}/smaps", pid.as_raw_nonzero())).ok()?, guest)
}

fn beside_guest(smaps: &str, guest: u64) -> Option<u64> {
    let mut total: u64 = 0;
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
        }
    }
    (guest_mappings == 1).then(|| total.saturating_sub(in_guest))
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
7f0010000000-7f0010010000 rw-p 00000000 00:00 0 
Rss:                   8 kB
7f0018000000-7f0018001000 r-xp 00000000 00:01 4   /usr/bin/vmm
Rss:                   2 kB
";

    #[test]
    fn guest_memory_is_known_by_its_size() {
        assert_eq!(beside_guest(SMAPS, 128 << 20), Some(10 << 10));
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        assert_eq!(beside_guest(SMAPS, 64 << 20), None);
        assert_eq!(beside_guest(&SMAPS.repeat(2), 128 << 20), None);
        assert_eq!(added(rustix::process::getpid(), 128 << 20), None);
    }
}
