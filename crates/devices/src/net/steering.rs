//! Which of a guest's receive queues a frame goes to (virtio 1.2, 5.1.6.5.5): the one beside the transmit queue by which the
//! guest last sent something of the same flow, so that the vCPU which works on a connection gets its interrupts, too.
//!
//! What was learnt is a hint: it is bounded, flows may share a place, and no frame is lost by it.

use snowboot_network::flow;

/// Places to remember flows in: many more than a guest has queues, so that few of its busy flows share one.
const PLACES: usize = 256;

/// The pair of queues by which each flow was last sent, if it was.
pub(super) struct Steering([Option<u16>; PLACES]);

impl Steering {
    pub(super) fn new() -> Self {
        Self([None; PLACES])
    }

    /// The guest sent this frame by the transmit queue of `pair`.
    pub(super) fn learn(&mut self, frame: &[u8], pair: u16) {
        if let Some(place) = flow(frame).and_then(|flow| self.0.get_mut(place(flow))) {
            *place = Some(pair);
        }
    }

    /// The pair, below `pairs`, whose receive queue this frame goes to. Flows that the guest has sent nothing of are spread.
    pub(super) fn pair(&self, frame: &[u8], pairs: u16) -> u16 {
        let Some(flow) = flow(frame) else { return 0 };
        let learnt = self.0.get(place(flow)).copied().flatten().filter(|pair| *pair < pairs);
        learnt.unwrap_or_else(|| u16::try_from(flow % u32::from(pairs.max(1))).unwrap_or_default())
    }
}

fn place(flow: u32) -> usize {
    usize::try_from(flow).unwrap_or_default() % PLACES
}
