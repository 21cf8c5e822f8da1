//! Walking a descriptor chain: everything about it is checked before a device sees it (virtio 1.2, 2.7.5).

use std::sync::Arc;

use snowboot_bus::GuestMemory;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::buffers::{Range, Ranges, Reader, Writer, size};

/// Longest chain that is followed in a queue of fewer descriptors. Linux puts more into an indirect table than the queue
/// is long, although 2.7.5.3.1 forbids it; this is Linux's `IOV_MAX` and bounds the work for one entry of the ring.
const MAX_CHAIN: u32 = 1024;

const DESCRIPTOR_SIZE: u32 = 16;

/// A request: validated when popped, given back exactly once.
#[derive(Debug)]
#[must_use = "a chain must go back to the driver"]
pub struct DescriptorChain {
    /// What the driver wrote for the device.
    pub reader: Reader,
    /// Where the device answers.
    pub writer: Writer,
    pub(super) head: u16,
}

impl DescriptorChain {
    /// Index of the first descriptor, which the driver knows the request by.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }
}

/// Why a chain is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a descriptor index is beyond its table")]
    Index,
    #[error("it has a loop or too many descriptors")]
    TooLong,
    #[error("a descriptor table is outside of memory")]
    Table,
    #[error("a buffer is outside of memory")]
    Buffer,
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    #[error("it is longer than 4 GiB")]
    Total,
    #[error("an indirect table was not negotiated")]
    NotNegotiated,
    #[error("an indirect table is within an indirect table")]
    Nested,
    #[error("a descriptor follows an indirect table")]
    IndirectAndNext,
    #[error("an indirect table is empty or has no whole number of descriptors")]
    TableLength,
}

/// What a walk needs to know of its queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) address: u64,
    /// Number of descriptors.
    pub(super) length: u32,
    /// Whether indirect tables were negotiated.
    pub(super) indirect: bool,
}

impl Table {
    /// Follows the chain that starts at descriptor `head`. The work is bounded by the longer of the queue and
    /// [`MAX_CHAIN`].
    pub(super) fn walk(self, memory: &Arc<GuestMemory>, head: u16) -> Result<DescriptorChain, Malformed> {
        let (mut readable, mut writable) = (Ranges::new(memory), Ranges::new(memory));
        let mut table = self;
        let mut index = u32::from(head);
        let mut total = 0u32;
        let mut left = self.length.max(MAX_CHAIN);
        let mut in_indirect = false;
        loop {
            left = left.checked_sub(1).ok_or(Malformed::TooLong)?;
            let descriptor = table.read(memory, index)?;
            if descriptor.refers_to_indirect_table() {
                if in_indirect {
                    return Err(Malformed::Nested);
                }
                table = table.indirect(descriptor)?;
                (index, in_indirect) = (0, true);
                continue;
            }
            total = total.checked_add(descriptor.len()).ok_or(Malformed::Total)?;
            let is_writable = descriptor.is_write_only();
            if !is_writable && !writable.is_empty() {
                return Err(Malformed::Order);
            }
            let ranges = if is_writable { &mut writable } else { &mut readable };
            push(ranges, memory, descriptor)?;
            if !descriptor.has_next() {
                return Ok(DescriptorChain {
                    reader: Reader::new(readable),
                    writer: Writer::new(writable),
                    head,
                });
            }
            index = u32::from(descriptor.next());
        }
    }

    /// Where the last byte of the chain from `head` on is, if the device may write there: the place of the status of requests
    /// that have one. Their buffers in between may be anywhere.
    pub(super) fn last_byte(self, memory: &GuestMemory, head: u16) -> Option<GuestAddress> {
        let mut table = self;
        let mut index = u32::from(head);
        for _ in 0..self.length.max(MAX_CHAIN) {
            let descriptor = table.read(memory, index).ok()?;
            if descriptor.refers_to_indirect_table() {
                table = table.indirect(descriptor).ok()?;
                index = 0;
            } else if descriptor.has_next() {
                index = u32::from(descriptor.next());
            } else {
                let offset = u64::from(descriptor.len()).checked_sub(1)?;
                let address = descriptor.addr().0.checked_add(offset)?;
                return descriptor.is_write_only().then_some(GuestAddress(address));
            }
        }
        None
    }

    fn read(self, memory: &GuestMemory, index: u32) -> Result<Descriptor, Malformed> {
        if index >= self.length {
            return Err(Malformed::Index);
        }
        let offset = u64::from(index) * u64::from(DESCRIPTOR_SIZE);
        let address = self.address.checked_add(offset).ok_or(Malformed::Table)?;
        memory.read_obj(GuestAddress(address)).map_err(|_| Malformed::Table)
    }

    /// The table that a descriptor refers to (2.7.5.3). The write flag of such a descriptor means nothing.
    fn indirect(self, descriptor: Descriptor) -> Result<Self, Malformed> {
        if !self.indirect {
            return Err(Malformed::NotNegotiated);
        }
        if descriptor.has_next() {
            return Err(Malformed::IndirectAndNext);
        }
        let length = descriptor.len();
        if length == 0 || !length.is_multiple_of(DESCRIPTOR_SIZE) {
            return Err(Malformed::TableLength);
        }
        Ok(Self { address: descriptor.addr().0, length: length / DESCRIPTOR_SIZE, ..self })
    }
}

/// Appends a descriptor's buffer, unless it is empty, which harms nobody.
fn push(ranges: &mut Ranges, memory: &GuestMemory, descriptor: Descriptor) -> Result<(), Malformed> {
    let length = descriptor.len();
    if length == 0 {
        return Ok(());
    }
    if !GuestMemoryBackend::check_range(memory, descriptor.addr(), size(length)) {
        return Err(Malformed::Buffer);
    }
    ranges.push(Range { address: descriptor.addr().0, length });
    Ok(())
}
