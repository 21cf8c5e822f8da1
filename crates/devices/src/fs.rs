//! virtio-fs (virtio 1.2, 5.11): a guest's FUSE requests, for a server in this process.
//!
//! Requests are served in order, in the call that brings them, which may wait for the host's storage; so a share wants a
//! thread of its own. Only locks are waited for on the side. The device owns its tag and the server, which knows what its guest
//! has open.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use snowboot_share::fuse::Server;
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, Queue, QueueFault, RestoreError, Saved, Served, Session,
    StartError, Token,
};

use crate::timer::Timer;
use crate::warnings::Warnings;

/// Room for a request of 256 pages and its headers, and for some of them.
const QUEUE_SIZE: u16 = 1024;
/// One of them for what has to be heard at any time, the other for requests. A second one for requests would be served by the
/// same thread.
const QUEUES: usize = 2;
/// Length of a tag (5.11.4).
const TAG: usize = 36;
/// Bytes after which a turn ends, so that a machine can be stopped or paused in between: some milliseconds of copying.
const TURN_DATA: usize = 8 << 20;
/// How soon a lock that somebody holds is tried again, and how late at most.
const SOON: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_millis(50);

const KIND: &str = "virtio-fs";
const VERSION: u16 = 1;

/// What a guest mounts a share by, up to 36 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag([u8; TAG]);

/// A tag does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("Share tag {0:?} is empty, longer than 36 bytes or holds a zero byte; choose another")]
pub struct BadTag(pub String);

impl TryFrom<&str> for Tag {
    type Error = BadTag;

    fn try_from(text: &str) -> Result<Self, BadTag> {
        let mut bytes = [0; TAG];
        let room = bytes.get_mut(..text.len()).filter(|room| !room.is_empty() && !text.contains('\0'));
        room.ok_or_else(|| BadTag(text.to_owned()))?.copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }
}

/// The file system device.
#[derive(Debug)]
pub struct FileSystem {
    tag: Tag,
    server: Server,
    /// Goes off when locks are to be tried again.
    timer: Timer,
    pause: Duration,
    session: Option<Session>,
    warnings: Warnings,
}

impl FileSystem {
    /// A device that shows what `server` serves under `tag`.
    ///
    /// # Errors
    /// When the host has no timer left.
    pub fn new(tag: Tag, server: Server) -> io::Result<Self> {
        let warnings = Warnings::default();
        Ok(Self { tag, server, timer: Timer::new()?, pause: SOON, session: None, warnings })
    }

    /// Tells why requests fail by the host's doing, in lines without the share's name.
    #[must_use]
    pub fn warn(self, warnings: Warnings) -> Self {
        Self { warnings, ..self }
    }

    fn serve(&mut self, index: u16) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(queue) = queue_of(session.queues.as_mut_slice(), index) else { return Ok(()) };
        let waited = self.server.is_waiting();
        let mut left = TURN_DATA;
        queue.serve(&session.interrupt, |chain| {
            left = left.saturating_sub(chain.reader.remaining().saturating_add(chain.writer.remaining()));
            match self.server.serve(index, chain) {
                None => Served::Later,
                Some(chain) if left == 0 => Served::Last(chain),
                Some(chain) => Served::Done(chain),
            }
        })?;
        while let Some(trouble) = self.server.next_trouble() {
            self.warnings.tell(&trouble.to_string());
        }
        // Any request may have been the end of a lock.
        if waited {
            self.retry()?;
        } else if self.server.is_waiting() {
            self.pause = SOON;
            self.timer.set(self.pause);
        }
        Ok(())
    }

    /// Answers whoever got its lock by now.
    fn retry(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        for (index, chain) in self.server.retry() {
            self.pause = SOON;
            if let Some(queue) = queue_of(session.queues.as_mut_slice(), index) {
                queue.complete(&session.interrupt, chain)?;
            }
        }
        if self.server.is_waiting() {
            self.timer.set(self.pause);
        } else {
            self.timer.clear();
        }
        Ok(())
    }
}

fn queue_of(queues: &mut [Option<Queue>], index: u16) -> Option<&mut Queue> {
    queues.get_mut(usize::from(index))?.as_mut()
}

impl Device for FileSystem {
    fn identity(&self) -> Identity {
        Identity { id: DeviceId::FileSystem, features: 0, queue_sizes: vec![QUEUE_SIZE; QUEUES] }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let mut space = self.tag.0.to_vec();
        space.extend(1u32.to_le_bytes()); // num_request_queues
        crate::config::read(&space, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        let queues = (0..).zip(&session.queues).map(|(index, _)| index).collect::<Vec<_>>();
        self.session = Some(session);
        let served = queues.into_iter().try_for_each(|index| self.serve(index));
        served.map_err(|fault| StartError { device: "file system", reason: fault.to_string() })
    }

    /// Requests that wait for locks go back into their queues, and are served anew when there is a session again.
    fn stop(&mut self) -> Option<Session> {
        let mut session = self.session.take()?;
        self.timer.clear();
        for (index, chain) in self.server.take_waiting().into_iter().rev() {
            if let Some(queue) = queue_of(session.queues.as_mut_slice(), index) {
                queue.put_back(chain);
            }
        }
        Some(session)
    }

    fn reset(&mut self) {
        self.server.reset();
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        self.serve(queue)
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        vec![(Token(0), self.timer.as_fd())]
    }

    fn source_ready(&mut self, _token: Token) -> Result<(), QueueFault> {
        self.timer.clear();
        self.pause = self.pause.saturating_mul(2).min(LATE);
        self.retry()
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        if self.server.is_in_use() {
            let reason =
                "a share is mounted, and what its guest has open cannot be saved; unmount it".to_owned();
            return Err(NotSaveable { reason });
        }
        Saved::new(KIND, VERSION, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        saved.open::<()>(KIND, VERSION)
    }
}
