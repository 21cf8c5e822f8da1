//! A queue at rest: what the driver configured, and where it was when it was saved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snowboot_bus::GuestMemory;
use virtio_queue::{Queue as Engine, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// What the driver configured for a queue; inert, and not checked before a [`Queue`](super::Queue) is made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// The most descriptors that the device offers.
    pub max_size: u16,
    /// Number of descriptors that the driver chose.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub desc_table: u64,
    /// Guest-physical address of the available ring, the driver area.
    pub avail_ring: u64,
    /// Guest-physical address of the used ring, the device area.
    pub used_ring: u64,
}

/// Where a stopped queue is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueState {
    /// Position in the available ring of the next chain.
    pub next_avail: u16,
    /// Position in the used ring of the next answer.
    pub next_used: u16,
    /// First descriptors of the chains that were put back and come before those in the ring, in order.
    pub put_back: Vec<u16>,
}

impl QueueConfig {
    /// The engine for this configuration, or what is wrong with it (virtio 1.2, 2.7).
    pub(super) fn build(&self, memory: &Arc<GuestMemory>, event_index: bool) -> Result<Engine, String> {
        let bad = |error: virtio_queue::Error| error.to_string();
        if !self.ready {
            return Err("it is not enabled".into());
        }
        let mut engine = Engine::new(self.max_size).map_err(bad)?;
        engine.try_set_size(self.size).map_err(bad)?;
        engine.try_set_desc_table_address(GuestAddress(self.desc_table)).map_err(bad)?;
        engine.try_set_avail_ring_address(GuestAddress(self.avail_ring)).map_err(bad)?;
        engine.try_set_used_ring_address(GuestAddress(self.used_ring)).map_err(bad)?;
        let size = usize::from(self.size);
        let parts = [
            ("descriptor table", self.desc_table, 16 * size),
            ("available ring", self.avail_ring, 6 + 2 * size),
            ("used ring", self.used_ring, 6 + 8 * size),
        ];
        for (part, address, length) in parts {
            // Address 0 is what a driver leaves that forgot to set it.
            if address == 0 && part != "descriptor table"
                || !GuestMemoryBackend::check_range(&**memory, GuestAddress(address), length)
            {
                return Err(format!("its {part} at {address:#x} is not in memory"));
            }
        }
        engine.set_event_idx(event_index);
        engine.set_ready(true);
        Ok(engine)
    }
}
