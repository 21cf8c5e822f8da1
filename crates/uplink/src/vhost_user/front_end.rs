//! What a front end has said, and the network card that serves its rings.
//!
//! ```text
//!  messages ─► rings, memory ──── settle ───► card with queues ◄── kicks, frames
//!                   ▲                               │
//!                   └────── rest: positions ◄───────┘
//! ```
//! The card is that of Snowboot's own machines. Whatever changes a ring or the memory first lets the card rest, which leaves
//! positions in the rings, and then gives it queues anew.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, PoisonError};

use snowboot_devices::net::{DATA_FEATURES, Net};
use snowboot_network::Port;
use snowboot_virtio::{Device, Interrupt, QueueFault, Session, Token, features};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::memory::Memory;
use super::ring::{Addresses, Call, MOST_ENTRIES, Ring, event, signal};
use crate::losses::Pace;
use crate::wake::now;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: rings are enabled by messages.
const PROTOCOL: u64 = 1 << 30;

/// What is offered. The card's address, its link and its control queue are the front end's own.
const OFFERED: u64 = DATA_FEATURES | features::COMMON | PROTOCOL;

/// A receiving and a sending ring.
pub(super) const RINGS: usize = 2;

/// A front end's card.
pub(super) struct FrontEnd {
    net: Net,
    features: u64,
    memory: Option<Memory>,
    pub(super) rings: [Ring; RINGS],
    /// What was wrong last, for the line that says why the connection ended.
    complaint: Option<String>,
    pace: Pace,
}

impl FrontEnd {
    /// Nobody, behind this port.
    pub(super) fn new(port: Port) -> io::Result<Self> {
        let (net, _) = Net::new([0; 6], port, Arc::new(now))?;
        let rings = [Ring::new()?, Ring::new()?];
        Ok(Self { net, features: 0, memory: None, rings, complaint: None, pace: Pace::default() })
    }

    /// The card's own sources, as numbers of descriptors.
    pub(super) fn sources(&self) -> Vec<(u32, i32)> {
        self.net.sources().into_iter().map(|(token, source)| (token.0, source.as_raw_fd())).collect()
    }

    /// The driver has filled a ring.
    pub(super) fn kicked(&mut self, ring: usize) {
        if let Some(it) = self.rings.get(ring) {
            it.take_kick();
            let _ = it.doorbell.read();
        }
        let index = u16::try_from(ring).unwrap_or(u16::MAX);
        let served = self.net.queue_ready(index);
        self.bear(served);
    }

    /// One of the card's sources is readable.
    pub(super) fn source_ready(&mut self, source: u32) {
        let served = self.net.source_ready(Token(source));
        self.bear(served);
    }

    /// Forgets the front end, which has gone.
    pub(super) fn gone(&mut self) {
        drop(self.net.stop());
        self.net.reset();
        self.rings.iter_mut().for_each(Ring::forget);
        (self.features, self.memory, self.complaint) = (0, None, None);
    }

    /// Whether it has acknowledged that it speaks of features of the protocol.
    pub(super) fn has_begun(&self) -> bool {
        self.features & PROTOCOL != 0
    }

    /// What it did wrong last.
    pub(super) fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Breaks a ring that its driver has corrupted; the other one goes on.
    fn bear(&mut self, served: std::result::Result<(), QueueFault>) {
        let Err(fault) = served else { return };
        self.say(&fault.to_string());
        self.rest();
        if let Some(ring) = self.rings.get_mut(usize::from(fault.queue)) {
            ring.break_down();
        }
        let _ = self.settle();
    }

    /// Says what is wrong, but not as often as a guest can reset its card.
    fn say(&mut self, what: &str) {
        if self.pace.may_speak(now()) {
            tracing::warn!("a network card of another VMM: {what}");
        }
    }

    /// Takes the rings from the card.
    fn rest(&mut self) {
        let Some(session) = self.net.stop() else { return };
        for queue in session.queues.into_iter().flatten() {
            let Some(ring) = self.rings.get_mut(usize::from(queue.index())) else { continue };
            match queue.state() {
                Ok(state) => {
                    // Chains that were put back are still the next ones of the ring.
                    let returned = u16::try_from(state.put_back.len()).unwrap_or(u16::MAX);
                    ring.base = state.next_avail.wrapping_sub(returned);
                }
                Err(_) => ring.break_down(),
            }
        }
    }

    /// Gives the card the rings that are to be served.
    fn settle(&mut self) -> Result<()> {
        let Some(memory) = &self.memory else { return Ok(()) };
        if self.features & features::VERSION_1 == 0 || !self.rings.iter().any(Ring::is_live) {
            return Ok(());
        }
        let mut queues = Vec::with_capacity(RINGS);
        for (index, ring) in (0u16..).zip(&self.rings) {
            let queue = ring.is_live().then(|| ring.queue(index, self.features, memory)).transpose();
            queues.push(queue.map_err(|fault| refuse(&mut self.complaint, fault.to_string()))?);
        }
        // Its control queue is the front end's.
        queues.push(None);
        let calls = self.rings.each_ref().map(|ring| Arc::clone(&ring.call));
        let interrupt = Interrupt::calling(RINGS, move |queue| call(&calls, queue));
        let session = Session { features: self.features & !PROTOCOL, queues, interrupt };
        if let Err(error) = self.net.start(session) {
            self.say(&error.to_string());
            drop(self.net.stop());
            self.rings.iter_mut().for_each(Ring::break_down);
        }
        Ok(())
    }

    /// Changes a ring while nobody serves it.
    fn change(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Ring) -> std::result::Result<(), String>,
    ) -> Result<()> {
        self.rest();
        let ring = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        let Some(ring) = ring else {
            return Err(refuse(&mut self.complaint, format!("a network card has no ring {index}")));
        };
        change(ring).map_err(|why| refuse(&mut self.complaint, why))?;
        self.settle()
    }
}

/// Notes what is wrong, and has the message refused.
fn refuse(complaint: &mut Option<String>, why: String) -> Error {
    *complaint = Some(why);
    Error::InvalidParam
}

fn call(calls: &[Call], queue: u16) {
    if let Some(call) = calls.get(usize::from(queue)) {
        call.lock().unwrap_or_else(PoisonError::into_inner).as_ref().into_iter().for_each(signal);
    }
}

/// An event descriptor of the front end's, if it gives one.
fn taken(file: Option<File>) -> std::result::Result<Option<File>, String> {
    file.map(event).transpose().map_err(|error| error.to_string())
}

const fn unsupported<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

impl VhostUserBackendReqHandlerMut for FrontEnd {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.rest();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.gone();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !OFFERED != 0 {
            let extra = features & !OFFERED;
            return Err(refuse(
                &mut self.complaint,
                format!("it wants features that there are not: {extra:#x}"),
            ));
        }
        if features & features::VERSION_1 == 0 && features & !PROTOCOL != 0 {
            self.say("its driver is older than virtio 1.0, and not served");
        }
        self.rest();
        self.features = features;
        // Without the messages that enable rings, they are so from the start.
        if features & PROTOCOL == 0 {
            self.rings.iter_mut().for_each(|ring| ring.is_enabled = true);
        }
        self.settle()
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.rest();
        let memory = Memory::map(table, files).map_err(|why| refuse(&mut self.complaint, why))?;
        self.memory = Some(memory);
        self.settle().map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.change(index, |ring| {
            let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= MOST_ENTRIES);
            ring.size = size.ok_or_else(|| {
                format!("a ring of {num} entries: choose a power of two, {MOST_ENTRIES} at most")
            })?;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        self.change(index, |ring| {
            ring.addresses = Some(Addresses { descriptors, available, used });
            ring.is_broken = false;
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.change(index, |ring| {
            ring.base = u16::try_from(base).map_err(|_| format!("a ring has no position {base}"))?;
            Ok(())
        })
    }

    /// Ends the ring, and tells where it is.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let mut base = 0;
        self.change(index, |ring| {
            ring.kick = None;
            base = ring.base;
            Ok(())
        })?;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change(index.into(), |ring| {
            ring.kick = taken(fd)?;
            ring.is_broken = false;
            Ok(())
        })
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change(index.into(), |ring| {
            let call = taken(fd)?;
            // The former one may have missed something.
            call.iter().for_each(signal);
            *ring.call.lock().unwrap_or_else(PoisonError::into_inner) = call;
            Ok(())
        })
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.change(index.into(), |ring| {
            ring.error = taken(fd)?;
            Ok(())
        })
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(index, |ring| {
            ring.is_enabled = enable;
            Ok(())
        })
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        unsupported("the configuration is the front end's")
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unsupported("the configuration is the front end's")
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unsupported("this is no display")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unsupported("there are no shared objects")
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported("frames in flight are not tracked")
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unsupported("frames in flight are not tracked")
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported("memory comes as one table")
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported("memory comes as one table")
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported("memory comes as one table")
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unsupported("the card has no state to move")
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported("the card has no state to move")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported("the card has no memory of its own")
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unsupported("writes are not logged")
    }
}
