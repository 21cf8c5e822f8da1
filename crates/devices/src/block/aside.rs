//! What would keep all other requests of a disk waiting for the host's storage, done aside: reads of what is not in the host's
//! memory, and flushes.
//!
//! Owned by one block device, which hands out requests and takes them back finished. Whoever makes the device has the threads;
//! they touch an image's file and the memory of the request they hold, nothing else. `io_uring` would do the same with fewer
//! threads; its submissions are raw memory, which devices do not handle.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use snowboot_virtio::DescriptorChain;

use super::file::ImageFile;
use super::transfer::Pending;
use super::wire::Status;
use crate::wake::Wake;

/// The most requests at once: enough for as many threads as a disk has, with as many waiting.
const MOST_REQUESTS: usize = 32;
/// Bytes after which there is no more at once. A machine that is stopped or paused waits for all of them.
const MOST_BYTES: usize = 64 << 20;

/// Something to be done once.
pub type Chore = Box<dyn FnOnce() + Send>;

/// Threads that do what may take its time.
pub trait Helpers: fmt::Debug + Send + Sync {
    /// Has `chore` done soon, beside what else is to be done; or does it in this call, where no thread can be had.
    fn help(&self, chore: Chore);
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) file: Arc<ImageFile>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Fill all of the request's room from byte `offset` of the file on.
    Read { offset: u64 },
    /// Make what was written last.
    Flush,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read { .. } => "reading",
            Self::Flush => "flushing",
        }
    }
}

/// A request of a queue, with what it asks for.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) queue: u16,
    pub(super) pending: Pending,
    pub(super) work: Work,
    /// How much data it moves.
    pub(super) bytes: usize,
}

/// A request that was served.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) queue: u16,
    pub(super) chain: DescriptorChain,
    pub(super) kind: Kind,
    pub(super) outcome: io::Result<()>,
    bytes: usize,
}

/// The requests of a disk that are served aside.
#[derive(Debug)]
pub(super) struct Aside {
    helpers: Arc<dyn Helpers>,
    /// Tells of finished requests.
    news: Arc<Wake>,
    done: Sender<Finished>,
    finished: Receiver<Finished>,
    in_flight: usize,
    bytes: usize,
}

impl Aside {
    pub(super) fn new(helpers: Arc<dyn Helpers>) -> io::Result<Self> {
        let (done, finished) = mpsc::channel();
        Ok(Self { helpers, news: Arc::new(Wake::new()?), done, finished, in_flight: 0, bytes: 0 })
    }

    /// Readable when there is something finished.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Whether no more is to be handed out before something is finished.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight >= MOST_REQUESTS || self.bytes >= MOST_BYTES
    }

    /// Has a request served.
    pub(super) fn hand_out(&mut self, task: Task) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.bytes = self.bytes.saturating_add(task.bytes);
        let (done, news) = (self.done.clone(), Arc::clone(&self.news));
        self.helpers.help(Box::new(move || {
            // The other end is gone only after the last answer.
            let _ = done.send(task.perform());
            news.signal();
        }));
    }

    /// A request that is finished by now.
    pub(super) fn next(&mut self) -> Option<Finished> {
        let finished = self.finished.try_recv().ok()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(finished.bytes);
        Some(finished)
    }

    /// A request that is finished, waited for; `None` when all are.
    pub(super) fn wait(&mut self) -> Option<Finished> {
        self.in_flight = self.in_flight.checked_sub(1)?;
        let finished = self.finished.recv().ok()?;
        self.bytes = self.bytes.saturating_sub(finished.bytes);
        Some(finished)
    }

    /// Takes note of the news, before [`Self::next`].
    pub(super) fn drain(&self) {
        self.news.drain();
    }
}

impl Drop for Aside {
    /// The image's locks go with the last request.
    fn drop(&mut self) {
        while self.wait().is_some() {}
    }
}

impl Task {
    /// Whatever happens there is an answer, which is waited for.
    fn perform(self) -> Finished {
        let Self { queue, mut pending, work, bytes } = self;
        let outcome = catch_unwind(AssertUnwindSafe(|| work.perform(&mut pending)))
            .unwrap_or_else(|_| Err(io::Error::other("the thread that served it panicked")));
        let status = if outcome.is_ok() { Status::Ok } else { Status::IoError };
        Finished { queue, chain: pending.finish(status), kind: work.kind, outcome, bytes }
    }
}

impl Work {
    fn perform(&self, pending: &mut Pending) -> io::Result<()> {
        match self.kind {
            Kind::Read { offset } => pending.payload().fill_from(&self.file, offset),
            Kind::Flush => self.file.check_length().and_then(|()| self.file.sync()),
        }
    }
}
