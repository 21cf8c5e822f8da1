//! What would keep all other requests of a disk waiting for the host's storage, done aside by threads: reads of what is not in
//! the host's memory, and flushes.
//!
//! Owned by one block device, which hands out requests and takes them back finished. The threads come with the need, so a disk
//! that is in the host's memory has none. They touch an image's file and the memory of the request they hold, nothing else.
//! `io_uring` would do the same with fewer threads; its submissions are raw memory, which devices do not handle.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use snowboot_virtio::DescriptorChain;

use super::file::ImageFile;
use super::transfer::Pending;
use super::wire::Status;
use crate::wake::Wake;

/// The most threads of a disk: that many reads at once keep most storage busy.
const MOST_THREADS: usize = 16;

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
}

/// A request that was served.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) queue: u16,
    pub(super) chain: DescriptorChain,
    pub(super) kind: Kind,
    pub(super) outcome: io::Result<()>,
}

/// The threads of a disk, and what they have to do.
#[derive(Debug)]
pub(super) struct Aside {
    /// Tells of finished requests.
    news: Arc<Wake>,
    tasks: Option<Sender<Task>>,
    waiting: Arc<Mutex<Receiver<Task>>>,
    done: Sender<Finished>,
    finished: Receiver<Finished>,
    in_flight: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Aside {
    pub(super) fn new() -> io::Result<Self> {
        let (tasks, waiting) = mpsc::channel();
        let (done, finished) = mpsc::channel();
        Ok(Self {
            news: Arc::new(Wake::new()?),
            tasks: Some(tasks),
            waiting: Arc::new(Mutex::new(waiting)),
            done,
            finished,
            in_flight: 0,
            threads: Vec::new(),
        })
    }

    /// Readable when there is something finished.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// How many threads there are.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Has a request served. Where there is no thread for it and none can be had, it is served at once.
    pub(super) fn hand_out(&mut self, task: Task) {
        self.in_flight = self.in_flight.saturating_add(1);
        if self.threads.len() < self.in_flight.min(MOST_THREADS) {
            self.add_thread();
        }
        match (&self.tasks, self.threads.is_empty()) {
            // The other end is in this very struct.
            (Some(tasks), false) => drop(tasks.send(task)),
            _ => perform(task, &self.done, &self.news),
        }
    }

    /// A request that is finished by now.
    pub(super) fn next(&mut self) -> Option<Finished> {
        let finished = self.finished.try_recv().ok()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(finished)
    }

    /// A request that is finished, waited for; `None` when all are.
    pub(super) fn wait(&mut self) -> Option<Finished> {
        self.in_flight = self.in_flight.checked_sub(1)?;
        self.finished.recv().ok()
    }

    /// Takes note of the news, before [`Self::next`].
    pub(super) fn drain(&self) {
        self.news.drain();
    }

    fn add_thread(&mut self) {
        let (waiting, done, news) = (Arc::clone(&self.waiting), self.done.clone(), Arc::clone(&self.news));
        let next = move || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let body = move || {
            while let Ok(task) = next() {
                perform(task, &done, &news);
            }
        };
        // One less is slower, and none at all is waited for.
        self.threads.extend(thread::Builder::new().name("aside".to_owned()).spawn(body));
    }
}

impl Drop for Aside {
    /// The image's locks go with the last request.
    fn drop(&mut self) {
        self.tasks = None;
        for thread in self.threads.drain(..) {
            // What they do is caught.
            let _ = thread.join();
        }
    }
}

fn perform(task: Task, done: &Sender<Finished>, news: &Wake) {
    let Task { queue, mut pending, work } = task;
    let outcome = catch_unwind(AssertUnwindSafe(|| work.perform(&mut pending)))
        .unwrap_or_else(|_| Err(io::Error::other("the thread that served it panicked")));
    let status = if outcome.is_ok() { Status::Ok } else { Status::IoError };
    let kind = work.kind;
    // Before anybody learns of it: whoever waits for the last one may then let go of the image.
    drop(work);
    let finished = Finished { queue, chain: pending.finish(status), kind, outcome };
    if done.send(finished).is_ok() {
        news.signal();
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
