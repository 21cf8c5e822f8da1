//! The host's ring (`io_uring(7)`) of one device: it reads files into guest memory, in place, and flushes them.
//!
//! Owns the requests that the host has, and with them what keeps guest memory and the files there, until the host says that it
//! is done with them; so it waits for all of them before it goes away. Everything about it is bounded by its size. A ring
//! that the host did not take a request from is used no more: what lies in it may point to what is gone by then.
//!
//! ```text
//!  add ─► waiting ─► submit ─► the host's ─► next, wait ─► whoever asks
//!                      └─ not taken: given back, and nothing is submitted any more
//! ```

use std::fmt;
use std::io;
use std::iter;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use snowboot_devices::block::{self, Operation, Task};

/// The most ranges of one request (`UIO_MAXIOV`, linux/uio.h).
const MOST_RANGES: usize = 1024;
/// Until it is asked again, after the host has refused to wait for a request that it has.
const PAUSE: Duration = Duration::from_millis(1);

/// A ring and its requests.
pub(crate) struct Ring {
    ring: IoUring,
    /// The requests. Each one's place is its `user_data`.
    slots: Vec<Option<Box<Task>>>,
    free: Vec<usize>,
    /// The places of those that begin with the next submit; the host has all others.
    waiting: Vec<usize>,
    is_retired: bool,
}

impl Ring {
    /// A ring for `entries` requests at once, a power of two; `news` is signalled with each that is finished.
    ///
    /// # Errors
    /// `ENOSYS` or `EPERM` where there is no `io_uring` or it is forbidden (`kernel.io_uring_disabled`, seccomp), `Unsupported`
    /// on kernels before 5.12, whose rings' own threads were not this process's, and what `io_uring_setup(2)` says.
    pub(crate) fn open(entries: u32, news: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::builder().dontfork().build(entries)?;
        let params = ring.params();
        if !(params.is_feature_native_workers() && params.is_feature_submit_stable()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        ring.submitter().register_eventfd(news.as_raw_fd())?;
        let size = usize::try_from(entries).map_err(io::Error::other)?;
        let slots = iter::repeat_with(|| None).take(size).collect();
        Ok(Self { ring, slots, free: (0..size).collect(), waiting: Vec::new(), is_retired: false })
    }

    /// How many requests the host has.
    fn in_flight(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len()).saturating_sub(self.waiting.len())
    }

    /// Puts a request into the ring, where the host does not look before it is told to; whether there was room for it.
    fn put(&mut self, place: usize, vectors: &mut Vec<Vec<libc::iovec>>) -> bool {
        let Some(Some(task)) = self.slots.get(place) else { return false };
        let entry = entry(task, vectors).user_data(u64::try_from(place).unwrap_or(u64::MAX));
        // SAFETY: the file is open, and the memory is there, for as long as the task is, which is in its slot until the host says
        // that it is done, and nobody else has. The list of ranges outlives the host's look at it, in `submit`.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    /// Has the host take what is in the ring; the number of requests that it did not.
    fn enter(&mut self) -> usize {
        loop {
            let outcome = self.ring.submit();
            let left = self.ring.submission().len();
            match outcome {
                _ if left == 0 => return 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(taken) if taken > 0 => {}
                Ok(_) | Err(_) => {
                    self.is_retired = true;
                    return left;
                }
            }
        }
    }

    fn take(&mut self, place: usize) -> Option<Box<Task>> {
        let task = self.slots.get_mut(place)?.take()?;
        self.free.push(place);
        Some(task)
    }
}

impl block::Ring for Ring {
    fn add(&mut self, task: Box<Task>) -> Result<(), Box<Task>> {
        if self.is_retired || task.room().nth(MOST_RANGES).is_some() {
            return Err(task);
        }
        let Some(place) = self.free.pop() else { return Err(task) };
        let Some(slot) = self.slots.get_mut(place) else { return Err(task) };
        *slot = Some(task);
        self.waiting.push(place);
        Ok(())
    }

    fn submit(&mut self) -> Vec<Box<Task>> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        // The host copies lists of ranges as it takes a request (`IORING_FEAT_SUBMIT_STABLE`).
        let mut vectors = Vec::new();
        let mut places = mem::take(&mut self.waiting);
        let put = places.iter().take_while(|place| self.put(**place, &mut vectors)).count();
        let taken = put.saturating_sub(self.enter());
        let refused: Vec<_> =
            places.split_off(taken).into_iter().filter_map(|place| self.take(place)).collect();
        if !refused.is_empty() {
            tracing::debug!(refused = refused.len(), "the host takes no more by its ring: threads go on");
        }
        refused
    }

    fn next(&mut self) -> Option<(Box<Task>, io::Result<usize>)> {
        let entry = self.ring.completion().next()?;
        let task = self.take(usize::try_from(entry.user_data()).ok()?)?;
        let result = entry.result();
        let outcome =
            usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
        Some((task, outcome))
    }

    fn wait(&mut self) -> Option<(Box<Task>, io::Result<usize>)> {
        loop {
            if let Some(finished) = self.next() {
                return Some(finished);
            }
            if self.in_flight() == 0 {
                return None;
            }
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: it submits nothing, and has no argument that could point anywhere.
            let outcome = unsafe { self.ring.submitter().enter::<()>(0, 1, flags, None) };
            // The memory is the host's until it is done, whatever it says.
            if outcome.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while block::Ring::wait(self).is_some() {}
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// A request as the host reads it. What it points to belongs to the task and to `vectors`.
fn entry(task: &Task, vectors: &mut Vec<Vec<libc::iovec>>) -> squeue::Entry {
    let file = types::Fd(task.file().as_raw_fd());
    let Operation::Read { offset } = task.operation() else {
        return opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build();
    };
    let ranges = task
        .room()
        .map(|slice| libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
    let ranges: Vec<_> = ranges.collect();
    if let [range] = ranges.as_slice()
        && let Ok(length) = u32::try_from(range.iov_len)
    {
        return opcode::Read::new(file, range.iov_base.cast(), length).offset(offset).build();
    }
    let number = u32::try_from(ranges.len()).unwrap_or(0);
    let entry = opcode::Readv::new(file, ranges.as_ptr(), number).offset(offset).build();
    vectors.push(ranges);
    entry
}

#[cfg(test)]
mod tests;
