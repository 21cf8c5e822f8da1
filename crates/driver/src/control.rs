//! What every wait of a run looks at: the interrupt hook and the global time limit.
//!
//! Owned by the driver, shared by its machines. It must never call back into a machine, nor may the hook of waits; that of
//! commands may.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::error::Error;

/// The longest time that a wait goes without looking at the interrupt hook and the machine's end.
pub const TICK: Duration = Duration::from_millis(50);

/// Asked during waits whether to stop; true ends the wait with [`Error::Interrupted`].
pub type InterruptHook = Arc<dyn Fn() -> bool + Send + Sync>;

/// Called with a machine's name before each of its commands; true ends the call with [`Error::Interrupted`]. It may give
/// machines commands itself, for which it is called again.
pub type CommandHook = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Locks, going on after a panic elsewhere: the data under every lock of this crate is valid between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called instead of starting a machine that is used before anything was started.
pub(crate) type FirstUse = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// Called when the first shell is there, with how long after its machine's start that was.
pub(crate) type FirstShell = Box<dyn FnOnce(Duration) -> Result<(), Error> + Send>;

#[derive(Default)]
pub(crate) struct Control {
    hook: RwLock<Option<InterruptHook>>,
    before_command: RwLock<Option<CommandHook>>,
    first_use: Mutex<Option<FirstUse>>,
    first_shell: Mutex<Option<FirstShell>>,
    ended: Mutex<Option<Ended>>,
    changed: Condvar,
}

/// Why no call works any more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    GlobalTimeout(Duration),
    Finished,
}

impl Control {
    pub(crate) fn set_hook(&self, hook: Option<InterruptHook>) {
        *self.hook.write().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    pub(crate) fn set_before_command(&self, hook: Option<CommandHook>) {
        *self.before_command.write().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Fails when the hook asks to stop. No lock is held while it is called.
    pub(crate) fn before_command(&self, machine: &str) -> Result<(), Error> {
        let hook = self.before_command.read().unwrap_or_else(PoisonError::into_inner).clone();
        if hook.is_some_and(|hook| hook(machine)) { Err(Error::Interrupted) } else { Ok(()) }
    }

    pub(crate) fn set_first_use(&self, what: Option<FirstUse>) {
        *lock(&self.first_use) = what;
    }

    /// What to do at the first use of a machine; given once.
    pub(crate) fn take_first_use(&self) -> Option<FirstUse> {
        lock(&self.first_use).take()
    }

    pub(crate) fn set_first_shell(&self, what: Option<FirstShell>) {
        *lock(&self.first_shell) = what;
    }

    /// What to do when the first shell is there; given once.
    pub(crate) fn take_first_shell(&self) -> Option<FirstShell> {
        lock(&self.first_shell).take()
    }

    /// Ends the run: every wait fails from now on. The first reason stays.
    pub(crate) fn end(&self, why: Ended) {
        lock(&self.ended).get_or_insert(why);
        self.changed.notify_all();
    }

    /// Fails when the run has ended.
    pub(crate) fn check_ended(&self) -> Result<(), Error> {
        match *lock(&self.ended) {
            None => Ok(()),
            Some(Ended::GlobalTimeout(limit)) => Err(Error::GlobalTimeout(limit)),
            Some(Ended::Finished) => Err(Error::setup("The driver has finished; its machines are gone")),
        }
    }

    /// Fails when the run has ended or the hook asks to stop. To be called at least every [`TICK`] in a wait.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_ended()?;
        let hook = self.hook.read().unwrap_or_else(PoisonError::into_inner).clone();
        if hook.is_some_and(|hook| hook()) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Pauses for a time, or fails early.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Error> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let guard = lock(&self.ended);
            if guard.is_none() {
                drop(self.changed.wait_timeout(guard, left.min(TICK)));
            }
        }
    }
}

/// The control as one wait sees it, which may look very often: the hook is asked once per [`TICK`], for asking it can
/// mean waiting for an interpreter.
pub(crate) struct Pace<'a> {
    control: &'a Control,
    asked: Cell<Option<Instant>>,
}

impl<'a> Pace<'a> {
    pub(crate) fn new(control: &'a Control) -> Self {
        Self { control, asked: Cell::new(None) }
    }

    /// Fails when the run has ended or the hook asks to stop.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.asked.get().is_some_and(|asked| asked.elapsed() < TICK) {
            return self.control.check_ended();
        }
        self.asked.set(Some(Instant::now()));
        self.control.check()
    }
}

/// A lock that can be waited for under the run's control. Whoever waited longest is next: a wait that has the guest look
/// for a while takes it again and again, and must not keep other threads from their commands.
#[derive(Default)]
pub(crate) struct Turn {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// The number of the next one who asks.
    next: u64,
    /// Those who hold it or wait for it, in their order: the first one holds it, or is about to.
    waiting: VecDeque<u64>,
}

/// A place in the queue, given up when dropped. Whoever got it from [`Turn`] is the first.
pub(crate) struct TurnGuard<'a> {
    turn: &'a Turn,
    number: u64,
}

impl Turn {
    pub(crate) fn take(&self, control: &Control) -> Result<TurnGuard<'_>, Error> {
        let place = self.queue_up();
        let mut queue = lock(&self.queue);
        while queue.waiting.front() != Some(&place.number) {
            queue = self.changed.wait_timeout(queue, TICK).unwrap_or_else(PoisonError::into_inner).0;
            if queue.waiting.front() != Some(&place.number) {
                drop(queue);
                control.check()?;
                queue = lock(&self.queue);
            }
        }
        drop(queue);
        Ok(place)
    }

    /// Waits for it whatever becomes of the run, for those who clean up; `None` when the time is up.
    pub(crate) fn take_within(&self, limit: Duration) -> Option<TurnGuard<'_>> {
        let place = self.queue_up();
        let is_early = |queue: &mut Queue| queue.waiting.front() != Some(&place.number);
        let waited = self.changed.wait_timeout_while(lock(&self.queue), limit, is_early);
        let is_late = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        (!is_late).then_some(place)
    }

    fn queue_up(&self) -> TurnGuard<'_> {
        let mut queue = lock(&self.queue);
        let number = queue.next;
        queue.next = number.wrapping_add(1);
        queue.waiting.push_back(number);
        TurnGuard { turn: self, number }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        lock(&self.turn.queue).waiting.retain(|number| *number != self.number);
        self.turn.changed.notify_all();
    }
}
