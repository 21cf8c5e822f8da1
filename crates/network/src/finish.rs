//! The offload work: checking what a sender asks for, and doing it for a receiver that cannot.
//!
//! Pure functions over untrusted bytes, called outside the switch's lock: [`check`] on the sender's thread, [`finish`] on
//! the receiver's. Packets are cut one at a time as the receiver asks for them, so a frame takes no more memory cut
//! than whole.

use crate::checksum::Sum;
use crate::frame::{Accepts, Checksum, Frame, HEADER, Offload, Segmentation, SegmentationKind};
use crate::headers::{Headers, Ip, Transport, word};

/// Packets made of one frame: 64 KiB over 8 bytes, the smallest maximum segment size that Linux lets a peer choose
/// (`TCP_MIN_GSO_SIZE`). It bounds what one frame can cost its receiver.
const MOST_SEGMENTS: usize = 8192;

/// An IP packet, as far as its length field can count.
const LONGEST_PACKET: usize = 65_535;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
/// The flags, from the start of the TCP header.
const FLAGS_AT: usize = 13;

/// Checks the metadata of a frame against its bytes, and sets right what is only a hint. `None`: malformed. Whether a frame
/// can be cut is no question yet, as maybe nobody needs that.
pub(crate) fn check(frame: &mut Frame) -> Option<()> {
    if let Some(checksum) = frame.offload.checksum {
        let start = usize::from(checksum.start);
        let field = start + usize::from(checksum.offset);
        if start < HEADER || field + 2 > frame.bytes.len() {
            return None;
        }
    }
    if let Some(segmentation) = &mut frame.offload.segmentation {
        let headers = check_segmentation(&frame.bytes, *segmentation, frame.offload.checksum?)?;
        segmentation.header_length = u16::try_from(headers.payload_at).ok()?;
    }
    Some(())
}

/// Finds the headers of a frame that is to be cut, if they are what the metadata says.
fn check_segmentation(bytes: &[u8], segmentation: Segmentation, checksum: Checksum) -> Option<Headers> {
    let headers = Headers::find(bytes)?;
    let fits = match segmentation.kind {
        SegmentationKind::Tcp4 => headers.ip == Ip::V4 && headers.transport == Transport::Tcp,
        SegmentationKind::Tcp6 => headers.ip == Ip::V6 && headers.transport == Transport::Tcp,
        SegmentationKind::UdpSegment => headers.transport == Transport::Udp,
        SegmentationKind::Udp => false,
    };
    let agrees = usize::from(checksum.start) == headers.transport_at
        && usize::from(checksum.offset) == headers.transport.checksum_offset();
    let payload = bytes.len().checked_sub(headers.payload_at)?;
    let size = usize::from(segmentation.size);
    let bounded = size > 0 && payload.div_ceil(size) <= MOST_SEGMENTS;
    let longest = headers.payload_at - headers.network_at + payload.min(size);
    (fits && agrees && bounded && longest <= LONGEST_PACKET).then_some(headers)
}

/// A frame as its receiver takes it.
#[derive(Debug)]
pub(crate) enum Finished {
    /// As one.
    Whole(Frame),
    /// In pieces.
    Cut(Segments),
}

/// Does the work that a receiver which accepts `accepts` would not do. `None`: it would have to be cut, and cannot be.
pub(crate) fn finish(mut frame: Frame, accepts: Accepts) -> Option<Finished> {
    if let Some(segmentation) = frame.offload.segmentation
        && !accepts.takes(segmentation)
    {
        return Segments::new(frame, accepts).map(Finished::Cut);
    }
    if !accepts.checksum {
        if let Some(checksum) = frame.offload.checksum {
            complete(&mut frame.bytes, checksum)?;
        }
        frame.offload = Offload::default();
    }
    Some(Finished::Whole(frame))
}

/// Completes a checksum over `bytes`.
fn complete(bytes: &mut [u8], checksum: Checksum) -> Option<()> {
    let start = usize::from(checksum.start);
    let sum = Sum::default().add(bytes.get(start..)?).finish_transport();
    put(bytes, start + usize::from(checksum.offset), &sum.to_be_bytes())
}

/// The packets of a frame, made one after the other.
#[derive(Debug)]
pub(crate) struct Segments {
    frame: Frame,
    headers: Headers,
    size: usize,
    /// Packets made so far, and to be made.
    made: usize,
    count: usize,
    /// What the receiver is told of each packet.
    offload: Offload,
}

impl Segments {
    fn new(frame: Frame, accepts: Accepts) -> Option<Self> {
        let segmentation = frame.offload.segmentation?;
        let headers = check_segmentation(&frame.bytes, segmentation, frame.offload.checksum?)?;
        if !headers.cuttable {
            return None;
        }
        let size = usize::from(segmentation.size);
        let payload = frame.bytes.len().checked_sub(headers.payload_at)?;
        // A frame without payload is still one packet.
        let count = payload.div_ceil(size).max(1);
        let offload = Offload { data_valid: accepts.checksum, ..Offload::default() };
        Some(Self { frame, headers, size, made: 0, count, offload })
    }

    /// How many packets there are in all.
    pub(crate) fn packets(&self) -> usize {
        self.count
    }

    /// Whether all packets were made.
    pub(crate) fn is_done(&self) -> bool {
        self.made >= self.count
    }

    /// Makes packet number `self.made`.
    fn make(&self) -> Option<Vec<u8>> {
        let (head, payload) = self.frame.bytes.split_at_checked(self.headers.payload_at)?;
        let from = self.made.checked_mul(self.size)?;
        let to = from.checked_add(self.size)?.min(payload.len());
        let part = payload.get(from..to)?;
        let mut bytes = Vec::with_capacity(head.len() + part.len());
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(part);
        self.patch_network(&mut bytes)?;
        match self.headers.transport {
            Transport::Tcp => self.patch_tcp(&mut bytes, from)?,
            Transport::Udp => {
                let length = u16::try_from(bytes.len().checked_sub(self.headers.transport_at)?).ok()?;
                put(&mut bytes, self.headers.transport_at + 4, &length.to_be_bytes())?;
            }
        }
        self.patch_checksum(&mut bytes)?;
        Some(bytes)
    }

    /// Length, identification and header checksum of IP.
    fn patch_network(&self, bytes: &mut [u8]) -> Option<()> {
        let at = self.headers.network_at;
        let length = bytes.len().checked_sub(at)?;
        match self.headers.ip {
            Ip::V4 => {
                put(bytes, at + 2, &u16::try_from(length).ok()?.to_be_bytes())?;
                let step = u16::try_from(self.made).ok()?;
                let identification = word(bytes, at + 4)?.wrapping_add(step);
                put(bytes, at + 4, &identification.to_be_bytes())?;
                put(bytes, at + 10, &[0, 0])?;
                let sum = Sum::default().add(bytes.get(at..self.headers.transport_at)?).finish();
                put(bytes, at + 10, &sum.to_be_bytes())
            }
            // The payload length does not count the fixed header (RFC 8200, 3).
            Ip::V6 => put(bytes, at + 4, &u16::try_from(length.checked_sub(40)?).ok()?.to_be_bytes()),
        }
    }

    /// Sequence number and flags. Only the last packet ends or pushes the stream (RFC 9293), and only the first says
    /// that the window was reduced (RFC 3168, 6.1.2).
    fn patch_tcp(&self, bytes: &mut [u8], from: usize) -> Option<()> {
        let at = self.headers.transport_at;
        let first = bytes.get(at + 4..)?.first_chunk().map(|number| u32::from_be_bytes(*number))?;
        let sequence = first.wrapping_add(u32::try_from(from).ok()?);
        put(bytes, at + 4, &sequence.to_be_bytes())?;
        let flags = bytes.get_mut(at + FLAGS_AT)?;
        if self.made + 1 < self.count {
            *flags &= !(FIN | PSH);
        }
        if self.made > 0 {
            *flags &= !CWR;
        }
        Some(())
    }

    /// The transport checksum, from the addresses: what the sender left in the field is for the whole.
    fn patch_checksum(&self, bytes: &mut [u8]) -> Option<()> {
        let Headers { ip, transport, network_at, transport_at, .. } = self.headers;
        let addresses = match ip {
            Ip::V4 => network_at + 12..network_at + 20,
            Ip::V6 => network_at + 8..network_at + 40,
        };
        let field = transport_at + transport.checksum_offset();
        put(bytes, field, &[0, 0])?;
        let packet = bytes.get(transport_at..)?;
        let sum = Sum::default()
            .add(bytes.get(addresses)?)
            .add_number(u32::from(transport.number()))
            .add_number(u32::try_from(packet.len()).ok()?)
            .add(packet)
            .finish_transport();
        put(bytes, field, &sum.to_be_bytes())
    }
}

impl Iterator for Segments {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        if self.is_done() {
            return None;
        }
        let bytes = self.make();
        self.made += 1;
        bytes.map(|bytes| Frame { bytes, offload: self.offload })
    }
}

/// Overwrites the bytes at `at`.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..at.checked_add(value.len())?)?.copy_from_slice(value);
    Some(())
}
