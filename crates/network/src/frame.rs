//! Frames, and the work a sender may leave to whoever comes after it.
//!
//! Plain data, made by network cards from a `virtio_net_hdr` (virtio 1.2, 5.1.6) and checked by the switch.

/// Length of an Ethernet header without tags: two addresses and a type.
pub(crate) const HEADER: usize = 14;

/// The longest frame: the longest IP packet, an Ethernet header and two 802.1Q tags. A guest that uses segmentation
/// offload sends up to 64 KiB at once (virtio 1.2, 5.1.6.3.1 speaks of 65550 bytes, which knows no tags).
pub(crate) const LONGEST: usize = 65_535 + HEADER + 8;

/// An Ethernet frame without its check sequence, with the offload work its sender left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the destination address on.
    pub bytes: Vec<u8>,
    /// What is left to do, and known, about the bytes.
    pub offload: Offload,
}

impl Frame {
    /// A finished frame: nothing is left to do.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::default() }
    }
}

/// What a `virtio_net_hdr` says (virtio 1.2, 5.1.6), in host terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// A checksum that was not computed (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    pub checksum: Option<Checksum>,
    /// The checksums of the frame are known to be right (`VIRTIO_NET_HDR_F_DATA_VALID`). A guest may not claim so of what
    /// it sends (5.1.6.2): a network card clears it.
    pub data_valid: bool,
    /// The frame holds more than one packet, to be cut up.
    pub segmentation: Option<Segmentation>,
}

/// Where to complete a checksum: the ones' complement sum from `start` to the end of the frame, in which the checksum
/// field itself already holds the sum of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// First byte of the sum, from the start of the frame (`csum_start`).
    pub start: u16,
    /// The checksum field, from `start` (`csum_offset`).
    pub offset: u16,
}

/// How to cut a frame into packets. It always comes with a [`Checksum`], of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// The protocol (`gso_type`).
    pub kind: SegmentationKind,
    /// The first packet carries TCP's CWR flag, later ones must not (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
    /// Payload bytes of each packet but the last (`gso_size`).
    pub size: u16,
    /// Length of all headers before the payload (`hdr_len`). A sender's value is only a hint (5.1.6.2); the switch
    /// replaces it by the length it found.
    pub header_length: u16,
}

/// What a [`Segmentation`] cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentationKind {
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    Tcp6,
    /// IP fragments of one UDP datagram (`VIRTIO_NET_HDR_GSO_UDP`). Linux gave this up in 4.14 and no network card here
    /// offers it, so the switch refuses such frames as malformed.
    Udp,
    /// UDP datagrams of equal length over either IP (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    UdpSegment,
}

/// What a port's owner takes unfinished. The default is nothing: the switch then finishes every frame for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Uncomputed checksums, and the word that they are valid (`VIRTIO_NET_F_GUEST_CSUM`). The others need this one.
    pub checksum: bool,
    /// TCP over IPv4 to be cut (`VIRTIO_NET_F_GUEST_TSO4`).
    pub tcp4: bool,
    /// TCP over IPv6 to be cut (`VIRTIO_NET_F_GUEST_TSO6`).
    pub tcp6: bool,
    /// The same with CWR set (`VIRTIO_NET_F_GUEST_ECN`).
    pub ecn: bool,
    /// UDP datagrams to be cut (`VIRTIO_NET_F_GUEST_USO4` and `VIRTIO_NET_F_GUEST_USO6`, both).
    pub udp_segments: bool,
}

impl Accepts {
    /// Whether its owner takes a frame that is still to be cut like this.
    pub(crate) fn takes(self, segmentation: Segmentation) -> bool {
        let kind = match segmentation.kind {
            SegmentationKind::Tcp4 => self.tcp4,
            SegmentationKind::Tcp6 => self.tcp6,
            SegmentationKind::Udp => false,
            SegmentationKind::UdpSegment => self.udp_segments,
        };
        self.checksum && kind && (self.ecn || !segmentation.ecn)
    }
}
