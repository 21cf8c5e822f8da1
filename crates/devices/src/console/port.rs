//! One console port: a stream and the two queues that feed it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use snowboot_virtio::{DescriptorChain, Interrupt, Queue, QueueFault, RestoreError, Served};

use super::wire::Size;
use crate::stream::DeviceEnd;

/// The most of one output buffer that is kept aside while the host's side is full; what exceeds it is cut off. Linux
/// writes at most 32 KiB at once.
const MOST_ASIDE: usize = 256 << 10;
/// The most input that a saved state may hold: more than any stream does.
const MOST_SAVED_INPUT: usize = 64 << 20;

/// The longest name of a port: sysfs and udev make files of it.
const LONGEST_NAME: usize = 64;

/// One port of a console device, seen from the host.
#[derive(Debug)]
pub struct PortEnd {
    pub(super) stream: DeviceEnd,
    pub(super) name: Option<String>,
}

impl PortEnd {
    /// A console: hvc0, hvc1 and so on in Linux, in the order of such ports. Open on the host's side at all times.
    #[must_use]
    pub fn console(stream: DeviceEnd) -> Self {
        Self { stream, name: None }
    }

    /// A channel for programs: `/dev/virtio-ports/NAME` where udev runs. On the host's side it is open when a program has
    /// [opened](crate::stream::HostEnd::open) the stream.
    ///
    /// # Errors
    /// When it cannot be a file's name of 1 to 64 visible ASCII characters.
    pub fn named(name: &str, stream: DeviceEnd) -> io::Result<Self> {
        let is_good = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_good) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "`{name}` is no name for a port: 1 to {LONGEST_NAME} visible ASCII characters without `/`"
                ),
            ));
        }
        Ok(Self { stream, name: Some(name.to_owned()) })
    }
}

#[derive(Debug)]
pub(super) struct Port {
    pub(super) stream: DeviceEnd,
    /// It is no console but a channel of this name.
    pub(super) name: Option<String>,
    /// The driver has set it up.
    ready: bool,
    /// The conversation that the driver was told is open.
    told: Option<u32>,
    /// The conversation that the driver's output belongs to.
    conversation: u32,
    /// The guest's program has closed it, and not all that it wrote is in the stream.
    closing: bool,
    /// The guest has opened it; only then is input for anybody.
    pub(super) open: bool,
    pub(super) size: Option<Size>,
    /// The rest of an output buffer that did not fit: it goes out before anything else does.
    aside: VecDeque<u8>,
    /// Input from a saved state, older than what is in the stream.
    restored: VecDeque<u8>,
}

impl Port {
    pub(super) fn new(end: PortEnd) -> Self {
        let PortEnd { stream, name } = end;
        Self {
            stream,
            name,
            ready: false,
            told: None,
            conversation: 0,
            closing: false,
            open: false,
            size: None,
            aside: VecDeque::new(),
            restored: VecDeque::new(),
        }
    }

    /// The driver has set it up, and knows nothing of it.
    pub(super) fn set_ready(&mut self) {
        (self.ready, self.told) = (true, None);
    }

    /// The driver begins anew: nobody there has it open.
    pub(super) fn forget(&mut self) {
        self.set_open(false);
        (self.ready, self.told) = (false, None);
    }

    /// The guest's program has opened or closed it.
    pub(super) fn set_open(&mut self, open: bool) {
        self.closing |= self.open && !open && self.name.is_some();
        self.open = open;
        if open && self.name.is_some() && !self.closing {
            self.stream.guest_opened();
        }
    }

    /// What the driver is to hear of the host's program since it was last told: that it closed, that it opened.
    pub(super) fn news(&mut self) -> (bool, bool) {
        if !self.ready || self.name.is_none() {
            return (false, false);
        }
        let view = self.stream.host_view();
        let is_over = |told: u32| !view.open || told != view.conversation;
        // What a saved state brought comes before the end.
        let closed = self.restored.is_empty() && self.told.is_some_and(is_over);
        if closed {
            self.told = None;
        }
        let opened = view.open && self.told.is_none();
        if opened {
            self.told = Some(view.conversation);
        }
        (closed, opened)
    }

    /// Sends input to the driver, as far as there is input and buffers for it.
    pub(super) fn receive(&mut self, queue: &mut Queue, interrupt: &Interrupt) -> Result<(), QueueFault> {
        if self.restored.is_empty() && self.stream.pending() == 0 {
            return Ok(());
        }
        queue.serve(interrupt, |mut chain| {
            let room = chain.writer.remaining();
            // A writer that fails has no room left; the input stays.
            let moved = self.input(&mut chain, room).unwrap_or(0);
            if moved == 0 && room > 0 { Served::PutBack(chain) } else { Served::Done(chain) }
        })
    }

    fn input(&mut self, chain: &mut DescriptorChain, room: usize) -> io::Result<usize> {
        let mut moved = 0;
        while moved < room && !self.restored.is_empty() {
            let (front, _) = self.restored.as_slices();
            let part = front.len().min(room - moved);
            let written = chain.writer.write(front.get(..part).unwrap_or(front))?;
            if written == 0 {
                return Ok(moved);
            }
            self.restored.drain(..written);
            moved += written;
        }
        Ok(moved + self.stream.read_to(&mut chain.writer, room - moved)?)
    }

    /// Takes output from the driver, until the host's side is full.
    pub(super) fn transmit(&mut self, queue: &mut Queue, interrupt: &Interrupt) -> Result<(), QueueFault> {
        let mut is_held = false;
        let served = queue.serve(interrupt, |mut chain| {
            if !self.stream.is_open() {
                return Served::Done(chain); // Nobody listens, and nobody ever will.
            }
            self.flush_aside();
            if !self.aside.is_empty() {
                is_held = true;
                return Served::PutBack(chain);
            }
            let length = chain.reader.remaining();
            let _ = match self.name {
                None => self.stream.write_from(&mut chain.reader, length),
                Some(_) => self.stream.write_in(self.conversation, &mut chain.reader, length),
            };
            // One buffer is taken whole, so that no position within it has to be remembered.
            let rest = u64::try_from(MOST_ASIDE).unwrap_or(u64::MAX);
            let mut aside = Vec::new();
            let _ = chain.reader.by_ref().take(rest).read_to_end(&mut aside);
            self.aside = aside.into();
            Served::Done(chain)
        });
        if !is_held {
            self.drained();
        }
        served
    }

    /// The queue of output is empty.
    pub(super) fn drained(&mut self) {
        if self.name.is_none() {
            return;
        }
        self.flush_aside();
        // What was written in an earlier conversation, or in none, is gone now.
        self.conversation = self.stream.host_view().conversation;
        if self.closing && self.aside.is_empty() {
            self.closing = false;
            self.stream.guest_closed();
            if self.open {
                self.stream.guest_opened();
            }
        }
    }

    /// Puts out one byte now, or never.
    pub(super) fn emergency(&mut self, byte: u8) {
        self.flush_aside();
        let _ = self.stream.write_from(&mut [byte].as_slice(), 1);
    }

    pub(super) fn flush_aside(&mut self) {
        let length = self.aside.len();
        if length == 0 {
            return;
        }
        // A deque cannot fail to be read.
        let _ = match self.name {
            None => self.stream.write_from(&mut self.aside, length),
            Some(_) => self.stream.write_in(self.conversation, &mut self.aside, length),
        };
    }

    pub(super) fn save(&self) -> State {
        let mut input: Vec<u8> = self.restored.iter().copied().collect();
        input.extend(self.stream.peek());
        State {
            ready: self.ready,
            told: self.told.is_some(),
            closing: self.closing,
            open: self.open,
            size: self.size,
            input,
            output: self.aside.iter().copied().collect(),
        }
    }

    pub(super) fn restore(&mut self, state: State) {
        (self.ready, self.closing, self.size) = (state.ready, state.closing, state.size);
        // Whoever the guest's program spoke with is not there any more.
        let conversation = self.stream.host_view().conversation;
        self.told = state.told.then(|| conversation.wrapping_sub(1));
        self.conversation = conversation;
        self.open = state.open;
        if self.name.is_some() && (self.open || self.closing) {
            self.stream.guest_opened();
        }
        // The state has the port's input, all of it: what waits in the stream is a copy of that, or of another past. A sink
        // takes everything.
        let _ = self.stream.read_to(&mut io::sink(), self.stream.pending());
        self.restored = state.input.into();
        self.aside = state.output.into();
    }
}

/// The saved form of a port: also what the host wrote and the guest has not read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    ready: bool,
    told: bool,
    closing: bool,
    open: bool,
    size: Option<Size>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl State {
    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.input.len() > MOST_SAVED_INPUT || self.output.len() > MOST_ASIDE {
            return Err(RestoreError("a console port holds more bytes than it can".into()));
        }
        Ok(())
    }
}
