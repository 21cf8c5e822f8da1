//! The driver's side of one split virtqueue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use snowboot_bus::{GuestAddress, GuestMemory};
use vm_memory::Bytes;

use crate::QueueConfig;

/// `VIRTQ_DESC_F_NEXT`.
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`.
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
pub const INDIRECT: u16 = 4;

const NO_NOTIFY: u16 = 1;

/// A descriptor as it lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

/// An answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its first descriptor.
    pub head: u16,
    /// How many bytes the device says it wrote.
    pub length: u32,
    /// All of the request's device-writable buffers, written or not.
    pub data: Vec<u8>,
}

/// One queue as its driver sees it.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) config: QueueConfig,
    pub(crate) event_index: bool,
    memory: Arc<GuestMemory>,
    free: Vec<u16>,
    pending: HashMap<u16, Pending>,
    avail: u16,
    used: u16,
    /// The available index when a notification was last considered.
    notified: u16,
}

#[derive(Debug)]
struct Pending {
    descriptors: Vec<u16>,
    writable: Vec<(u64, u32)>,
}

impl Used {
    /// The bytes that the device says it wrote.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        let length = usize::try_from(self.length).expect("a 64-bit host");
        self.data.get(..length).expect("a used length beyond the buffers")
    }
}

impl Ring {
    /// An empty ring in zeroed memory at `next`, which is moved behind it.
    pub(crate) fn new(memory: &Arc<GuestMemory>, max_size: u16, size: u16, next: &mut u64) -> Self {
        let mut place = |length: u64| {
            let start = next.next_multiple_of(16);
            *next = start + length;
            start
        };
        let entries = u64::from(size);
        let config = QueueConfig {
            max_size,
            size,
            ready: true,
            desc_table: place(16 * entries),
            avail_ring: place(6 + 2 * entries),
            used_ring: place(6 + 8 * entries),
        };
        Self {
            config,
            event_index: false,
            memory: Arc::clone(memory),
            free: (0..size).rev().collect(),
            pending: HashMap::new(),
            avail: 0,
            used: 0,
            notified: 0,
        }
    }

    pub(crate) fn reset(&mut self) {
        let entries = usize::from(self.config.size);
        self.write(self.config.desc_table, &vec![0; 16 * entries]);
        self.write(self.config.avail_ring, &vec![0; 6 + 2 * entries]);
        self.write(self.config.used_ring, &vec![0; 6 + 8 * entries]);
        self.free = (0..self.config.size).rev().collect();
        self.pending.clear();
        (self.avail, self.used, self.notified) = (0, 0, 0);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn has_room(&self, descriptors: usize) -> bool {
        self.free.len() >= descriptors
    }

    pub(crate) fn add(&mut self, buffers: &[Descriptor]) -> u16 {
        assert!(!buffers.is_empty(), "a request has at least one buffer");
        assert!(self.has_room(buffers.len()), "the ring is full");
        let indices = self.free.split_off(self.free.len() - buffers.len());
        let following = indices.iter().skip(1).map(Some).chain([None]);
        for ((index, buffer), next) in indices.iter().zip(buffers).zip(following) {
            let flags = buffer.flags | if next.is_some() { NEXT } else { 0 };
            let next = next.copied().unwrap_or(0);
            self.write_descriptor(*index, Descriptor { flags, next, ..*buffer });
        }
        self.publish(indices, buffers)
    }

    pub(crate) fn add_indirect(&mut self, table: u64, buffers: &[Descriptor]) -> u16 {
        let index = self.free.pop().expect("the ring is full");
        let last = buffers.len().checked_sub(1).expect("a request has at least one buffer");
        for (position, buffer) in (0u16..).zip(buffers) {
            let flags = buffer.flags | if usize::from(position) < last { NEXT } else { 0 };
            let descriptor = Descriptor { flags, next: position + 1, ..*buffer };
            self.write(table + u64::from(position) * 16, &descriptor.bytes());
        }
        let length = u32::try_from(buffers.len() * 16).expect("a short table");
        self.write_descriptor(index, Descriptor { address: table, length, flags: INDIRECT, next: 0 });
        self.publish(vec![index], buffers)
    }

    fn publish(&mut self, descriptors: Vec<u16>, buffers: &[Descriptor]) -> u16 {
        let head = *descriptors.first().expect("at least one descriptor");
        let writable = buffers.iter().filter(|buffer| buffer.flags & WRITE != 0);
        let writable = writable.map(|buffer| (buffer.address, buffer.length)).collect();
        self.pending.insert(head, Pending { descriptors, writable });
        self.offer(head);
        head
    }

    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail % self.config.size);
        self.write(self.config.avail_ring + 4 + 2 * slot, &head.to_le_bytes());
        self.set_avail_index(self.avail.wrapping_add(1));
    }

    pub(crate) fn used(&mut self) -> Vec<Used> {
        let mut answers = Vec::new();
        while self.used != self.used_index() {
            let slot = u64::from(self.used % self.config.size);
            let element = self.config.used_ring + 4 + 8 * slot;
            let head = u32::from_le_bytes(self.read(element));
            let head = u16::try_from(head).expect("a used element names no descriptor");
            let length = u32::from_le_bytes(self.read(element + 4));
            self.used = self.used.wrapping_add(1);
            let mut data = Vec::new();
            if let Some(pending) = self.pending.remove(&head) {
                for (address, length) in pending.writable {
                    let start = data.len();
                    data.resize(start + usize::try_from(length).expect("a 64-bit host"), 0);
                    let buffer = data.get_mut(start..).expect("just made");
                    self.memory.read_slice(buffer, GuestAddress(address)).expect("an address in memory");
                }
                self.free.extend(pending.descriptors.iter().rev());
            }
            answers.push(Used { head, length, data });
        }
        if self.event_index {
            self.set_used_event(self.used);
        }
        answers
    }

    /// As 2.7.10.1 and 2.7.7 tell a driver to decide.
    pub(crate) fn wants_notification(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let (new, old) = (self.avail, self.notified);
        self.notified = new;
        if self.event_index {
            let event = self.config.used_ring + 4 + 8 * u64::from(self.config.size);
            let event = u16::from_le_bytes(self.read(event));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            new != old && u16::from_le_bytes(self.read(self.config.used_ring)) & NO_NOTIFY == 0
        }
    }

    pub(crate) fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.write(self.config.desc_table + u64::from(index) * 16, &descriptor.bytes());
    }

    pub(crate) fn set_avail_index(&mut self, index: u16) {
        self.avail = index;
        let address = GuestAddress(self.config.avail_ring + 2);
        self.memory.store(index.to_le(), address, Ordering::Release).expect("a ring in memory");
    }

    pub(crate) fn set_avail_flags(&self, flags: u16) {
        self.write(self.config.avail_ring, &flags.to_le_bytes());
    }

    pub(crate) fn set_used_event(&self, position: u16) {
        let address = self.config.avail_ring + 4 + 2 * u64::from(self.config.size);
        self.write(address, &position.to_le_bytes());
    }

    pub(crate) fn used_index(&self) -> u16 {
        u16::from_le_bytes(self.read(self.config.used_ring + 2))
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("an address in memory");
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("an address in memory");
        bytes
    }
}

impl Descriptor {
    /// As it lies in memory.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let fields = self.address.to_le_bytes().into_iter().chain(self.length.to_le_bytes());
        let fields = fields.chain(self.flags.to_le_bytes()).chain(self.next.to_le_bytes());
        for (byte, value) in bytes.iter_mut().zip(fields) {
            *byte = value;
        }
        bytes
    }
}
