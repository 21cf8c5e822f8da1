//! The switch, as its users hold it.
//!
//! A handle to the shared state; the work is in `state.rs`, the ports' side in `port.rs`.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::buffers::Buffers;
use crate::port::Port;
use crate::state::State;
use crate::{Counters, Waker};

/// Bounds of a switch. They hold for each port, so that no guest can use up what is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Addresses learnt behind one port, once for each VLAN they are used in; the one learnt first makes room. With 0 the
    /// switch is a hub: see [`Limits::hub`].
    pub learned: usize,
    /// How long an address is known after its last frame.
    pub ageing: Duration,
    /// Frames queued for one port, of which half may have gone to others too. At least one fits, whatever this says.
    pub queue_frames: usize,
    /// Bytes of frames queued for one port, divided in the same way; a single frame may exceed it.
    pub queue_bytes: usize,
    /// A receiver that has taken nothing for this long is not waited for.
    pub stalled_after: Duration,
    /// How long senders wait for one receiver in all, however often they do. Emptying half of its queue makes up for a
    /// quarter of this, or for the waiting until then if that was less; besides, a tenth of the time without waiting is
    /// made up for. A receiver that has used up all of it is not waited for until its queue has been empty.
    pub patience: Duration,
}

impl Limits {
    /// The default limits, but of a hub: every frame goes to all other ports.
    ///
    /// So a promiscuous machine sees what two others say to each other, as with the `vde_switch --hub` of NixOS tests. The
    /// price is that with more than two machines nothing waits: who sends faster than another takes loses frames, of
    /// unicast too, to whoever does not keep up. In return a frame may use all of a queue.
    #[must_use]
    pub fn hub() -> Self {
        Self { learned: 0, ..Self::default() }
    }

    pub(crate) fn is_hub(&self) -> bool {
        self.learned == 0
    }
}

impl Default for Limits {
    /// * 1024 addresses: a guest that bridges containers or nested guests has tens.
    /// * 300 s of ageing, as IEEE 802.1D recommends.
    /// * 512 frames and 1 MiB: twice the ring of a usual network card, sixteen of the longest frames, and still in the
    ///   host's cache when the receiver copies them.
    /// * 100 ms of nothing and 1 s in all: long for a guest that runs, and short before a sender's own watchdog (5 s in
    ///   Linux) or TCP's patience. A receiver that takes 1000 frames or 2 MiB a second is waited for without end; one that
    ///   earns nothing costs its senders 1 s in 10.
    fn default() -> Self {
        Self {
            learned: 1024,
            ageing: Duration::from_secs(300),
            queue_frames: 512,
            queue_bytes: 1 << 20,
            stalled_after: Duration::from_millis(100),
            patience: Duration::from_secs(1),
        }
    }
}

/// A learning Ethernet switch. Clones are handles to the same switch, which lives as long as one of them or a port.
///
/// It learns source addresses (never group addresses), for each VLAN tag apart, and sends a frame for a known address to
/// that address's port only. All others are flooded: broadcast, multicast, unknown addresses, and also the addresses that
/// IEEE 802.1D reserves for bridges, so that guests can speak LACP, STP or LLDP with each other. No frame leaves through
/// the port it came from. Tags are neither added nor removed, and every port is in every VLAN; of several tags the outer
/// one counts.
///
/// # Who waits, and who loses frames
/// A frame with *one* ready receiver waits for it: [`Port::send`] gives it back as [`Full`](crate::Full) while that
/// receiver's queue is full. That is unicast to a known address, and flooding where only one other port has a link and a
/// ready owner. The sender's next frames wait behind it, so the time is bounded unless the receiver keeps taking
/// frames: see [`Limits::stalled_after`] and [`Limits::patience`].
///
/// A frame with several ready receivers never waits: each one that has room gets it, the others lose it, counted as
/// [`Lost::full`](crate::Lost::full). Waiting would let one slow port stop all broadcast, and trying again would send
/// the frame twice to those who had room. An unknown address is mostly an address that has not spoken yet, so there is
/// little to lose. Such frames take half of a queue at most, so that a storm of them leaves room for unicast.
#[derive(Clone)]
pub struct Switch(Arc<Shared>);

/// What ports and handles share: one lock for all of a switch, and one for its spare buffers.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) buffers: Buffers,
}

impl Shared {
    /// Takes the lock. Nothing panics while it is held, so a poisoned lock's state is as good as any.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// A switch without ports, with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A switch without ports, with other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::new(limits)), buffers: Buffers::default() }))
    }

    /// Adds a port, with its link up and its owner not ready. `name` is for people, and need not be unique.
    #[must_use]
    pub fn attach(&self, name: &str) -> Port {
        let id = self.0.lock().attach(name);
        Port::new(Arc::clone(&self.0), id, name)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    /// Name and counters of each attached port, in the order they were attached.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, Counters)> {
        self.0.lock().counters()
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<String> = self.counters().into_iter().map(|(name, _)| name).collect();
        formatter.debug_struct("Switch").field("ports", &ports).finish()
    }
}

/// Wakers to call once the lock is released, each once.
#[derive(Default)]
pub(crate) struct Wakes {
    /// Unicast wakes one at most: no allocation for it.
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakes {
    pub(crate) fn add(&mut self, waker: Option<&Waker>) {
        let Some(waker) = waker else { return };
        if self.first.iter().chain(&self.more).any(|known| Arc::ptr_eq(known, waker)) {
            return;
        }
        if self.first.is_none() {
            self.first = Some(Arc::clone(waker));
        } else {
            self.more.push(Arc::clone(waker));
        }
    }

    /// Calls them, first come first. The caller holds no lock of the switch.
    pub(crate) fn call(self) {
        for waker in self.first.into_iter().chain(self.more) {
            waker();
        }
    }
}
