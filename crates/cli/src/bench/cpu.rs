//! CPU time: of a process until now, and of the guests that were run.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use rustix::process::Pid;

/// CPU time of a process so far, that of its threads which have ended included; `None` when it is gone.
pub(super) fn of_process(pid: Pid) -> Option<Duration> {
    let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get())).ok()?;
    Some(clock.now().ok()?.into())
}

/// For how long CPUs ran the guests of this process's children that have been waited for (proc(5), field 44 of
/// `/proc/PID/stat`); `None` where the kernel does not tell.
///
/// Linux keeps the sum in nanoseconds and shows whole ticks of 10 ms. The difference of two looks is so much off to either
/// side, but the sum of many differences is not. What it adds up is, in most kernels, a whole tick of the CPU's for each
/// tick that finds it in a guest: that, too, is right in the mean only.
pub(super) fn guests_of_children() -> Option<Duration> {
    let ticks = guest_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Duration::from_secs(ticks).checked_div(per_second)
}

/// The second field, in parentheses, is a name that may hold anything.
fn guest_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The first of these is field 3.
    fields.split_ascii_whitespace().nth(44 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_had_a_cpu_and_no_guests() {
        let used = of_process(rustix::process::getpid()).unwrap();
        assert!(used > Duration::ZERO && used < Duration::from_secs(3600), "{used:?}");
        assert_eq!(guests_of_children(), Some(Duration::ZERO));
    }

    #[test]
    fn guest_time_is_the_forty_fourth_field() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        assert_eq!(guest_ticks(&format!("12 (a) b) R) S {}", fields.join(" "))), Some(44));
        assert_eq!(guest_ticks("12 (a) S 1 2"), None);
    }
}
