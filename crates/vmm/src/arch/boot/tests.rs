use std::path::PathBuf;

use vm_memory::GuestMemoryRegion;

use super::bzimage::tests::image;
use super::elf::tests::elf;
use super::*;

const KERNEL_AT: u64 = 0x100_0000;

/// A folder with a kernel and an initrd, and a machine to load them into.
struct Bench {
    folder: tempfile::TempDir,
    memory: GuestMemory,
}

impl Bench {
    fn new(mib: u64) -> Self {
        let memory = memory::allocate(
            "test",
            snowboot_config::MemorySize::from_mib(mib).unwrap(),
            memory::Sharing::Private,
        )
        .unwrap();
        Self { folder: tempfile::tempdir().unwrap(), memory }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn load(&self, kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Result<Entry, Error> {
        self.load_with(kernel, initrd.as_slice(), cmdline)
    }

    fn load_with(&self, kernel: &[u8], initrds: &[&[u8]], cmdline: &str) -> Result<Entry, Error> {
        let initrds = initrds.iter().enumerate();
        let config = BootConfig {
            kernel: self.file("kernel", kernel),
            initrds: initrds.map(|(index, content)| self.file(&format!("initrd{index}"), content)).collect(),
            cmdline: cmdline.to_owned(),
        };
        load(&self.memory, &config, 0xe_0000, &KernelCache::in_memory())
    }

    fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// A number in `boot_params`.
    fn param(&self, offset: u64) -> u64 {
        u64::from(u32::from_le_bytes(self.bytes(layout::BOOT_PARAMS + offset)))
    }
}

fn vmlinux() -> Vec<u8> {
    elf(KERNEL_AT, b"the kernel", 0x1000)
}

fn packed(mut stream: Vec<u8>) -> Vec<u8> {
    stream.extend(u32::try_from(vmlinux().len()).unwrap().to_le_bytes());
    image(&stream)
}

fn refusal(outcome: Result<Entry, Error>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn a_kernel_can_be_unpacked_without_a_machine() {
    let bench = Bench::new(64);
    let zstd = zstd::encode_all(vmlinux().as_slice(), 3).unwrap();
    for kernel in [vmlinux(), packed(zstd)] {
        assert_eq!(unpack_kernel(&bench.file("kernel", &kernel)).unwrap(), vmlinux());
    }
    let unknown = unpack_kernel(&bench.file("kernel", &image(b"what is this?"))).unwrap_err();
    assert!(unknown.to_string().contains("it cannot be unpacked on the host"), "{unknown}");
}

#[test]
fn every_kind_of_kernel_is_entered_at_its_own_entry() {
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    io::Write::write_all(&mut xz, &vmlinux()).unwrap();
    let zstd = zstd::encode_all(vmlinux().as_slice(), 3).unwrap();
    let kernels = [vmlinux(), packed(zstd), packed(xz.finish().unwrap()), image(&vmlinux())];
    for (index, kernel) in kernels.iter().enumerate() {
        let bench = Bench::new(64);
        let entry = bench.load(kernel, None, "").unwrap();
        assert_eq!(entry.address, KERNEL_AT, "kernel {index}");
        assert_eq!(entry.note, None, "kernel {index}");
        assert_eq!(&bench.bytes::<10>(KERNEL_AT), b"the kernel");
        assert_eq!(bench.bytes::<4>(layout::BOOT_PARAMS + 0x202), *b"HdrS");
        assert_eq!((bench.param(0x218), bench.param(0x21c)), (0, 0), "there is no initrd");
    }
}

#[test]
fn a_kernel_that_cannot_be_unpacked_is_entered_as_a_boot_loader_does() {
    let bench = Bench::new(64);
    let mut kernel = image(b"kind of its own");
    kernel[0x258..0x260].copy_from_slice(&KERNEL_AT.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&(16u32 << 20).to_le_bytes());
    let entry = bench.load(&kernel, None, "").unwrap();
    assert_eq!(entry.address, KERNEL_AT + ENTRY_64);
    assert!(entry.note.unwrap().contains("unknown kind"));
    assert_eq!(&bench.bytes::<4>(KERNEL_AT), b"kind");
    kernel[0x260..0x264].copy_from_slice(&(60u32 << 20).to_le_bytes());
    assert!(refusal(bench.load(&kernel, None, "")).contains("up to 76 MiB"));
}

#[test]
fn an_initrd_is_as_high_as_the_kernel_reaches_and_away_from_it() {
    // Beyond the PCI hole's start there is memory, but none that is contiguous with the rest.
    for (mib, top) in [(64, 64 << 20), (5120, 0x8000_0000)] {
        let bench = Bench::new(mib);
        bench.load(&vmlinux(), Some(b"the initrd"), "").unwrap();
        assert_eq!((bench.param(0x218), bench.param(0x21c)), (top - 4096, 10));
        assert_eq!(&bench.bytes::<10>(top - 4096), b"the initrd");
    }
    let bench = Bench::new(64);
    bench.load_with(&vmlinux(), &[b"first", b"second", b"third one"], "").unwrap();
    assert_eq!((bench.param(0x218), bench.param(0x21c)), ((64 << 20) - 4096, 25));
    assert_eq!(&bench.bytes::<25>((64 << 20) - 4096), b"first\0\0\0second\0\0third one");
    let text = refusal(bench.load_with(&vmlinux(), &[&[1; 9], &vec![1; 50 << 20]], ""));
    assert!(text.contains("initrd1") && text.contains("with the others"), "{text}");
    let text = refusal(bench.load(&vmlinux(), Some(&vec![1; 50 << 20]), ""));
    assert!(text.contains("initrd") && text.contains("more memory"), "{text}");
    assert!(refusal(bench.load(&vmlinux(), Some(b""), "")).contains("it is empty"));
}

#[test]
fn the_command_line_arrives_whole_or_is_refused() {
    let bench = Bench::new(64);
    let longest = "x".repeat(2047);
    bench.load(&vmlinux(), None, &longest).unwrap();
    let at = bench.param(0x228);
    assert_eq!(&bench.bytes::<2047>(at), longest.as_bytes());
    assert_eq!(bench.bytes::<1>(at + 2047), [0]);
    assert!(refusal(bench.load(&vmlinux(), None, &"x".repeat(2048))).contains("2048 bytes long"));
    assert!(refusal(bench.load(&vmlinux(), None, "a\0b")).contains("NUL"));
}

#[test]
fn the_memory_map_tells_of_all_memory_once() {
    for mib in [64, 3072, 3073, 65536] {
        let bench = Bench::new(mib);
        let map = memory_map(&bench.memory);
        let ram: u64 = map.iter().filter(|it| it.kind == zero_page::Kind::Ram).map(|it| it.length).sum();
        let lost = layout::HIGH_RAM - layout::LOW_RAM_END;
        assert_eq!(ram + lost, mib << 20, "{mib} MiB");
        for (one, next) in map.iter().zip(map.iter().skip(1)) {
            let apart = one.start + one.length <= next.start || next.start + next.length <= one.start;
            assert!(apart, "{one:?} {next:?}");
        }
        let regions: u64 = bench.memory.iter().map(GuestMemoryRegion::len).sum();
        assert_eq!(regions, mib << 20);
    }
}

#[test]
fn what_is_no_file_is_refused_in_words() {
    let bench = Bench::new(64);
    let wrong = |path: &Path| {
        let config = BootConfig { kernel: path.to_owned(), initrds: Vec::new(), cmdline: String::new() };
        refusal(load(&bench.memory, &config, 0, &KernelCache::in_memory()))
    };
    assert!(wrong(&bench.folder.path().join("missing")).contains("no such file"));
    assert!(wrong(bench.folder.path()).contains("it is a folder"));
    assert!(wrong(Path::new("/dev/null")).contains("neither a file"));
    assert!(wrong(&bench.file("text", b"#!/bin/sh")).contains("neither a bzImage nor"));
}
