//! A ring of bytes with a fixed capacity that is filled from a `Read` and emptied into a `Write`, one copy each way.

use std::io::{self, Read, Write};

/// Bytes in order. The memory is zeroed pages until used.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Box<[u8]>,
    head: usize,
    length: usize,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), head: 0, length: 0 }
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn room(&self) -> usize {
        self.bytes.len() - self.length
    }

    /// Takes up to `limit` bytes from `source`, as many as fit. What arrived before an error is kept.
    pub(super) fn fill_from(&mut self, source: &mut dyn Read, limit: usize) -> io::Result<usize> {
        let mut moved = 0;
        while moved < limit && self.room() > 0 {
            let start = (self.head + self.length) % self.bytes.len();
            let end = self.bytes.len().min(start + self.room()).min(start + (limit - moved));
            let read = retry(|| source.read(&mut self.bytes[start..end]))?;
            if read == 0 {
                break;
            }
            self.length += read;
            moved += read;
        }
        Ok(moved)
    }

    /// Gives up to `limit` bytes to `sink`, as many as there are and it takes.
    pub(super) fn drain_to(&mut self, sink: &mut dyn Write, limit: usize) -> io::Result<usize> {
        let mut moved = 0;
        while moved < limit && self.length > 0 {
            let end = self.bytes.len().min(self.head + self.length).min(self.head + (limit - moved));
            let written = retry(|| sink.write(&self.bytes[self.head..end]))?;
            if written == 0 {
                break;
            }
            self.head = (self.head + written) % self.bytes.len();
            self.length -= written;
            moved += written;
        }
        if self.length == 0 {
            self.head = 0; // Reuse the pages that are in the cache.
        }
        Ok(moved)
    }

    /// Forgets what is in it.
    pub(super) fn clear(&mut self) {
        (self.head, self.length) = (0, 0);
    }

    /// What is in the ring, without taking it.
    pub(super) fn copy(&self) -> Vec<u8> {
        let first = self.bytes.len().min(self.head + self.length);
        let mut copy = self.bytes[self.head..first].to_vec();
        copy.extend_from_slice(&self.bytes[..self.length - copy.len()]);
        copy
    }
}

fn retry(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
