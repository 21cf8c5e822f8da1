//! What a machine's vCPUs came out of the guest for, counted when the machine's builder asked for it.
//!
//! Exits that reach this process are counted here, by kind and address. Those that KVM handles by itself (page faults,
//! interrupts, halts, MSRs) are in its own statistics, which are read from `KVM_GET_STATS_FD` (KVM API 4.133, Linux 5.14).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use snowboot_bus::{Access, Op, Space};

/// Addresses that are told apart. A guest may touch any number of them; the others are counted together.
const ADDRESSES_MAX: usize = 1024;
/// The longest table of statistics that is read, in bytes; KVM's are about 8 KiB.
const TABLE_MAX: u32 = 1 << 20;

/// Why a vCPU came out of the guest to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ExitKind {
    /// `in` from an I/O port.
    PortRead,
    /// `out` to an I/O port.
    PortWrite,
    /// A read of memory that is no RAM.
    MmioRead,
    /// A write to memory that is no RAM.
    MmioWrite,
    /// A signal, or an application processor that waits for its start.
    Interrupted,
    /// Accesses of addresses past the first thousand.
    Other,
}

impl ExitKind {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PortRead => "port-read",
            Self::PortWrite => "port-write",
            Self::MmioRead => "mmio-read",
            Self::MmioWrite => "mmio-write",
            Self::Interrupted => "interrupted",
            Self::Other => "other",
        }
    }

    fn of(access: &Access<'_>) -> Self {
        match (access.space, &access.op) {
            (Space::Port, Op::Read(_)) => Self::PortRead,
            (Space::Port, Op::Write(_)) => Self::PortWrite,
            (Space::Mmio, Op::Read(_)) => Self::MmioRead,
            (Space::Mmio, Op::Write(_)) => Self::MmioWrite,
        }
    }
}

/// How often vCPUs came out for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCount {
    /// Why.
    pub kind: ExitKind,
    /// The port or guest-physical address; 0 where there is none.
    pub address: u64,
    /// How often, all vCPUs together.
    pub count: u64,
}

/// What a machine's vCPUs came out of the guest for since its start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Exits to this process, the most frequent first.
    pub exits: Vec<ExitCount>,
    /// KVM's own counters by their names there (`exits`, `pf_fixed`, `halt_exits` ...), summed over the vCPUs; those that
    /// are 0 are left out. Empty on kernels before 5.14.
    pub kvm: BTreeMap<String, u64>,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.exits.iter().map(|it| it.count).sum();
        writeln!(f, "{total:>10}  exits to this process, of these")?;
        for exit in &self.exits {
            write!(f, "{:>10}  {}", exit.count, exit.kind.name())?;
            match exit.kind {
                ExitKind::Interrupted | ExitKind::Other => writeln!(f)?,
                _ => writeln!(f, " {:#x}", exit.address)?,
            }
        }
        for (name, count) in &self.kvm {
            writeln!(f, "{count:>10}  kvm {name}")?;
        }
        Ok(())
    }
}

/// The counters of a machine's vCPUs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(Vec<Arc<VcpuCounter>>);

impl Counters {
    /// One more vCPU; `table` is its statistics file.
    pub(crate) fn add(&mut self, table: Option<File>) -> Arc<VcpuCounter> {
        let counter = Arc::new(VcpuCounter { exits: Mutex::default(), table });
        self.0.push(Arc::clone(&counter));
        counter
    }

    pub(crate) fn read(&self) -> Stats {
        let mut exits: BTreeMap<(ExitKind, u64), u64> = BTreeMap::new();
        let mut kvm = BTreeMap::new();
        for vcpu in &self.0 {
            for (key, count) in vcpu.lock().iter() {
                let sum = exits.entry(*key).or_default();
                *sum = sum.saturating_add(*count);
            }
            for (name, value) in vcpu.table.as_ref().and_then(read_table).unwrap_or_default() {
                let sum: &mut u64 = kvm.entry(name).or_default();
                *sum = sum.saturating_add(value);
            }
        }
        kvm.retain(|_, count| *count > 0);
        let mut exits: Vec<_> =
            exits.into_iter().map(|((kind, address), count)| ExitCount { kind, address, count }).collect();
        exits.sort_by_key(|exit| std::cmp::Reverse(exit.count));
        Stats { exits, kvm }
    }
}

/// The exits of one vCPU. Only its own thread counts, so that nobody waits.
#[derive(Debug)]
pub(crate) struct VcpuCounter {
    exits: Mutex<BTreeMap<(ExitKind, u64), u64>>,
    table: Option<File>,
}

impl VcpuCounter {
    pub(crate) fn count_access(&self, access: &Access<'_>) {
        self.count(ExitKind::of(access), access.addr);
    }

    pub(crate) fn count(&self, kind: ExitKind, address: u64) {
        let mut exits = self.lock();
        let is_full = exits.len() >= ADDRESSES_MAX;
        let key = if is_full && !exits.contains_key(&(kind, address)) {
            (ExitKind::Other, 0)
        } else {
            (kind, address)
        };
        let count = exits.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(ExitKind, u64), u64>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads KVM's table of statistics: a header that says where descriptors and values are, the descriptors with their names,
/// and the values (`struct kvm_stats_header`, `struct kvm_stats_desc`). Histograms are left out.
fn read_table(table: &File) -> Option<Vec<(String, u64)>> {
    /// Bytes of a descriptor before its name.
    const DESCRIPTOR: usize = 16;
    let mut header = [0; 24];
    table.read_exact_at(&mut header, 0).ok()?;
    let word = |index: usize| Some(u32::from_ne_bytes(*header.get(index * 4..)?.first_chunk()?));
    let (name_size, count, descriptors, data) = (word(1)?, word(2)?, word(4)?, word(5)?);
    let each = u32::try_from(DESCRIPTOR).ok()?.checked_add(name_size)?;
    let length = each.checked_mul(count).filter(|length| *length <= TABLE_MAX)?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    table.read_exact_at(&mut bytes, descriptors.into()).ok()?;
    let mut values = Vec::new();
    for descriptor in bytes.chunks_exact(usize::try_from(each).ok()?) {
        let (fields, name) = descriptor.split_at_checked(DESCRIPTOR)?;
        let size = u16::from_ne_bytes(*fields.get(6..)?.first_chunk()?);
        let offset = u32::from_ne_bytes(*fields.get(8..)?.first_chunk()?);
        if size != 1 {
            continue;
        }
        let mut value = [0; 8];
        table.read_exact_at(&mut value, u64::from(data).checked_add(offset.into())?).ok()?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        values.push((String::from_utf8_lossy(name).into_owned(), u64::from_ne_bytes(value)));
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn access(space: Space, addr: u64, data: &mut [u8]) -> Access<'_> {
        Access { space, addr, op: Op::Read(data) }
    }

    #[test]
    fn exits_are_counted_by_kind_and_address_over_all_vcpus() {
        let mut counters = Counters::default();
        let (one, two) = (counters.add(None), counters.add(None));
        let mut data = [0; 4];
        for counter in [&one, &two, &two] {
            counter.count_access(&access(Space::Port, 0x3f8, &mut data));
        }
        two.count(ExitKind::Interrupted, 0);
        one.count_access(&access(Space::Mmio, 0x3f8, &mut data));
        let stats = counters.read();
        assert_eq!(stats.exits[0], ExitCount { kind: ExitKind::PortRead, address: 0x3f8, count: 3 });
        assert_eq!(stats.exits.len(), 3);
        assert!(stats.to_string().starts_with("         5  exits to this process"), "{stats}");
        assert!(stats.to_string().contains("         3  port-read 0x3f8\n"), "{stats}");
    }

    #[test]
    fn a_guest_that_touches_everything_costs_no_more_memory() {
        let mut counters = Counters::default();
        let counter = counters.add(None);
        for address in 0..10_000 {
            counter.count(ExitKind::MmioRead, address);
        }
        let stats = counters.read();
        assert_eq!(stats.exits.len(), ADDRESSES_MAX + 1);
        assert_eq!(stats.exits[0], ExitCount { kind: ExitKind::Other, address: 0, count: 8976 });
    }

    #[test]
    fn kvms_table_is_read_by_its_own_layout() {
        let mut file = tempfile::tempfile().unwrap();
        let descriptor = |name: &[u8; 8], size: u16, offset: u32| {
            let mut bytes = [0u8; 24];
            bytes[6..8].copy_from_slice(&size.to_ne_bytes());
            bytes[8..12].copy_from_slice(&offset.to_ne_bytes());
            bytes[16..].copy_from_slice(name);
            bytes
        };
        let descriptors = [
            descriptor(b"exits\0\0\0", 1, 8),
            descriptor(b"hist\0\0\0\0", 4, 16),
            descriptor(b"zero\0\0\0\0", 1, 0),
        ];
        for word in [0u32, 8, 3, 24, 24, 24 + 72] {
            file.write_all(&word.to_ne_bytes()).unwrap();
        }
        file.write_all(&descriptors.concat()).unwrap();
        for value in [0u64, 77, 1, 2, 3, 4] {
            file.write_all(&value.to_ne_bytes()).unwrap();
        }
        let mut counters = Counters::default();
        counters.add(Some(file.try_clone().unwrap()));
        counters.add(Some(file));
        counters.add(Some(tempfile::tempfile().unwrap()));
        assert_eq!(counters.read().kvm, BTreeMap::from([("exits".to_owned(), 154)]));
    }
}
