//! The CPU that a guest sees: the host's, as far as KVM can show it, with the machine's own topology.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::Error;

/// Leaf 0, EBX: how the vendor's name begins, of those whose CPUs number cores in AMD's way.
const AMD: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// Leaf 1, ECX: x2APIC, TSC-deadline timer, "runs under a hypervisor".
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf `8000_0001`, ECX: those are cores; extended topology leaves exist.
const CMP_LEGACY: u32 = 1 << 1;

/// Physical address bits of the first CPUs with 64-bit mode, and the most that the architecture has.
const LEAST_ADDRESS_BITS: u32 = 36;
const MOST_ADDRESS_BITS: u32 = 52;

/// Leaves that tell of the topology level by level; made anew, for KVM lists no more than an empty first level of them.
const EXTENDED_TOPOLOGY: [u32; 2] = [0xb, 0x1f];
/// Levels of such a leaf: threads, cores, and the end.
const LEVELS: u32 = 3;

/// The CPUID of vCPU `index` of `count`: one package, `count` cores of one thread, APIC ids in order.
///
/// # Errors
/// When KVM's list leaves no room for the topology.
pub(crate) fn of_vcpu(supported: &CpuId, index: u8, count: u8, tsc_deadline: bool) -> Result<CpuId, Error> {
    let topology = Topology { id: u32::from(index), count: u32::from(count) };
    let entries = supported.as_slice();
    let is_amd = entries.iter().any(|entry| entry.function == 0 && AMD.contains(&entry.ebx));
    let highest = entries.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    let mut made: Vec<_> =
        entries.iter().filter(|entry| !EXTENDED_TOPOLOGY.contains(&entry.function)).copied().collect();
    for entry in &mut made {
        match entry.function {
            0x1 => leaf_1(entry, topology, tsc_deadline),
            0x4 => cache_leaf(entry, topology, Some(topology)),
            0x8000_0001 if is_amd && topology.count > 1 => entry.ecx |= CMP_LEGACY,
            0x8000_0008 if is_amd => {
                entry.ecx = (entry.ecx & !0xf0ff) | (topology.count - 1) | (topology.id_bits() << 12);
            }
            0x8000_001d => cache_leaf(entry, topology, None),
            0x8000_001e => {
                entry.eax = topology.id;
                entry.ebx = topology.id;
                entry.ecx = 0;
            }
            // Memory encryption is for machines that are built for it; to others its registers are not there.
            0x8000_001f => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
    for function in EXTENDED_TOPOLOGY.into_iter().filter(|function| *function <= highest) {
        made.extend((0..LEVELS).map(|level| topology_leaf(function, level, topology)));
    }
    CpuId::from_entries(&made)
        .map_err(|_| Error::Config(format!("KVM lists {} CPUID leaves, which leaves no room", entries.len())))
}

/// The first guest-physical address that a guest cannot reach. Where KVM does not say there is what every CPU with 64 bits
/// has had.
pub(crate) fn address_limit(supported: &CpuId) -> u64 {
    let leaf = supported.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    let bits = leaf.map_or(0, |entry| entry.eax & 0xff).clamp(LEAST_ADDRESS_BITS, MOST_ADDRESS_BITS);
    1 << bits
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

    /// The highest id that fits into those bits.
    fn last_id(self) -> u32 {
        self.count.next_power_of_two() - 1
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

/// Deterministic cache parameters (Intel's leaf 4, AMD's leaf `8000_001d`): caches are each core's own, but for the last
/// level, which is the package's. Only Intel's leaf also tells how many cores the package has.
fn cache_leaf(entry: &mut kvm_cpuid_entry2, topology: Topology, package: Option<Topology>) {
    entry.eax &= !(0xfff << 14);
    let is_cache = entry.eax & 0x1f != 0;
    if is_cache && (entry.eax >> 5) & 7 == 3 {
        entry.eax |= topology.last_id() << 14;
    }
    if let Some(package) = package {
        entry.eax &= !(0x3f << 26);
        if is_cache {
            entry.eax |= package.last_id() << 26;
        }
    }
}

/// Extended topology: level 0 is one thread a core, level 1 the cores of the package, level 2 the end of the list.
fn topology_leaf(function: u32, level: u32, topology: Topology) -> kvm_cpuid_entry2 {
    let (shift, count, kind) = match level {
        0 => (0, 1, 1),
        1 => (topology.id_bits(), topology.count, 2),
        _ => (0, 0, 0),
    };
    kvm_cpuid_entry2 {
        function,
        index: level,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: level | (kind << 8),
        edx: topology.id,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    /// A list as KVM makes it since Linux 6.2: of leaf 0xb there is only an empty first level.
    fn supported(vendor: u32, highest: u32) -> CpuId {
        let caches = |function| {
            (0..4).map(move |index| kvm_cpuid_entry2 {
                eax: [0x21, 0x43, 0x3c063, 0][index as usize],
                ..leaf(function, index)
            })
        };
        let mut entries =
            vec![kvm_cpuid_entry2 { eax: highest, ebx: vendor, ..leaf(0, 0) }, leaf(1, 0), leaf(0xb, 0)];
        entries.extend(caches(4).chain(caches(0x8000_001d)));
        entries.extend([leaf(0x8000_0001, 0), leaf(0x8000_0008, 0), leaf(0x8000_001e, 0)]);
        entries.push(kvm_cpuid_entry2 { eax: 0xffff, ..leaf(0x8000_001f, 0) });
        CpuId::from_entries(&entries).unwrap()
    }

    fn get(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = cpuid.as_slice().iter().filter(|it| (it.function, it.index) == (function, index));
        let entry = *found.next().unwrap();
        assert!(found.next().is_none(), "{function:#x}.{index} is there twice");
        entry
    }

    fn registers(entry: kvm_cpuid_entry2) -> (u32, u32, u32, u32) {
        (entry.eax, entry.ebx, entry.ecx, entry.edx)
    }

    const INTEL: u32 = u32::from_le_bytes(*b"Genu");

    #[test]
    fn each_vcpu_has_its_own_apic_id_in_a_package_of_all() {
        let cpuid = of_vcpu(&supported(AMD[0], 0xd), 2, 3, true).unwrap();
        let one = get(&cpuid, 1, 0);
        assert_eq!(one.ebx >> 24, 2);
        assert_eq!((one.ebx >> 16) & 0xff, 3);
        assert_eq!(one.ecx & (TSC_DEADLINE | HYPERVISOR | X2APIC), TSC_DEADLINE | HYPERVISOR | X2APIC);
        assert_eq!(registers(get(&cpuid, 0xb, 0)), (0, 1, 0x100, 2));
        assert_eq!(registers(get(&cpuid, 0xb, 1)), (2, 3, 0x201, 2));
        assert_eq!(registers(get(&cpuid, 0xb, 2)), (0, 0, 2, 2));
        assert!(cpuid.as_slice().iter().all(|entry| entry.function != 0x1f), "a leaf beyond the highest");
        assert_eq!(get(&cpuid, 0x8000_0008, 0).ecx, 0x2002);
        assert_eq!(get(&cpuid, 0x8000_0001, 0).ecx, CMP_LEGACY);
        assert_eq!(registers(get(&cpuid, 0x8000_001f, 0)), (0, 0, 0, 0));
    }

    #[test]
    fn an_intel_cpu_has_its_second_topology_leaf_and_no_reserved_bits() {
        let cpuid = of_vcpu(&supported(INTEL, 0x1f), 1, 2, true).unwrap();
        assert_eq!(registers(get(&cpuid, 0x1f, 1)), (1, 2, 0x201, 1));
        assert_eq!((get(&cpuid, 0x8000_0008, 0).ecx, get(&cpuid, 0x8000_0001, 0).ecx), (0, 0));
    }

    #[test]
    fn the_last_cache_is_the_packages_and_the_others_each_cores() {
        let cpuid = of_vcpu(&supported(INTEL, 0xd), 0, 6, true).unwrap();
        for (function, cores) in [(4, 7), (0x8000_001d, 0)] {
            let caches: Vec<_> = (0..4).map(|index| get(&cpuid, function, index).eax).collect();
            assert_eq!(caches.iter().map(|eax| (eax >> 14) & 0xfff).collect::<Vec<_>>(), [0, 0, 7, 0]);
            assert_eq!(caches.iter().map(|eax| eax >> 26).collect::<Vec<_>>(), [cores, cores, cores, 0]);
        }
    }

    #[test]
    fn a_lone_vcpu_claims_no_siblings() {
        let cpuid = of_vcpu(&supported(AMD[1], 0xa), 0, 1, false).unwrap();
        assert_eq!(get(&cpuid, 1, 0).edx & HTT, 0);
        assert_eq!(get(&cpuid, 1, 0).ecx & TSC_DEADLINE, 0);
        assert!(cpuid.as_slice().iter().all(|entry| entry.function != 0xb), "a leaf beyond the highest");
    }
}
