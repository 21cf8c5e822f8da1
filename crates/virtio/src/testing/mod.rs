//! A driver that plays the guest, for the tests of every device: rings in real guest memory, no threads, no sleeps.
//!
//! ```
//! # use snowboot_virtio::{testing::Driver, *};
//! # #[derive(Default)] struct Echo { session: Option<Session> }
//! # impl Device for Echo {
//! #     fn identity(&self) -> Identity { Identity { id: DeviceId::Entropy, features: 0, queue_sizes: vec![8] } }
//! #     fn start(&mut self, session: Session) -> Result<(), StartError> { self.session = Some(session); Ok(()) }
//! #     fn stop(&mut self) -> Option<Session> { self.session.take() }
//! #     fn queue_ready(&mut self, _: u16) -> Result<(), QueueFault> {
//! #         let Some(session) = &mut self.session else { return Ok(()) };
//! #         let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
//! #         queue.serve(&session.interrupt, |mut chain| {
//! #             let _ = std::io::copy(&mut chain.reader, &mut chain.writer);
//! #             Served::Done(chain)
//! #         })
//! #     }
//! #     fn save(&self) -> Result<Saved, NotSaveable> { Saved::new("echo", 1, &()) }
//! #     fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> { saved.open::<()>("echo", 1) }
//! # }
//! let mut driver = Driver::new(Echo::default());
//! driver.start(0).unwrap();
//! let used = driver.request(0, &[b"hello"], &[16]);
//! assert_eq!(used.written(), b"hello");
//! assert_eq!(driver.interrupts(0), 1);
//! ```
//!
//! Everything here panics when the test or the device does something wrong, as tests should.

mod conformance;
#[cfg(test)]
pub(crate) mod echo;
mod function;
mod msi;
pub(crate) mod ring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use snowboot_bus::pci::MsixTable;
use snowboot_bus::{GuestAddress, GuestMemory, MsiAllocator};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::ring::Ring;
use crate::{
    Device, Identity, Interrupt, Queue, QueueConfig, QueueFault, QueueState, RestoreError, Session,
    StartError, Token, features,
};

pub use conformance::{conformance, conformance_with};
pub use function::Function;
pub use msi::CountingMsi;
pub use ring::{Descriptor, INDIRECT, NEXT, Used, WRITE};

/// Guest memory of a [`Driver`]; untouched pages cost nothing.
const MEMORY: usize = 256 << 20;
/// The end of what is for rings and buffers; the rest is for what tests allocate.
const BUFFERS_END: u64 = 192 << 20;
/// The first page stays empty, so that address 0 is never a ring.
const FIRST_RING: u64 = 0x1000;
/// A device that rings its own doorbell more often than this in a row never comes to rest.
const MOST_TURNS: u32 = 100_000;
/// `MSI-X Enable` in message control.
const MSIX_ENABLE: u16 = 1 << 15;

/// Guest memory for a test: `length` bytes from address 0.
#[must_use]
pub fn memory(length: usize) -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), length)]).expect("no memory for the test's guest"))
}

/// Plays the guest of one device.
#[derive(Debug)]
pub struct Driver<D> {
    device: D,
    memory: Arc<GuestMemory>,
    rings: Vec<Ring>,
    doorbells: Vec<Arc<EventFd>>,
    msi: CountingMsi,
    interrupt: Interrupt,
    features: u64,
    /// The session while the device is paused.
    paused: Option<Session>,
    /// For the requests' buffers; used anew whenever none is out.
    buffers: Arena,
    /// For what the test allocates.
    kept: Arena,
}

/// Hands out guest memory.
#[derive(Debug)]
struct Arena {
    start: u64,
    next: u64,
    end: u64,
}

impl Arena {
    fn new(start: u64, end: u64) -> Self {
        Self { start, next: start, end }
    }

    fn allocate(&mut self, length: u32) -> u64 {
        let start = self.next.next_multiple_of(16);
        self.next = start + u64::from(length);
        assert!(self.next <= self.end, "the test's guest memory is used up");
        start
    }
}

impl<D: Device> Driver<D> {
    /// A guest whose rings are as large as the device offers.
    pub fn new(device: D) -> Self {
        Self::with_queue_size(device, u16::MAX)
    }

    /// A guest whose rings have at most `size` descriptors.
    pub fn with_queue_size(device: D, size: u16) -> Self {
        let memory = memory(MEMORY);
        let Identity { queue_sizes, .. } = device.identity();
        let mut next = FIRST_RING;
        let rings: Vec<Ring> = queue_sizes
            .iter()
            .map(|max_size| Ring::new(&memory, *max_size, size.min(*max_size), &mut next))
            .collect();
        let doorbells = rings.iter().map(|_| doorbell()).collect();
        let msi = CountingMsi::default();
        let interrupt = interrupt(&msi, rings.len());
        let buffers = Arena::new(next, BUFFERS_END);
        let kept = Arena::new(BUFFERS_END, MEMORY as u64);
        Self { device, memory, rings, doorbells, msi, interrupt, features: 0, paused: None, buffers, kept }
    }

    /// Starts the device with all queues enabled, `VERSION_1` and `features`, which may hold ring features too.
    ///
    /// # Errors
    /// When the device does not start.
    pub fn start(&mut self, features: u64) -> Result<(), StartError> {
        let queues: Vec<u16> = (0..).zip(&self.rings).map(|(index, _)| index).collect();
        self.start_queues(features, &queues)
    }

    /// Starts the device with some queues enabled.
    ///
    /// # Errors
    /// When the device does not start.
    pub fn start_queues(&mut self, features: u64, enabled: &[u16]) -> Result<(), StartError> {
        self.features = features | features::VERSION_1;
        for ring in &mut self.rings {
            ring.event_index = features & features::EVENT_IDX != 0;
        }
        let queues = (0..)
            .zip(&self.rings)
            .map(|(index, _)| enabled.contains(&index).then(|| self.queue(index)))
            .collect();
        let session = Session { features: self.features, queues, interrupt: self.interrupt.clone() };
        let outcome = self.device.start(session);
        self.settle().expect("the device faults right after its start");
        outcome
    }

    /// Stops the device and keeps its session. Does nothing when it is stopped.
    pub fn pause(&mut self) {
        if let Some(session) = self.device.stop() {
            self.paused = Some(session);
        }
    }

    /// Starts the device again with the session that [`Self::pause`] kept.
    ///
    /// # Errors
    /// When the device does not start.
    pub fn resume(&mut self) -> Result<(), StartError> {
        let session = self.paused.take().expect("resumed without a pause");
        let outcome = self.device.start(session);
        self.settle().expect("the device faults right after its start");
        outcome
    }

    /// Resets the device and forgets everything in the rings.
    pub fn reset(&mut self) {
        drop(self.device.stop());
        self.device.reset();
        self.paused = None;
        for ring in &mut self.rings {
            ring.reset();
        }
        self.buffers.next = self.buffers.start;
    }

    /// Pauses, saves the device and its queues, and goes on with another device that is restored from that, as a snapshot
    /// does. Returns the old device.
    ///
    /// # Errors
    /// When the new device refuses the state.
    pub fn move_to(&mut self, mut device: D) -> Result<D, RestoreError> {
        self.pause();
        let states = self.queue_states();
        let saved = self.device.save().expect("the device cannot be saved");
        device.restore(saved)?;
        let old = std::mem::replace(&mut self.device, device);
        if self.paused.take().is_some() {
            let mut queues = Vec::new();
            for (index, state) in (0..).zip(states) {
                queues.push(match state {
                    Some(state) => {
                        let mut queue = self.queue(index);
                        queue.restore(state)?;
                        Some(queue)
                    }
                    None => None,
                });
            }
            let session = Session { features: self.features, queues, interrupt: self.interrupt.clone() };
            self.device.start(session).map_err(|error| RestoreError(error.to_string()))?;
            self.settle().expect("the device faults right after its start");
        }
        Ok(old)
    }

    /// The states of a paused device's queues.
    ///
    /// # Panics
    /// When the device kept chains over its stop.
    #[must_use]
    pub fn queue_states(&self) -> Vec<Option<QueueState>> {
        let queues = self.paused.iter().flat_map(|session| &session.queues);
        queues.map(|queue| queue.as_ref().map(|queue| queue.state().expect("a stopped queue"))).collect()
    }

    /// Adds a request: buffers for the device to read, with their contents, then buffers for it to write, with their
    /// lengths. Returns its first descriptor.
    pub fn add(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let buffers = self.buffers(readable, writable);
        self.ring_mut(queue).add(&buffers)
    }

    /// As [`Self::add`], through an indirect table.
    pub fn add_indirect(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let buffers = self.buffers(readable, writable);
        let length = u32::try_from(buffers.len()).expect("too many buffers") * 16;
        let table = self.buffers.allocate(length);
        self.ring_mut(queue).add_indirect(table, &buffers)
    }

    /// Whether a request of so many descriptors can be added.
    #[must_use]
    pub fn has_room(&self, queue: u16, descriptors: usize) -> bool {
        self.ring(queue).has_room(descriptors)
    }

    /// Notifies the device, and lets it go on for as long as it rings its own doorbells.
    ///
    /// # Errors
    /// When the device reports a corrupt ring.
    pub fn notify(&mut self, queue: u16) -> Result<(), QueueFault> {
        self.device.queue_ready(queue)?;
        self.settle()
    }

    /// Notifies the device if it wants to be, as a real driver would.
    ///
    /// # Errors
    /// When the device reports a corrupt ring.
    pub fn kick(&mut self, queue: u16) -> Result<(), QueueFault> {
        if self.ring_mut(queue).wants_notification() { self.notify(queue) } else { Ok(()) }
    }

    /// Tells the device that one of its sources is readable.
    ///
    /// # Errors
    /// When the device reports a corrupt ring.
    pub fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        self.device.source_ready(token)?;
        self.settle()
    }

    /// The requests that the device has answered since the last call.
    pub fn used(&mut self, queue: u16) -> Vec<Used> {
        self.ring_mut(queue).used()
    }

    /// Adds a request, notifies, and returns the answer.
    ///
    /// # Panics
    /// When there is a fault, or the answer is not exactly this one.
    pub fn request(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> Used {
        let head = self.add(queue, readable, writable);
        self.notify(queue).expect("a valid request is no fault");
        let mut used = self.used(queue);
        assert_eq!(used.len(), 1, "one request has one answer");
        let used = used.pop().expect("one answer");
        assert_eq!(used.head, head, "the answer is to another request");
        used
    }

    /// How often the device has interrupted for a queue.
    #[must_use]
    pub fn interrupts(&self, queue: u16) -> u64 {
        self.msi.count(usize::from(queue) + 1)
    }

    /// How often the device has announced a change of its configuration.
    #[must_use]
    pub fn config_interrupts(&self) -> u64 {
        self.msi.count(0)
    }

    /// Reads the configuration space.
    #[must_use]
    pub fn config<const N: usize>(&self, offset: u32) -> [u8; N] {
        let mut bytes = [0; N];
        self.device.read_config(offset, &mut bytes);
        bytes
    }

    /// Takes `length` bytes of guest memory for good.
    pub fn allocate(&mut self, length: u32) -> u64 {
        self.kept.allocate(length)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The device, as it is.
    #[must_use]
    pub fn into_device(self) -> D {
        self.device
    }

    /// Where a queue's rings are.
    #[must_use]
    pub fn queue_config(&self, queue: u16) -> QueueConfig {
        self.ring(queue).config
    }

    /// Writes any descriptor into a queue's table.
    pub fn write_descriptor(&mut self, queue: u16, index: u16, descriptor: Descriptor) {
        self.ring(queue).write_descriptor(index, descriptor);
    }

    /// Makes any chain available, without a thought for what its descriptors are.
    pub fn offer(&mut self, queue: u16, head: u16) {
        self.ring_mut(queue).offer(head);
    }

    /// Sets the available ring's index, for example to nonsense.
    pub fn set_avail_index(&mut self, queue: u16, index: u16) {
        self.ring_mut(queue).set_avail_index(index);
    }

    /// Sets the available ring's flags; 1 asks for no interrupts.
    pub fn set_avail_flags(&mut self, queue: u16, flags: u16) {
        self.ring(queue).set_avail_flags(flags);
    }

    /// Sets the position after which the driver wants an interrupt.
    pub fn set_used_event(&mut self, queue: u16, position: u16) {
        self.ring(queue).set_used_event(position);
    }

    /// The used ring's index.
    #[must_use]
    pub fn used_index(&self, queue: u16) -> u16 {
        self.ring(queue).used_index()
    }

    /// Whether a notification is due for what was added since this was asked last.
    pub fn wants_notification(&mut self, queue: u16) -> bool {
        self.ring_mut(queue).wants_notification()
    }

    fn queue(&self, index: u16) -> Queue {
        let doorbell = Arc::clone(&self.doorbells[usize::from(index)]);
        Queue::new(index, &self.ring(index).config, self.features, &self.memory)
            .expect("the test's rings are valid")
            .with_doorbell(doorbell)
    }

    /// Calls the device for every doorbell that it rang itself, until it is at rest.
    fn settle(&mut self) -> Result<(), QueueFault> {
        for _ in 0..MOST_TURNS {
            let rang: Vec<u16> =
                (0..).zip(&self.doorbells).filter(|(_, bell)| bell.read().is_ok()).map(|(i, _)| i).collect();
            if rang.is_empty() {
                return Ok(());
            }
            for queue in rang {
                self.device.queue_ready(queue)?;
            }
        }
        unreachable!("the device does not come to rest");
    }

    fn buffers(&mut self, readable: &[&[u8]], writable: &[u32]) -> Vec<Descriptor> {
        if self.rings.iter().all(Ring::is_idle) {
            self.buffers.next = self.buffers.start;
        }
        let mut buffers = Vec::new();
        for bytes in readable {
            let length = u32::try_from(bytes.len()).expect("the buffer is too long");
            let address = self.buffers.allocate(length);
            self.memory.write_slice(bytes, GuestAddress(address)).expect("an address in memory");
            buffers.push(Descriptor { address, length, flags: 0, next: 0 });
        }
        for length in writable {
            let address = self.buffers.allocate(*length);
            buffers.push(Descriptor { address, length: *length, flags: WRITE, next: 0 });
        }
        buffers
    }

    fn ring(&self, queue: u16) -> &Ring {
        &self.rings[usize::from(queue)]
    }

    fn ring_mut(&mut self, queue: u16) -> &mut Ring {
        &mut self.rings[usize::from(queue)]
    }
}

pub(crate) fn doorbell() -> Arc<EventFd> {
    Arc::new(EventFd::new(EFD_NONBLOCK).expect("no event descriptor"))
}

/// Interrupts with all vectors live: 0 for the configuration, then one for each queue.
pub(crate) fn interrupt(msi: &CountingMsi, queues: usize) -> Interrupt {
    let sources = (0..=queues).map(|_| msi.allocate().expect("counting sources are endless")).collect();
    let mut table = MsixTable::new(sources);
    table.set_control(MSIX_ENABLE);
    for vector in 0..u64::from(table.vectors()) {
        let message: [u32; 4] = [0xfee0_0000, 0, 0x20, 0];
        for (dword, value) in (0..).zip(message) {
            table.write_table(vector * 16 + dword * 4, &value.to_le_bytes());
        }
    }
    let interrupt = Interrupt::new(table, queues);
    interrupt.set_config_vector(0);
    for index in 0..u16::try_from(queues).expect("few queues") {
        interrupt.set_queue_vector(index, index + 1);
    }
    interrupt
}
