//! A file that is packed as well as a kernel is, and nearly as large, in every form that kernels come in.

use std::io::Write;

/// Where it is loaded and entered.
pub(crate) const ENTRY: u64 = 0x100_0000;
/// A fifth of a distribution's kernel: the slowest kind takes a second with it.
const LENGTH: usize = 8 << 20;

/// An ELF image with one segment.
pub(crate) fn vmlinux() -> Vec<u8> {
    const HEADERS: usize = 64 + 56;
    let mut file = vec![0; HEADERS];
    let mut put = |at: usize, bytes: &[u8]| {
        file.get_mut(at..at + bytes.len()).expect("within the headers").copy_from_slice(bytes);
    };
    let length = u64::try_from(LENGTH).expect("a short kernel").to_le_bytes();
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &ENTRY.to_le_bytes());
    put(32, &[64]); // Program headers are right behind,
    put(52, &[64, 0, 56, 0, 1]); // and there is one.
    put(64, &[1, 0, 0, 0, 7]);
    put(72, &[120]);
    put(80, &ENTRY.to_le_bytes());
    put(88, &ENTRY.to_le_bytes());
    put(96, &length);
    put(104, &length);
    file.extend(content());
    file
}

/// Words of which some are much more common than others, as instructions are.
fn content() -> Vec<u8> {
    let mut random = snowboot_bus::testing::Random::new(1);
    let words: Vec<[u8; 8]> = (0..4096).map(|_| random.next().to_le_bytes()).collect();
    let mut content = Vec::with_capacity(LENGTH);
    while content.len() < LENGTH {
        let bound = 1 << random.below(13);
        let index = usize::try_from(random.below(bound)).expect("a 64-bit host");
        content.extend(words.get(index).expect("a word for every number below 4096"));
    }
    content
}

/// Named bzImages whose payload is `plain`.
pub(crate) fn images(plain: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let size = u32::try_from(plain.len()).expect("a short kernel").to_le_bytes();
    let sized = |mut packed: Vec<u8>| {
        packed.extend(size);
        bz_image(&packed)
    };
    let gzip = {
        // Its own last bytes are the size.
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(plain).and_then(|()| packer.finish()).expect("packing into memory")
    };
    let bzip2 = {
        let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        packer.write_all(plain).and_then(|()| packer.finish()).expect("packing into memory")
    };
    let xz = {
        let options = lzma_rust2::XzOptions::with_preset(0);
        let mut packer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("options that are valid");
        packer.write_all(plain).and_then(|()| packer.finish()).expect("packing into memory")
    };
    let zstd = zstd::encode_all(plain, 9).expect("packing into memory");
    vec![
        ("none", bz_image(plain)),
        ("lz4", sized(lz4(plain))),
        ("zstd", sized(zstd)),
        ("gzip", bz_image(&gzip)),
        ("xz", sized(xz)),
        ("bzip2", sized(bzip2)),
    ]
}

/// The legacy frame that `lz4 -l` writes.
fn lz4(plain: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    for chunk in plain.chunks(8 << 20) {
        let block = lz4_flex::block::compress(chunk);
        packed.extend(u32::try_from(block.len()).expect("a short block").to_le_bytes());
        packed.extend(block);
    }
    packed
}

/// A bzImage (Linux `Documentation/arch/x86/boot.rst`) with one sector of set-up code and nothing but a payload.
fn bz_image(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| {
        file.get_mut(at..at + bytes.len()).expect("within the set-up code").copy_from_slice(bytes);
    };
    let length = u32::try_from(payload.len()).expect("a short kernel");
    put(0x1f1, &[1]);
    put(0x1f4, &length.div_ceil(16).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x236, &[1]);
    put(0x24c, &length.to_le_bytes());
    file.extend(payload);
    file.resize(file.len().next_multiple_of(16), 0);
    file
}
