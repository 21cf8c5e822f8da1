//! One ring of a network card, as its front end has described it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use snowboot_bus::GuestMemory;
use snowboot_virtio::{Queue, QueueConfig, QueueFault};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::memory::Memory;

/// The largest ring of a split virtqueue that front ends offer for network cards (QEMU: `rx_queue_size`, `tx_queue_size`).
pub(super) const MOST_ENTRIES: u16 = 1024;

/// Where a ring's parts are in the front end's process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

/// What interrupts the driver. Shared with the card, which interrupts while it serves.
pub(super) type Call = Arc<Mutex<Option<File>>>;

/// A ring: what is known of it, whether it is being served or not.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) size: u16,
    pub(super) addresses: Option<Addresses>,
    /// Position in the available ring of the next chain; only while the ring is at rest.
    pub(super) base: u16,
    pub(super) is_enabled: bool,
    /// Nothing comes out of it until the front end sets it up anew.
    pub(super) is_broken: bool,
    pub(super) kick: Option<File>,
    pub(super) call: Call,
    /// What the front end wants to be told of faults by.
    pub(super) error: Option<File>,
    /// Rung by the ring itself when there is more than one turn's work.
    pub(super) doorbell: Arc<EventFd>,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            size: 0,
            addresses: None,
            base: 0,
            is_enabled: false,
            is_broken: false,
            kick: None,
            call: Call::default(),
            error: None,
            doorbell: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?),
        })
    }

    /// As it is before a front end has said anything.
    pub(super) fn forget(&mut self) {
        (self.size, self.addresses, self.base) = (0, None, 0);
        (self.is_enabled, self.is_broken) = (false, false);
        (self.kick, self.error) = (None, None);
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.doorbell.read();
    }

    /// Whether it is to be served.
    pub(super) fn is_live(&self) -> bool {
        self.kick.is_some() && self.addresses.is_some() && self.is_enabled && !self.is_broken
    }

    /// Brings it to life where it was left.
    ///
    /// # Errors
    /// When a part of it is not in memory.
    pub(super) fn queue(&self, index: u16, features: u64, memory: &Memory) -> Result<Queue, QueueFault> {
        let fault = |part| QueueFault { queue: index, reason: format!("its {part} is not in memory") };
        let at = self.addresses.ok_or_else(|| fault("description"))?;
        let find = |part, user| memory.guest_address(user).ok_or_else(|| fault(part));
        let config = QueueConfig {
            max_size: MOST_ENTRIES,
            size: self.size,
            ready: true,
            desc_table: find("descriptor table", at.descriptors)?,
            avail_ring: find("available ring", at.available)?,
            used_ring: find("used ring", at.used)?,
        };
        let guest: &Arc<GuestMemory> = &memory.guest;
        let mut queue =
            Queue::new(index, &config, features, guest)?.with_doorbell(Arc::clone(&self.doorbell));
        queue.resume_at(self.base)?;
        Ok(queue)
    }

    /// Makes the kick quiet.
    pub(super) fn take_kick(&self) {
        if let Some(kick) = &self.kick {
            let _ = rustix::io::read(kick, &mut [0u8; 8]);
        }
    }

    /// Tells the front end that the ring is broken.
    pub(super) fn break_down(&mut self) {
        self.is_broken = true;
        self.error.as_ref().into_iter().for_each(signal);
    }
}

/// Writes to an event descriptor. One that is full is readable already.
pub(super) fn signal(event: &File) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// Takes an event descriptor from the front end, and nothing else: to read or write some other file could take as long as it
/// likes.
///
/// # Errors
/// When it is something else.
pub(super) fn event(file: File) -> io::Result<File> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is no event descriptor", link.display()),
        ));
    }
    fcntl_setfl(file.as_fd(), fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
    Ok(file)
}
