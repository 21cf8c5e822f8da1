//! What would keep all other requests of a disk waiting for the host's storage, done aside: reads of what is not in the host's
//! memory, and flushes.
//!
//! Owned by one block device, which hands out requests and takes them back finished. They go to the host's ring where there
//! is one, and to threads where there is none; whoever makes the device has both, since a ring is handed raw memory, which
//! devices do not handle. Ring and threads touch an image's file and the memory of the requests they hold, nothing else.
//!
//! ```text
//!  hand_out ─► ring ─► done in full ──────────────────► next, wait
//!      │         └───► refused, short, failed ─┐           ▲
//!      └── no ring ────────────────────────────┴► threads ─┘
//! ```

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use super::task::{Finished, Task};
use crate::wake::Wake;

/// The most requests of threads at once: enough for as many as a disk has, with as many waiting.
const MOST_OF_THREADS: usize = 32;
/// The most requests of a ring at once. The host keeps 64 bytes for each, so this is a page.
const MOST_OF_RING: u32 = 64;
/// Bytes after which there is no more at once. A machine that is stopped or paused waits for all of them.
const MOST_BYTES: usize = 64 << 20;

/// Something to be done once.
pub type Chore = Box<dyn FnOnce() + Send>;

/// Those who do what may take its time.
pub trait Helpers: fmt::Debug + Send + Sync {
    /// Has `chore` done soon, beside what else is to be done; or does it in this call, where no thread can be had.
    fn help(&self, chore: Chore);

    /// A ring for `entries` requests at once, which makes `news` readable when one of them is finished. Called once, when
    /// there is something for it.
    ///
    /// # Errors
    /// When none is wanted, or the host has none for us. Then all is done by threads.
    fn ring(&self, entries: u32, news: BorrowedFd<'_>) -> io::Result<Box<dyn Ring>> {
        let _ = (entries, news);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Requests that the host serves beside what this thread does (`io_uring(7)`), and in any order.
pub trait Ring: fmt::Debug + Send {
    /// Takes a request, which begins with the next [`Self::submit`].
    ///
    /// # Errors
    /// The request, when this is none for the ring, or one too many.
    fn add(&mut self, task: Box<Task>) -> Result<(), Box<Task>>;

    /// Begins all that was added, by one call of the host. Returns what the host did not take.
    fn submit(&mut self) -> Vec<Box<Task>>;

    /// A request that is finished by now, with the number of bytes that were moved.
    fn next(&mut self) -> Option<(Box<Task>, io::Result<usize>)>;

    /// As [`Self::next`], waited for; `None` when none has begun that is not finished.
    fn wait(&mut self) -> Option<(Box<Task>, io::Result<usize>)>;
}

/// Who serves.
#[derive(Debug)]
enum Engine {
    /// Nobody has had to yet.
    Unknown,
    Ring(Box<dyn Ring>),
    Threads,
}

/// The requests of a disk that are served aside.
#[derive(Debug)]
pub(super) struct Aside {
    helpers: Arc<dyn Helpers>,
    engine: Engine,
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
        let (engine, news) = (Engine::Unknown, Arc::new(Wake::new()?));
        Ok(Self { helpers, engine, news, done, finished, in_flight: 0, bytes: 0 })
    }

    /// Readable when there is something finished.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Whether no more is to be handed out before something is finished.
    pub(super) fn is_full(&self) -> bool {
        let most = match self.engine {
            Engine::Ring(_) => usize::try_from(MOST_OF_RING).unwrap_or(MOST_OF_THREADS),
            Engine::Unknown | Engine::Threads => MOST_OF_THREADS,
        };
        self.in_flight >= most || self.bytes >= MOST_BYTES
    }

    /// Has a request served; a ring begins with it in [`Self::go`].
    pub(super) fn hand_out(&mut self, task: Box<Task>) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.bytes = self.bytes.saturating_add(task.bytes);
        let refused = match self.ring() {
            Some(ring) if task.is_plain() => ring.add(task).err(),
            _ => Some(task),
        };
        if let Some(task) = refused {
            self.help(task);
        }
    }

    /// Begins with what was handed out since the last time.
    pub(super) fn go(&mut self) {
        let Engine::Ring(ring) = &mut self.engine else { return };
        for task in ring.submit() {
            self.help(task);
        }
    }

    /// A request that is finished by now.
    pub(super) fn next(&mut self) -> Option<Finished> {
        let finished = self.next_of_ring().or_else(|| self.finished.try_recv().ok())?;
        Some(self.account(finished))
    }

    /// A request that is finished, waited for; `None` when all are.
    pub(super) fn wait(&mut self) -> Option<Finished> {
        self.go();
        while let Engine::Ring(ring) = &mut self.engine
            && let Some((task, outcome)) = ring.wait()
        {
            match task.conclude(outcome) {
                Ok(finished) => return Some(self.account(finished)),
                Err(task) => self.help(task),
            }
        }
        if self.in_flight == 0 {
            return None;
        }
        let finished = self.finished.recv().ok()?;
        Some(self.account(finished))
    }

    /// Takes note of the news, before [`Self::next`].
    pub(super) fn drain(&self) {
        self.news.drain();
    }

    fn ring(&mut self) -> Option<&mut Box<dyn Ring>> {
        if matches!(self.engine, Engine::Unknown) {
            self.engine = match self.helpers.ring(MOST_OF_RING, self.news.as_fd()) {
                Ok(ring) => Engine::Ring(ring),
                Err(_) => Engine::Threads,
            };
        }
        match &mut self.engine {
            Engine::Ring(ring) => Some(ring),
            Engine::Unknown | Engine::Threads => None,
        }
    }

    fn next_of_ring(&mut self) -> Option<Finished> {
        while let Engine::Ring(ring) = &mut self.engine
            && let Some((task, outcome)) = ring.next()
        {
            match task.conclude(outcome) {
                Ok(finished) => return Some(finished),
                Err(task) => self.help(task),
            }
        }
        None
    }

    /// Has a thread do it.
    fn help(&self, task: Box<Task>) {
        let (done, news) = (self.done.clone(), Arc::clone(&self.news));
        self.helpers.help(Box::new(move || {
            // The other end is gone only after the last answer.
            let _ = done.send(task.perform());
            news.signal();
        }));
    }

    fn account(&mut self, finished: Finished) -> Finished {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(finished.bytes);
        finished
    }
}

impl Drop for Aside {
    /// The image's locks go with the last request.
    fn drop(&mut self) {
        while self.wait().is_some() {}
    }
}
