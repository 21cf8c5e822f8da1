//! virtio-rng (virtio 1.2, 5.4): the driver offers buffers, the device fills them with random bytes.
//!
//! It owns its source and no state worth saving. It must not let a huge buffer hold up the machine's other devices.

use std::fmt;
use std::io::Read;

use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
};

/// The most bytes for one buffer. A used length below the buffer's is allowed (5.4.6), drivers ask again; Linux asks for
/// 64 bytes. Descriptors may overlap, so a chain's length is no bound.
const MOST_PER_REQUEST: u64 = 64 << 10;
const QUEUE_SIZE: u16 = 64;

const KIND: &str = "virtio-rng";
const VERSION: u16 = 1;

/// The entropy device.
pub struct Entropy {
    source: Box<dyn Read + Send>,
    /// The source's failure was reported: once is enough, for the guest decides how often it asks.
    complained: bool,
    session: Option<Session>,
}

impl Entropy {
    /// A device that hands out what `source` yields, for example the open `/dev/urandom`.
    #[must_use]
    pub fn new(source: impl Read + Send + 'static) -> Self {
        Self { source: Box::new(source), complained: false, session: None }
    }

    fn serve(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
        queue.serve(&session.interrupt, |mut chain| {
            let mut source = self.source.by_ref().take(MOST_PER_REQUEST);
            if let Err(error) = chain.writer.fill_from(&mut source) {
                // At least one byte is due (5.4.6.2); a buffer without any makes the driver ask again, later.
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(%error, "the source of randomness fails");
                }
            }
            Served::Done(chain)
        })
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Device for Entropy {
    fn identity(&self) -> Identity {
        Identity { id: DeviceId::Entropy, features: 0, queue_sizes: vec![QUEUE_SIZE] }
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        self.serve().map_err(|fault| StartError { device: "entropy", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), QueueFault> {
        self.serve()
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        Saved::new(KIND, VERSION, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        saved.open::<()>(KIND, VERSION)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use snowboot_virtio::testing::Driver;

    use super::*;

    #[test]
    fn it_is_a_virtio_device() {
        snowboot_virtio::testing::conformance(|| Box::new(Entropy::new(io::repeat(7))));
    }

    #[test]
    fn buffers_are_filled_up_to_a_bound() {
        let mut driver = Driver::new(Entropy::new(io::repeat(7)));
        driver.start(0).unwrap();
        assert_eq!(driver.request(0, &[], &[3, 0, 61]).written(), [7; 64]);
        assert_eq!(driver.request(0, &[], &[1 << 20]).length, 64 << 10);
        assert_eq!(driver.request(0, &[b"not asked for"], &[]).length, 0);
    }

    #[test]
    fn a_dry_source_answers_with_nothing() {
        let mut driver = Driver::new(Entropy::new(io::empty()));
        driver.start(0).unwrap();
        assert_eq!(driver.request(0, &[], &[64]).length, 0);
    }

    #[test]
    fn it_moves() {
        let mut driver = Driver::new(Entropy::new(io::repeat(1)));
        driver.start(0).unwrap();
        driver.move_to(Entropy::new(io::repeat(2))).unwrap();
        assert_eq!(driver.request(0, &[], &[4]).written(), [2; 4]);
        let mut bad = driver.device().save().unwrap();
        bad.kind = "virtio-blk".into();
        assert!(driver.device_mut().restore(bad).is_err());
    }
}
