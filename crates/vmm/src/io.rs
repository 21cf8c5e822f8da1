//! An event loop of a machine: doorbells and descriptors of some of its devices, on one thread.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use snowboot_virtio::Token;
use snowboot_virtio::transport::{Doorbell, PciTransport};
use vmm_sys_util::eventfd::EventFd;

use crate::Error;
use crate::gathering::Gathering;
use crate::kvm;

/// Doorbells are numbered by their queue, a device's own sources from here on; no device has that many queues.
const FIRST_SOURCE: u32 = 1 << 16;

type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// The loop, ready to run.
pub(crate) struct EventLoop {
    manager: EventManager<Subscriber>,
    over: Arc<Mutex<bool>>,
}

impl EventLoop {
    /// A loop over `devices` that ends when `end` becomes readable. A device that has it for itself lets its guest gather
    /// requests.
    pub(crate) fn new(devices: Vec<Arc<Mutex<PciTransport>>>, end: &EventFd) -> Result<Self, Error> {
        let failed = |error: event_manager::Error| Error::Host {
            what: "set up the event loop".to_owned(),
            source: std::io::Error::other(format!("{error:?}")),
        };
        let mut manager: EventManager<Subscriber> = EventManager::new().map_err(failed)?;
        let over = Arc::new(Mutex::new(false));
        let refusal = Refusal::default();
        let end = end.try_clone().map_err(Error::host("watch for the machine's end"))?;
        let end = End { event: end, over: Arc::clone(&over), refusal: refusal.clone() };
        manager.add_subscriber(Box::new(end));
        let is_alone = devices.len() == 1;
        for transport in devices {
            let doorbells = transport.lock().unwrap_or_else(PoisonError::into_inner).watched_doorbells();
            let (gathering, refusal) = (is_alone.then(Gathering::new), refusal.clone());
            manager.add_subscriber(Box::new(DeviceEvents { transport, doorbells, gathering, refusal }));
        }
        match refusal.take() {
            None => Ok(Self { manager, over }),
            Some(error) => Err(failed(error)),
        }
    }

    /// Serves events until the machine ends.
    pub(crate) fn run(&mut self) {
        while !*self.over.lock().unwrap_or_else(PoisonError::into_inner) {
            if let Err(error) = self.manager.run() {
                tracing::error!(?error, "the event loop failed");
                return;
            }
        }
    }
}

/// The first descriptor that could not be watched, and why: subscribers cannot return it.
#[derive(Clone, Default)]
struct Refusal(Arc<Mutex<Option<event_manager::Error>>>);

impl Refusal {
    fn note(&self, outcome: Result<(), event_manager::Error>) {
        if let Err(error) = outcome {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    fn take(&self) -> Option<event_manager::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct End {
    event: EventFd,
    over: Arc<Mutex<bool>>,
    refusal: Refusal,
}

impl MutEventSubscriber for End {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.refusal.note(ops.add(Events::new(&self.event, EventSet::IN)));
    }
}

struct DeviceEvents {
    transport: Arc<Mutex<PciTransport>>,
    /// In the order of the queues.
    doorbells: Vec<Doorbell>,
    /// Where nobody else's requests wait for this thread.
    gathering: Option<Gathering>,
    refusal: Refusal,
}

impl DeviceEvents {
    /// Has the device serve what has happened, and returns how many requests of its guest it has answered.
    fn serve(&self, data: u32) -> u64 {
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = data.checked_sub(FIRST_SOURCE) {
            transport.source_ready(Token(token));
            return 0;
        }
        let before = transport.answered();
        let doorbell = usize::try_from(data).ok().and_then(|index| self.doorbells.get(index));
        if let Some(doorbell) = doorbell {
            transport.queue_ready(doorbell.queue);
        }
        transport.answered().wrapping_sub(before)
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let answered = self.serve(events.data());
        let Some(gathering) = &mut self.gathering else { return };
        let next = gathering.after(answered);
        if next.is_patient() != gathering.is_patient() {
            kvm::make_thread_patient(next.is_patient());
        }
        *gathering = next;
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        for doorbell in &self.doorbells {
            // Each ring is told by itself, so that nobody needs to read the doorbell, which would be a system call per
            // notification. Its counter does not overflow in the time that is given to us.
            let set = EventSet::IN | EventSet::EDGE_TRIGGERED;
            let (fd, data) = (doorbell.event.as_raw_fd(), u32::from(doorbell.queue));
            self.refusal.note(ops.add(Events::with_data_raw(fd, data, set)));
        }
        for (token, fd) in &transport.sources() {
            let data = FIRST_SOURCE.saturating_add(token.0);
            self.refusal.note(ops.add(Events::with_data_raw(fd.as_raw_fd(), data, EventSet::IN)));
        }
    }
}
