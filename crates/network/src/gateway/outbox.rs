//! Frames that wait for the guest.

use std::collections::VecDeque;

use super::addresses::GATEWAY_MAC;
use super::emit::{self, Pair};
use super::packet::TCP;
use super::wire::Outgoing;
use crate::frame::HEADER;
use crate::headers::Headers;
use crate::{Checksum, Frame, Offload, Segmentation, SegmentationKind};

/// Frames that wait at most, and bytes of them: what fits into a queue of the switch. More answers are lost, as on any network;
/// of the TCP stack's, none is made when there is no room.
pub(super) const MOST_FRAMES: usize = 512;
pub(super) const MOST_BYTES: usize = 1 << 20;

/// The frames.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Outbox {
    /// Whether half of it is free, so that one more turn of anybody fits.
    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < MOST_FRAMES / 2 && self.bytes < MOST_BYTES / 2
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.frames.len(), self.bytes)
    }

    pub(super) fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes = self.bytes.saturating_sub(frame.bytes.len());
        Some(frame)
    }

    pub(super) fn push(&mut self, frame: Frame) {
        let bytes = self.bytes.saturating_add(frame.bytes.len());
        if self.frames.len() < MOST_FRAMES && bytes <= MOST_BYTES {
            self.bytes = bytes;
            self.frames.push_back(frame);
        }
    }

    /// Frames a packet of the TCP stack, whose checksum is left to the switch or the guest.
    pub(super) fn push_segment(&mut self, mac: [u8; 6], pair: Pair, outgoing: Outgoing) {
        let Outgoing { mut bytes, segment } = outgoing;
        let head = [&mac[..], &GATEWAY_MAC, &emit::ether_type(pair.to)].concat();
        if let Some(place) = bytes.get_mut(..HEADER) {
            place.copy_from_slice(&head);
        }
        if let Some(offload) = open_checksum(&mut bytes, pair, segment) {
            self.push(Frame { bytes, offload });
        }
    }
}

/// Puts the sum of the pseudo header into the checksum field of a TCP frame, and says what is left to do.
fn open_checksum(bytes: &mut [u8], pair: Pair, segment: Option<u16>) -> Option<Offload> {
    let headers = Headers::find(bytes)?;
    let (start, offset) = (headers.transport_at, headers.transport.checksum_offset());
    let sum = !pair.sum(TCP, bytes.len().checked_sub(start)?).finish();
    let field = start.checked_add(offset)?;
    bytes.get_mut(field..field.checked_add(2)?)?.copy_from_slice(&sum.to_be_bytes());
    let checksum = Checksum { start: u16::try_from(start).ok()?, offset: u16::try_from(offset).ok()? };
    let segmentation = segment.map(|size| Segmentation {
        kind: SegmentationKind::Tcp4,
        ecn: false,
        size,
        header_length: u16::try_from(headers.payload_at).unwrap_or_default(),
    });
    Some(Offload { checksum: Some(checksum), data_valid: false, segmentation })
}
