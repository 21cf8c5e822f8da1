//! virtio-console with several ports (virtio 1.2, 5.3): a port is a console, hvc0, hvc1 and so on in Linux, or a channel
//! with a name; its other end is a [`stream`](crate::stream).
//!
//! ```text
//! driver: DEVICE_READY ─► device: DEVICE_ADD for each port
//! driver: PORT_READY n ─► device: CONSOLE_PORT n, PORT_OPEN n, RESIZE n if a size is known; or PORT_NAME n
//! driver: PORT_OPEN n  ─► input flows
//! ```
//!
//! A named port is opened and closed by programs on both sides, and each side is told of the other's: the guest that the
//! host has closed after all bytes that the host wrote before, the host likewise. The device holds a close of the guest
//! back until the queue of output is empty; what a program in the guest writes that opens the port in this short time
//! counts as the first one's.
//!
//! The device owns the ports and the control messages that wait for a buffer. Output that the host does not read stays
//! in the guest; input stays in the stream until the guest has opened the port, also across a reset. Bytes must never be
//! lost while both sides are there. Linux's console driver spins until a buffer of output is taken, so whoever holds the
//! host's end should keep reading. A driver without `VIRTIO_CONSOLE_F_MULTIPORT` gets port 0 alone, without a handshake.

mod port;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
    Token,
};

use self::port::Port;
pub use self::port::PortEnd;
use self::wire::{EMERGENCY_WRITE, F_EMERG_WRITE, F_MULTIPORT, F_SIZE, FromDriver, MESSAGE, Size, ToDriver};
use crate::wake::Wake;

/// The most ports of one device: what its queues and their interrupts leave room for.
pub const MAX_PORTS: usize = 31;

/// Buffers of a data queue. Linux keeps every receive queue full of pages: 256 KiB per port.
const DATA_QUEUE: u16 = 64;
const CONTROL_QUEUE: u16 = 32;
/// Queue 2: from the device; queue 3: from the driver (5.3.2).
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
/// Control messages that wait, per port: a handshake, a resize and a new conversation take six. A driver that asks for more without reading
/// the answers loses them.
const MOST_WAITING_PER_PORT: usize = 16;

const KIND: &str = "virtio-console";
const VERSION: u16 = 2;

/// The console device.
#[derive(Debug)]
pub struct Console {
    ports: Vec<Port>,
    sizes: Arc<Sizes>,
    waiting: VecDeque<ToDriver>,
    /// Port 0 has another size than the driver was told to look for.
    resized: bool,
    session: Option<Session>,
}

impl Console {
    /// A device with these ports. Ports past [`MAX_PORTS`] are closed.
    ///
    /// # Errors
    /// When the process has no more file descriptors.
    pub fn new(mut ports: Vec<PortEnd>) -> std::io::Result<(Self, ConsoleControl)> {
        ports.truncate(MAX_PORTS);
        let sizes = Arc::new(Sizes { wake: Wake::new()?, news: Mutex::new(vec![None; ports.len()]) });
        let control = ConsoleControl { sizes: Arc::clone(&sizes) };
        let ports = ports.into_iter().map(Port::new).collect();
        Ok((Self { ports, sizes, waiting: VecDeque::new(), resized: false, session: None }, control))
    }

    fn multiport(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.features & F_MULTIPORT != 0)
    }

    /// Tells of sizes that came while there was nobody to tell.
    fn catch_up(&mut self) {
        if !self.multiport() {
            self.waiting.clear();
        }
        let Some(session) = &self.session else { return };
        if std::mem::take(&mut self.resized) && session.features & F_SIZE != 0 {
            session.interrupt.config();
        }
    }

    /// Does everything there is to do.
    fn serve_all(&mut self) -> Result<(), QueueFault> {
        self.hear()?;
        self.speak()?;
        (0..self.ports.len()).try_for_each(|port| self.serve(port))
    }

    /// Moves what there is to move at a port, output first: that of an earlier conversation must be gone before the
    /// driver hears of a new one.
    fn serve(&mut self, index: usize) -> Result<(), QueueFault> {
        self.transmit(index)?;
        self.receive(index)?;
        self.announce(index)
    }

    /// Tells the driver when the host's program has opened or closed a port.
    fn announce(&mut self, index: usize) -> Result<(), QueueFault> {
        if !self.multiport() {
            return Ok(());
        }
        let news = self.ports.get_mut(index).map(Port::news);
        let ((closed, opened), Ok(id)) = (news.unwrap_or_default(), u32::try_from(index)) else {
            return Ok(());
        };
        if closed {
            // Nobody needs to hear what is over before it was told.
            self.waiting
                .retain(|message| !matches!(message, ToDriver::Open(it) | ToDriver::Close(it) if *it == id));
            self.say(ToDriver::Close(id));
        }
        if opened {
            self.say(ToDriver::Open(id));
        }
        if closed || opened { self.speak() } else { Ok(()) }
    }

    fn receive(&mut self, index: usize) -> Result<(), QueueFault> {
        let multiport = self.multiport();
        let (Some(port), Some(session)) = (self.ports.get_mut(index), &mut self.session) else {
            return Ok(());
        };
        let accepts = if multiport { port.open } else { index == 0 };
        match session.queues.get_mut(receive_queue(index)) {
            Some(Some(queue)) if accepts => port.receive(queue, &session.interrupt),
            _ => Ok(()),
        }
    }

    fn transmit(&mut self, index: usize) -> Result<(), QueueFault> {
        let (Some(port), Some(session)) = (self.ports.get_mut(index), &mut self.session) else {
            return Ok(());
        };
        port.flush_aside();
        match session.queues.get_mut(receive_queue(index).saturating_add(1)) {
            Some(Some(queue)) => port.transmit(queue, &session.interrupt),
            _ => {
                port.drained();
                Ok(())
            }
        }
    }

    /// Takes the driver's control messages.
    fn hear(&mut self) -> Result<(), QueueFault> {
        if !self.multiport() {
            return Ok(());
        }
        let mut heard = Vec::new(); // At most one ring's worth.
        if let Some(session) = &mut self.session
            && let Some(Some(queue)) = session.queues.get_mut(CONTROL_TRANSMIT)
        {
            queue.serve(&session.interrupt, |mut chain| {
                let mut message = [0; MESSAGE];
                if chain.reader.read_exact(&mut message).is_ok() {
                    heard.push(FromDriver::parse(message));
                }
                Served::Done(chain)
            })?;
        }
        for message in heard {
            self.handle(message)?;
        }
        Ok(())
    }

    fn handle(&mut self, message: FromDriver) -> Result<(), QueueFault> {
        match message {
            FromDriver::DeviceReady(true) => {
                self.waiting.clear();
                for (id, port) in (0..).zip(&mut self.ports) {
                    port.forget();
                    self.waiting.push_back(ToDriver::Add(id));
                }
                return (0..self.ports.len()).try_for_each(|port| self.serve(port));
            }
            FromDriver::PortReady(id, true) => {
                let Some(index) = index(id) else { return Ok(()) };
                let Some(port) = self.ports.get_mut(index) else { return Ok(()) };
                port.set_ready();
                let (size, is_console) = (port.size, port.name.is_none());
                if is_console {
                    self.say(ToDriver::Console(id));
                    self.say(ToDriver::Open(id));
                } else {
                    self.say(ToDriver::Name(id));
                    self.announce(index)?;
                }
                if let Some(size) = size {
                    self.say(ToDriver::Resize(id, size));
                }
            }
            FromDriver::PortOpen(id, open) => {
                let Some(index) = index(id) else { return Ok(()) };
                if let Some(port) = self.ports.get_mut(index) {
                    port.set_open(open);
                }
                return self.serve(index);
            }
            FromDriver::DeviceReady(false) | FromDriver::PortReady(_, false) | FromDriver::Other => {}
        }
        Ok(())
    }

    fn say(&mut self, message: ToDriver) {
        if self.waiting.len() < MOST_WAITING_PER_PORT.saturating_mul(self.ports.len()) {
            self.waiting.push_back(message);
        }
    }

    /// Gives the driver the control messages that wait. One that does not fit its buffer is lost.
    fn speak(&mut self) -> Result<(), QueueFault> {
        if !self.multiport() || self.waiting.is_empty() {
            return Ok(());
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.get_mut(CONTROL_RECEIVE) else { return Ok(()) };
        queue.serve(&session.interrupt, |mut chain| {
            let Some(message) = self.waiting.pop_front() else { return Served::PutBack(chain) };
            let name = index(message.port()).and_then(|index| self.ports.get(index)?.name.as_deref());
            let bytes = message.bytes(name.unwrap_or_default());
            if chain.writer.remaining() >= bytes.len() {
                let _ = chain.writer.write_all(&bytes);
            }
            Served::Done(chain)
        })
    }

    fn resize(&mut self) -> Result<(), QueueFault> {
        let none = vec![None; self.ports.len()];
        let news =
            std::mem::replace(&mut *self.sizes.news.lock().unwrap_or_else(PoisonError::into_inner), none);
        for (id, size) in (0u32..).zip(news) {
            let Some(size) = size else { continue };
            let Some(port) = index(id).and_then(|index| self.ports.get_mut(index)) else { continue };
            port.size = Some(size);
            // Only the newest counts, of those that nobody has heard yet.
            self.waiting.retain(|message| !matches!(message, ToDriver::Resize(other, _) if *other == id));
            self.say(ToDriver::Resize(id, size));
            self.resized |= id == 0;
        }
        if self.session.is_some() {
            self.catch_up();
        }
        self.speak()
    }
}

impl Device for Console {
    fn identity(&self) -> Identity {
        let mut queue_sizes = vec![DATA_QUEUE, DATA_QUEUE, CONTROL_QUEUE, CONTROL_QUEUE];
        queue_sizes.resize(receive_queue(self.ports.len().max(1)), DATA_QUEUE);
        Identity { id: DeviceId::Console, features: F_SIZE | F_MULTIPORT | F_EMERG_WRITE, queue_sizes }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let size = self.ports.first().and_then(|port| port.size).unwrap_or_default();
        let mut space = size.bytes().to_vec();
        space.extend(u32::try_from(self.ports.len()).unwrap_or(u32::MAX).to_le_bytes());
        space.extend([0; 4]); // emerg_wr is write-only
        crate::config::read(&space, offset, data);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        if let (EMERGENCY_WRITE, Some(byte), Some(port)) = (offset, data.first(), self.ports.first_mut()) {
            port.emergency(*byte);
        }
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        self.catch_up();
        self.serve_all().map_err(|fault| StartError { device: "console", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn reset(&mut self) {
        self.waiting.clear();
        self.resized = false;
        for port in &mut self.ports {
            port.forget();
            // The queue of output is no more.
            port.drained();
        }
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        match usize::from(queue) {
            CONTROL_RECEIVE => self.speak(),
            CONTROL_TRANSMIT => self.hear().and_then(|()| self.speak()),
            other => {
                let port = if other < CONTROL_RECEIVE { 0 } else { (other / 2).saturating_sub(1) };
                if other % 2 == 0 {
                    self.receive(port).and_then(|()| self.announce(port))
                } else {
                    self.transmit(port)
                }
            }
        }
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        let streams = self.ports.iter().map(|port| port.stream.as_fd());
        (0..).map(Token).zip(streams.chain([self.sizes.wake.as_fd()])).collect()
    }

    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        let Some(index) = index(token.0) else { return Ok(()) };
        if index >= self.ports.len() {
            self.sizes.wake.drain();
            return self.resize();
        }
        if let Some(port) = self.ports.get(index) {
            port.stream.drain();
        }
        self.serve(index)
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        let state = State {
            waiting: self.waiting.iter().copied().collect(),
            resized: self.resized,
            ports: self.ports.iter().map(Port::save).collect(),
        };
        Saved::new(KIND, VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        let known = |message: &ToDriver| index(message.port()).is_some_and(|index| index < self.ports.len());
        if state.ports.len() != self.ports.len() {
            return Err(RestoreError(format!(
                "the state has {} console ports, the device {}",
                state.ports.len(),
                self.ports.len()
            )));
        }
        if state.waiting.len() > MOST_WAITING_PER_PORT * self.ports.len() || !state.waiting.iter().all(known)
        {
            return Err(RestoreError("the console's control messages are not its own".into()));
        }
        state.ports.iter().try_for_each(port::State::check)?;
        self.waiting = state.waiting.into();
        self.resized = state.resized;
        for (port, state) in self.ports.iter_mut().zip(state.ports) {
            port.restore(state);
        }
        Ok(())
    }
}

/// Changes a running console. Clones share it.
#[derive(Clone, Debug)]
pub struct ConsoleControl {
    sizes: Arc<Sizes>,
}

impl ConsoleControl {
    /// Tells the guest the size of a port in characters; nothing happens for a port that is not there.
    pub fn resize(&self, port: usize, columns: u16, rows: u16) {
        let mut news = self.sizes.news.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = news.get_mut(port) {
            *size = Some(Size { columns, rows });
            self.sizes.wake.signal();
        }
    }
}

/// New sizes on their way to the device.
#[derive(Debug)]
struct Sizes {
    wake: Wake,
    news: Mutex<Vec<Option<Size>>>,
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    waiting: Vec<ToDriver>,
    resized: bool,
    ports: Vec<port::State>,
}

/// Index of a port's receive queue; its transmit queue is the next. The control queues lie behind those of port 0.
fn receive_queue(port: usize) -> usize {
    if port == 0 { 0 } else { port.saturating_mul(2).saturating_add(2) }
}

fn index(id: u32) -> Option<usize> {
    usize::try_from(id).ok()
}
