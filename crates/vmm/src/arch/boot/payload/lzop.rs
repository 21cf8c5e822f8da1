//! The file format of `lzop` (the `lzop` 1.04 sources, and Linux `lib/decompress_unlzo.c`, which reads the same): a
//! header, then blocks that are packed each by itself. All numbers are big-endian.

use std::io;

const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";
/// Versions of `lzop` from before this one (0.94, of 1997) wrote a shorter header.
const VERSION_MIN: u16 = 0x0940;
/// LZO1X-1, LZO1X-1(15) and LZO1X-999 differ in how they pack, not in how they are unpacked.
const METHODS: std::ops::RangeInclusive<u8> = 1..=3;

/// Flags of the header: which checksums each block has, of its unpacked and of its packed bytes.
const ADLER32_OF_UNPACKED: u32 = 1;
const ADLER32_OF_PACKED: u32 = 2;
const CRC32_OF_UNPACKED: u32 = 0x100;
const CRC32_OF_PACKED: u32 = 0x200;
/// The header's own checksum is a CRC-32 and not an Adler-32.
const CRC32_OF_HEADER: u32 = 0x1000;
/// An extra field, a file of several parts, a filter: neither `lzop` nor the kernel reads these.
const UNSUPPORTED: u32 = 0x40 | 0x400 | 0x800;

/// Fills `room` with all that is packed in the file; the checksums are checked.
pub(super) fn unpack(file: &[u8], mut room: &mut [u8]) -> io::Result<()> {
    let mut file = Input(file);
    let flags = read_header(&mut file)?;
    loop {
        let length = file.length()?;
        if length == 0 {
            break;
        }
        let (now, later) = room.split_at_mut_checked(length).ok_or_else(super::wrong_size)?;
        unpack_block(&mut file, flags, now)?;
        room = later;
    }
    if room.is_empty() && file.0.is_empty() { Ok(()) } else { Err(super::wrong_size()) }
}

/// The header's flags.
fn read_header(file: &mut Input<'_>) -> io::Result<u32> {
    if file.bytes(MAGIC.len())? != MAGIC {
        return Err(io::Error::other("it is no file of lzop"));
    }
    let start = file.0;
    let [version, _library, _needed] = [file.u16()?, file.u16()?, file.u16()?];
    if version < VERSION_MIN {
        return Err(io::Error::other("a version of lzop packed it that is too old"));
    }
    let [method, _level] = file.array()?;
    let flags = file.u32()?;
    if !METHODS.contains(&method) || flags & UNSUPPORTED != 0 {
        return Err(io::Error::other("lzop packed it in a way that is not supported"));
    }
    let [_mode, _time, _time_high] = [file.u32()?, file.u32()?, file.u32()?];
    let [name] = file.array()?;
    file.bytes(usize::from(name))?;
    let header = start.get(..start.len().saturating_sub(file.0.len())).unwrap_or_default();
    let sum = if flags & CRC32_OF_HEADER == 0 { adler32(header) } else { crc32(header) };
    expect(file.u32()?, sum)?;
    Ok(flags)
}

/// One block, after the length of what it unpacks to, which `room` has.
fn unpack_block(file: &mut Input<'_>, flags: u32, room: &mut [u8]) -> io::Result<()> {
    let length = file.length()?;
    let unpacked_sums = file.sums(flags, ADLER32_OF_UNPACKED, CRC32_OF_UNPACKED)?;
    // What packing would not make shorter is stored, with no checksums of its own.
    if length == room.len() {
        room.copy_from_slice(file.bytes(length)?);
    } else {
        let packed_sums = file.sums(flags, ADLER32_OF_PACKED, CRC32_OF_PACKED)?;
        let packed = file.bytes(length)?;
        packed_sums.check(packed)?;
        // The crate's error has no words of its own for the user.
        let written = lzokay::decompress::decompress(packed, room)
            .map_err(|error| io::Error::other(format!("a block is damaged ({error:?})")))?;
        if written != room.len() {
            return Err(super::wrong_size());
        }
    }
    unpacked_sums.check(room)
}

/// What is left of the file.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn length(&mut self) -> io::Result<usize> {
        usize::try_from(self.u32()?).map_err(io::Error::other)
    }

    fn sums(&mut self, flags: u32, adler32: u32, crc32: u32) -> io::Result<Sums> {
        let mut sum_if = |flag| if flags & flag == 0 { Ok(None) } else { self.u32().map(Some) };
        Ok(Sums { adler32: sum_if(adler32)?, crc32: sum_if(crc32)? })
    }
}

/// Checksums that a block has.
struct Sums {
    adler32: Option<u32>,
    crc32: Option<u32>,
}

impl Sums {
    fn check(&self, bytes: &[u8]) -> io::Result<()> {
        self.adler32.map_or(Ok(()), |sum| expect(sum, adler32(bytes)))?;
        self.crc32.map_or(Ok(()), |sum| expect(sum, crc32(bytes)))
    }
}

fn expect(announced: u32, found: u32) -> io::Result<()> {
    if announced == found { Ok(()) } else { Err(io::Error::other("a checksum is wrong")) }
}

fn adler32(bytes: &[u8]) -> u32 {
    adler2::adler32_slice(bytes)
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}
