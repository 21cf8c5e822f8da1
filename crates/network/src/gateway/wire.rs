//! The device under the TCP stack: one packet in at a time, and a few out, each with room for an Ethernet header.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken,
};
use smoltcp::time::Instant;

use super::emit::MTU;
use crate::frame::HEADER;

/// Packets that may wait to be framed. They are taken after each call to the stack, so that this bounds one turn.
const MOST_WAITING: usize = 64;
/// The longest packet that IPv4 can count. Over IPv6 the stack cuts them itself.
const LONGEST_SEGMENT: usize = 65_535;

/// A packet of the stack's.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Room for an Ethernet header, and the packet. Its TCP checksum is open.
    pub(super) bytes: Vec<u8>,
    /// Payload bytes of the packets to cut it into.
    pub(super) segment: Option<u16>,
}

impl Outgoing {
    pub(super) fn packet(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }
}

/// The device.
#[derive(Debug, Default)]
pub(super) struct Wire {
    input: Option<Vec<u8>>,
    output: VecDeque<Outgoing>,
    /// Nobody takes packets now.
    pub(super) closed: bool,
}

impl Wire {
    /// The next packet that the stack receives.
    pub(super) fn put(&mut self, packet: &[u8]) {
        self.input = Some(packet.to_vec());
    }

    /// A packet that the stack has not taken, for want of room for an answer, is lost: TCP sends it again.
    pub(super) fn take_back(&mut self) {
        self.input = None;
    }

    pub(super) fn next(&mut self) -> Option<Outgoing> {
        self.output.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.input = None;
        self.output.clear();
    }
}

impl Device for Wire {
    type RxToken<'a> = Input;
    type TxToken<'a> = Output<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Input, Output<'_>)> {
        // There is always room for an answer: the gateway takes what is there after each packet.
        let packet = self.input.take()?;
        Some((Input(packet), Output { output: &mut self.output, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Output<'_>> {
        let room = !self.closed && self.output.len() < MOST_WAITING;
        room.then_some(Output { output: &mut self.output, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // What comes in was checked, and the last checksum is the switch's work, if it is anybody's.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONGEST_SEGMENT);
        capabilities
    }
}

/// A packet for the stack.
pub(super) struct Input(Vec<u8>);

impl RxToken for Input {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

/// Room for a packet of the stack's.
pub(super) struct Output<'a> {
    output: &'a mut VecDeque<Outgoing>,
    segment: Option<u16>,
}

impl TxToken for Output<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut bytes = vec![0; HEADER.saturating_add(length)];
        let (_, packet) = bytes.split_at_mut(HEADER);
        let result = fill(packet);
        self.output.push_back(Outgoing { bytes, segment: self.segment });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(std::num::NonZeroU16::get);
    }
}
