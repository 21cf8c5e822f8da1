//! Requests and configuration space of virtio-blk (virtio 1.2, 5.2.4 and 5.2.6).

/// `VIRTIO_BLK_F_SEG_MAX`: the configuration space limits the segments of a request.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`: the disk cannot be written.
pub(super) const F_RO: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`: the configuration space holds the block size.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`: there is a flush command, and so a volatile cache.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_TOPOLOGY`: the configuration space holds alignment hints.
pub(super) const F_TOPOLOGY: u64 = 1 << 10;
/// `VIRTIO_BLK_F_CONFIG_WCE`: the driver can switch the cache to write-through.
pub(super) const F_CONFIG_WCE: u64 = 1 << 11;
/// `VIRTIO_BLK_F_MQ`: the configuration space says how many queues there are.
pub(super) const F_MQ: u64 = 1 << 12;
/// `VIRTIO_BLK_F_DISCARD`: there is a discard command.
pub(super) const F_DISCARD: u64 = 1 << 13;
/// `VIRTIO_BLK_F_WRITE_ZEROES`: there is a command that zeroes ranges.
pub(super) const F_WRITE_ZEROES: u64 = 1 << 14;

/// Length of a request's header.
pub(super) const HEADER: usize = 16;
/// Length of the identifier that `VIRTIO_BLK_T_GET_ID` answers.
pub(super) const ID: usize = 20;
/// Length of one range of a discard or write-zeroes request.
pub(super) const RANGE: usize = 16;
/// Offset of `writeback` in the configuration space.
pub(super) const WRITEBACK: u32 = 32;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read { sector: u64 },
    Write { sector: u64 },
    Flush,
    Id,
    Discard,
    Zero,
    Unknown,
}

impl Request {
    /// Parses `type`, `reserved` and `sector`.
    pub(super) fn parse(header: [u8; HEADER]) -> Self {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            0 => Self::Read { sector },
            1 => Self::Write { sector },
            4 => Self::Flush,
            8 => Self::Id,
            11 => Self::Discard,
            13 => Self::Zero,
            _ => Self::Unknown,
        }
    }
}

/// A range to discard or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) sector: u64,
    pub(super) sectors: u32,
    pub(super) unmap: bool,
    /// A flag is set that the specification does not know.
    pub(super) unknown_flags: bool,
}

impl Range {
    pub(super) fn parse(bytes: [u8; RANGE]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        let flags = u32::from_le_bytes(flags);
        Self {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            unmap: flags & 1 != 0,
            unknown_flags: flags & !1 != 0,
        }
    }
}

/// The answer to a request: the last byte of the device-writable part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// The configuration space (5.2.4).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Space {
    pub(super) capacity: u64,
    pub(super) seg_max: u32,
    pub(super) blk_size: u32,
    pub(super) physical_block_exp: u8,
    pub(super) alignment_offset: u8,
    pub(super) min_io_size: u16,
    pub(super) opt_io_size: u32,
    pub(super) writeback: u8,
    pub(super) num_queues: u16,
    pub(super) max_range_sectors: u32,
    pub(super) max_ranges: u32,
    pub(super) discard_sector_alignment: u32,
}

impl Space {
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut space = Vec::with_capacity(60);
        space.extend(self.capacity.to_le_bytes());
        space.extend([0; 4]); // size_max: not offered
        space.extend(self.seg_max.to_le_bytes());
        space.extend([0; 4]); // geometry: not offered
        space.extend(self.blk_size.to_le_bytes());
        space.extend([self.physical_block_exp, self.alignment_offset]);
        space.extend(self.min_io_size.to_le_bytes());
        space.extend(self.opt_io_size.to_le_bytes());
        space.extend([self.writeback, 0]);
        space.extend(self.num_queues.to_le_bytes());
        for _ in 0..2 {
            space.extend(self.max_range_sectors.to_le_bytes());
            space.extend(self.max_ranges.to_le_bytes());
            if space.len() < 48 {
                space.extend(self.discard_sector_alignment.to_le_bytes());
            }
        }
        space.extend([1, 0, 0, 0]); // write_zeroes_may_unmap
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_has_its_fields_where_they_belong() {
        let space = Space {
            capacity: 0x0102_0304,
            seg_max: 254,
            blk_size: 512,
            writeback: 1,
            num_queues: 3,
            max_range_sectors: 0x1234,
            max_ranges: 0x56,
            discard_sector_alignment: 8,
            ..Space::default()
        }
        .bytes();
        assert_eq!(space.len(), 60);
        assert_eq!(space[..8], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(space[12], 254);
        assert_eq!(space[20..24], [0, 2, 0, 0]);
        assert_eq!(space[usize::try_from(WRITEBACK).unwrap()], 1);
        assert_eq!(space[34..36], [3, 0]);
        assert_eq!(space[36..48], [0x34, 0x12, 0, 0, 0x56, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(space[48..57], [0x34, 0x12, 0, 0, 0x56, 0, 0, 0, 1]);
    }
}
