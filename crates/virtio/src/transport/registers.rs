//! The common configuration and the status machine behind it (virtio 1.2, 2.1, 3.1 and 4.1.4.3).
//!
//! Owns what the driver has written and nothing that runs. Called by the transport with accesses straight from the
//! guest; answers a write with what the transport has to do. Never calls a device.
//!
//! ```text
//!   0 ──► ACKNOWLEDGE, DRIVER ──► FEATURES_OK ──► DRIVER_OK ──► NEEDS_RESET
//!   ▲          │ features            │ queues        │ Start        │
//!   └──────────┴──────────────◄──────┴───────────────┴──────────────┘  0: Reset
//! ```

use serde::{Deserialize, Serialize};

use crate::interrupt::ISR_BITS;
use crate::{Interrupt, QueueConfig, RestoreError, features};

/// Bytes of the structure, to the end of `queue_reset`.
pub(super) const LENGTH: u32 = 0x3c;

/// Device status bits (2.1).
pub(super) mod status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 0x40;
    pub(crate) const FAILED: u8 = 0x80;
    /// What the driver may set; `NEEDS_RESET` is the device's.
    pub(super) const DRIVERS: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// What a register write asks of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Event {
    None,
    /// `DRIVER_OK` was set.
    Start,
    /// The driver has given up.
    Stop,
    /// Zero was written to the status; the registers are as new already.
    Reset,
}

/// The common configuration of one device.
#[derive(Debug)]
pub(super) struct Registers {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueConfig>,
    /// Holds the vectors, because the device needs them too.
    interrupt: Interrupt,
}

/// The registers as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistersState {
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    queue_select: u16,
    config_generation: u8,
    interrupt_status: u8,
    config_vector: u16,
    queues: Vec<QueueRegistersState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueRegistersState {
    config: QueueConfig,
    vector: u16,
}

/// Bytes of half a 64-bit field.
const HALF: usize = 4;

impl Registers {
    /// Registers of a device with these features of its own and queues of these sizes.
    pub(super) fn new(features: u64, queue_sizes: &[u16], interrupt: Interrupt) -> Self {
        let queues = queue_sizes
            .iter()
            .map(|size| QueueConfig { max_size: *size, size: *size, ..Default::default() })
            .collect();
        Self {
            offered: (features & features::DEVICE_SPECIFIC) | features::COMMON,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            queue_select: 0,
            queues,
            interrupt,
        }
    }

    pub(super) fn features(&self) -> u64 {
        self.accepted
    }

    pub(super) fn queues(&self) -> &[QueueConfig] {
        &self.queues
    }

    /// Whether the driver is using the device.
    pub(super) fn is_live(&self) -> bool {
        is_live(self.status)
    }

    /// Whether the driver expects to be told of a need for a reset (2.1.2).
    pub(super) fn driver_ok(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    pub(super) fn set_needs_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
    }

    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        self.interrupt.reset();
        *self = Self::new(self.offered, &sizes, self.interrupt.clone());
    }

    /// Reads a field. Only whole fields are answered (4.1.3.1), 64-bit ones also in two halves; the rest stays as it is.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        if is_wide(offset, data.len())
            && let Some((low, high)) = data.split_at_mut_checked(HALF)
        {
            self.read(offset, low);
            return self.read(offset.saturating_add(4), high);
        }
        let queue = self.queues.get(usize::from(self.queue_select)).copied();
        // A queue that does not exist has size 0, and so has everything else of it.
        let config = queue.unwrap_or_default();
        let value = match (offset, data.len()) {
            (0x00, 4) => self.device_feature_select,
            (0x04, 4) => half(self.offered, self.device_feature_select),
            (0x08, 4) => self.driver_feature_select,
            (0x0c, 4) => half(self.accepted, self.driver_feature_select),
            (0x10, 2) => self.interrupt.config_vector().into(),
            (0x12, 2) => u32::try_from(self.queues.len()).unwrap_or(0),
            (0x14, 1) => self.status.into(),
            (0x15, 1) => self.interrupt.generation().into(),
            (0x16, 2) => self.queue_select.into(),
            (0x18, 2) => config.size.into(),
            (0x1a, 2) => self.interrupt.queue_vector(self.queue_select).into(),
            (0x1c, 2) => config.ready.into(),
            (0x1e, 2) => queue.map_or(0, |_| self.queue_select.into()),
            (0x20, 4) => half(config.desc_table, 0),
            (0x24, 4) => half(config.desc_table, 1),
            (0x28, 4) => half(config.avail_ring, 0),
            (0x2c, 4) => half(config.avail_ring, 1),
            (0x30, 4) => half(config.used_ring, 0),
            (0x34, 4) => half(config.used_ring, 1),
            // Notification data and reset of single queues are not offered.
            (0x38 | 0x3a, 2) => 0,
            _ => return,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// Writes a field. Writes that are too wide, too narrow or not allowed now change nothing.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Event {
        match *data {
            [value] if offset == 0x14 => return self.write_status(value),
            [a, b] => self.write_u16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_u32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if is_wide(offset, data.len()) => {
                self.write_u32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_u32(offset.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Event::None
    }

    fn write_u16(&mut self, offset: u64, value: u16) {
        match offset {
            0x10 => self.interrupt.set_config_vector(value),
            0x16 => self.queue_select = value,
            0x1a => self.interrupt.set_queue_vector(self.queue_select, value),
            0x18 => {
                if let Some(queue) = self.writable_queue()
                    && value.is_power_of_two()
                    && value <= queue.max_size
                {
                    queue.size = value;
                }
            }
            0x1c => {
                // Only ones may be written (4.1.4.3.2).
                if let Some(queue) = self.writable_queue().filter(|_| value == 1) {
                    queue.ready = true;
                }
            }
            _ => {}
        }
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.device_feature_select = value,
            0x08 => self.driver_feature_select = value,
            // They are settled once FEATURES_OK is set (3.1.1).
            0x0c if self.status & status::FEATURES_OK == 0 => {
                set_half(&mut self.accepted, self.driver_feature_select, value);
            }
            0x20..0x38 => {
                let Some(queue) = self.writable_queue() else { return };
                let (field, which) = match offset {
                    0x20 => (&mut queue.desc_table, 0),
                    0x24 => (&mut queue.desc_table, 1),
                    0x28 => (&mut queue.avail_ring, 0),
                    0x2c => (&mut queue.avail_ring, 1),
                    0x30 => (&mut queue.used_ring, 0),
                    0x34 => (&mut queue.used_ring, 1),
                    _ => return,
                };
                set_half(field, which, value);
            }
            _ => {}
        }
    }

    /// The selected queue, as long as the driver may configure it.
    fn writable_queue(&mut self) -> Option<&mut QueueConfig> {
        let running = self.driver_ok();
        let queue = self.queues.get_mut(usize::from(self.queue_select))?;
        (!running && !queue.ready).then_some(queue)
    }

    fn write_status(&mut self, value: u8) -> Event {
        if value == 0 {
            self.reset();
            return Event::Reset;
        }
        // Bits are only ever added (2.1.1). A step whose precondition is missing is refused by its bit staying off.
        let mut added = value & status::DRIVERS & !self.status;
        let known = status::ACKNOWLEDGE | status::DRIVER;
        if (self.status | added) & known != known || !self.acceptable() {
            added &= !status::FEATURES_OK;
        }
        let settled = (self.status | added) & status::FEATURES_OK != 0;
        if !settled || (self.status | added) & status::FAILED != 0 {
            added &= !status::DRIVER_OK;
        }
        self.status |= added;
        match added {
            _ if added & status::FAILED != 0 => Event::Stop,
            _ if added & status::DRIVER_OK != 0 => Event::Start,
            _ => Event::None,
        }
    }

    /// Whether the accepted features can be worked with (2.2, 6.2).
    fn acceptable(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & features::VERSION_1 != 0
    }

    pub(super) fn save(&self) -> RegistersState {
        let queues = (0..).zip(&self.queues).map(|(index, config)| QueueRegistersState {
            config: *config,
            vector: self.interrupt.queue_vector(index),
        });
        RegistersState {
            accepted: self.accepted,
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            status: self.status,
            queue_select: self.queue_select,
            config_generation: self.interrupt.generation(),
            interrupt_status: self.interrupt.status(),
            config_vector: self.interrupt.config_vector(),
            queues: queues.collect(),
        }
    }

    /// Takes over a saved state if a driver could have brought these registers there; else nothing changes.
    pub(super) fn restore(&mut self, state: &RegistersState) -> Result<(), RestoreError> {
        let queues: Vec<QueueConfig> = state.queues.iter().map(|queue| queue.config).collect();
        let same_device = queues.len() == self.queues.len()
            && queues.iter().zip(&self.queues).all(|(saved, own)| {
                saved.max_size == own.max_size && saved.size.is_power_of_two() && saved.size <= own.max_size
            });
        if !same_device {
            return Err(RestoreError("its queues are not this device's".into()));
        }
        let mut after = Self::new(self.offered, &[], self.interrupt.clone());
        after.accepted = state.accepted;
        let settled = state.status & status::FEATURES_OK != 0;
        let running = state.status & status::DRIVER_OK != 0;
        if state.status & !(status::DRIVERS | status::NEEDS_RESET) != 0
            || state.interrupt_status & !ISR_BITS != 0
            || (settled && !after.acceptable())
            || (running && !settled)
        {
            return Err(RestoreError(format!(
                "no driver brings a device to status {:#x} with features {:#x}",
                state.status, state.accepted
            )));
        }
        after.device_feature_select = state.device_feature_select;
        after.driver_feature_select = state.driver_feature_select;
        after.status = state.status;
        after.queue_select = state.queue_select;
        after.queues = queues;
        *self = after;
        self.interrupt.set_generation(state.config_generation);
        self.interrupt.set_status(state.interrupt_status);
        self.interrupt.set_config_vector(state.config_vector);
        for (index, queue) in (0..).zip(&state.queues) {
            self.interrupt.set_queue_vector(index, queue.vector);
        }
        Ok(())
    }
}

/// Whether an access is to a 64-bit field as a whole. Drivers have to access the two halves (4.1.3.1), but there are
/// drivers that do not, and other devices let them.
fn is_wide(offset: u64, length: usize) -> bool {
    matches!(offset, 0x20 | 0x28 | 0x30) && length == 2 * HALF
}

fn is_live(value: u8) -> bool {
    value & (status::DRIVER_OK | status::NEEDS_RESET | status::FAILED) == status::DRIVER_OK
}

/// One half of a 64-bit value: 0 is the low one, 1 the high one, and there are no others.
fn half(value: u64, which: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match which {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, which: u32, new: u32) {
    let (low, high) = (u64::from(half(*value, 0)), u64::from(half(*value, 1)));
    match which {
        0 => *value = high << 32 | u64::from(new),
        1 => *value = u64::from(new) << 32 | low,
        _ => {}
    }
}
