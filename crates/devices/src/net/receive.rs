//! From the switch to the guest.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

use snowboot_network::{Frame, Port};
use snowboot_virtio::{DescriptorChain, Queue, QueueFault};

use super::steering::Steering;
use super::wire::{self, F_MRG_RXBUF, HEADER};
use super::{Net, receive_queue};
use crate::timer::Timer;

/// Frames for one call; whoever has more is called again after the machine's other devices.
const FRAMES_AT_ONCE: usize = 256;

/// How long a frame waits for more buffers while there are some: a driver whose ring is full of small ones, and that
/// waits for a frame itself, would wait for ever. Where the driver uses several queues, it waits no longer for one that has none
/// while another has: one of a vCPU that does nothing else for long holds up nobody. Without any buffers a frame waits as long
/// as it takes.
const PATIENCE: Duration = Duration::from_millis(100);

/// What became of a frame.
enum Delivery {
    Done,
    /// There are no buffers; the driver notifies when there are.
    Wait,
    /// There are some, but too few.
    Short,
    /// It does not fit into any number of this driver's buffers.
    Lost,
    /// The turn is over.
    Later,
}

impl Net {
    /// Fills the guest's buffers with frames, as long as there are both.
    pub(super) fn receive(&mut self) -> Result<(), QueueFault> {
        let now = (self.clock)();
        let features = self.features();
        let Some(session) = &mut self.session else { return Ok(()) };
        let steering = &self.steering;
        let mut guest = Guest { queues: &mut session.queues, pairs: self.pairs_in_use, features, steering };
        if guest.queue_of(0).is_none() {
            return Ok(());
        }
        let outcome = self.inbound.fill(&mut guest, &self.port, now);
        for pair in 0..self.pairs_in_use {
            if let Some(Some(queue)) = session.queues.get_mut(receive_queue(pair)) {
                queue.signal(&session.interrupt)?;
            }
        }
        if outcome? {
            self.news.ring();
        }
        Ok(())
    }
}

/// Where frames go.
struct Guest<'a> {
    queues: &'a mut [Option<Queue>],
    /// How many pairs of them the driver uses.
    pairs: u16,
    features: u64,
    steering: &'a Steering,
}

impl Guest<'_> {
    fn queue_of(&mut self, pair: u16) -> Option<&mut Queue> {
        self.queues.get_mut(receive_queue(pair)).and_then(Option::as_mut)
    }

    /// The pair for a frame: the first where the driver has not enabled the queue that it belongs to.
    fn pair_for(&mut self, frame: &Frame) -> u16 {
        let pair = if self.pairs > 1 { self.steering.pair(&frame.bytes, self.pairs) } else { 0 };
        if self.queue_of(pair).is_some() { pair } else { 0 }
    }

    /// Delivers a frame to the queue of `pair`, where the driver has enabled it.
    fn deliver(&mut self, pair: u16, frame: &Frame, budget: &mut u16) -> Result<Delivery, QueueFault> {
        let features = self.features;
        self.queue_of(pair).map_or(Ok(Delivery::Wait), |queue| deliver(queue, features, frame, budget))
    }

    /// The same to the first of the others that has buffers.
    fn deliver_beside(&mut self, pair: u16, frame: &Frame, budget: &mut u16) -> Result<Delivery, QueueFault> {
        for other in (0..self.pairs).filter(|other| *other != pair) {
            let delivery = self.deliver(other, frame, budget)?;
            if matches!(delivery, Delivery::Done | Delivery::Later) {
                return Ok(delivery);
            }
        }
        Ok(Delivery::Wait)
    }

    /// As many buffers as its rings have.
    fn buffers(&mut self) -> u16 {
        (0..self.pairs).filter_map(|pair| Some(self.queue_of(pair)?.size())).fold(0, u16::saturating_add)
    }
}

/// The frame that waits for buffers.
#[derive(Debug)]
pub(super) struct Inbound {
    frame: Option<Frame>,
    /// Since when there have been too few buffers for it, though some.
    short_since: Option<Duration>,
    /// Pairs whose receive queues have had no buffers for long.
    dry: BTreeSet<u16>,
    pub(super) patience: Timer,
}

impl Inbound {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { frame: None, short_since: None, dry: BTreeSet::new(), patience: Timer::new()? })
    }

    /// Throws the frame away.
    pub(super) fn clear(&mut self) {
        self.frame = None;
        self.short_since = None;
        self.dry.clear();
        self.patience.clear();
    }

    /// Delivers frames; `true` when it stopped although there may be more.
    fn fill(&mut self, guest: &mut Guest<'_>, port: &Port, now: Duration) -> Result<bool, QueueFault> {
        // A driver that gives back useless buffers as fast as they come would keep a turn going for ever.
        let mut budget = guest.buffers();
        for _ in 0..FRAMES_AT_ONCE {
            let Some(frame) = self.frame.take().or_else(|| port.receive()) else { return Ok(false) };
            match self.deliver(guest, &frame, &mut budget, now)? {
                Delivery::Done => {
                    self.short_since = None;
                    port.recycle(frame.bytes);
                }
                Delivery::Lost => {
                    self.short_since = None;
                    tracing::debug!(port = port.name(), "a frame is longer than the guest's buffers");
                }
                Delivery::Wait | Delivery::Short => {
                    self.frame = Some(frame);
                    return Ok(false);
                }
                Delivery::Later => {
                    self.frame = Some(frame);
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    fn deliver(
        &mut self,
        guest: &mut Guest<'_>,
        frame: &Frame,
        budget: &mut u16,
        now: Duration,
    ) -> Result<Delivery, QueueFault> {
        let pair = guest.pair_for(frame);
        let delivery = guest.deliver(pair, frame, budget)?;
        if !matches!(delivery, Delivery::Wait) {
            self.dry.remove(&pair);
        }
        Ok(match delivery {
            Delivery::Short if self.is_out_of_patience(now) => Delivery::Lost,
            Delivery::Wait
                if guest.pairs > 1 && (self.dry.contains(&pair) || self.is_out_of_patience(now)) =>
            {
                self.dry.insert(pair);
                guest.deliver_beside(pair, frame, budget)?
            }
            delivery => delivery,
        })
    }

    fn is_out_of_patience(&mut self, now: Duration) -> bool {
        let since = *self.short_since.get_or_insert(now);
        let left = PATIENCE.saturating_sub(now.saturating_sub(since));
        if !left.is_zero() {
            self.patience.set(left);
        }
        left.is_zero()
    }
}

/// Delivers a frame in one chain, or with `MRG_RXBUF` in as many as it takes, which the driver sees all at once
/// (5.1.6.4.1).
fn deliver(
    queue: &mut Queue,
    features: u64,
    frame: &Frame,
    budget: &mut u16,
) -> Result<Delivery, QueueFault> {
    let mergeable = features & F_MRG_RXBUF != 0;
    let needed = frame.bytes.len().saturating_add(HEADER);
    let most = if mergeable { usize::from(queue.size()) } else { 1 };
    let mut chains: Vec<DescriptorChain> = Vec::with_capacity(1);
    let mut room = 0usize;
    while room < needed && chains.len() < most {
        let Some(chain) = queue.pop_within(budget)? else { break };
        let length = chain.writer.remaining();
        if length == 0 || (chains.is_empty() && length < HEADER) {
            queue.add_used(chain)?; // No place for a packet, not even for the beginning of one.
            continue;
        }
        room = room.saturating_add(length);
        chains.push(chain);
    }
    if room < needed {
        let delivery = match chains.len() {
            length if length < most && *budget == 0 => Delivery::Later,
            0 => Delivery::Wait,
            length if length < most => Delivery::Short,
            _ => Delivery::Lost,
        };
        for chain in chains.into_iter().rev() {
            queue.put_back(chain);
        }
        return Ok(delivery);
    }
    let buffers = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    let header = wire::header(&frame.offload, features, buffers);
    let mut rest = frame.bytes.as_slice();
    for (index, mut chain) in chains.into_iter().enumerate() {
        // The header fits into the first chain, and writing what fits cannot fail.
        let _ = if index == 0 { chain.writer.write_all(&header) } else { Ok(()) };
        let _ = put(&mut chain, &mut rest);
        queue.add_used(chain)?;
    }
    queue.publish()?;
    Ok(Delivery::Done)
}

/// Moves as much of `rest` into the chain as fits.
fn put(chain: &mut DescriptorChain, rest: &mut &[u8]) -> io::Result<()> {
    let (now, later) = rest.split_at_checked(chain.writer.remaining()).unwrap_or((rest, &[]));
    *rest = later;
    chain.writer.write_all(now)
}
