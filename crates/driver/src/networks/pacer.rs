//! A thread that looks at the clock for a switch, which has none.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use snowboot_network::Switch;

use super::now;
use crate::control::lock;

/// The longest sleep; nothing depends on it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Pacer {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is to look at.
#[derive(Debug, Default)]
struct Bell {
    news: Mutex<News>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct News {
    /// A frame is to arrive earlier than any before.
    earlier: bool,
    stop: bool,
}

impl Pacer {
    pub(super) fn start(network: &str, switch: Switch) -> io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let (timer, shared) = (Arc::clone(&bell), Arc::clone(&bell));
        switch.set_timer(Arc::new(move || timer.ring(|news| news.earlier = true)));
        let thread =
            std::thread::Builder::new().name(network.to_owned()).spawn(move || shared.run(&switch))?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.bell.ring(|news| news.stop = true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Bell {
    fn ring(&self, news: impl FnOnce(&mut News)) {
        news(&mut lock(&self.news));
        self.rung.notify_one();
    }

    /// Waits until the switch has something to do, and lets it, again and again. No lock is held while the switch works.
    fn run(&self, switch: &Switch) {
        loop {
            let left = switch.deadline().map_or(LONGEST_SLEEP, |deadline| deadline.saturating_sub(now()));
            let guard = lock(&self.news);
            let quiet = |news: &mut News| !news.earlier && !news.stop;
            let waited = self.rung.wait_timeout_while(guard, left.min(LONGEST_SLEEP), quiet);
            let mut news = waited.unwrap_or_else(PoisonError::into_inner).0;
            if news.stop {
                return;
            }
            news.earlier = false;
            drop(news);
            switch.advance(now());
        }
    }
}
