//! virtio-9p: a shared folder by the 9P protocol, for guests that mount no virtio-fs.
//!
//! The device has a mount tag and one queue; a request is a 9P message to read, and room for the answer (Linux,
//! `net/9p/trans_virtio.c`; virtio has the device's number, but no chapter on it). What the messages mean is
//! [`snowboot_share::ninep`]'s matter. It owns the server, whose handles live from one reset to the next.

use snowboot_share::ninep::{Cost, Server};
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
};

use crate::warnings::Warnings;

#[cfg(test)]
mod tests;

/// `VIRTIO_9P_MOUNT_TAG` (`linux/virtio_9p.h`).
const F_MOUNT_TAG: u64 = 1 << 0;
/// As many descriptors as Linux uses for one request, so that it need not use indirect tables.
const QUEUE_SIZE: u16 = 128;
/// Bytes after which a turn ends, so that a machine can be stopped or paused in between: some milliseconds of copying.
const TURN_DATA: usize = 8 << 20;

const KIND: &str = "virtio-9p";
const VERSION: u16 = 1;

/// What a guest mounts a share by: 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountTag(String);

/// A mount tag is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("The tag {0:?} is no mount tag; use 1 to 255 bytes, none of them zero")]
pub struct BadMountTag(pub String);

impl TryFrom<&str> for MountTag {
    type Error = BadMountTag;

    fn try_from(text: &str) -> Result<Self, BadMountTag> {
        let fits = (1..=255).contains(&text.len()) && !text.contains('\0');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadMountTag(text.to_owned())) }
    }
}

/// The 9P device.
#[derive(Debug)]
pub struct NineP {
    tag: MountTag,
    server: Server,
    session: Option<Session>,
    warnings: Warnings,
}

impl NineP {
    /// A device that the guest knows by `tag`.
    #[must_use]
    pub fn new(tag: MountTag, server: Server) -> Self {
        Self { tag, server, session: None, warnings: Warnings::default() }
    }

    /// Tells why requests fail by the host's doing, in lines without the share's name.
    #[must_use]
    pub fn warn(self, warnings: Warnings) -> Self {
        Self { warnings, ..self }
    }

    fn serve(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
        let mut left = TURN_DATA;
        queue.serve(&session.interrupt, |mut chain| {
            left = left.saturating_sub(chain.reader.remaining());
            let cost = self.server.serve(&mut chain.reader, &mut chain.writer);
            left = left.saturating_sub(chain.writer.written());
            if cost == Cost::Storage || left == 0 { Served::Last(chain) } else { Served::Done(chain) }
        })?;
        while let Some(trouble) = self.server.next_trouble() {
            self.warnings.tell(&trouble.to_string());
        }
        Ok(())
    }
}

impl Device for NineP {
    fn identity(&self) -> Identity {
        Identity { id: DeviceId::NineP, features: F_MOUNT_TAG, queue_sizes: vec![QUEUE_SIZE] }
    }

    /// `tag_len[2] tag[tag_len]` (`linux/virtio_9p.h`).
    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let mut space = u16::try_from(self.tag.0.len()).unwrap_or_default().to_le_bytes().to_vec();
        space.extend(self.tag.0.bytes());
        crate::config::read(&space, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        self.serve().map_err(|fault| StartError { device: "9P", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn reset(&mut self) {
        self.server.reset();
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), QueueFault> {
        self.serve()
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        if self.server.is_in_use() {
            return Err(NotSaveable { reason: format!("the guest has the share {:?} mounted", self.tag.0) });
        }
        Saved::new(KIND, VERSION, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        saved.open(KIND, VERSION)
    }
}
