//! From the guest to the switch.

use std::io::Read;

use snowboot_network::{Batch, Frame, Full, Port};
use snowboot_virtio::{DescriptorChain, QueueFault, Served};

use super::wire::{self, HEADER};
use super::{Net, transmit_queue};

/// The longest frame that is copied: the longest IP packet, an Ethernet header and two tags. What is longer is no frame,
/// and descriptors may overlap, so a chain's length says nothing about the memory behind it.
pub const LONGEST: usize = 65_535 + 14 + 8;

impl Net {
    /// Sends what the guest has put in its rings, until the switch has no room. Each time another ring is the first.
    pub(super) fn transmit(&mut self) -> Result<(), QueueFault> {
        let pairs = self.pairs_in_use;
        let first = self.first_to_send.checked_rem(pairs).unwrap_or_default();
        self.first_to_send = first.saturating_add(1);
        for pair in (first..pairs).chain(0..first) {
            self.transmit_of(pair)?;
        }
        Ok(())
    }

    /// The same for one ring.
    pub(super) fn transmit_of(&mut self, pair: u16) -> Result<(), QueueFault> {
        let features = self.features();
        let now = (self.clock)();
        let learns = self.pairs_in_use > 1;
        let Some(session) = &mut self.session else { return Ok(()) };
        // Whoever gets frames is told when all are there, so that it is woken, and its guest interrupted, once.
        let mut batch = self.port.batch(now);
        if !send(&mut batch, &mut self.unsent, now, &self.retry) {
            return Ok(());
        }
        let Some(Some(queue)) = session.queues.get_mut(transmit_queue(pair)) else { return Ok(()) };
        queue.serve(&session.interrupt, |mut chain| {
            if self.unsent.is_some() {
                return Served::PutBack(chain);
            }
            self.unsent = take(&mut chain, features, &self.port);
            if let Some(frame) = self.unsent.as_ref().filter(|_| learns) {
                self.steering.learn(&frame.bytes, pair);
            }
            send(&mut batch, &mut self.unsent, now, &self.retry);
            Served::Done(chain)
        })
    }
}

/// Sends the frame, if there is one; `false` when the switch has no room, and the frame stays.
fn send(
    batch: &mut Batch<'_>,
    unsent: &mut Option<Frame>,
    now: std::time::Duration,
    retry: &crate::timer::Timer,
) -> bool {
    let Some(frame) = unsent.take() else { return true };
    match batch.send(frame) {
        Ok(()) => true,
        Err(Full { frame, retry_at }) => {
            *unsent = Some(frame);
            retry.set(retry_at.saturating_sub(now));
            false
        }
    }
}

/// Copies a frame out of guest memory. A chain that holds none, or asks for what was not negotiated, is dropped.
fn take(chain: &mut DescriptorChain, features: u64, port: &Port) -> Option<Frame> {
    let mut header = [0; HEADER];
    chain.reader.read_exact(&mut header).ok()?;
    let length = chain.reader.remaining();
    if length > LONGEST {
        return None;
    }
    let offload = wire::parse(header, features)?;
    let mut bytes = port.buffer(length);
    chain.reader.append_to(&mut bytes, length).ok()?;
    Some(Frame { bytes, offload })
}
