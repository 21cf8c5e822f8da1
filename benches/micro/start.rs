//! What a machine's start costs the host before a vCPU runs: its tables, and its kernel by how it is packed.

use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput};
use snowboot_bus::GuestMemory;
use snowboot_config::{BootConfig, MemorySize};
use snowboot_vmm::{KernelCache, benching};

use crate::kernel;

pub(crate) fn bench(criterion: &mut Criterion) {
    acpi(criterion);
    kernels(criterion);
}

fn memory() -> GuestMemory {
    let size = MemorySize::from_mib(128).expect("a size for a machine");
    benching::guest_memory(size).expect("the host has memory")
}

fn acpi(criterion: &mut Criterion) {
    let memory = memory();
    let mut group = criterion.benchmark_group("acpi");
    for vcpus in [1, 32] {
        group.bench_function(format!("{vcpus}-vcpus"), |bencher| {
            bencher.iter(|| benching::write_acpi(&memory, vcpus).expect("they fit"));
        });
    }
    group.finish();
}

/// Into fresh memory each time, as for a machine: the host has to find the pages, too.
fn kernels(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut group = criterion.benchmark_group("kernel");
    group.sample_size(10);
    let plain = kernel::vmlinux();
    group.throughput(Throughput::Bytes(u64::try_from(plain.len()).expect("a short kernel")));
    for (kind, image) in kernel::images(&plain) {
        let path = folder.path().join(kind);
        std::fs::write(&path, image).expect("a file in the temporary folder");
        let boot = BootConfig { kernel: path, initrds: Vec::new(), cmdline: "console=ttyS0".to_owned() };
        group.bench_function(format!("unpack/{kind}"), |bencher| {
            let unpack = |memory: GuestMemory| load(memory, &boot, &KernelCache::in_memory());
            bencher.iter_batched(memory, unpack, BatchSize::PerIteration);
        });
    }
    kept(&mut group, folder.path());
    group.finish();
}

/// A kernel that an earlier run has unpacked.
fn kept(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>, folder: &Path) {
    let boot =
        BootConfig { kernel: folder.join("zstd"), initrds: Vec::new(), cmdline: "console=ttyS0".to_owned() };
    // A new cache of the same folder each time, as in a new process.
    let cache = || KernelCache::in_folder(folder.join("kept"));
    load(memory(), &boot, &cache());
    group.bench_function("kept/zstd", |bencher| {
        bencher.iter_batched(memory, |memory| load(memory, &boot, &cache()), BatchSize::PerIteration);
    });
}

/// Gives the memory back, so that its end is not counted.
fn load(memory: GuestMemory, boot: &BootConfig, kernels: &KernelCache) -> GuestMemory {
    let entry = benching::load_kernel(&memory, boot, kernels).expect("it is a kernel");
    assert_eq!(entry, kernel::ENTRY, "it was not unpacked on the host");
    memory
}
