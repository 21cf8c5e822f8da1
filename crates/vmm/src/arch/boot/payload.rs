//! Unpacking a kernel's payload on the host: all that the kernel's build packs (Linux `scripts/Makefile.lib`).
//!
//! Every kind is unpacked straight to where the kernel is wanted, which has the announced size: nothing grows, and a
//! stream that holds more or less is an error.

mod lzop;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

/// Unpacked kernels are 30 to 80 MB; more than this is not a kernel but a bomb.
const UNPACKED_MAX: usize = 512 << 20;
/// The legacy lz4 frame that the kernel's build uses has blocks of at most this size.
const LZ4_BLOCK_MAX: usize = 8 << 20;

/// Fills the room with what a payload holds packed, no more and no less.
type Unpacker = fn(payload: &[u8], room: &mut [u8]) -> io::Result<()>;

/// Unpacks `payload`, which ends with the four bytes of its unpacked size. The error says why it is not possible.
pub(super) fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
    if is_elf(payload) {
        return Ok(payload.to_vec());
    }
    let size = announced_size(payload).ok_or("its payload is empty")?;
    let unpacker = unpacker(payload).ok_or("its payload is of an unknown kind")?;
    if size > UNPACKED_MAX {
        return Err(format!("its payload does not unpack: it announces {size} bytes"));
    }
    let mut unpacked = vec![0; size];
    unpacker(payload, &mut unpacked).map_err(|error| format!("its payload does not unpack: {error}"))?;
    Ok(unpacked)
}

/// What the payload says its size is when it is unpacked; `None` when it has no room for that.
pub(super) fn announced_size(payload: &[u8]) -> Option<usize> {
    let size = payload.last_chunk::<4>()?;
    // An ELF image is not packed, and ends in nothing of the kind.
    if is_elf(payload) { Some(payload.len()) } else { usize::try_from(u32::from_le_bytes(*size)).ok() }
}

fn is_elf(payload: &[u8]) -> bool {
    payload.starts_with(b"\x7fELF")
}

fn unpacker(payload: &[u8]) -> Option<Unpacker> {
    Some(match payload {
        // The size at the end is gzip's own here, and belongs to the stream.
        [0x1f, 0x8b, ..] => |payload, room| fill(room, flate2::bufread::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            |payload, room| fill(room, lzma_rust2::XzReader::new(stream(payload), false))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => |payload, room| fill(room, zstd_decoder(stream(payload))?),
        [0x02, 0x21, 0x4c, 0x18, ..] => |payload, room| unpack_lz4(stream(payload), room),
        [b'B', b'Z', b'h', ..] => |payload, room| fill(room, bzip2::bufread::BzDecoder::new(stream(payload))),
        [0x5d, 0, 0, ..] => |payload, room| fill(room, lzma_decoder(stream(payload), room.len())?),
        [0x89, b'L', b'Z', b'O', 0, ..] => |payload, room| lzop::unpack(stream(payload), room),
        _ => return None,
    })
}

/// What is before the announced size.
fn stream(payload: &[u8]) -> &[u8] {
    payload.split_last_chunk::<4>().map_or(payload, |(stream, _)| stream)
}

/// Reads to the end of the compressed stream, where its checksum is.
fn fill(room: &mut [u8], mut stream: impl Read) -> io::Result<()> {
    stream.read_exact(room)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(wrong_size()),
        Err(error) => Err(error),
    }
}

fn wrong_size() -> io::Error {
    io::Error::other("its size is not the announced one")
}

fn zstd_decoder(stream: &[u8]) -> io::Result<impl Read> {
    Ok(zstd::Decoder::with_buffer(stream)?.single_frame())
}

/// A stream as `lzma` and `xz --format=lzma` write it: a byte of properties, four of the dictionary's size, eight of the
/// unpacked size (all ones when it was not known), and packed data without a checksum.
fn lzma_decoder(stream: &[u8], size: usize) -> io::Result<impl Read> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (properties, rest) = stream.split_first().ok_or_else(short)?;
    let (dictionary, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (unpacked, packed) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let unpacked = u64::from_le_bytes(*unpacked);
    if unpacked != u64::MAX && usize::try_from(unpacked) != Ok(size) {
        return Err(wrong_size());
    }
    // Nothing can be copied from before the beginning, so a dictionary of the whole kernel's size serves any.
    let dictionary = u32::from_le_bytes(*dictionary).min(u32::try_from(size).unwrap_or(u32::MAX));
    lzma_rust2::LzmaReader::new_with_props(packed, unpacked, *properties, dictionary, None)
}

fn unpack_lz4(stream: &[u8], mut room: &mut [u8]) -> io::Result<()> {
    // After the magic number.
    let mut blocks = stream.get(4..).unwrap_or_default();
    while !room.is_empty() {
        let (length, rest) = blocks.split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (block, rest) = rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let count = LZ4_BLOCK_MAX.min(room.len());
        let (now, _) = room.split_at_mut(count);
        let written = lz4_flex::block::decompress_into(block, now).map_err(io::Error::other)?;
        room = room.get_mut(written..).unwrap_or_default();
        blocks = rest;
    }
    if blocks.is_empty() { Ok(()) } else { Err(wrong_size()) }
}
