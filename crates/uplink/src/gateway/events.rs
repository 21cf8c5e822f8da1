//! What the gateway's thread sleeps on: an epoll instance, with a bell that others ring.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::wake::Bell;

/// Events that are taken at once; more are taken in the next turn.
const AT_ONCE: usize = 64;
/// The longest sleep: no deadline is that far away, and the kernel's arithmetic stays far from its end.
const LONGEST: Duration = Duration::from_secs(3600);

/// Whose descriptor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Bell,
    Stream(u64),
    Socket(u64),
    Forward(u64),
}

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Happened {
    pub(super) source: Source,
    pub(super) failed: bool,
}

/// Says once, and again after each change, that a descriptor is ready: whoever hears of it goes on until it is not.
#[derive(Debug)]
pub(super) struct Events(OwnedFd);

impl Events {
    pub(super) fn new(bell: &Bell) -> io::Result<Self> {
        let events = Self(epoll::create(CreateFlags::CLOEXEC)?);
        events.watch(bell, Source::Bell)?;
        Ok(events)
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn watch(&self, descriptor: impl AsFd, source: Source) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        let flags = if source == Source::Bell { EventFlags::IN } else { flags };
        Ok(epoll::add(&self.0, descriptor, EventData::new_u64(source.token()), flags)?)
    }

    /// Sleeps until something happens, for `timeout` at most.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Happened>> {
        let timeout = timeout.unwrap_or(LONGEST).min(LONGEST);
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut events: Vec<Event> = Vec::with_capacity(AT_ONCE);
        let room = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.0, room, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |event: Event| {
            let Event { data, flags } = event;
            Happened { source: Source::of(data.u64()), failed: flags.contains(EventFlags::ERR) }
        };
        Ok(events.into_iter().map(happened).collect())
    }
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Bell => 0,
            Self::Stream(number) => number << 2 | 1,
            Self::Socket(number) => number << 2 | 2,
            Self::Forward(number) => number << 2 | 3,
        }
    }

    fn of(token: u64) -> Self {
        match token & 3 {
            1 => Self::Stream(token >> 2),
            2 => Self::Socket(token >> 2),
            3 => Self::Forward(token >> 2),
            _ => Self::Bell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_source() {
        for source in
            [Source::Bell, Source::Stream(0), Source::Stream(77), Source::Socket(3), Source::Forward(9)]
        {
            assert_eq!(Source::of(source.token()), source);
        }
    }

    #[test]
    fn the_bell_ends_a_wait() {
        let bell = Bell::new().unwrap();
        let events = Events::new(&bell).unwrap();
        assert!(events.wait(Some(Duration::ZERO)).unwrap().is_empty());
        bell.ring();
        assert_eq!(events.wait(None).unwrap().len(), 1);
        bell.quiet();
        assert!(events.wait(Some(Duration::from_millis(1))).unwrap().is_empty());
    }
}
