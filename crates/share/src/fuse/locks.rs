//! Requests for locks, and those that wait for one.
//!
//! The host can only wait in a system call, which would hold up everything else or take a thread for each. So a lock that is
//! to be waited for is tried again from time to time, by whoever has a timer.

use std::io::Read;

use snowboot_virtio::DescriptorChain;

use super::Server;
use super::wire::{Fields, Header, LK_FLOCK, OUT_HEADER, Put, fields};
use crate::{Errno, Lock, LockKind, NodeId, Result};

/// The most requests that wait at a time: one for each descriptor of the largest queue that devices have.
const MOST_WAITING: usize = 1024;
/// Length of `fuse_lk_in`.
const LK_IN: usize = 48;
/// `F_RDLCK`, `F_WRLCK` and `F_UNLCK` on x86-64.
const READ_LOCK: u32 = 0;
const WRITE_LOCK: u32 = 1;
const UNLOCK: u32 = 2;

/// A request that waits for a lock.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: u16,
    header: Header,
    request: Request,
    is_interrupted: bool,
    chain: DescriptorChain,
}

/// `fuse_lk_in`.
#[derive(Clone, Copy, Debug)]
struct Request {
    handle: u64,
    owner: u64,
    lock: Lock,
    is_whole: bool,
}

impl Request {
    fn parse(mut fields: Fields<'_>) -> Result<Self> {
        let (handle, owner) = (fields.u64()?, fields.u64()?);
        let (start, last) = (fields.u64()?, fields.u64()?);
        let kind = match fields.u32()? {
            READ_LOCK => LockKind::Shared,
            WRITE_LOCK => LockKind::Exclusive,
            UNLOCK => LockKind::None,
            _ => return Err(Errno::INVAL),
        };
        let process = fields.u32()?;
        let is_whole = fields.u32()? & LK_FLOCK != 0;
        Ok(Self { handle, owner, lock: Lock { kind, start, last, process }, is_whole })
    }
}

impl Server {
    pub(super) fn find_lock(&mut self, node: NodeId, fields: Fields<'_>) -> Result<()> {
        let Request { owner, lock, .. } = Request::parse(fields)?;
        let free = Lock { kind: LockKind::None, start: 0, last: 0, process: 0 };
        let found = self.tree.find_lock(node, owner, lock)?.unwrap_or(free);
        self.output.u64(found.start);
        self.output.u64(found.last);
        self.output.u32(match found.kind {
            LockKind::Shared => READ_LOCK,
            LockKind::Exclusive => WRITE_LOCK,
            LockKind::None => UNLOCK,
        });
        self.output.u32(found.process);
        Ok(())
    }

    pub(super) fn set_lock(&mut self, node: NodeId, fields: Fields<'_>) -> Result<()> {
        self.try_lock(node, Request::parse(fields)?)
    }

    fn try_lock(&mut self, node: NodeId, request: Request) -> Result<()> {
        if request.is_whole {
            return self.files.get(&request.handle).ok_or(Errno::BADF)?.lock_whole(request.lock.kind);
        }
        self.tree.set_lock(node, request.owner, request.lock)
    }

    /// SETLKW: answers it, or keeps it.
    pub(super) fn wait_for_lock(
        &mut self,
        queue: u16,
        header: Header,
        mut chain: DescriptorChain,
    ) -> Option<DescriptorChain> {
        let mut bytes = [0; LK_IN];
        let request = match chain.reader.read_exact(&mut bytes) {
            Ok(()) if self.is_in_use() => Request::parse(fields(&bytes)),
            Ok(()) => Err(Errno::IO),
            Err(_) => Err(Errno::INVAL),
        };
        let outcome = request.and_then(|request| self.try_lock(NodeId::from_raw(header.node), request));
        match (outcome, request) {
            (Err(Errno::AGAIN), Ok(request)) if self.waiting.len() < MOST_WAITING => {
                self.waiting.push(Waiting { queue, header, request, is_interrupted: false, chain });
                None
            }
            (outcome, _) => {
                self.finish(header, &mut chain, outcome);
                Some(chain)
            }
        }
    }

    fn finish(&mut self, header: Header, chain: &mut DescriptorChain, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                self.output.clear();
                self.output.resize(OUT_HEADER, 0);
                self.answer(header, chain);
            }
            Err(errno) => self.fail(header, chain, errno),
        }
    }

    /// Whether a request waits for a lock.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tries all locks that are waited for again, in the order in which they were asked for, and returns the requests that are
    /// answered now, each with its queue.
    pub fn retry(&mut self) -> Vec<(u16, DescriptorChain)> {
        let mut done = Vec::new();
        for mut it in std::mem::take(&mut self.waiting) {
            let outcome = if it.is_interrupted {
                Err(Errno::INTR)
            } else {
                self.try_lock(NodeId::from_raw(it.header.node), it.request)
            };
            match outcome {
                Err(Errno::AGAIN) => self.waiting.push(it),
                outcome => {
                    self.finish(it.header, &mut it.chain, outcome);
                    done.push((it.queue, it.chain));
                }
            }
        }
        done
    }

    /// All requests that wait, unanswered, each with its queue, the oldest first.
    pub fn take_waiting(&mut self) -> Vec<(u16, DescriptorChain)> {
        std::mem::take(&mut self.waiting).into_iter().map(|it| (it.queue, it.chain)).collect()
    }

    /// The guest's process does not want to wait any more: the next [`Self::retry`] answers it.
    pub(super) fn interrupt(&mut self, mut fields: Fields<'_>) -> Result<()> {
        let unique = fields.u64()?;
        for it in self.waiting.iter_mut().filter(|it| it.header.unique == unique) {
            it.is_interrupted = true;
        }
        Ok(())
    }
}
