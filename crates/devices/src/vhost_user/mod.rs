//! A device whose queues another process serves: the front end of vhost-user.
//!
//! The back end has guest memory mapped, watches the queues' doorbells, and writes to an event descriptor of ours per queue
//! when it has answered; from there on interrupts go the way of all others, so that vectors may be masked or moved.
//!
//! ```text
//!  driver ──doorbell (ioeventfd)──► back end ──call──► this device ──► Interrupt
//!                       answers and requests are in guest memory
//! ```
//!
//! A back end that goes away is not waited for nor looked for again: it may have had requests half done, which a new one
//! would not know of. The driver is told that the device needs a reset, which then fails, and what the guest has there is out
//! of order; all else of the machine goes on. No message waits longer than [`PATIENCE`] for its answer.

mod backend;
mod call;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use snowboot_bus::GuestMemory;
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Session, StartError, Token,
};

use self::backend::Backend;
use self::call::Call;
use crate::config;

/// How long a back end may take to answer a message. A vCPU waits for it while its driver sets the device up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Requests that a queue holds, as many as back ends of all kinds take.
const QUEUE_SIZE: u16 = 128;
/// The connection; the sources behind it are the queues' calls.
const CONNECTION: Token = Token(0);
const FIRST_CALL: u32 = 1;
/// Length of `struct virtio_blk_config` up to the fields about zeroes (virtio 1.2, 5.2.4).
const BLOCK_CONFIG: u32 = 60;
/// `VIRTIO_BLK_F_CONFIG_WCE` and `VIRTIO_BLK_F_MQ`, which would need writes to the configuration, and more queues.
const BLOCK_WITHOUT: u64 = 1 << 11 | 1 << 12;
/// Longest tag of a file system, in bytes (5.11.4).
const TAG: usize = 36;

/// What the back end serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file system (virtio 1.2, 5.11), which guests mount by this tag of at most 36 bytes.
    Fs {
        /// The tag.
        tag: String,
    },
    /// A disk (5.2). The back end says how large it is.
    Block,
}

/// Why a back end cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub(crate) String);

/// A device behind a vhost-user connection.
pub struct VhostUser {
    /// For messages: where the back end is.
    name: String,
    id: DeviceId,
    features: u64,
    config: Vec<u8>,
    queues: u16,
    backend: Backend,
    /// What the back end writes to when it has answered, one per queue.
    calls: Vec<Call>,
    /// Why the back end cannot be talked to any more.
    lost: Option<String>,
    session: Option<Session>,
}

impl VhostUser {
    /// A device that the back end at the other end of `stream` serves, called `name` in messages. The regions of `memory`
    /// must be of files that are shared.
    ///
    /// # Errors
    /// When the back end does not answer, or cannot do what every guest is offered.
    pub fn new(
        stream: UnixStream,
        kind: &Kind,
        memory: GuestMemory,
        name: &str,
    ) -> Result<Self, BackendError> {
        let (id, queues) = match kind {
            Kind::Fs { tag } if tag.is_empty() || tag.len() > TAG || tag.contains('\0') => {
                return Err(BackendError(format!(
                    "a tag has 1 to {TAG} bytes, unlike `{}`",
                    tag.escape_debug()
                )));
            }
            // One for what comes before all else, and one for requests.
            Kind::Fs { .. } => (DeviceId::FileSystem, 2),
            Kind::Block => (DeviceId::Block, 1),
        };
        let mut backend = Backend::connect(stream, memory, queues)?;
        let (features, config) = match kind {
            Kind::Fs { tag } => (0, fs_config(tag)),
            Kind::Block => (backend.device_features() & !BLOCK_WITHOUT, backend.config(BLOCK_CONFIG)?),
        };
        let calls = (0..queues).map(|_| Call::new()).collect::<Result<_, _>>();
        let calls = calls.map_err(|error| BackendError(error.to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            id,
            features,
            config,
            queues,
            backend,
            calls,
            lost: None,
            session: None,
        })
    }

    fn hand_over(&mut self, session: &Session) -> Result<(), BackendError> {
        self.backend.begin(session.features)?;
        for ((index, queue), call) in (0..).zip(&session.queues).zip(&self.calls) {
            if let Some(queue) = queue {
                self.backend.start_queue(index, queue, call.event())?;
            }
        }
        // Answers whose call came while there was no session.
        for (index, _) in (0..).zip(&self.calls) {
            session.interrupt.queue(index);
        }
        Ok(())
    }

    fn take_back(&mut self, session: &mut Session) -> Result<(), BackendError> {
        for (index, queue) in (0..).zip(&mut session.queues) {
            if let Some(queue) = queue {
                self.backend.stop_queue(index, queue)?;
            }
        }
        Ok(())
    }

    fn lose(&mut self, reason: &str) -> String {
        if self.lost.is_none() {
            tracing::warn!(
                backend = self.name,
                reason,
                "a vhost-user back end is lost, and its device with it"
            );
        }
        self.lost.get_or_insert_with(|| reason.to_owned()).clone()
    }
}

fn fs_config(tag: &str) -> Vec<u8> {
    let mut config = tag.as_bytes().to_vec();
    config.resize(TAG, 0);
    // One queue for requests (`num_request_queues`).
    config.extend(1u32.to_le_bytes());
    config
}

impl std::fmt::Debug for VhostUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostUser")
            .field("name", &self.name)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl Device for VhostUser {
    fn identity(&self) -> Identity {
        let queue_sizes = vec![QUEUE_SIZE; self.queues.into()];
        Identity { id: self.id, features: self.features, queue_sizes }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        let refused = |reason| StartError { device: "vhost-user", reason };
        if let Some(reason) = &self.lost {
            return Err(refused(format!("{reason}; start the machine anew for another one")));
        }
        match self.hand_over(&session) {
            Ok(()) => {
                self.session = Some(session);
                Ok(())
            }
            Err(error) => Err(refused(self.lose(&error.to_string()))),
        }
    }

    fn stop(&mut self) -> Option<Session> {
        let mut session = self.session.take()?;
        if self.lost.is_none()
            && let Err(error) = self.take_back(&mut session)
        {
            self.lose(&error.to_string());
        }
        Some(session)
    }

    fn watches_doorbells(&self) -> bool {
        false
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        // Whoever has heard the doorbell in place of the back end passes it on.
        let queues = self.session.as_ref().map(|session| &session.queues);
        if let Some(Some(queue)) = queues.and_then(|queues| queues.get(usize::from(queue))) {
            queue.ring_doorbell();
        }
        Ok(())
    }

    fn sources(&self) -> Vec<(Token, BorrowedFd<'_>)> {
        let calls = (FIRST_CALL..).zip(&self.calls).map(|(token, call)| (Token(token), call.as_fd()));
        std::iter::once((CONNECTION, self.backend.hang_up())).chain(calls).collect()
    }

    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        if token == CONNECTION {
            return match self.backend.take_hang_up() {
                false => Ok(()),
                true => Err(QueueFault { queue: 0, reason: self.lose("the back end has gone") }),
            };
        }
        let index = token.0.checked_sub(FIRST_CALL).and_then(|index| u16::try_from(index).ok());
        let call = index.and_then(|index| Some((index, self.calls.get(usize::from(index))?)));
        if let Some((index, call)) = call
            && call.take()
            && let Some(session) = &self.session
        {
            // One that comes while there is no session is made up for by the next start.
            session.interrupt.queue(index);
        }
        Ok(())
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        Err(NotSaveable { reason: format!("its state is in another process, {}", self.name) })
    }

    fn restore(&mut self, _: Saved) -> Result<(), RestoreError> {
        Err(RestoreError(format!("its state is in another process, {}", self.name)))
    }
}
