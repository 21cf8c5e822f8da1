//! The rate of the clock that the emulated CPUs show.
//!
//! TCG passes the machine's own time stamp counter through. The emulated host's kernel would measure its rate against
//! emulated timers, and on a busy machine it measured a third of it: its clock then ran three times too fast, and every
//! timeout with it. So the kernel is told.

use std::fs;
use std::path::Path;

use kvm_ioctls::Kvm;

/// With `-icount shift=0` the counter counts nanoseconds.
const ICOUNT_KILOHERTZ: u32 = 1_000_000;

/// The kernel command line's word for the counter's rate; empty when the rate cannot be told.
pub(crate) fn kernel_parameter(icount: bool) -> String {
    let rate = if icount { Some(ICOUNT_KILOHERTZ) } else { from_kvm().or_else(from_proc) };
    rate.map(|kilohertz| format!("tsc_early_khz={kilohertz}")).unwrap_or_default()
}

/// KVM knows it, where there is one, even one that is of no other use.
fn from_kvm() -> Option<u32> {
    let vm = Kvm::new().ok()?.create_vm().ok()?;
    vm.create_vcpu(0).ok()?.get_tsc_khz().ok().filter(|kilohertz| *kilohertz > 0)
}

/// Where nothing scales the CPU's frequency, what Linux shows is the counter's rate.
fn from_proc() -> Option<u32> {
    let scaled = Path::new("/sys/devices/system/cpu/cpu0/cpufreq").exists();
    let cpus = fs::read_to_string("/proc/cpuinfo").ok().filter(|_| !scaled)?;
    first_frequency(&cpus)
}

fn first_frequency(cpuinfo: &str) -> Option<u32> {
    let value = cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'))?.1;
    let (whole, fraction) = value.trim().split_once('.')?;
    let kilohertz: u32 = fraction.get(..3)?.parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(kilohertz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_in_full() {
        assert_eq!(
            first_frequency("model name\t: x\ncpu MHz\t\t: 2596.134\ncpu MHz\t\t: 1.000\n"),
            Some(2_596_134)
        );
        for odd in ["", "cpu MHz\t\t: \n", "cpu MHz : 26", "cpu MHz : 2600.1", "cpu MHz : 99999999.000"] {
            assert_eq!(first_frequency(odd), None, "{odd}");
        }
    }

    #[test]
    fn icount_counts_nanoseconds() {
        assert_eq!(kernel_parameter(true), "tsc_early_khz=1000000");
    }
}
