//! The files in `fixtures` were packed with the programs that the kernel's build calls, as it calls them:
//!
//! ```sh
//! cat plain | gzip -n -9 > packed.gz
//! cat plain | bzip2 -9 > packed.bz2
//! cat plain | lzma -9 > packed.lzma
//! cat plain | xz --check=crc32 --x86 --lzma2=dict=32MiB > packed.xz
//! cat plain | lzop -9 > packed.lzo
//! cat plain | lz4 -l -9 - - > packed.lz4
//! cat plain | zstd -22 --ultra > packed.zst
//! ```
//!
//! and `packed.crc32.lzo` with `lzop -9 --crc32`. The build appends the unpacked size to all but gzip's. What `plain`
//! holds, [`plain`] says.

use std::io::Write;

use super::*;

const GZIP: &[u8] = include_bytes!("fixtures/packed.gz");
const BZIP2: &[u8] = include_bytes!("fixtures/packed.bz2");
const LZMA: &[u8] = include_bytes!("fixtures/packed.lzma");
const XZ: &[u8] = include_bytes!("fixtures/packed.xz");
const LZO: &[u8] = include_bytes!("fixtures/packed.lzo");
const LZO_CRC32: &[u8] = include_bytes!("fixtures/packed.crc32.lzo");
const LZ4: &[u8] = include_bytes!("fixtures/packed.lz4");
const ZSTD: &[u8] = include_bytes!("fixtures/packed.zst");

/// All that have the size appended.
const SIZED: [&[u8]; 7] = [BZIP2, XZ, ZSTD, LZO, LZO_CRC32, LZMA, LZ4];
/// The others have none.
const WITH_CHECKSUM: [&[u8]; 5] = [BZIP2, XZ, ZSTD, LZO, LZO_CRC32];

/// One block of lzop, which has noise that is repeated from far away, and 400 bytes of noise that it stores in another.
fn plain() -> Vec<u8> {
    const BLOCK: u64 = 256 << 10;
    let byte = |at: u64| {
        let seed = if at < BLOCK { at % 20_500 } else { at };
        let noise = (seed * seed).wrapping_mul(2_654_435_761) >> 24;
        if (500..20_500).contains(&seed) { 0 } else { noise.to_le_bytes()[0] }
    };
    (0..BLOCK + 400).map(byte).collect()
}

fn with_size(packed: &[u8], size: usize) -> Vec<u8> {
    let mut payload = packed.to_vec();
    payload.extend(u32::try_from(size).unwrap().to_le_bytes());
    payload
}

#[test]
fn all_that_the_kernels_build_packs_is_unpacked() {
    let plain = plain();
    for packed in SIZED {
        let unpacked = unpack(&with_size(packed, plain.len())).unwrap();
        assert!(unpacked == plain, "{:?}", &packed[..4]);
    }
    assert!(unpack(GZIP).unwrap() == plain);
    assert_eq!(unpack(b"\x7fELF, not packed").unwrap(), b"\x7fELF, not packed");
}

#[test]
fn lz4_of_several_blocks_is_unpacked() {
    let plain = plain();
    let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
    for chunk in plain.chunks(150_000) {
        let block = lz4_flex::block::compress(chunk);
        lz4.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        lz4.extend(block);
    }
    assert!(unpack(&with_size(&lz4, plain.len())).unwrap() == plain);
}

#[test]
fn lzma_that_knows_its_size_is_unpacked_and_held_to_it() {
    let plain = plain();
    let packed = |plain: &[u8]| {
        let size = Some(u64::try_from(plain.len()).unwrap());
        let options = lzma_rust2::LzmaOptions::with_preset(0);
        let mut lzma = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, size).unwrap();
        lzma.write_all(plain).unwrap();
        lzma.finish().unwrap()
    };
    assert!(unpack(&with_size(&packed(&plain), plain.len())).unwrap() == plain);
    let error = unpack(&with_size(&packed(&plain[1..]), plain.len())).unwrap_err();
    assert!(error.contains("size is not the announced"), "{error}");
}

#[test]
fn a_wrong_size_is_an_error() {
    let size = plain().len();
    for packed in SIZED {
        for size in [0, 1, 17, size - 1, size + 1, 2 * size] {
            assert!(unpack(&with_size(packed, size)).is_err(), "{:?} {size}", &packed[..4]);
        }
        let error = unpack(&with_size(packed, UNPACKED_MAX + 1)).unwrap_err();
        assert!(error.contains("it announces"), "{error}");
    }
    let mut gzip = GZIP.to_vec();
    let at = gzip.len() - 4;
    gzip[at] ^= 1;
    assert!(unpack(&gzip).is_err());
}

#[test]
fn a_cut_stream_is_an_error() {
    let size = plain().len();
    for packed in SIZED {
        for length in (0..packed.len()).step_by(7).chain([packed.len() - 1]) {
            assert!(unpack(&with_size(&packed[..length], size)).is_err(), "{:?} {length}", packed.get(..4));
        }
    }
}

#[test]
fn a_damaged_stream_with_a_checksum_is_an_error() {
    let plain = plain();
    for packed in WITH_CHECKSUM {
        for at in (0..packed.len()).step_by(11) {
            let mut damaged = packed.to_vec();
            damaged[at] ^= 0x10;
            // A few bits say nothing of what is unpacked.
            if let Ok(unpacked) = unpack(&with_size(&damaged, plain.len())) {
                assert!(unpacked == plain, "{:?} {at}", &packed[..4]);
            }
        }
    }
}

#[test]
fn what_is_not_unpacked_says_why() {
    assert!(unpack(b"....").unwrap_err().contains("unknown"));
    assert!(unpack(b"..").unwrap_err().contains("empty"));
    // A filter, which needs undoing after the unpacking.
    let mut lzo = LZO.to_vec();
    lzo[19] |= 8;
    assert!(unpack(&with_size(&lzo, plain().len())).unwrap_err().contains("not supported"));
}

proptest::proptest! {
    #[test]
    fn arbitrary_payloads_never_panic(
        magic in proptest::sample::select(vec![
            &[0x1f, 0x8b][..], &XZ[..6], &ZSTD[..4], &LZ4[..4], &BZIP2[..10], &LZMA[..13], &LZO[..9], &LZO[..50],
        ]),
        rest in proptest::collection::vec(proptest::num::u8::ANY, 0..256),
    ) {
        let mut payload = magic.to_vec();
        payload.extend(rest);
        let _ = unpack(&with_size(&payload, 1000));
    }

    #[test]
    fn damage_never_panics(
        packed in proptest::sample::select(SIZED.to_vec()),
        damage in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 1..8),
    ) {
        let mut packed = packed.to_vec();
        for (at, value) in damage {
            let at = at % packed.len();
            packed[at] = value;
        }
        let _ = unpack(&with_size(&packed, plain().len()));
    }
}
