//! virtio-net (virtio 1.2, 5.1): a network card whose only peer is a switch port.
//!
//! A frame is copied out of guest memory once, with its offload header turned into [`Offload`](snowboot_network::Offload),
//! and copied in once at the other end. The card owns at most one frame in each direction: one that the switch has no
//! room for, and one that the guest has no buffers for; everything behind it waits in the ring or in the switch. It must
//! never lose one that it can keep, and looks into frames only to choose among several receive queues.

mod news;
mod receive;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;
mod wire;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snowboot_network::{Frame, Port};
use snowboot_virtio::transport::PciTransport;
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
    Token,
};

use self::news::News;
use self::receive::Inbound;
use self::steering::Steering;
use self::wire::{
    Command, F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_VQ, F_GUEST_CSUM, F_GUEST_ECN,
    F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO,
    F_MAC, F_MQ, F_MRG_RXBUF, F_STATUS, GUEST_OFFLOADS, LONGEST_COMMAND,
};
use crate::timer::Timer;
use crate::wake::Wake;

pub use self::transmit::LONGEST as LONGEST_FRAME;
pub use self::wire::{HEADER as HEADER_LENGTH, header as write_header, parse as parse_header};

/// The time since any start that all cards of a network agree on; it does not go backwards.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The most pairs of data queues. One thread serves all of a card's, so more would only cost buffers: what several spread
/// is the guest's own work.
const MOST_PAIRS: u16 = 4;
/// Buffers of a data queue: with the usual ones of 1.5 KiB, four of the longest frames.
const DATA_QUEUE: u16 = 256;
const CONTROL_QUEUE: u16 = 64;

/// The switch has frames, or room for one.
const PORT: Token = Token(0);
/// It is time to send the kept frame again.
const RETRY: Token = Token(1);
/// The link went up or down.
const LINK: Token = Token(2);
/// A frame has waited long enough for buffers.
const PATIENCE: Token = Token(3);
/// As [`PORT`], told by a call instead of a descriptor.
const NEWS: Token = Token(4);

/// The features that are about frames: what the driver may leave to the device, and the device to the driver.
pub const DATA_FEATURES: u64 = F_MRG_RXBUF
    | (F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_USO)
    | (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6);

/// Bit 0 of `status` in the configuration space: the link is up.
const LINK_UP: u16 = 1;

const KIND: &str = "virtio-net";
const VERSION: u16 = 2;

/// The network card.
pub struct Net {
    /// The address that it has after a reset.
    own_address: [u8; 6],
    address: [u8; 6],
    port: Arc<Port>,
    clock: Clock,
    news: Arc<News>,
    link: Arc<Wake>,
    retry: Timer,
    /// Taken from the guest, but the switch had no room.
    unsent: Option<Frame>,
    /// Taken from the switch, but the guest had no buffers.
    inbound: Inbound,
    /// The guest features that are in force: those negotiated, less what the driver has turned off.
    offloads: Option<u64>,
    /// How many pairs of data queues there are, and how many of them the driver uses.
    pairs: u16,
    pairs_in_use: u16,
    /// The pair whose transmit queue is served first next time.
    first_to_send: u16,
    steering: Steering,
    /// Whether the driver sees the link up: what the port says, as of when the driver was last told.
    link_shown: bool,
    session: Option<Session>,
}

impl Net {
    /// A card with the address `mac` behind `port`.
    ///
    /// # Errors
    /// When the process has no more file descriptors.
    pub fn new(mac: [u8; 6], port: Port, clock: Clock) -> io::Result<(Self, NetControl)> {
        let (news, link) = (Arc::new(News::new()?), Arc::new(Wake::new()?));
        let told = Arc::clone(&news);
        port.set_waker(Arc::new(move || told.tell()));
        port.set_ready(false);
        let port = Arc::new(port);
        let control =
            NetControl { port: Arc::downgrade(&port), link: Arc::clone(&link), news: Arc::clone(&news) };
        let link_shown = port.link();
        let net = Self {
            own_address: mac,
            address: mac,
            port,
            clock,
            news,
            link,
            retry: Timer::new()?,
            unsent: None,
            inbound: Inbound::new()?,
            offloads: None,
            pairs: 1,
            pairs_in_use: 1,
            first_to_send: 0,
            steering: Steering::new(),
            link_shown,
            session: None,
        };
        Ok((net, control))
    }

    /// Offers a guest of so many vCPUs a pair of data queues for each, as far as that is of use. Before it is started.
    #[must_use]
    pub fn for_vcpus(self, vcpus: u16) -> Self {
        Self { pairs: vcpus.clamp(1, MOST_PAIRS), ..self }
    }

    /// The control queue's number: it comes after all pairs that the driver knows of (5.1.2).
    fn control_queue(&self) -> u16 {
        let pairs = if self.features() & F_MQ != 0 { self.pairs } else { 1 };
        pairs.saturating_mul(2)
    }

    /// There are frames, or there is room for one.
    fn news(&mut self) -> Result<(), QueueFault> {
        self.transmit()?;
        self.receive()
    }

    fn forget_frames(&mut self) {
        self.port.set_ready(false);
        self.unsent = None;
        self.retry.clear();
        self.inbound.clear();
    }

    fn features(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.features)
    }

    /// Tells the driver when the link is another than it sees; while there is none, that waits.
    fn show_link(&mut self) {
        let Some(session) = &self.session else { return };
        let link = self.port.link();
        if self.link_shown != link {
            self.link_shown = link;
            if session.features & F_STATUS != 0 {
                session.interrupt.config();
            }
        }
    }

    fn accept(&self) {
        let features = self.features();
        let offloads = self.offloads.unwrap_or(GUEST_OFFLOADS) & GUEST_OFFLOADS;
        self.port.set_accepts(wire::accepts(features & offloads));
    }

    /// Answers control commands (5.1.6.5): class, command, data, and one byte for the answer.
    fn control(&mut self) -> Result<(), QueueFault> {
        let features = self.features();
        let number = usize::from(self.control_queue());
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.get_mut(number) else { return Ok(()) };
        let (address, offloads) = (&mut self.address, &mut self.offloads);
        let (pairs, pairs_in_use) = (self.pairs, &mut self.pairs_in_use);
        queue.serve(&session.interrupt, |mut chain| {
            let mut command = Vec::new();
            let longest = u64::try_from(LONGEST_COMMAND).unwrap_or(0);
            let whole = chain.reader.by_ref().take(longest).read_to_end(&mut command).is_ok();
            let parsed = if whole { Command::parse(&command, features) } else { None };
            let answer = match parsed {
                Some(Command::Filter) => OK,
                Some(Command::Address(new)) => {
                    *address = new;
                    OK
                }
                Some(Command::Pairs(new)) if (1..=pairs).contains(&new) => {
                    *pairs_in_use = new;
                    OK
                }
                Some(Command::Offloads(new)) => {
                    *offloads = Some(new);
                    OK
                }
                Some(Command::Pairs(_)) | None => ERROR,
            };
            let _ = chain.writer.write_all(&[answer]);
            Served::Done(chain)
        })?;
        self.accept();
        Ok(())
    }
}

const OK: u8 = 0;
const ERROR: u8 = 1;

/// The receive and transmit queues of a pair (5.1.2).
fn receive_queue(pair: u16) -> usize {
    usize::from(pair).saturating_mul(2)
}

fn transmit_queue(pair: u16) -> usize {
    receive_queue(pair).saturating_add(1)
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("port", &self.port)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Device for Net {
    fn identity(&self) -> Identity {
        let control = F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR | F_CTRL_GUEST_OFFLOADS;
        let several = if self.pairs > 1 { F_MQ } else { 0 };
        let mut queue_sizes = vec![DATA_QUEUE; receive_queue(self.pairs)];
        queue_sizes.push(CONTROL_QUEUE);
        Identity {
            id: DeviceId::Net,
            features: F_MAC | F_STATUS | DATA_FEATURES | control | several,
            queue_sizes,
        }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let status = if self.link_shown { LINK_UP } else { 0 };
        let mut space = self.address.to_vec();
        space.extend(status.to_le_bytes());
        space.extend(self.pairs.to_le_bytes()); // max_virtqueue_pairs
        crate::config::read(&space, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        if session.features & F_MQ == 0 {
            // The control queue is where the second pair would be, whatever a saved state says.
            self.pairs_in_use = 1;
        }
        self.session = Some(session);
        self.accept();
        self.show_link();
        self.port.set_ready(true);
        let served = self.control().and_then(|()| self.transmit()).and_then(|()| self.receive());
        served.map_err(|fault| StartError { device: "network", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        let session = self.session.take()?;
        self.port.rest();
        self.retry.clear();
        Some(session)
    }

    fn reset(&mut self) {
        self.address = self.own_address;
        self.offloads = None;
        self.pairs_in_use = 1;
        self.steering = Steering::new();
        self.link_shown = self.port.link();
        self.forget_frames();
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        if queue == self.control_queue() {
            return self.control();
        }
        match queue / 2 {
            pair if pair >= self.pairs_in_use => Ok(()),
            _ if queue.is_multiple_of(2) => self.receive(),
            pair => self.transmit_of(pair),
        }
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        vec![
            (PORT, self.news.as_fd()),
            (RETRY, self.retry.as_fd()),
            (LINK, self.link.as_fd()),
            (PATIENCE, self.inbound.patience.as_fd()),
        ]
    }

    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        match token {
            PORT => {
                self.news.drain();
                self.news()
            }
            NEWS => self.news(),
            RETRY => {
                self.retry.clear();
                self.transmit()
            }
            PATIENCE => {
                self.inbound.patience.clear();
                self.receive()
            }
            _ => {
                self.link.drain();
                self.show_link();
                Ok(())
            }
        }
    }

    /// A frame on its way is not saved: networks lose frames, and the other end of this one is elsewhere.
    fn save(&self) -> Result<Saved, NotSaveable> {
        let state = State {
            address: self.address,
            offloads: self.offloads,
            pairs_in_use: self.pairs_in_use,
            link: self.port.link(),
            link_shown: self.link_shown,
        };
        Saved::new(KIND, VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        if state.offloads.is_some_and(|offloads| offloads & !GUEST_OFFLOADS != 0) {
            return Err(RestoreError("the network card's offloads are none that it has".into()));
        }
        if !(1..=self.pairs).contains(&state.pairs_in_use) {
            return Err(RestoreError("the network card's driver uses more queues than it has".into()));
        }
        (self.address, self.offloads, self.link_shown) = (state.address, state.offloads, state.link_shown);
        self.pairs_in_use = state.pairs_in_use;
        self.port.set_link(state.link);
        // What is on its way belongs to another past.
        self.forget_frames();
        Ok(())
    }
}

/// Changes a running network card. Clones share it.
#[derive(Clone, Debug)]
pub struct NetControl {
    port: Weak<Port>,
    link: Arc<Wake>,
    news: Arc<News>,
}

impl NetControl {
    /// Plugs the cable in or pulls it out; nothing happens once the card is gone.
    pub fn set_link(&self, up: bool) {
        if let Some(port) = self.port.upgrade() {
            port.set_link(up);
            self.link.signal();
        }
    }

    /// Has the card, which `transport` holds, served by the threads that send to it, as far as nobody else is at it. Otherwise
    /// and without this, it waits for the thread that watches its sources.
    pub fn serve_in_place(&self, transport: Weak<Mutex<PciTransport>>) {
        self.news.serve_with(Box::new(move || transport.upgrade().is_some_and(|it| serve_if_free(&it))));
    }
}

/// Whether nobody was at the card, so that it has been served. Where a thread has panicked, its own one finds out, and says so.
fn serve_if_free(transport: &Mutex<PciTransport>) -> bool {
    match transport.try_lock() {
        // Whoever brings a frame does not end by what the card does with it: its own thread tries again, and ends its machine.
        Ok(mut transport) => catch_unwind(AssertUnwindSafe(|| transport.source_ready(NEWS))).is_ok(),
        Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => false,
    }
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    address: [u8; 6],
    offloads: Option<u64>,
    pairs_in_use: u16,
    link: bool,
    link_shown: bool,
}
