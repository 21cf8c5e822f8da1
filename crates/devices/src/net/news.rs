//! How a card learns that the switch has frames for it, or room: it is served there and then, on the thread of whoever brings
//! that, or its bell is rung and its own thread serves it.
//!
//! ```text
//!  switch ─► waker ─┬─ the card is free ───► served here
//!                   └─ it is being served, or ├─► bell ─► its own thread
//!                      this thread serves another ┘
//! ```
//!
//! The first saves a thread's wake-up and sleep for each burst of frames. A thread that brings news holds locks of its own
//! card at most, and never waits for another's; and it serves one other card at a time, so that turns stay short.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use crate::wake::Wake;

thread_local! {
    /// Whether this thread is in the middle of serving a card that somebody's call to the switch has woken.
    static SERVING: Cell<bool> = const { Cell::new(false) };
}

/// Serves a card now, or says that it cannot.
type Serve = Box<dyn Fn() -> bool + Send + Sync>;

/// News for one card.
pub(super) struct News {
    bell: Wake,
    serve: OnceLock<Serve>,
}

impl News {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { bell: Wake::new()?, serve: OnceLock::new() })
    }

    /// From now on `serve` is tried first. It must not wait for anybody, and is set once.
    pub(super) fn serve_with(&self, serve: Serve) {
        let _ = self.serve.set(serve);
    }

    /// Called by the switch.
    pub(super) fn tell(&self) {
        if !self.serve_here() {
            self.bell.signal();
        }
    }

    /// Has the card's own thread call it again.
    pub(super) fn ring(&self) {
        self.bell.signal();
    }

    /// The bell has been heard.
    pub(super) fn drain(&self) {
        self.bell.drain();
    }

    fn serve_here(&self) -> bool {
        let Some(serve) = self.serve.get() else { return false };
        if SERVING.replace(true) {
            return false;
        }
        let served = serve();
        SERVING.set(false);
        served
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News").field("bell", &self.bell).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn is_rung(news: &News) -> bool {
        let mut number = [0; 8];
        rustix::io::read(&news.bell, &mut number).is_ok()
    }

    #[test]
    fn the_bell_rings_where_nobody_can_serve_at_once() {
        let news = News::new().unwrap();
        news.tell();
        assert!(is_rung(&news), "there is nobody yet");
        let free = Arc::new(AtomicUsize::new(1));
        let mine = Arc::clone(&free);
        news.serve_with(Box::new(move || mine.load(Ordering::Relaxed) == 1));
        news.tell();
        assert!(!is_rung(&news));
        free.store(0, Ordering::Relaxed);
        news.tell();
        assert!(is_rung(&news));
    }

    #[test]
    fn who_serves_a_card_only_rings_for_the_next() {
        let next = Arc::new(News::new().unwrap());
        next.serve_with(Box::new(|| panic!("one at a time")));
        let first = News::new().unwrap();
        let then = Arc::clone(&next);
        first.serve_with(Box::new(move || {
            then.tell();
            true
        }));
        first.tell();
        assert!(!is_rung(&first) && is_rung(&next));
        first.tell();
        assert!(is_rung(&next), "and again");
    }
}
