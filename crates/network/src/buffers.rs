//! Buffers of long frames that are through, for the next ones: a fresh one of 64 KiB costs as many page faults as copies of
//! pages, since allocators give so much back to the system at once.
//!
//! Owned by the switch, shared by its ports, behind a lock of its own that is taken last and held for a moment.

use std::sync::{Mutex, PoisonError};

use crate::frame::LONGEST;

/// Shorter frames get buffers of their own length: one of the longest for each would hold up to as many times more memory
/// than the bounds of queues, which count bytes of frames, say.
const SHORTEST: usize = LONGEST / 2;
/// As many of the longest frames as a queue has room for by default.
const KEPT: usize = 16;

/// Empty buffers, each with room for the longest frame.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer with room for `length` bytes.
    pub(crate) fn take(&self, length: usize) -> Vec<u8> {
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Vec::with_capacity(length.min(LONGEST));
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| Vec::with_capacity(LONGEST))
    }

    /// Keeps a buffer, if it is one of the long ones and there are not enough.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() != LONGEST {
            return;
        }
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_buffers_come_back_empty_and_short_ones_do_not() {
        let buffers = Buffers::default();
        let mut long = buffers.take(LONGEST - 1);
        long.resize(LONGEST - 1, 7);
        let place = long.as_ptr();
        buffers.give(long);
        buffers.give(buffers.take(SHORTEST - 1));
        let again = buffers.take(SHORTEST);
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (place, 0, LONGEST));
        assert!(buffers.take(60).capacity() < SHORTEST);
    }

    #[test]
    fn no_more_are_kept_than_a_queue_holds() {
        let buffers = Buffers::default();
        for _ in 0..2 * KEPT {
            buffers.give(Vec::with_capacity(LONGEST));
        }
        assert_eq!(buffers.0.lock().unwrap().len(), KEPT);
    }
}
