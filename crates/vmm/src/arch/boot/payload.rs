//! Unpacking a kernel's payload on the host.

use std::io::{self, Read};

/// Unpacked kernels are 30 to 80 MB; more than this is not a kernel but a bomb.
const UNPACKED_MAX: usize = 512 << 20;
/// The legacy lz4 frame that the kernel's build uses has blocks of at most this size.
const LZ4_BLOCK_MAX: usize = 8 << 20;

/// Unpacks `payload`, which ends with the four bytes of its unpacked size. The error says why it is not possible.
pub(super) fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
    let (stream, size) = payload.split_last_chunk::<4>().ok_or("its payload is empty")?;
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let failed = |error: io::Error| format!("its payload does not unpack: {error}");
    match stream {
        [0x7f, b'E', b'L', b'F', ..] => Ok(payload.to_vec()),
        [0x1f, 0x8b, ..] => read_all(flate2::read::GzDecoder::new(stream), size).map_err(failed),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            read_all(lzma_rust2::XzReader::new(stream, false), size).map_err(failed)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd_decoder(stream).and_then(|it| read_all(it, size)).map_err(failed)
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => unpack_lz4(blocks, size).map_err(failed),
        [b'B', b'Z', b'h', ..] => Err("bzip2 payloads are not unpacked on the host".to_owned()),
        [0x5d, 0, 0, ..] => Err("lzma payloads are not unpacked on the host".to_owned()),
        [0x89, b'L', b'Z', b'O', ..] => Err("lzo payloads are not unpacked on the host".to_owned()),
        _ => Err("its payload is of an unknown kind".to_owned()),
    }
}

/// What the payload says its size is when it is unpacked; `None` when it has no room for that.
pub(super) fn announced_size(payload: &[u8]) -> Option<usize> {
    let size = payload.last_chunk::<4>()?;
    // An ELF image is not packed, and ends in nothing of the kind.
    let is_elf = payload.starts_with(b"\x7fELF");
    if is_elf { Some(payload.len()) } else { usize::try_from(u32::from_le_bytes(*size)).ok() }
}

fn zstd_decoder(stream: &[u8]) -> io::Result<impl Read> {
    Ok(zstd::Decoder::new(stream)?.single_frame())
}

/// Reads to the end of the compressed stream; `size` is what the file announces.
fn read_all(stream: impl Read, size: usize) -> io::Result<Vec<u8>> {
    let cap = check_size(size)?;
    let mut unpacked = Vec::with_capacity(size);
    // One byte more than announced tells a wrong size.
    stream.take(cap.saturating_add(1)).read_to_end(&mut unpacked)?;
    if unpacked.len() == size {
        Ok(unpacked)
    } else {
        Err(io::Error::other("its size is not the announced one"))
    }
}

fn check_size(size: usize) -> io::Result<u64> {
    if size > UNPACKED_MAX {
        return Err(io::Error::other(format!("it announces {size} bytes")));
    }
    u64::try_from(size).map_err(io::Error::other)
}

fn unpack_lz4(mut blocks: &[u8], size: usize) -> io::Result<Vec<u8>> {
    check_size(size)?;
    let mut unpacked = vec![0; size];
    let mut done = 0;
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        if done == size {
            break;
        }
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let block = rest.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let room = unpacked.get_mut(done..).unwrap_or_default();
        let room = room.get_mut(..LZ4_BLOCK_MAX.min(size - done)).unwrap_or_default();
        let written = lz4_flex::block::decompress_into(block, room).map_err(io::Error::other)?;
        done = done.saturating_add(written);
        blocks = rest.get(length..).unwrap_or_default();
    }
    if done == size { Ok(unpacked) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kernel() -> Vec<u8> {
        (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
        packed.extend(u32::try_from(size).unwrap().to_le_bytes());
        packed
    }

    #[test]
    fn gzip_zstd_and_lz4_unpack() {
        let plain = kernel();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        assert_eq!(unpack(&with_size(gzip.finish().unwrap(), plain.len())).unwrap(), plain);

        let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
        assert_eq!(unpack(&with_size(zstd, plain.len())).unwrap(), plain);

        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        for chunk in plain.chunks(150_000) {
            let block = lz4_flex::block::compress(chunk);
            lz4.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            lz4.extend(block);
        }
        assert_eq!(unpack(&with_size(lz4, plain.len())).unwrap(), plain);
    }

    #[test]
    fn a_wrong_size_or_a_cut_stream_is_an_error() {
        let zstd = zstd::encode_all(kernel().as_slice(), 3).unwrap();
        assert!(unpack(&with_size(zstd.clone(), 17)).is_err());
        assert!(unpack(&with_size(zstd[..zstd.len() / 2].to_vec(), kernel().len())).is_err());
        assert!(unpack(&with_size(zstd, UNPACKED_MAX + 1)).is_err());
    }

    #[test]
    fn what_is_not_unpacked_says_why() {
        assert!(unpack(b"BZh91AY....").unwrap_err().contains("bzip2"));
        assert!(unpack(b"....").unwrap_err().contains("unknown"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_payloads_never_panic(
            magic in proptest::sample::select(vec![
                vec![0x1f, 0x8b], vec![0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], vec![0x28, 0xb5, 0x2f, 0xfd], vec![2, 0x21, 0x4c, 0x18],
            ]),
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..256),
        ) {
            let mut payload = magic;
            payload.extend(rest);
            payload.extend(1000u32.to_le_bytes());
            let _ = unpack(&payload);
        }
    }
}
