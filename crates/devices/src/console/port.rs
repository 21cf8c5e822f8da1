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

#[derive(Debug)]
pub(super) struct Port {
    pub(super) stream: DeviceEnd,
    /// The guest has opened it; only then is input for anybody.
    pub(super) open: bool,
    pub(super) size: Option<Size>,
    /// The rest of an output buffer that did not fit: it goes out before anything else does.
    aside: VecDeque<u8>,
    /// Input from a saved state, older than what is in the stream.
    restored: VecDeque<u8>,
}

impl Port {
    pub(super) fn new(stream: DeviceEnd) -> Self {
        Self { stream, open: false, size: None, aside: VecDeque::new(), restored: VecDeque::new() }
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
        queue.serve(interrupt, |mut chain| {
            if !self.stream.is_open() {
                return Served::Done(chain); // Nobody listens, and nobody ever will.
            }
            self.flush_aside();
            if !self.aside.is_empty() {
                return Served::PutBack(chain);
            }
            let length = chain.reader.remaining();
            let _ = self.stream.write_from(&mut chain.reader, length);
            // One buffer is taken whole, so that no position within it has to be remembered.
            let rest = u64::try_from(MOST_ASIDE).unwrap_or(u64::MAX);
            let mut aside = Vec::new();
            let _ = chain.reader.by_ref().take(rest).read_to_end(&mut aside);
            self.aside = aside.into();
            Served::Done(chain)
        })
    }

    /// Puts out one byte now, or never.
    pub(super) fn emergency(&mut self, byte: u8) {
        self.flush_aside();
        let _ = self.stream.write_from(&mut [byte].as_slice(), 1);
    }

    pub(super) fn flush_aside(&mut self) {
        let length = self.aside.len();
        // A deque cannot fail to be read.
        let _ = if length > 0 { self.stream.write_from(&mut self.aside, length) } else { Ok(0) };
    }

    pub(super) fn save(&self) -> State {
        let mut input: Vec<u8> = self.restored.iter().copied().collect();
        input.extend(self.stream.peek());
        State { open: self.open, size: self.size, input, output: self.aside.iter().copied().collect() }
    }

    pub(super) fn restore(&mut self, state: State) {
        self.open = state.open;
        self.size = state.size;
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
