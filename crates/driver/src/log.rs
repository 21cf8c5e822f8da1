//! The run's log, as events that sinks turn into text, XML or JSON.
//!
//! Events go through a queue to a thread, so that they are in one order, a vCPU thread never waits for a terminal, and
//! sinks need no locks. Sinks that may stall share a queue and a thread, the others share another. A queue is bounded: who
//! works for the test waits a while for room, console lines that find none are left out and counted (the machine's own
//! console text has them). A sink that takes nothing any more, such as a terminal's pager that nobody reads, costs lines
//! of the log and never holds up the run. The threads end with the last [`Logger`], or when their sinks let go of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::control::{TICK, lock};
use crate::event::{BlockInfo, Event, Level, Record, Sink, Step};

/// Events waiting for the sinks, at most.
const QUEUE_CAP: usize = 20_000;

/// How long the run waits for a sink: for room, at a flush, at the log's end. A sink that needs longer has got stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle on the run's log. Clones share it.
#[derive(Clone)]
pub struct Logger(Arc<Handle>);

struct Handle {
    workers: Vec<Worker>,
    next_block: AtomicU64,
    serial: AtomicBool,
    began: Instant,
    began_wall: SystemTime,
}

struct Worker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a worker's thread and those who log have in common.
struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, or the log is closed.
    filled: Condvar,
    /// Something was taken or written, or the thread has ended.
    taken: Condvar,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Record>,
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
    static BLOCKS: RefCell<Vec<Arc<BlockInfo>>> = const { RefCell::new(Vec::new()) };
}

impl Logger {
    /// A log that writes to these sinks.
    #[must_use]
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        let (stalling, steady): (Vec<_>, Vec<_>) = sinks.into_iter().partition(|sink| sink.may_stall());
        let groups = [steady, stalling].into_iter().filter(|group| !group.is_empty());
        Self(Arc::new(Handle {
            workers: groups.map(Worker::start).collect(),
            next_block: AtomicU64::new(1),
            serial: AtomicBool::new(true),
            began: Instant::now(),
            began_wall: SystemTime::now(),
        }))
    }

    /// A log that nobody reads.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(Vec::new())
    }

    /// Writes a line.
    pub fn line(&self, level: Level, machine: Option<&Arc<str>>, text: impl Into<String>) {
        let block = BLOCKS.try_with(|blocks| blocks.borrow().last().cloned()).ok().flatten();
        self.put(Event::Line { level, machine: machine.cloned(), block, text: text.into() });
    }

    /// Notes an event of the run or of a machine.
    pub(crate) fn event(&self, event: Event) {
        self.put(event);
    }

    /// Notes a step in the life of a machine.
    pub(crate) fn step(&self, machine: &Arc<str>, step: Step) {
        self.put(Event::Machine { machine: machine.clone(), step });
    }

    /// Writes lines as if the machine's console had said them. Its console text does not have them.
    pub fn serial(&self, machine: &Arc<str>, text: &str) {
        for line in text.lines() {
            let text = crate::console::clean(line.as_bytes());
            self.event(Event::Console { machine: machine.clone(), text });
        }
    }

    /// Begins a block, which ends when the returned value is dropped.
    #[must_use]
    pub fn block(&self, machine: Option<&Arc<str>>, text: impl Into<String>) -> Block {
        self.begin(machine, text.into(), false)
    }

    /// Begins a subtest.
    #[must_use]
    pub fn subtest(&self, name: &str) -> Block {
        self.begin(None, name.to_owned(), true)
    }

    /// Shows console lines on the terminal, or not; gives what was so before.
    pub fn set_serial(&self, on: bool) -> bool {
        self.0.serial.swap(on, Ordering::Relaxed)
    }

    /// Returns when the sinks have everything that was logged before, or after 2 s when a sink is stuck.
    pub fn flush(&self) {
        for worker in &self.0.workers {
            let is_busy = |queue: &Queue| !queue.closed && (queue.busy || !queue.events.is_empty());
            drop(worker.shared.wait_while(is_busy));
        }
    }

    fn begin(&self, machine: Option<&Arc<str>>, text: String, subtest: bool) -> Block {
        let id = self.0.next_block.fetch_add(1, Ordering::Relaxed);
        let info = BLOCKS.with_borrow_mut(|blocks| {
            let parent = blocks.last().map(|block| block.id);
            let (depth, machine) = (blocks.len(), machine.cloned());
            let info = Arc::new(BlockInfo { id, parent, depth, subtest, machine, text });
            blocks.push(info.clone());
            info
        });
        let shown = self.put(Event::Begin(info.clone()));
        Block { log: self.clone(), info, since: Instant::now(), failure: None, shown }
    }

    fn record(&self, event: Event) -> Record {
        let since = self.0.began.elapsed();
        let wall = self.0.began_wall.checked_add(since).unwrap_or(self.0.began_wall);
        Record { since, wall, serial: self.0.serial.load(Ordering::Relaxed), event }
    }

    /// Queues an event of the test, waiting a while for room. False when no queue had any.
    fn put(&self, event: Event) -> bool {
        let record = self.record(event);
        let queued = self.0.workers.iter().filter(|worker| worker.shared.put(record.clone()));
        queued.count() > 0
    }

    /// Queues a console line if there is room.
    pub(crate) fn console(&self, event: Event) {
        let record = self.record(event);
        self.0.workers.iter().for_each(|worker| worker.shared.put_console(record.clone()));
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logger")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.workers.iter().for_each(Worker::close);
    }
}

impl Worker {
    fn start(sinks: Vec<Box<dyn Sink>>) -> Self {
        let shared =
            Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new(), taken: Condvar::new() });
        let worker = shared.clone();
        let thread =
            std::thread::Builder::new().name("snowboot-log".into()).spawn(move || worker.run(sinks)).ok();
        {
            let mut queue = lock(&shared.queue);
            queue.closed = thread.is_none();
            queue.done |= thread.is_none();
        }
        Self { shared, thread: Mutex::new(thread) }
    }

    /// Ends it when everything is written, or when it is stuck.
    fn close(&self) {
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
        while let Some((records, lost)) = self.take() {
            for record in &records {
                sinks.iter_mut().for_each(|sink| sink.record(record));
            }
            for text in lost.notes() {
                // As old as the last that found room.
                let Some(last) = records.back() else { break };
                let event = Event::Line { level: Level::Warning, machine: None, block: None, text };
                let record = Record { event, ..last.clone() };
                sinks.iter_mut().for_each(|sink| sink.record(&record));
            }
            sinks.iter_mut().for_each(|sink| sink.flush());
            lock(&self.queue).busy = false;
            self.taken.notify_all();
        }
        drop(sinks);
        lock(&self.queue).done = true;
        self.taken.notify_all();
    }

    fn put(&self, record: Record) -> bool {
        let has_room = |queue: &Queue| queue.closed || queue.events.len() < QUEUE_CAP;
        let mut queue = self.wait_while(|queue| !queue.stuck && !has_room(queue));
        if queue.closed {
            return false;
        }
        if !has_room(&queue) {
            queue.stuck = true;
            queue.lost.lines = queue.lost.lines.saturating_add(1);
            return false;
        }
        queue.events.push_back(record);
        drop(queue);
        self.filled.notify_one();
        true
    }

    fn put_console(&self, record: Record) {
        let mut queue = lock(&self.queue);
        if queue.events.len() >= QUEUE_CAP {
            queue.lost.console = queue.lost.console.saturating_add(1);
            return;
        }
        queue.events.push_back(record);
        drop(queue);
        self.filled.notify_one();
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
    fn take(&self) -> Option<(VecDeque<Record>, Lost)> {
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
    info: Arc<BlockInfo>,
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
        let _ = BLOCKS.try_with(|blocks| blocks.borrow_mut().retain(|info| info.id != self.info.id));
        // The end of what never began would confuse reports.
        if !self.shown {
            return;
        }
        self.log.put(Event::End {
            block: self.info.clone(),
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
        fn record(&mut self, record: &Record) {
            lock(&self.0).push(record.event.clone());
        }
    }

    #[test]
    fn blocks_know_their_parents_and_end_after_what_is_in_them() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Logger::new(vec![Box::new(Keep(events.clone()))]);
        {
            let _outer = log.subtest("outer");
            let mut inner = log.block(None, "inner");
            log.line(Level::Info, None, "in it");
            inner.fail("no");
        }
        log.flush();
        let events = lock(&events);
        let [
            Event::Begin(outer),
            Event::Begin(inner),
            Event::Line { block: Some(around), .. },
            Event::End { failure: Some(why), .. },
            Event::End { failure: None, block, .. },
        ] = events.as_slice()
        else {
            panic!("{events:?}")
        };
        assert_eq!((inner.parent, inner.depth, inner.subtest), (Some(outer.id), 1, false));
        assert_eq!((outer.parent, outer.depth, outer.subtest), (None, 0, true));
        assert_eq!((why.as_str(), block.id, around.id), ("no", outer.id, inner.id));
    }

    /// Takes nothing while the first lock is held.
    struct Stuck(Arc<Mutex<()>>, Arc<Mutex<Vec<String>>>);

    impl Sink for Stuck {
        fn record(&mut self, record: &Record) {
            drop(lock(&self.0));
            if let Event::Line { text, .. } = &record.event {
                lock(&self.1).push(text.clone());
            }
        }

        fn may_stall(&self) -> bool {
            true
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
    fn a_stuck_sink_keeps_nothing_from_the_others() {
        let (gate, events) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let held = lock(&gate);
        let log =
            Logger::new(vec![Box::new(Stuck(gate.clone(), Arc::default())), Box::new(Keep(events.clone()))]);
        for number in 0..10 {
            log.line(Level::Info, None, number.to_string());
            let until = Instant::now() + Duration::from_secs(60);
            while lock(&events).len() <= number && Instant::now() < until {
                std::thread::yield_now();
            }
            assert_eq!(lock(&events).len(), number + 1);
        }
        drop(held);
    }

    #[test]
    fn times_count_from_the_logs_beginning_and_go_on() {
        struct Times(Arc<Mutex<Vec<(Duration, SystemTime)>>>);
        impl Sink for Times {
            fn record(&mut self, record: &Record) {
                lock(&self.0).push((record.since, record.wall));
            }
        }
        let times = Arc::new(Mutex::new(Vec::new()));
        let before = SystemTime::now();
        let log = Logger::new(vec![Box::new(Times(times.clone()))]);
        log.line(Level::Info, None, "a");
        std::thread::sleep(Duration::from_millis(5));
        log.console(Event::Console { machine: "m".into(), text: "x".into() });
        log.flush();
        let times = lock(&times);
        let [(first, wall), (second, later)] = times.as_slice() else { panic!("{times:?}") };
        assert!(*second >= *first + Duration::from_millis(5) && *second < Duration::from_secs(60));
        assert_eq!(later.duration_since(*wall).unwrap(), *second - *first);
        assert!(*wall >= before && *wall <= SystemTime::now());
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
