//! A timer that a device watches as one of its sources.
//!
//! It only says *when to look again*; what time it is, a device asks the clock it was handed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer descriptor that goes off once.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    /// One that is not running.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Goes off `after` this long, instead of whatever it was set to before.
    pub(crate) fn set(&self, after: Duration) {
        // A value of zero would stop the timer.
        let after = after.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        };
        self.program(value);
    }

    /// Stops it, and makes it quiet if it has gone off.
    pub(crate) fn clear(&self) {
        self.program(Timespec { tv_sec: 0, tv_nsec: 0 });
    }

    fn program(&self, it_value: Timespec) {
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Setting the timer also forgets that it has gone off. It cannot fail: the descriptor and the value are right.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value });
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
