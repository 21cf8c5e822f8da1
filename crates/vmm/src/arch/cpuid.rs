//! The CPU that a guest sees: the host's, as far as KVM can show it, with the machine's own topology.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1, ECX: x2APIC, TSC-deadline timer, "runs under a hypervisor".
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf `8000_0001`, ECX: those are cores; extended topology leaves exist.
const CMP_LEGACY: u32 = 1 << 1;

/// The CPUID of vCPU `index` of `count`: one package, `count` cores of one thread, APIC ids in order.
pub(crate) fn of_vcpu(supported: &CpuId, index: u8, count: u8, tsc_deadline: bool) -> CpuId {
    let mut cpuid = supported.clone();
    let topology = Topology { id: u32::from(index), count: u32::from(count) };
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => leaf_1(entry, topology, tsc_deadline),
            0x4 => leaf_4(entry, topology),
            0xb | 0x1f => topology_leaf(entry, topology),
            0x8000_0001 if topology.count > 1 => entry.ecx |= CMP_LEGACY,
            0x8000_0008 => {
                entry.ecx = (entry.ecx & !0xf0ff) | (topology.count - 1) | (topology.id_bits() << 12);
            }
            0x8000_001d => entry.eax &= !(0xfff << 14),
            0x8000_001e => {
                entry.eax = topology.id;
                entry.ebx = topology.id;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    cpuid
}

#[derive(Clone, Copy)]
struct Topology {
    id: u32,
    count: u32,
}

impl Topology {
    /// Bits of the APIC id that number the cores.
    fn id_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }
}

fn leaf_1(entry: &mut kvm_cpuid_entry2, topology: Topology, tsc_deadline: bool) {
    entry.ebx = (entry.ebx & 0xffff) | (topology.count << 16) | (topology.id << 24);
    entry.ecx |= X2APIC | HYPERVISOR;
    if tsc_deadline {
        entry.ecx |= TSC_DEADLINE;
    }
    if topology.count > 1 {
        entry.edx |= HTT;
    } else {
        entry.edx &= !HTT;
    }
}

/// Deterministic cache parameters: caches are each core's own, the package has `count` cores.
fn leaf_4(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    entry.eax &= !((0x3f << 26) | (0xfff << 14));
    if entry.eax & 0x1f != 0 {
        entry.eax |= (topology.count.next_power_of_two() - 1) << 26;
        // The last level is shared by the package.
        if (entry.eax >> 5) & 7 == 3 {
            entry.eax |= (topology.count.next_power_of_two() - 1) << 14;
        }
    }
}

/// Extended topology: level 0 is one thread a core, level 1 the cores of the package.
fn topology_leaf(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let (shift, count, kind) = match entry.index {
        0 => (0, 1, 1),
        1 => (topology.id_bits(), topology.count, 2),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = count;
    entry.ecx = entry.index | (kind << 8);
    entry.edx = topology.id;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> CpuId {
        let leaf = |function, index| kvm_cpuid_entry2 { function, index, ..Default::default() };
        CpuId::from_entries(&[leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1), leaf(0x8000_0008, 0)]).unwrap()
    }

    #[test]
    fn each_vcpu_has_its_own_apic_id_in_a_package_of_all() {
        let cpuid = of_vcpu(&supported(), 2, 3, true);
        let [one, threads, cores, sizes] = cpuid.as_slice() else { panic!("four leaves") };
        assert_eq!(one.ebx >> 24, 2);
        assert_eq!((one.ebx >> 16) & 0xff, 3);
        assert_eq!(one.ecx & (TSC_DEADLINE | HYPERVISOR | X2APIC), TSC_DEADLINE | HYPERVISOR | X2APIC);
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 0x100, 2));
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (2, 3, 0x201, 2));
        assert_eq!(sizes.ecx, 0x2002);
    }

    #[test]
    fn a_lone_vcpu_claims_no_siblings() {
        let cpuid = of_vcpu(&supported(), 0, 1, false);
        assert_eq!(cpuid.as_slice()[0].edx & HTT, 0);
        assert_eq!(cpuid.as_slice()[0].ecx & TSC_DEADLINE, 0);
    }
}
