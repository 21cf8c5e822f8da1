//! A live virtqueue that serves descriptor chains to a closure and cannot lose one (virtio 1.2, 2.7).
//!
//! Owns its position in the rings, which live in guest memory and which the driver can change at any moment. A device
//! calls it while it holds a session. Whatever is in guest memory, no call panics, none does more work than one ring's
//! worth of chains, and a corrupt ring is a fault that stays.
//!
//! ```text
//!              pop                        add_used                publish            signal
//!  available ─────► held by the device ─────────────► staged ─────────────► used ──────────────► interrupt
//!      ▲                    │                        (unseen)          (driver sees it)
//!      └────────────────────┘
//!             put_back
//! ```
//!
//! [`Queue::serve`] and [`Queue::complete`] do all of that. Devices that need several chains at once take the steps
//! themselves. The driver is asked for notifications exactly when a pop has found nothing, so a device never needs to
//! think of them: after `None` there will be one.

mod buffers;
mod chain;
mod config;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use snowboot_bus::GuestMemory;
use virtio_queue::{Queue as Engine, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use self::chain::Table;
use crate::device::{NotSaveable, RestoreError};
use crate::{Interrupt, features};

pub use buffers::{GuestSlice, Reader, Writer};
pub use chain::DescriptorChain;
pub use config::{QueueConfig, QueueState};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (2.7.7).
const NO_INTERRUPT: u16 = 1;

/// A queue can be served no more: nothing comes out of it until the driver resets the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Virtqueue {queue} cannot be served any more: {reason}")]
pub struct QueueFault {
    /// Queue index.
    pub queue: u16,
    /// What is wrong with it.
    pub reason: String,
}

/// What became of a chain that `Queue::serve` handed out.
#[derive(Debug)]
pub enum Served {
    /// Finished: used length is what the writer wrote.
    Done(DescriptorChain),
    /// Finished, and enough for one turn: the doorbell is rung if there is more. For requests whose cost their number
    /// does not bound.
    Last(DescriptorChain),
    /// The device keeps the chain and will call [`Queue::complete`].
    Later,
    /// Not now: the chain stays first in the ring and serving ends. The driver is not asked to notify, so the device
    /// serves again by itself once the reason is gone.
    PutBack(DescriptorChain),
}

/// Whether the driver is asked to notify when it adds a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notifications {
    /// Nobody has said anything since the driver set the ring up, or since it was restored.
    Unset,
    Wanted,
    Suppressed,
}

/// A live virtqueue.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    engine: Engine,
    memory: Arc<GuestMemory>,
    table: Table,
    /// First descriptors of the chains that were put back, before those in the ring.
    returned: VecDeque<u16>,
    /// Chains that the device holds.
    held: u16,
    /// Where the next used element goes; `engine.next_used` is what the driver sees.
    staged: Wrapping<u16>,
    /// What the driver saw when it was last considered for an interrupt.
    signalled: Wrapping<u16>,
    notifications: Notifications,
    /// Rung when a call stops before it has found the ring empty.
    doorbell: Option<Arc<EventFd>>,
    /// What is written to the last byte of requests that are malformed.
    refusal: Option<u8>,
    malformed: u64,
    fault: Option<String>,
}

impl Queue {
    /// Brings queue `index` to life as the driver configured it, with the negotiated `features`.
    ///
    /// # Errors
    /// When a size, an address or an alignment is not valid.
    pub fn new(
        index: u16,
        config: &QueueConfig,
        features: u64,
        memory: &Arc<GuestMemory>,
    ) -> Result<Self, QueueFault> {
        let engine = config
            .build(memory, features & features::EVENT_IDX != 0)
            .map_err(|reason| QueueFault { queue: index, reason })?;
        let table = Table {
            address: config.desc_table,
            length: u32::from(config.size),
            indirect: features & features::INDIRECT_DESC != 0,
        };
        Ok(Self {
            index,
            engine,
            memory: Arc::clone(memory),
            table,
            returned: VecDeque::new(),
            held: 0,
            staged: Wrapping(0),
            signalled: Wrapping(0),
            notifications: Notifications::Unset,
            doorbell: None,
            refusal: None,
            malformed: 0,
            fault: None,
        })
    }

    /// Rings `doorbell` whenever a call ends with work left over because it has done its share. Whoever watches it calls
    /// the device again, after the others had their turn.
    #[must_use]
    pub fn with_doorbell(mut self, doorbell: Arc<EventFd>) -> Self {
        self.doorbell = Some(doorbell);
        self
    }

    /// Has malformed requests answered by this status, in their last byte, where device and driver have agreed on one there.
    /// A driver may have pages that are no memory of the device's (persistent memory, for one), and would take its own old
    /// status for an answer.
    pub fn refuse_with(&mut self, status: u8) {
        self.refusal = Some(status);
    }

    /// Queue index.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Where it is, for somebody else to serve it.
    #[must_use]
    pub fn config(&self) -> QueueConfig {
        QueueConfig {
            max_size: self.engine.max_size(),
            size: self.engine.size(),
            ready: true,
            desc_table: self.engine.desc_table(),
            avail_ring: self.engine.avail_ring(),
            used_ring: self.engine.used_ring(),
        }
    }

    /// What is rung for this queue, by its driver too.
    #[must_use]
    pub fn doorbell(&self) -> Option<&EventFd> {
        self.doorbell.as_deref()
    }

    /// Has whoever watches the doorbell look at the queue.
    pub fn ring_doorbell(&self) {
        if let Some(doorbell) = &self.doorbell {
            // A counter that is full is readable already.
            let _ = doorbell.write(1);
        }
    }

    /// Goes on where somebody else has left off: at this place of the available ring, and behind the answers that are in the
    /// used ring.
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn resume_at(&mut self, next_avail: u16) -> Result<(), QueueFault> {
        let used = self.engine.used_idx(&*self.memory, Ordering::Acquire);
        let used = used.map_err(|_| self.fail("its used ring is not in memory"))?;
        let state = QueueState { next_avail, next_used: used.0, put_back: Vec::new() };
        self.restore(state).map_err(|error| self.fail(&error.to_string()))
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.engine.size()
    }

    /// How many chains went back unseen because they were malformed.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Serves the chains that the driver made available, at most one ring's worth, and interrupts at most once.
    ///
    /// If there is more, the doorbell is rung, so that the device is called again. If there is not, the driver will
    /// notify.
    ///
    /// # Errors
    /// When the ring is corrupt. The answers up to there have been published.
    pub fn serve(
        &mut self,
        interrupt: &Interrupt,
        mut serve: impl FnMut(DescriptorChain) -> Served,
    ) -> Result<(), QueueFault> {
        let outcome = self.drain(&mut serve);
        self.signal(interrupt)?;
        outcome
    }

    /// Gives back a chain that was kept with [`Served::Later`].
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn complete(&mut self, interrupt: &Interrupt, chain: DescriptorChain) -> Result<(), QueueFault> {
        self.add_used(chain)?;
        self.signal(interrupt)
    }

    /// Takes the next chain. `None`: there is none, and the driver will notify when there is (or the doorbell was rung,
    /// after a ring's worth of malformed chains).
    ///
    /// Malformed chains go back with used length 0 on the way; call [`Self::signal`] in the end even if nothing else came.
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn pop(&mut self) -> Result<Option<DescriptorChain>, QueueFault> {
        let mut budget = self.size();
        let chain = self.pop_within(&mut budget)?;
        if chain.is_none() && budget == 0 {
            self.carry_on()?;
        }
        Ok(chain)
    }

    /// As [`Self::pop`], for a device that takes many chains in a turn: each one that is looked at, malformed or not,
    /// costs one of `budget`. `None` with a budget of 0 says nothing of the ring; the device calls itself again.
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn pop_within(&mut self, budget: &mut u16) -> Result<Option<DescriptorChain>, QueueFault> {
        self.take(budget)
    }

    /// Puts a popped chain back unanswered, in front of all others; of several, the newest goes first.
    pub fn put_back(&mut self, chain: DescriptorChain) {
        self.held = self.held.saturating_sub(1);
        self.returned.push_front(chain.head);
    }

    /// Answers a chain. The driver does not see it before [`Self::publish`], and then sees all of them at once.
    ///
    /// # Errors
    /// When the ring is corrupt, or the chain is not this queue's.
    pub fn add_used(&mut self, chain: DescriptorChain) -> Result<(), QueueFault> {
        self.check()?;
        let Some(held) = self.held.checked_sub(1) else {
            return Err(self.fail("the device gave back a chain that it did not take"));
        };
        self.held = held;
        self.stage(chain.head, chain.writer.used_length())
    }

    /// Shows the driver what [`Self::add_used`] answered.
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn publish(&mut self) -> Result<(), QueueFault> {
        if self.staged.0 == self.engine.next_used() {
            return Ok(());
        }
        let address = GuestAddress(self.engine.used_ring().saturating_add(2));
        // The elements must be visible before the index that covers them.
        self.memory
            .store(self.staged.0.to_le(), address, Ordering::Release)
            .map_err(|_| self.fail("its used ring is not in memory"))?;
        self.engine.set_next_used(self.staged.0);
        Ok(())
    }

    /// Publishes, and interrupts the driver if there is anything new that it wants to be told of.
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn signal(&mut self, interrupt: &Interrupt) -> Result<(), QueueFault> {
        self.publish()?;
        let (new, old) = (self.staged, self.signalled);
        if new == old {
            return Ok(());
        }
        self.signalled = new;
        interrupt.count((new - old).0);
        // The driver looks at the used index after it has changed its mind; this is the other half (2.7.7.2).
        fence(Ordering::SeqCst);
        if self.wants_interrupt(new, old)? {
            interrupt.queue(self.index);
        }
        Ok(())
    }

    /// Whether a chain waits, put back or in the ring.
    ///
    /// # Errors
    /// When the ring is corrupt.
    pub fn has_more(&self) -> Result<bool, QueueFault> {
        self.check()?;
        let index = self.engine.avail_idx(&*self.memory, Ordering::Acquire);
        let index = index.map_err(|_| self.fault_of("its available ring is not in memory"))?;
        Ok(!self.returned.is_empty() || index.0 != self.engine.next_avail())
    }

    /// Where the queue is.
    ///
    /// # Errors
    /// When the device still holds chains: they would be lost.
    pub fn state(&self) -> Result<QueueState, NotSaveable> {
        if self.held > 0 || self.staged.0 != self.engine.next_used() {
            let reason = format!("{} requests of queue {} are in flight", self.held, self.index);
            return Err(NotSaveable { reason });
        }
        if let Some(reason) = &self.fault {
            return Err(NotSaveable { reason: format!("queue {} is corrupt: {reason}", self.index) });
        }
        Ok(QueueState {
            next_avail: self.engine.next_avail(),
            next_used: self.engine.next_used(),
            put_back: self.returned.iter().copied().collect(),
        })
    }

    /// Goes on from a saved state, which need not be trusted: a wrong one is the same as a driver that corrupts its ring.
    ///
    /// # Errors
    /// When the state is not of a queue of this size; nothing has changed then.
    pub fn restore(&mut self, state: QueueState) -> Result<(), RestoreError> {
        let size = self.size();
        if state.put_back.len() > usize::from(size) || state.put_back.iter().any(|head| *head >= size) {
            return Err(RestoreError(format!("queue {} has only {size} descriptors", self.index)));
        }
        self.engine.set_next_avail(state.next_avail);
        self.engine.set_next_used(state.next_used);
        self.staged = Wrapping(state.next_used);
        self.signalled = self.staged;
        self.returned = state.put_back.into();
        self.notifications = Notifications::Unset;
        Ok(())
    }

    fn drain(&mut self, serve: &mut dyn FnMut(DescriptorChain) -> Served) -> Result<(), QueueFault> {
        let mut budget = self.size();
        while let Some(chain) = self.take(&mut budget)? {
            match serve(chain) {
                Served::Done(chain) => {
                    self.add_used(chain)?;
                    // At once, for a driver that polls while the next request takes its time.
                    self.publish()?;
                }
                Served::Last(chain) => {
                    self.add_used(chain)?;
                    return self.carry_on();
                }
                Served::Later => {}
                Served::PutBack(chain) => {
                    self.put_back(chain);
                    return Ok(());
                }
            }
        }
        if budget == 0 { self.carry_on() } else { Ok(()) }
    }

    /// The next chain that is a request. Each head that is taken costs one of `budget`, malformed or not.
    fn take(&mut self, budget: &mut u16) -> Result<Option<DescriptorChain>, QueueFault> {
        self.check()?;
        while let Some(left) = budget.checked_sub(1) {
            let Some(head) = self.next_head()? else { return Ok(None) };
            *budget = left;
            match self.table.walk(&self.memory, head) {
                Ok(chain) => {
                    self.held = self.held.saturating_add(1);
                    return Ok(Some(chain));
                }
                Err(reason) => {
                    self.malformed = self.malformed.saturating_add(1);
                    if self.malformed == 1 {
                        tracing::debug!(queue = self.index, head, %reason, "a descriptor chain is malformed");
                    }
                    let length = self.refuse(head);
                    self.stage(head, length)?;
                }
            }
        }
        Ok(None)
    }

    /// Answers a malformed chain; returns how many bytes that took.
    fn refuse(&self, head: u16) -> u32 {
        let Some(status) = self.refusal else { return 0 };
        let place = self.table.last_byte(&self.memory, head);
        let is_written = place.is_some_and(|place| self.memory.write_obj(status, place).is_ok());
        u32::from(is_written)
    }

    /// The next chain's first descriptor. Without one, the driver has been asked to notify.
    fn next_head(&mut self) -> Result<Option<u16>, QueueFault> {
        if let Some(head) = self.returned.pop_front() {
            return Ok(Some(head));
        }
        let mut head = self.ring_head()?;
        if head.is_none() && self.notifications != Notifications::Wanted {
            #[cfg(test)]
            tests::linger();
            // Chains that were added before the driver could see this come without a notification.
            let more = self.engine.enable_notification(&*self.memory);
            if more.map_err(|error| self.fail(&error.to_string()))? {
                head = self.ring_head()?;
            }
            self.notifications = Notifications::Wanted;
        }
        if head.is_some() && self.notifications != Notifications::Suppressed {
            let outcome = self.engine.disable_notification(&*self.memory);
            outcome.map_err(|error| self.fail(&error.to_string()))?;
            self.notifications = Notifications::Suppressed;
        }
        Ok(head)
    }

    fn ring_head(&mut self) -> Result<Option<u16>, QueueFault> {
        // Not `pop_descriptor_chain`: that one takes a corrupt index for an empty ring.
        let head = match self.engine.iter(&*self.memory) {
            Ok(mut chains) => chains.next().map(|chain| chain.head_index()),
            Err(error) => return Err(self.fail(&error.to_string())),
        };
        let Some(head) = head else { return Ok(None) };
        if head >= self.size() {
            return Err(self.fail("its available ring names a descriptor beyond the table"));
        }
        // Every chain takes up at least one descriptor until it is used.
        if usize::from(self.held).saturating_add(self.returned.len()) >= usize::from(self.size()) {
            return Err(self.fail("more chains are available than it has descriptors"));
        }
        Ok(Some(head))
    }

    fn stage(&mut self, head: u16, length: u32) -> Result<(), QueueFault> {
        let slot = u64::from(self.staged.0 % self.size().max(1));
        let address = self.engine.used_ring().saturating_add(4 + 8 * slot);
        let element = u64::from(length) << 32 | u64::from(head);
        self.memory
            .write_slice(&element.to_le_bytes(), GuestAddress(address))
            .map_err(|_| self.fail("its used ring is not in memory"))?;
        self.staged += 1;
        Ok(())
    }

    /// Whether the driver wants to hear of the answers from `old` to `new` (2.7.7.2, 2.7.10).
    fn wants_interrupt(&mut self, new: Wrapping<u16>, old: Wrapping<u16>) -> Result<bool, QueueFault> {
        let ring = self.engine.avail_ring();
        let event_index = self.engine.event_idx_enabled();
        let offset = if event_index { 4 + 2 * u64::from(self.size()) } else { 0 };
        let word: u16 = self
            .memory
            .load(GuestAddress(ring.saturating_add(offset)), Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|_| self.fail("its available ring is not in memory"))?;
        Ok(if event_index {
            new - Wrapping(word) - Wrapping(1) < new - old
        } else {
            word & NO_INTERRUPT == 0
        })
    }

    /// After a ring's worth of chains: has the driver notify, or the device called again.
    fn carry_on(&mut self) -> Result<(), QueueFault> {
        if !self.has_more()? {
            let more = self.engine.enable_notification(&*self.memory);
            if !more.map_err(|error| self.fail(&error.to_string()))? {
                self.notifications = Notifications::Wanted;
                return Ok(());
            }
        }
        self.ring_doorbell();
        Ok(())
    }

    fn check(&self) -> Result<(), QueueFault> {
        self.fault.as_ref().map_or(Ok(()), |reason| Err(self.fault_of(reason)))
    }

    fn fault_of(&self, reason: &str) -> QueueFault {
        QueueFault { queue: self.index, reason: reason.to_owned() }
    }

    fn fail(&mut self, reason: &str) -> QueueFault {
        self.fault.get_or_insert_with(|| reason.to_owned());
        self.fault_of(reason)
    }
}
