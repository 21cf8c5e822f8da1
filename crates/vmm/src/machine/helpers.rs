//! Who does what a device need not wait for itself: the host's ring, and threads.
//!
//! Owned by one device. They come with the need, so a disk whose image is in the host's memory has none, and end with it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use snowboot_config::DiskEngine;
use snowboot_devices::block::{self, Chore, Helpers};

use crate::memory::Ring;

/// The most threads of a disk: that many reads at once keep most storage busy.
const MOST: usize = 16;

/// The threads of one device, and its ring if it wants one.
#[derive(Debug)]
pub(super) struct Pool {
    /// Linux shows the first 15 bytes.
    name: String,
    engine: DiskEngine,
    state: Mutex<State>,
    waiting: Arc<Mutex<Receiver<Chore>>>,
    /// Chores that are not done.
    open: Arc<Mutex<usize>>,
}

#[derive(Debug)]
struct State {
    /// `None` at the end, which is how threads learn of it.
    chores: Option<Sender<Chore>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(name: String, engine: DiskEngine) -> Self {
        let (chores, waiting) = mpsc::channel();
        let state = Mutex::new(State { chores: Some(chores), threads: Vec::new() });
        Self { name, engine, state, waiting: Arc::new(Mutex::new(waiting)), open: Arc::default() }
    }

    fn add_thread(&self, state: &mut State) {
        let (waiting, open) = (Arc::clone(&self.waiting), Arc::clone(&self.open));
        let next = move || lock(&waiting).recv();
        let body = move || {
            while let Ok(chore) = next() {
                chore();
                let mut open = lock(&open);
                *open = open.saturating_sub(1);
            }
        };
        // One less is slower, and none at all is waited for.
        state.threads.extend(thread::Builder::new().name(self.name.clone()).spawn(body));
    }
}

impl Helpers for Pool {
    fn help(&self, chore: Chore) {
        let mut state = lock(&self.state);
        let open = {
            let mut open = lock(&self.open);
            *open = open.saturating_add(1);
            *open
        };
        if state.threads.len() < open.min(MOST) {
            self.add_thread(&mut state);
        }
        let unsent = match &state.chores {
            Some(chores) if !state.threads.is_empty() => chores.send(chore).err().map(|error| error.0),
            _ => Some(chore),
        };
        drop(state);
        if let Some(chore) = unsent {
            chore();
            let mut open = lock(&self.open);
            *open = open.saturating_sub(1);
        }
    }

    fn ring(&self, entries: u32, news: BorrowedFd<'_>) -> io::Result<Box<dyn block::Ring>> {
        let ring = match self.engine {
            DiskEngine::IoUring => Ring::open(entries, news),
            DiskEngine::Threads => Err(io::Error::new(io::ErrorKind::Unsupported, "it is not wanted")),
        };
        match &ring {
            Ok(_) => tracing::debug!(helpers = self.name, "io_uring serves what a disk would wait for"),
            Err(why) => {
                tracing::debug!(helpers = self.name, %why, "threads serve what a disk would wait for, not io_uring")
            }
        }
        Ok(Box::new(ring?))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.chores = None;
        for thread in state.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(thread = self.name, "a thread of a machine panicked");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::{Barrier, mpsc};
    use std::time::Duration;

    use snowboot_devices::block::testing::aside_conformance;

    use super::*;

    #[test]
    fn chores_are_done_beside_one_another_up_to_a_number() {
        let pool = Pool::new("help:test".to_owned(), DiskEngine::Threads);
        let all = Arc::new(Barrier::new(MOST));
        let (done, finished) = mpsc::channel();
        for _ in 0..2 * MOST {
            let (all, done) = (Arc::clone(&all), done.clone());
            pool.help(Box::new(move || {
                // Nobody passes before so many are here at once.
                all.wait();
                done.send(()).unwrap();
            }));
        }
        for _ in 0..2 * MOST {
            finished.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        assert_eq!(lock(&pool.state).threads.len(), MOST);
    }

    #[test]
    fn disks_are_served_by_either_engine() {
        for engine in [DiskEngine::IoUring, DiskEngine::Threads] {
            let folder = tempfile::tempdir().unwrap();
            aside_conformance(folder.path(), &|| Arc::new(Pool::new("help:test".to_owned(), engine)));
        }
        let pool = Pool::new("help:test".to_owned(), DiskEngine::Threads);
        assert!(pool.ring(1, io::stdin().as_fd()).is_err(), "a ring that is not wanted");
    }

    #[test]
    fn one_after_another_needs_one_thread_and_the_end_waits_for_the_last() {
        let pool = Pool::new("help:test".to_owned(), DiskEngine::Threads);
        let count = Arc::new(Mutex::new(0));
        for _ in 0..20 {
            let counted = Arc::clone(&count);
            pool.help(Box::new(move || *lock(&counted) += 1));
            while *lock(&pool.open) > 0 {
                thread::yield_now();
            }
        }
        assert_eq!(lock(&pool.state).threads.len(), 1);
        let counted = Arc::clone(&count);
        pool.help(Box::new(move || *lock(&counted) += 1));
        drop(pool);
        assert_eq!(*lock(&count), 21);
    }
}
