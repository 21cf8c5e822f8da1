//! A driver that reaches its device through PCI: finds the capabilities, negotiates, sets up queues, rings doorbells.

use std::sync::Arc;

use snowboot_bus::pci::PciFunction;
use snowboot_bus::{Action, GuestMemory};

use super::ring::Ring;
use super::{CountingMsi, Descriptor, Used, WRITE, memory};
use crate::{Device, PciTransport, Token, features};

/// Where the machine has put BAR 0.
pub(crate) const BAR_ADDRESS: u64 = 0xc000_0000;
const MEMORY: usize = 16 << 20;
const BUFFERS: u64 = 8 << 20;
const COMMAND: u16 = 4;
/// Memory decoding and bus mastering.
const COMMAND_ON: u16 = 0b110;
const CAPABILITIES: u16 = 0x34;
/// A device that rings its own doorbell more often than this in a row never comes to rest.
const MOST_TURNS: u32 = 100_000;

/// Offsets of the parts of BAR 0, as the capabilities say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) common: u64,
    pub(crate) notify: u64,
    pub(crate) notify_step: u64,
    pub(crate) status: u64,
    pub(crate) device: u64,
    pub(crate) window: u16,
    pub(crate) msix: u16,
    pub(crate) msix_table: u64,
    pub(crate) msix_pending: u64,
}

/// A [`PciTransport`] with its guest and its machine.
#[derive(Debug)]
pub struct Function {
    /// The function.
    pub transport: PciTransport,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) msi: CountingMsi,
    pub(crate) rings: Vec<Ring>,
    pub(crate) parts: Parts,
}

impl Function {
    /// Puts the device on PCI, decoding its memory and mastering the bus.
    pub fn new(device: Box<dyn Device>) -> Self {
        let sizes = device.identity().queue_sizes;
        Self::with_memory(device, &memory(MEMORY), &sizes)
    }

    /// As [`Self::new`], in the first 16 MiB of a memory of the test's own, with rings of these sizes.
    pub fn with_memory(device: Box<dyn Device>, memory: &Arc<GuestMemory>, sizes: &[u16]) -> Self {
        let max_sizes = device.identity().queue_sizes;
        let msi = CountingMsi::default();
        let transport = PciTransport::new(device, 3, BAR_ADDRESS, GuestMemory::clone(memory), &msi)
            .expect("the device fits on PCI");
        let mut next = 0x1000;
        let rings = max_sizes.iter().zip(sizes).map(|(max, size)| Ring::new(memory, *max, *size, &mut next));
        let rings = rings.collect();
        let memory = Arc::clone(memory);
        let mut function = Self { transport, memory, msi, rings, parts: Parts::default() };
        function.parts = function.find_parts();
        let _ = function.transport.write_config(COMMAND, &COMMAND_ON.to_le_bytes());
        function
    }

    /// Reads PCI configuration space.
    pub fn config<const N: usize>(&mut self, offset: u16) -> [u8; N] {
        let mut bytes = [0xff; N];
        self.transport.read_config(offset, &mut bytes);
        bytes
    }

    /// Reads BAR 0.
    pub fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut bytes = [0xff; N];
        self.transport.read_bar(0, offset, &mut bytes);
        bytes
    }

    /// Writes BAR 0.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert_eq!(self.transport.write_bar(0, offset, bytes), Action::None);
    }

    pub(crate) fn common_u8(&mut self, offset: u64) -> u8 {
        u8::from_le_bytes(self.read(self.parts.common + offset))
    }

    pub(crate) fn common_u16(&mut self, offset: u64) -> u16 {
        u16::from_le_bytes(self.read(self.parts.common + offset))
    }

    pub(crate) fn common_u32(&mut self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(self.parts.common + offset))
    }

    pub(crate) fn set_common(&mut self, offset: u64, bytes: &[u8]) {
        self.write(self.parts.common + offset, bytes);
    }

    /// The device status.
    pub fn status(&mut self) -> u8 {
        self.common_u8(0x14)
    }

    /// The features that the device offers.
    pub fn offered(&mut self) -> u64 {
        self.set_common(0x00, &0u32.to_le_bytes());
        let low = self.common_u32(0x04);
        self.set_common(0x00, &1u32.to_le_bytes());
        u64::from(self.common_u32(0x04)) << 32 | u64::from(low)
    }

    /// Resets the device and accepts exactly these features. Returns whether the device agrees.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.set_common(0x14, &[0]);
        assert_eq!(self.status(), 0, "a reset is done at once");
        for ring in &mut self.rings {
            ring.reset();
            ring.event_index = features & features::EVENT_IDX != 0;
        }
        self.set_common(0x14, &[1]);
        self.set_common(0x14, &[3]);
        let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
        for (select, half) in [(0u32, [a, b, c, d]), (1, [e, f, g, h])] {
            self.set_common(0x08, &select.to_le_bytes());
            self.set_common(0x0c, &half);
        }
        self.set_common(0x14, &[0xb]);
        self.status() == 0xb
    }

    /// Negotiates `VERSION_1` and these features, enables MSI-X and all queues, and sets `DRIVER_OK`.
    ///
    /// # Panics
    /// When the device does not agree.
    pub fn start(&mut self, features: u64) {
        assert!(self.negotiate(features | features::VERSION_1), "the device refuses features that it offers");
        self.enable_interrupts();
        for index in 0..u16::try_from(self.rings.len()).expect("few queues") {
            self.enable_queue(index);
        }
        self.set_common(0x14, &[0xf]);
    }

    pub(crate) fn enable_interrupts(&mut self) {
        let control = u16::from_le_bytes(self.config(self.parts.msix + 2));
        for vector in 0..=u64::from(control & 0x7ff) {
            let entry = self.parts.msix_table + vector * 16;
            let data = u32::try_from(vector).expect("few vectors") + 0x20;
            for (dword, value) in (0..).zip([0xfee0_0000u32, 0, data, 0]) {
                self.write(entry + dword * 4, &value.to_le_bytes());
            }
        }
        let _ = self.transport.write_config(self.parts.msix + 2, &(control | 0x8000).to_le_bytes());
        self.set_common(0x10, &0u16.to_le_bytes());
    }

    pub(crate) fn enable_queue(&mut self, index: u16) {
        let config = self.rings[usize::from(index)].config;
        self.set_common(0x16, &index.to_le_bytes());
        self.set_common(0x18, &config.size.to_le_bytes());
        self.set_common(0x1a, &(index + 1).to_le_bytes());
        for (offset, address) in
            [(0x20, config.desc_table), (0x28, config.avail_ring), (0x30, config.used_ring)]
        {
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            self.set_common(offset, &[a, b, c, d]);
            self.set_common(offset + 4, &[e, f, g, h]);
        }
        self.set_common(0x1c, &1u16.to_le_bytes());
    }

    /// Adds a request of one readable buffer of this content and one writable one of 64 bytes.
    pub fn add(&mut self, queue: u16, content: &[u8]) -> u16 {
        let address = BUFFERS + u64::from(queue) * 0x1000;
        vm_memory::Bytes::write_slice(&*self.memory, content, snowboot_bus::GuestAddress(address))
            .expect("an address in memory");
        let length = u32::try_from(content.len()).expect("a short request");
        let readable = Descriptor { address, length, ..Default::default() };
        let writable = Descriptor { address: address + 0x800, length: 64, flags: WRITE, next: 0 };
        self.rings[usize::from(queue)].add(&[readable, writable])
    }

    /// Rings a doorbell and lets the machine's event loop come to rest.
    pub fn notify(&mut self, queue: u16) {
        self.set_common(0x16, &queue.to_le_bytes());
        let offset = u64::from(self.common_u16(0x1e)) * self.parts.notify_step;
        self.write(self.parts.notify + offset, &queue.to_le_bytes());
        self.run();
    }

    /// Does what the machine's event loop does, until no doorbell rings.
    pub fn run(&mut self) {
        for _ in 0..MOST_TURNS {
            let bells = self.transport.watched_doorbells();
            let rang: Vec<u16> =
                bells.iter().filter(|bell| bell.event.read().is_ok()).map(|bell| bell.queue).collect();
            if rang.is_empty() {
                return;
            }
            for queue in rang {
                self.transport.queue_ready(queue);
            }
        }
        unreachable!("the device does not come to rest");
    }

    /// Calls the device for all of its sources.
    pub fn run_sources(&mut self) {
        let tokens: Vec<Token> = self.transport.sources().into_iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.transport.source_ready(token);
        }
        self.run();
    }

    /// The requests that the device has answered since the last call.
    pub fn used(&mut self, queue: u16) -> Vec<Used> {
        self.rings[usize::from(queue)].used()
    }

    /// How often a queue has interrupted.
    #[must_use]
    pub fn interrupts(&self, queue: u16) -> u64 {
        self.msi.count(usize::from(queue) + 1)
    }

    /// How often the device has announced a change of its configuration.
    #[must_use]
    pub fn config_interrupts(&self) -> u64 {
        self.msi.count(0)
    }

    /// Walks the capability list as a driver does (virtio 1.2, 4.1.4).
    fn find_parts(&mut self) -> Parts {
        let mut parts = Parts::default();
        let mut at = u16::from(self.config::<1>(CAPABILITIES)[0]);
        while at != 0 {
            let [id, next, _, kind, bar] = self.config::<5>(at);
            let offset = u64::from(u32::from_le_bytes(self.config(at + 8)));
            match (id, kind) {
                (9, 1) => parts.common = offset,
                (9, 2) => {
                    parts.notify = offset;
                    parts.notify_step = u32::from_le_bytes(self.config(at + 16)).into();
                }
                (9, 3) => parts.status = offset,
                (9, 4) => parts.device = offset,
                (9, 5) => parts.window = at,
                (0x11, _) => {
                    parts.msix = at;
                    parts.msix_table = u64::from(u32::from_le_bytes(self.config(at + 4)) & !7);
                    parts.msix_pending = u64::from(u32::from_le_bytes(self.config(at + 8)) & !7);
                }
                _ => {}
            }
            assert!(id != 9 || bar == 0, "everything is in BAR 0");
            at = next.into();
        }
        parts
    }
}
