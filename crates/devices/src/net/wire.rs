//! Packet header, control commands and configuration space of virtio-net (virtio 1.2, 5.1.4, 5.1.6 and 5.1.6.5).

use snowboot_network::{Accepts, Checksum, Offload, Segmentation, SegmentationKind};

/// `VIRTIO_NET_F_CSUM`: the driver may leave checksums to the device.
pub(super) const F_CSUM: u64 = 1 << 0;
/// `VIRTIO_NET_F_GUEST_CSUM`: the device may leave checksums to the driver.
pub(super) const F_GUEST_CSUM: u64 = 1 << 1;
/// `VIRTIO_NET_F_CTRL_GUEST_OFFLOADS`: the driver can change at run time what it takes unfinished.
pub(super) const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// `VIRTIO_NET_F_MAC`: the configuration space holds the address.
pub(super) const F_MAC: u64 = 1 << 5;
/// `VIRTIO_NET_F_GUEST_TSO4`, `_TSO6`, `_ECN`: the driver takes TCP segments to be cut.
pub(super) const F_GUEST_TSO4: u64 = 1 << 7;
pub(super) const F_GUEST_TSO6: u64 = 1 << 8;
pub(super) const F_GUEST_ECN: u64 = 1 << 9;
/// `VIRTIO_NET_F_HOST_TSO4`, `_TSO6`, `_ECN`: so does the device.
pub(super) const F_HOST_TSO4: u64 = 1 << 11;
pub(super) const F_HOST_TSO6: u64 = 1 << 12;
pub(super) const F_HOST_ECN: u64 = 1 << 13;
/// `VIRTIO_NET_F_MRG_RXBUF`: a packet may be spread over several receive buffers.
pub(super) const F_MRG_RXBUF: u64 = 1 << 15;
/// `VIRTIO_NET_F_STATUS`: the configuration space holds the link's state.
pub(super) const F_STATUS: u64 = 1 << 16;
/// `VIRTIO_NET_F_CTRL_VQ`: there is a control queue.
pub(super) const F_CTRL_VQ: u64 = 1 << 17;
/// `VIRTIO_NET_F_CTRL_RX`: it takes receive modes.
pub(super) const F_CTRL_RX: u64 = 1 << 18;
/// `VIRTIO_NET_F_MQ`: there may be several pairs of data queues.
pub(super) const F_MQ: u64 = 1 << 22;
/// `VIRTIO_NET_F_CTRL_MAC_ADDR`: it takes a new address.
pub(super) const F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// `VIRTIO_NET_F_GUEST_USO4`, `_USO6`: the driver takes UDP segments to be cut.
pub(super) const F_GUEST_USO4: u64 = 1 << 54;
pub(super) const F_GUEST_USO6: u64 = 1 << 55;
/// `VIRTIO_NET_F_HOST_USO`: so does the device.
pub(super) const F_HOST_USO: u64 = 1 << 56;

/// The features that `VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET` can turn on and off.
pub(super) const GUEST_OFFLOADS: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6;

/// Length of a packet's header with `VIRTIO_F_VERSION_1`.
pub const HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Reads the header of a packet from the driver; `None` when it asks for what was not negotiated (5.1.6.2).
#[must_use]
pub fn parse(header: [u8; HEADER], features: u64) -> Option<Offload> {
    let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, _, _] = header;
    let has = |feature: u64| features & feature != 0;
    let checksum = (flags & NEEDS_CSUM != 0)
        .then_some(Checksum { start: u16::from_le_bytes([c0, c1]), offset: u16::from_le_bytes([o0, o1]) });
    if checksum.is_some() && !has(F_CSUM) {
        return None;
    }
    let ecn = gso & GSO_ECN != 0;
    let kind = match gso & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 if has(F_HOST_TSO4) => Some(SegmentationKind::Tcp4),
        GSO_TCPV6 if has(F_HOST_TSO6) => Some(SegmentationKind::Tcp6),
        GSO_UDP_L4 if has(F_HOST_USO) && !ecn => Some(SegmentationKind::UdpSegment),
        _ => return None,
    };
    if ecn && (kind.is_none() || !has(F_HOST_ECN)) {
        return None;
    }
    let (size, header_length) = (u16::from_le_bytes([s0, s1]), u16::from_le_bytes([h0, h1]));
    let segmentation = kind.map(|kind| Segmentation { kind, ecn, size, header_length });
    // DATA_VALID is not for drivers to set (5.1.6.2).
    Some(Offload { checksum, data_valid: false, segmentation })
}

/// Writes the header of a packet to the driver. What the driver takes was settled by `accepts`; a checksum it would not
/// know what to do with is not mentioned (5.1.6.4.1).
#[must_use]
pub fn header(offload: &Offload, features: u64, buffers: u16) -> [u8; HEADER] {
    let mut flags = 0;
    let (mut start, mut offset) = (0, 0);
    if features & F_GUEST_CSUM != 0 {
        if let Some(checksum) = offload.checksum {
            flags = NEEDS_CSUM;
            (start, offset) = (checksum.start, checksum.offset);
        } else if offload.data_valid {
            flags = DATA_VALID;
        }
    }
    let (mut gso, mut size, mut length) = (GSO_NONE, 0, 0);
    if let Some(segmentation) = offload.segmentation {
        gso = match segmentation.kind {
            SegmentationKind::Tcp4 => GSO_TCPV4,
            SegmentationKind::Tcp6 => GSO_TCPV6,
            SegmentationKind::UdpSegment => GSO_UDP_L4,
            SegmentationKind::Udp => GSO_NONE, // never accepted
        } | if segmentation.ecn { GSO_ECN } else { 0 };
        (size, length) = (segmentation.size, segmentation.header_length);
    }
    let mut bytes = [0; HEADER];
    let fields = [length, size, start, offset, buffers].into_iter().flat_map(u16::to_le_bytes);
    for (to, from) in bytes.iter_mut().zip([flags, gso].into_iter().chain(fields)) {
        *to = from;
    }
    bytes
}

/// What the driver takes unfinished.
pub(super) fn accepts(features: u64) -> Accepts {
    let has = |feature: u64| features & feature != 0;
    Accepts {
        checksum: has(F_GUEST_CSUM),
        tcp4: has(F_GUEST_TSO4),
        tcp6: has(F_GUEST_TSO6),
        ecn: has(F_GUEST_ECN),
        udp_segments: has(F_GUEST_USO4) && has(F_GUEST_USO6),
    }
}

/// A control command that is well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// A receive mode or filter: nothing to do, since filters may be imperfect (5.1.6.5.1, 5.1.6.5.2).
    Filter,
    /// `VIRTIO_NET_CTRL_MAC_ADDR_SET`.
    Address([u8; 6]),
    /// `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`: from now on the driver uses so many pairs of data queues (5.1.6.5.5).
    Pairs(u16),
    /// `VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET`.
    Offloads(u64),
}

/// The longest command that is read: a table of addresses is longer, but nothing looks at it.
pub(super) const LONGEST_COMMAND: usize = 16;

impl Command {
    /// Parses class, command and data; `None` is answered with `VIRTIO_NET_ERR`.
    pub(super) fn parse(command: &[u8], features: u64) -> Option<Self> {
        let has = |feature: u64| features & feature != 0;
        match command {
            [0, 0 | 1, _, ..] if has(F_CTRL_RX) => Some(Self::Filter),
            [1, 0, ..] if has(F_CTRL_RX) => Some(Self::Filter),
            [1, 1, address @ ..] if has(F_CTRL_MAC_ADDR) => Some(Self::Address(address.try_into().ok()?)),
            [4, 0, pairs @ ..] if has(F_MQ) => Some(Self::Pairs(u16::from_le_bytes(pairs.try_into().ok()?))),
            [5, 0, offloads @ ..] if has(F_CTRL_GUEST_OFFLOADS) => {
                let offloads = u64::from_le_bytes(offloads.try_into().ok()?);
                (offloads & !(features & GUEST_OFFLOADS) == 0).then_some(Self::Offloads(offloads))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = u64::MAX;

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let mut header = [0; HEADER];
        assert_eq!(parse(header, 0), Some(Offload::default()));
        header[0] = NEEDS_CSUM;
        assert_eq!(parse(header, ALL & !F_CSUM), None);
        for (gso, feature) in [(GSO_TCPV4, F_HOST_TSO4), (GSO_TCPV6, F_HOST_TSO6), (GSO_UDP_L4, F_HOST_USO)] {
            header[1] = gso;
            assert!(parse(header, ALL).unwrap().segmentation.is_some());
            assert_eq!(parse(header, ALL & !feature), None);
        }
        header[1] = GSO_TCPV4 | GSO_ECN;
        assert_eq!(parse(header, ALL & !F_HOST_ECN), None);
        for gso in [2, 3, 6, 0x7f, 0x80, 0x85] {
            header[1] = gso;
            assert_eq!(parse(header, ALL), None, "gso_type {gso:#x}");
        }
    }

    #[test]
    fn commands_of_the_wrong_length_or_kind_are_refused() {
        assert_eq!(Command::parse(&[0, 0, 1], ALL), Some(Command::Filter));
        assert_eq!(Command::parse(&[0, 0], ALL), None);
        assert_eq!(
            Command::parse(&[1, 1, 1, 2, 3, 4, 5, 6], ALL),
            Some(Command::Address([1, 2, 3, 4, 5, 6]))
        );
        assert_eq!(Command::parse(&[1, 1, 1, 2, 3, 4, 5], ALL), None);
        assert_eq!(Command::parse(&[1, 1, 1, 2, 3, 4, 5, 6, 7], ALL), None);
        assert_eq!(Command::parse(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], F_CTRL_GUEST_OFFLOADS), None);
        let features = F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM;
        assert_eq!(Command::parse(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], features), Some(Command::Offloads(2)));
        assert_eq!(Command::parse(&[], ALL), None);
        assert_eq!(Command::parse(&[4, 0, 1, 2], ALL), Some(Command::Pairs(0x201)));
        assert_eq!(Command::parse(&[4, 0, 1, 2], ALL & !F_MQ), None);
        assert_eq!(Command::parse(&[4, 0, 1], ALL), None);
    }

    proptest! {
        /// What one guest's header says is what the next guest's header says, `hdr_len` and all.
        #[test]
        fn a_parsed_header_is_written_as_it_was(bytes: [u8; HEADER]) {
            if let Some(offload) = parse(bytes, ALL) {
                let again = header(&offload, ALL, u16::from_le_bytes([bytes[10], bytes[11]]));
                prop_assert_eq!(parse(again, ALL), Some(offload));
                prop_assert_eq!(again[1], bytes[1]);
                prop_assert_eq!(&again[10..], &bytes[10..]);
            }
        }
    }
}
