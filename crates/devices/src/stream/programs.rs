//! Streams that programs on both sides open and close, again and again: the ends of a named port.
//!
//! A *conversation* begins when the host's program opens the stream and ends when it closes it. Within one, the guest's
//! program comes and goes once. Bytes must never pass from one conversation to the next. Streams on which nobody calls
//! these methods, those of consoles, are as if always open.

use std::io::{self, Read};

use super::{DeviceEnd, HostEnd, discard};

/// Who has the stream open.
#[derive(Debug, Default)]
pub(super) struct Programs {
    /// Conversations so far, modulo 2^32.
    conversation: u32,
    host_open: bool,
    /// The host's program writes no more.
    host_done: bool,
    guest: Guest,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Guest {
    /// Not seen in this conversation.
    #[default]
    Away,
    Here,
    /// Was there and has closed its end; all that it wrote is in the stream.
    Left,
}

impl Programs {
    pub(super) fn guest_has_left(&self) -> bool {
        self.guest == Guest::Left
    }
}

/// What the device sees of the host's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Changes with every conversation.
    pub conversation: u32,
    /// It is there, and may write more or has written what the device has not passed on.
    pub open: bool,
    /// It takes what the guest writes.
    pub reads: bool,
}

impl HostEnd {
    /// Begins a conversation: nothing of an earlier one is left in the stream.
    pub fn open(&self) {
        let shared = &self.side.0;
        let mut state = shared.lock();
        state.to_device.clear();
        state.to_host.clear();
        let programs = &mut state.programs;
        programs.conversation = programs.conversation.wrapping_add(1);
        (programs.host_open, programs.host_done) = (true, false);
        if programs.guest == Guest::Left {
            programs.guest = Guest::Away;
        }
        shared.tell_device(&mut state);
    }

    /// Nothing more will be written: the guest's program reads the end of the file after the last byte.
    pub fn finish(&self) {
        let shared = &self.side.0;
        let mut state = shared.lock();
        state.programs.host_done = true;
        shared.tell_device(&mut state);
    }

    /// Ends the conversation at once. What was on its way, either way, is thrown away.
    pub fn close(&self) {
        let shared = &self.side.0;
        let mut state = shared.lock();
        state.to_device.clear();
        state.to_host.clear();
        state.programs.host_open = false;
        shared.tell_device(&mut state);
    }
}

impl DeviceEnd {
    /// The host's program as it is now.
    #[must_use]
    pub fn host_view(&self) -> HostView {
        let state = self.shared.lock();
        let Programs { conversation, host_open, host_done, .. } = state.programs;
        let reads = state.host_open && host_open;
        let open = reads && !(host_done && state.to_device.is_empty());
        HostView { conversation, open, reads }
    }

    /// The guest's program has opened its end.
    pub fn guest_opened(&self) {
        self.shared.lock().programs.guest = Guest::Here;
    }

    /// As [`Self::write_from`] in one conversation. Once the host's program has left it, everything is taken and thrown
    /// away.
    ///
    /// # Errors
    /// Those of `source`; the bytes before the error are in the stream.
    pub fn write_in(&self, conversation: u32, source: &mut dyn Read, limit: usize) -> io::Result<usize> {
        let state = self.shared.lock();
        let Programs { conversation: now, host_open, .. } = state.programs;
        if host_open && now == conversation { self.put(state, source, limit) } else { discard(source, limit) }
    }

    /// The guest's program has closed its end, and all that it wrote is in the stream. What it has not read is thrown
    /// away. Nothing happens when it was not there.
    pub fn guest_closed(&self) {
        let mut state = self.shared.lock();
        if state.programs.guest != Guest::Here {
            return;
        }
        state.programs.guest = Guest::Left;
        state.to_device.clear();
        self.shared.readable.notify_all();
        self.shared.writable.notify_all();
    }
}
