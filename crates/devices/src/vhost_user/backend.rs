//! The messages to a back end (QEMU's `docs/interop/vhost-user.rst`), in the order that all back ends take them in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll;
use snowboot_bus::{GuestAddress, GuestMemory};
use snowboot_virtio::{Queue, features};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::GuestMemoryBackend;
use vmm_sys_util::eventfd::EventFd;

use super::{BackendError, PATIENCE};

/// What is used of the protocol, where the back end has it.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::CONFIG
    .union(VhostUserProtocolFeatures::MQ)
    .union(VhostUserProtocolFeatures::REPLY_ACK);

/// A connection to a back end.
pub(super) struct Backend {
    frontend: Frontend,
    memory: GuestMemory,
    offered: u64,
    protocol: VhostUserProtocolFeatures,
    /// Readable once when the other side has closed the connection: such a socket stays readable for good, which would keep
    /// whoever watches it busy.
    hang_up: OwnedFd,
    queues: u16,
}

impl Backend {
    /// Agrees with the back end on the protocol, for a device of so many queues.
    pub(super) fn connect(
        stream: UnixStream,
        memory: GuestMemory,
        queues: u16,
    ) -> Result<Self, BackendError> {
        let io = |error: std::io::Error| BackendError(error.to_string());
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
        let hang_up = watch(&stream).map_err(|error| io(error.into()))?;
        let frontend = Frontend::from_stream(stream, queues.into());
        let protocol = VhostUserProtocolFeatures::empty();
        let mut backend = Self { frontend, memory, offered: 0, protocol, hang_up, queues };
        backend.agree()?;
        Ok(backend)
    }

    fn agree(&mut self) -> Result<(), BackendError> {
        self.frontend.set_owner().map_err(refused("take us for its owner"))?;
        self.offered = self.frontend.get_features().map_err(refused("tell its features"))?;
        let missing = features::COMMON & !self.offered;
        if missing != 0 {
            let why =
                format!("it cannot do what all guests are offered (feature bits {missing:#x} of virtio)");
            return Err(BackendError(why));
        }
        if !self.has_protocol() {
            return Ok(());
        }
        let known =
            self.frontend.get_protocol_features().map_err(refused("tell what it knows of the protocol"))?;
        self.protocol = known & PROTOCOL;
        self.frontend.set_protocol_features(self.protocol).map_err(refused("agree on the protocol"))?;
        if self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        if self.protocol.contains(VhostUserProtocolFeatures::MQ) {
            let most = self.frontend.get_queue_num().map_err(refused("tell how many queues it has"))?;
            if most < u64::from(self.queues) {
                return Err(BackendError(format!("it has only {most} of the {} queues", self.queues)));
            }
        }
        Ok(())
    }

    fn has_protocol(&self) -> bool {
        self.offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }

    /// The features that belong to the type of its device.
    pub(super) fn device_features(&self) -> u64 {
        self.offered & features::DEVICE_SPECIFIC
    }

    /// The first bytes of its configuration space.
    pub(super) fn config(&mut self, length: u32) -> Result<Vec<u8>, BackendError> {
        if !self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(BackendError(
                "it does not tell its configuration (VHOST_USER_PROTOCOL_F_CONFIG)".into(),
            ));
        }
        let empty = vec![0; usize::try_from(length).unwrap_or_default()];
        let config = self.frontend.get_config(0, length, VhostUserConfigFlags::empty(), &empty);
        Ok(config.map_err(refused("tell its configuration"))?.1)
    }

    /// Hands guest memory over, with the features that the driver has accepted.
    pub(super) fn begin(&mut self, accepted: u64) -> Result<(), BackendError> {
        let protocol = self.offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.frontend.set_features(accepted | protocol).map_err(refused("take the driver's features"))?;
        let regions: Result<Vec<_>, _> =
            self.memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region).collect();
        let regions = regions.map_err(|_| BackendError("guest memory is not shared".into()))?;
        self.frontend.set_mem_table(&regions).map_err(refused("map guest memory"))?;
        Ok(())
    }

    /// Has it serve a queue from where the queue is.
    pub(super) fn start_queue(
        &mut self,
        index: u16,
        queue: &Queue,
        call: &EventFd,
    ) -> Result<(), BackendError> {
        let failed = refused("serve a queue");
        let layout = queue.config();
        let position = queue.state().map_err(|error| BackendError(error.to_string()))?;
        let doorbell = queue.doorbell().ok_or_else(|| BackendError("a queue has no doorbell".into()))?;
        // Back ends know the rings by where this process has them.
        let here = |address| {
            let place = self.memory.get_host_address(GuestAddress(address));
            place.map(|place| place.addr() as u64).map_err(|error| BackendError(error.to_string()))
        };
        let rings = VringConfigData {
            queue_max_size: layout.max_size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: here(layout.desc_table)?,
            used_ring_addr: here(layout.used_ring)?,
            avail_ring_addr: here(layout.avail_ring)?,
            log_addr: None,
        };
        let number = usize::from(index);
        let front = &mut self.frontend;
        front
            .set_vring_num(number, layout.size)
            .and_then(|()| front.set_vring_base(number, position.next_avail))
            .and_then(|()| front.set_vring_addr(number, &rings))
            .and_then(|()| front.set_vring_call(number, call))
            .and_then(|()| front.set_vring_kick(number, doorbell))
            .map_err(failed)?;
        if self.has_protocol() {
            self.frontend.set_vring_enable(number, true).map_err(refused("enable a queue"))?;
        }
        // What the driver has added before is served at once, without a notification.
        queue.ring_doorbell();
        Ok(())
    }

    /// Ends its work on a queue, and learns where that is.
    pub(super) fn stop_queue(&mut self, index: u16, queue: &mut Queue) -> Result<(), BackendError> {
        let number = usize::from(index);
        let next = self.frontend.get_vring_base(number).map_err(refused("give a queue back"))?;
        let next =
            u16::try_from(next).map_err(|_| BackendError("it gave a queue back at no place".into()))?;
        queue.resume_at(next).map_err(|fault| BackendError(fault.to_string()))
    }

    /// What becomes readable when the connection ends.
    pub(super) fn hang_up(&self) -> BorrowedFd<'_> {
        self.hang_up.as_fd()
    }

    /// Whether the connection has ended; true only once.
    pub(super) fn take_hang_up(&self) -> bool {
        let mut events = Vec::with_capacity(1);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let outcome = epoll::wait(&self.hang_up, rustix::buffer::spare_capacity(&mut events), Some(&now));
        outcome.is_ok() && !events.is_empty()
    }
}

fn watch(stream: &UnixStream) -> rustix::io::Result<OwnedFd> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
    epoll::add(&watch, stream, epoll::EventData::new_u64(0), flags)?;
    Ok(watch)
}

fn refused(what: &'static str) -> impl Fn(vhost::Error) -> BackendError {
    move |error| BackendError(format!("it does not {what}: {error}"))
}
