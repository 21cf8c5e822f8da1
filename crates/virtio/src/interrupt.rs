//! How a running device interrupts its driver: which vector each queue has, and the vectors themselves.
//!
//! Owns what transport and device share: the vector assignments, the MSI-X table, the interrupt status and the
//! configuration's generation. The transport fills it in as the driver writes registers; devices only ever raise. The
//! table's lock is taken last of all, and held for a moment.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snowboot_bus::pci::MsixTable;

/// No vector: the driver does not want to be interrupted (virtio 1.2, 4.1.4.3).
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// Bits of the interrupt status (4.1.4.5).
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIG: u8 = 1 << 1;
pub(crate) const ISR_BITS: u8 = ISR_QUEUE | ISR_CONFIG;

/// Raises the interrupts of one virtio device. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Interrupt {
    lines: Arc<Lines>,
}

/// Tells a driver of another process that a queue has used buffers.
struct Call(Box<dyn Fn(u16) + Send + Sync>);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

#[derive(Debug)]
struct Lines {
    /// What takes the place of vectors, where the driver is not reached by any of ours.
    call: Option<Call>,
    msix: Mutex<MsixTable>,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    status: AtomicU8,
    generation: AtomicU8,
    answered: AtomicU64,
}

impl Interrupt {
    /// Interrupts through `msix`, with no vector assigned yet, for a device of `queues` queues.
    pub(crate) fn new(msix: MsixTable, queues: usize) -> Self {
        Self::with(None, msix, queues)
    }

    /// Interrupts by `call`, which gets the queue's index, for a device of `queues` queues whose transport is another process's. It
    /// must not wait for anything. Nobody is told of changes of the configuration.
    #[must_use]
    pub fn calling(queues: usize, call: impl Fn(u16) + Send + Sync + 'static) -> Self {
        Self::with(Some(Call(Box::new(call))), MsixTable::new(Vec::new()), queues)
    }

    fn with(call: Option<Call>, msix: MsixTable, queues: usize) -> Self {
        let lines = Lines {
            call,
            msix: Mutex::new(msix),
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            answered: AtomicU64::new(0),
        };
        Self { lines: Arc::new(lines) }
    }

    /// Tells the driver that queue `index` has used buffers.
    pub fn queue(&self, index: u16) {
        if let Some(Call(call)) = &self.lines.call {
            return call(index);
        }
        let vector = self.queue_vector(index);
        let mut msix = self.msix();
        if msix.enabled() {
            msix.trigger(vector);
        } else {
            // Only then is the status about queues too (4.1.4.5.1).
            self.lines.status.fetch_or(ISR_QUEUE, Ordering::Relaxed);
        }
    }

    /// Takes note of `chains` that were shown to the driver as used.
    pub(crate) fn count(&self, chains: u16) {
        self.lines.answered.fetch_add(chains.into(), Ordering::Relaxed);
    }

    /// How many chains the driver has been shown as used, since the device was made.
    pub(crate) fn answered(&self) -> u64 {
        self.lines.answered.load(Ordering::Relaxed)
    }

    /// Tells the driver that the configuration changed. Called after the change, before the driver can read it.
    pub fn config(&self) {
        self.lines.generation.fetch_add(1, Ordering::Relaxed);
        self.lines.status.fetch_or(ISR_CONFIG, Ordering::Relaxed);
        let vector = self.config_vector();
        self.msix().trigger(vector);
    }

    pub(crate) fn msix(&self) -> MutexGuard<'_, MsixTable> {
        // Its methods leave it whole whenever they could panic.
        self.lines.msix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the configuration does (2.5.1).
    pub(crate) fn generation(&self) -> u8 {
        self.lines.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn set_generation(&self, generation: u8) {
        self.lines.generation.store(generation, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> u8 {
        self.lines.status.load(Ordering::Relaxed)
    }

    pub(crate) fn set_status(&self, status: u8) {
        self.lines.status.store(status & ISR_BITS, Ordering::Relaxed);
    }

    /// Reads the status and clears it (4.1.4.5.1).
    pub(crate) fn take_status(&self) -> u8 {
        self.lines.status.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn config_vector(&self) -> u16 {
        self.lines.config.load(Ordering::Relaxed)
    }

    /// Assigns a vector, or none if there is no such vector; the driver reads it back to find out (4.1.5.1.2).
    pub(crate) fn set_config_vector(&self, vector: u16) {
        self.lines.config.store(self.existing(vector), Ordering::Relaxed);
    }

    pub(crate) fn queue_vector(&self, index: u16) -> u16 {
        let vector = self.lines.queues.get(usize::from(index));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Relaxed))
    }

    /// As [`Self::set_config_vector`], of a queue.
    pub(crate) fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(slot) = self.lines.queues.get(usize::from(index)) {
            slot.store(self.existing(vector), Ordering::Relaxed);
        }
    }

    /// Forgets all assignments and the status, as a reset of the device does. The table is PCI's and stays.
    pub(crate) fn reset(&self) {
        self.set_config_vector(NO_VECTOR);
        for vector in &self.lines.queues {
            vector.store(NO_VECTOR, Ordering::Relaxed);
        }
        self.set_status(0);
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix().vectors() { vector } else { NO_VECTOR }
    }
}
