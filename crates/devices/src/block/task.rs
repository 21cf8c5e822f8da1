//! A request that has to wait for the host's storage, apart from who serves it: a thread, or the host's ring.
//!
//! Holds the image's file and, by its chain, the guest's memory for as long as it is there.

use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::io::Errno;
use snowboot_virtio::{DescriptorChain, GuestSlice};

use super::file::ImageFile;
use super::transfer::Pending;
use super::wire::Status;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) file: Arc<ImageFile>,
    pub(super) operation: Operation,
}

/// What is to be done to the [file](Task::file) of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill all of the [room](Task::room) from byte `offset` of the file on.
    Read {
        /// In bytes.
        offset: u64,
    },
    /// Make what was written last (`fdatasync`).
    Flush,
}

/// A request of a queue, with what it asks for.
#[derive(Debug)]
pub struct Task {
    pub(super) queue: u16,
    pub(super) pending: Pending,
    pub(super) work: Work,
    /// How much data it moves.
    pub(super) bytes: usize,
}

/// A request that was served.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) queue: u16,
    pub(super) chain: DescriptorChain,
    pub(super) operation: Operation,
    pub(super) outcome: io::Result<()>,
    pub(super) bytes: usize,
}

impl Operation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read { .. } => "reading",
            Self::Flush => "flushing",
        }
    }
}

impl Task {
    /// What is to be done.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.work.operation
    }

    /// The file that it is to be done to, open for as long as the task is there.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.work.file.descriptor()
    }

    /// The guest's memory that a read is to fill, in this order; it is there for as long as the task is.
    pub fn room(&self) -> impl Iterator<Item = GuestSlice<'_>> {
        self.pending.room()
    }

    /// Does it, and waits as long as that takes. Whatever happens there is an answer, which is waited for.
    pub(super) fn perform(mut self: Box<Self>) -> Finished {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work.perform(&mut self.pending)))
            .unwrap_or_else(|_| Err(io::Error::other("the thread that served it panicked")));
        self.finish(outcome)
    }

    /// The answer, when somebody else has done it by `outcome`: the bytes that were moved, or why they were not. `Err` is a task
    /// that is still to be done.
    ///
    /// A read that did not get all is not taken for an answer: it may be at the end of a file that was cut, which takes a
    /// closer look. A flush that failed is one, since the host tells of lost data once.
    pub(super) fn conclude(mut self: Box<Self>, outcome: io::Result<usize>) -> Result<Finished, Box<Self>> {
        match (self.work.operation, outcome) {
            (Operation::Read { .. }, Ok(bytes)) if bytes == self.pending.expected() => {
                self.pending.filled();
                Ok(self.finish(Ok(())))
            }
            (Operation::Read { .. }, _) => Err(self),
            (Operation::Flush, Ok(_)) => Ok(self.finish(Ok(()))),
            (Operation::Flush, Err(error)) if was_not_tried(&error) => Err(self),
            (Operation::Flush, Err(error)) => Ok(self.finish(Err(error))),
        }
    }

    /// Whether there is nothing to be said of the file before it is done.
    pub(super) fn is_plain(&self) -> bool {
        match self.work.operation {
            Operation::Read { .. } => true,
            Operation::Flush => self.work.file.check_length().is_ok(),
        }
    }

    fn finish(self: Box<Self>, outcome: io::Result<()>) -> Finished {
        let Self { queue, pending, work, bytes } = *self;
        let status = if outcome.is_ok() { Status::Ok } else { Status::IoError };
        Finished { queue, chain: pending.finish(status), operation: work.operation, outcome, bytes }
    }
}

impl Work {
    fn perform(&self, pending: &mut Pending) -> io::Result<()> {
        match self.operation {
            Operation::Read { offset } => pending.payload().fill_from(&self.file, offset),
            Operation::Flush => self.file.check_length().and_then(|()| self.file.sync()),
        }
    }
}

/// Errors of a ring that say nothing of the storage.
fn was_not_tried(error: &io::Error) -> bool {
    use Errno as E;
    matches!(
        Errno::from_io_error(error),
        Some(E::CANCELED | E::INTR | E::AGAIN | E::INVAL | E::OPNOTSUPP | E::NOMEM)
    )
}
