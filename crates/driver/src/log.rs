//! The run's log, as events that sinks turn into text, XML or JSON.
//!
//! Events go through one queue to one thread, so that they are in one order, a vCPU thread never waits for a terminal, and
//! sinks need no locks. The queue is bounded: who works for the test waits a while for room, console lines that find none
//! are left out and counted (the machine's own console text has them). A sink that takes nothing any more, such as a
//! terminal's pager that nobody reads, costs lines of the log and never holds up the run. The thread ends with the last
//! [`Logger`], or when its sink lets go of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::control::{TICK, lock};

/// Events waiting for the sinks, at most.
const QUEUE_CAP: usize = 20_000;

/// How long the run waits for a sink: for room, at a flush, at the log's end. A sink that needs longer has got stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who look for a fault in the driver.
    Debug,
    /// What the test does.
    Info,
    /// Something is odd.
    Warning,
    /// Something failed.
    Error,
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            _ => Err(format!("Log level `{text}` is not one of debug, info, warning, error")),
        }
    }
}

/// Something that happened in the run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A block of work begins.
    Begin {
        /// Its number, unique in the run.
        id: u64,
        /// The block of the same thread that it is in.
        parent: Option<u64>,
        /// Whether it is a subtest: a test case of its own in a report.
        subtest: bool,
        /// The machine that it is about.
        machine: Option<Arc<str>>,
        /// What is done.
        text: String,
        /// When, by the wall clock.
        at: SystemTime,
    },
    /// A block of work is done.
    End {
        /// Its number.
        id: u64,
        /// What was done.
        text: String,
        /// How long it took.
        took: Duration,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// A line of the driver or the test.
    Line {
        /// How much it matters.
        level: Level,
        /// The machine that it is about.
        machine: Option<Arc<str>>,
        /// The line.
        text: String,
    },
    /// A line of a machine's console, cleaned of control characters.
    Console {
        /// The machine.
        machine: Arc<str>,
        /// The line.
        text: String,
    },
}

/// Takes events, on the log's thread.
pub trait Sink: Send {
    /// One event. `serial` is false while console lines are to be kept off the screen.
    fn event(&mut self, event: &Event, serial: bool);

    /// All events so far have been given; what is buffered should be written out.
    fn flush(&mut self) {}
}

/// A handle on the run's log. Clones share it.
#[derive(Clone)]
pub struct Logger(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    next_block: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, or the log is closed.
    filled: Condvar,
    /// Something was taken or written, or the thread has ended.
    taken: Condvar,
    serial: AtomicBool,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    busy: bool,
    closed: bool,
    /// The thread has written everything and ended.
    done: bool,
    /// Nobody waits for room again before the sinks have taken something.
    stuck: bool,
    lost: Lost,
}

/// What found no room.
#[derive(Clone, Copy, Default)]
struct Lost {
    console: u64,
    lines: u64,
}

thread_local! {
    /// The blocks that this thread is in.
    static BLOCKS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Logger {
    /// A log that writes to these sinks.
    #[must_use]
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            taken: Condvar::new(),
            serial: AtomicBool::new(true),
        });
        let worker = shared.clone();
        let thread =
            std::thread::Builder::new().name("snowboot-log".into()).spawn(move || worker.run(sinks)).ok();
        {
            let mut queue = lock(&shared.queue);
            queue.closed = thread.is_none();
            queue.done |= thread.is_none();
        }
        Self(Arc::new(Handle { shared, next_block: AtomicU64::new(1), thread: Mutex::new(thread) }))
    }

    /// A log that nobody reads.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(Vec::new())
    }

    /// Writes a line.
    pub fn line(&self, level: Level, machine: Option<&Arc<str>>, text: impl Into<String>) {
        self.put(Event::Line { level, machine: machine.cloned(), text: text.into() });
    }

    /// Begins a block, which ends when the returned value is dropped.
    #[must_use]
    pub fn block(&self, machine: Option<&Arc<str>>, text: impl Into<String>) -> Block {
        self.begin(machine, text.into(), false)
    }

    /// Begins a subtest.
    #[must_use]
    pub fn subtest(&self, name: &str) -> Block {
        self.begin(None, format!("subtest: {name}"), true)
    }

    /// Shows console lines on the terminal, or not.
    pub fn set_serial(&self, on: bool) {
        self.0.shared.serial.store(on, Ordering::Relaxed);
    }

    /// Returns when the sinks have everything that was logged before, or after 2 s when a sink is stuck.
    pub fn flush(&self) {
        drop(self.0.shared.wait_while(|queue| !queue.closed && (queue.busy || !queue.events.is_empty())));
    }

    fn begin(&self, machine: Option<&Arc<str>>, text: String, subtest: bool) -> Block {
        let id = self.0.next_block.fetch_add(1, Ordering::Relaxed);
        let parent = BLOCKS.with_borrow_mut(|blocks| {
            let parent = blocks.last().copied();
            blocks.push(id);
            parent
        });
        let shown = self.put(Event::Begin {
            id,
            parent,
            subtest,
            machine: machine.cloned(),
            text: text.clone(),
            at: SystemTime::now(),
        });
        Block { log: self.clone(), id, text, since: Instant::now(), failure: None, shown }
    }

    /// Queues an event of the test, waiting a while for room. False when it found none.
    fn put(&self, event: Event) -> bool {
        let shared = &self.0.shared;
        let has_room = |queue: &Queue| queue.closed || queue.events.len() < QUEUE_CAP;
        let mut queue = shared.wait_while(|queue| !queue.stuck && !has_room(queue));
        if queue.closed {
            return false;
        }
        if !has_room(&queue) {
            queue.stuck = true;
            queue.lost.lines = queue.lost.lines.saturating_add(1);
            return false;
        }
        queue.events.push_back(event);
        drop(queue);
        shared.filled.notify_one();
        true
    }

    /// Queues a console line if there is room.
    pub(crate) fn console(&self, event: Event) {
        let mut queue = lock(&self.0.shared.queue);
        if queue.events.len() >= QUEUE_CAP {
            queue.lost.console = queue.lost.console.saturating_add(1);
            return;
        }
        queue.events.push_back(event);
        drop(queue);
        self.0.shared.filled.notify_one();
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logger")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.filled.notify_one();
        let thread = lock(&self.thread).take();
        // A sink that owns the last handle would otherwise wait for itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let is_done = self.shared.wait_while(|queue| !queue.done).done;
            if is_done {
                drop(thread.join());
            }
        }
    }
}

impl Shared {
    fn run(&self, mut sinks: Vec<Box<dyn Sink>>) {
        while let Some((events, lost)) = self.take() {
            let serial = self.serial.load(Ordering::Relaxed);
            for event in &events {
                sinks.iter_mut().for_each(|sink| sink.event(event, serial));
            }
            for text in lost.notes() {
                let event = Event::Line { level: Level::Warning, machine: None, text };
                sinks.iter_mut().for_each(|sink| sink.event(&event, serial));
            }
            sinks.iter_mut().for_each(|sink| sink.flush());
            lock(&self.queue).busy = false;
            self.taken.notify_all();
        }
        drop(sinks);
        lock(&self.queue).done = true;
        self.taken.notify_all();
    }

    /// Waits while the queue is so, but not for ever.
    fn wait_while(&self, so: impl Fn(&Queue) -> bool) -> MutexGuard<'_, Queue> {
        let deadline = Instant::now() + PATIENCE;
        let mut queue = lock(&self.queue);
        while so(&queue) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.taken.wait_timeout(queue, left.min(TICK));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue
    }

    /// Everything that is queued; waits for something. `None` when the log is closed and empty.
    fn take(&self) -> Option<(VecDeque<Event>, Lost)> {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.events.is_empty() {
                queue.busy = true;
                queue.stuck = false;
                self.taken.notify_all();
                return Some((std::mem::take(&mut queue.events), std::mem::take(&mut queue.lost)));
            }
            if queue.closed {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Lost {
    fn notes(self) -> impl Iterator<Item = String> {
        let console = (self.console > 0).then(|| {
            format!("{} console lines were left out of the log; get_console_log() has them", self.console)
        });
        let lines = (self.lines > 0)
            .then(|| format!("{} log lines were lost: what reads the log stood still", self.lines));
        console.into_iter().chain(lines)
    }
}

/// A block of work under way; ends when dropped.
#[derive(Debug)]
pub struct Block {
    log: Logger,
    id: u64,
    text: String,
    since: Instant,
    failure: Option<String>,
    /// Its beginning is in the log.
    shown: bool,
}

impl Block {
    /// Notes that the block failed, for reports.
    pub fn fail(&mut self, why: impl Into<String>) {
        self.failure = Some(why.into());
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // Blocks may end on another thread or out of order, so remove by number.
        let _ = BLOCKS.try_with(|blocks| blocks.borrow_mut().retain(|id| *id != self.id));
        // The end of what never began would confuse reports.
        if !self.shown {
            return;
        }
        self.log.put(Event::End {
            id: self.id,
            text: std::mem::take(&mut self.text),
            took: self.since.elapsed(),
            failure: self.failure.take(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Keep(Arc<Mutex<Vec<Event>>>);

    impl Sink for Keep {
        fn event(&mut self, event: &Event, _: bool) {
            lock(&self.0).push(event.clone());
        }
    }

    #[test]
    fn blocks_know_their_parents_and_end_after_what_is_in_them() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Logger::new(vec![Box::new(Keep(events.clone()))]);
        {
            let _outer = log.subtest("outer");
            let mut inner = log.block(None, "inner");
            inner.fail("no");
        }
        log.flush();
        let events = lock(&events);
        let [
            Event::Begin { id: outer, parent: None, subtest: true, .. },
            Event::Begin { parent, subtest: false, .. },
            Event::End { failure: Some(why), .. },
            Event::End { failure: None, id, .. },
        ] = events.as_slice()
        else {
            panic!("{events:?}")
        };
        assert_eq!((parent, why.as_str(), id), (&Some(*outer), "no", outer));
    }

    /// Takes nothing while the first lock is held.
    struct Stuck(Arc<Mutex<()>>, Arc<Mutex<Vec<String>>>);

    impl Sink for Stuck {
        fn event(&mut self, event: &Event, _: bool) {
            drop(lock(&self.0));
            if let Event::Line { text, .. } = event {
                lock(&self.1).push(text.clone());
            }
        }
    }

    #[test]
    fn a_stuck_sink_costs_log_lines_but_never_holds_up_the_run() {
        let (gate, lines) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let held = lock(&gate);
        let log = Logger::new(vec![Box::new(Stuck(gate.clone(), lines.clone()))]);
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for number in 0..2 * QUEUE_CAP + 1000 {
                log.line(Level::Info, None, number.to_string());
            }
            let block = log.block(None, "a block");
            log.flush();
            drop(block);
            drop(log);
            let _ = sender.send(());
        });
        done.recv_timeout(Duration::from_secs(60)).expect("the run was held up");
        drop(held);
        let is_told = || lock(&lines).iter().any(|line: &String| line.contains("log lines were lost"));
        let until = Instant::now() + Duration::from_secs(60);
        while !is_told() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_told(), "{:?}", lock(&lines).last());
    }

    #[test]
    fn a_stuck_sink_costs_console_lines_but_never_holds_up_the_guest() {
        let (gate, lines) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let held = lock(&gate);
        let log = Logger::new(vec![Box::new(Stuck(gate.clone(), lines.clone()))]);
        for _ in 0..3 * QUEUE_CAP {
            log.console(Event::Console { machine: "m".into(), text: "x".into() });
        }
        drop(held);
        drop(log);
        assert!(lock(&lines).iter().any(|line| line.contains("were left out")), "{:?}", lock(&lines));
    }
}
