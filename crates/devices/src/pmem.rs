//! virtio-pmem (virtio 1.2, 5.19): tells the driver where a range of memory is that outlives the machine, and has it
//! flushed.
//!
//! The range itself is the machine's, which maps it; the device never touches it. Only ranges that nobody writes to are
//! offered, so that a flush has nothing to do.

use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
};

use crate::config;

/// A driver has one flush under way at a time, or one for each file system on the range.
const QUEUE_SIZE: u16 = 64;
/// `VIRTIO_PMEM_REQ_TYPE_FLUSH` (5.19.6).
const FLUSH: u32 = 0;
/// `VIRTIO_PMEM_RESP_TYPE_OK` (5.19.6.2).
const OK: u32 = 0;
/// `VIRTIO_PMEM_RESP_TYPE_EIO`.
const ERROR: u32 = 1;

const KIND: &str = "virtio-pmem";
const VERSION: u16 = 1;

/// A range of persistent memory that is only read.
#[derive(Debug)]
pub struct Pmem {
    /// `struct virtio_pmem_config` (5.19.4): start and size.
    config: [u8; 16],
    session: Option<Session>,
}

impl Pmem {
    /// A range of `size` bytes from the guest-physical address `start`.
    #[must_use]
    pub fn new(start: u64, size: u64) -> Self {
        let mut config = [0; 16];
        let (first, second) = config.split_at_mut(8);
        first.copy_from_slice(&start.to_le_bytes());
        second.copy_from_slice(&size.to_le_bytes());
        Self { config, session: None }
    }

    fn serve(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
        queue.serve(&session.interrupt, |mut chain| {
            let request = chain.reader.read_obj::<u32>().map(u32::from_le);
            let answer = if matches!(request, Ok(FLUSH)) { OK } else { ERROR };
            // A request without room for the answer is the driver's own loss.
            let _ = chain.writer.write_obj(answer.to_le());
            Served::Done(chain)
        })
    }
}

impl Device for Pmem {
    fn identity(&self) -> Identity {
        Identity { id: DeviceId::Pmem, features: 0, queue_sizes: vec![QUEUE_SIZE] }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        self.serve().map_err(|fault| StartError { device: "persistent memory", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), QueueFault> {
        self.serve()
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        Saved::new(KIND, VERSION, &self.config)
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let config: [u8; 16] = saved.open(KIND, VERSION)?;
        // The guest's kernel has made pages of the range: it cannot be another one now.
        if config == self.config {
            Ok(())
        } else {
            Err(RestoreError("its range of memory is at another place, or of another size".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use snowboot_virtio::testing::{Driver, conformance_with};

    use super::*;

    fn pmem() -> Pmem {
        Pmem::new(0x1_2000_0000, 0x20_0000)
    }

    #[test]
    fn it_is_a_virtio_device() {
        conformance_with(&[(0, &FLUSH.to_le_bytes())], || Box::new(pmem()));
    }

    #[test]
    fn it_says_where_it_is() {
        let mut space = [0xff; 20];
        pmem().read_config(0, &mut space);
        assert_eq!(space[..8], 0x1_2000_0000u64.to_le_bytes());
        assert_eq!(space[8..16], 0x20_0000u64.to_le_bytes());
        let mut half = [0; 4];
        pmem().read_config(4, &mut half);
        assert_eq!(half, 1u32.to_le_bytes());
    }

    #[test]
    fn a_flush_is_done_and_all_else_is_an_error() {
        let mut driver = Driver::new(pmem());
        driver.start(0).unwrap();
        assert_eq!(driver.request(0, &[&FLUSH.to_le_bytes()], &[4]).written(), OK.to_le_bytes());
        assert_eq!(driver.request(0, &[&7u32.to_le_bytes()], &[4]).written(), ERROR.to_le_bytes());
        assert_eq!(driver.request(0, &[b"x"], &[4]).written(), ERROR.to_le_bytes());
        assert_eq!(driver.request(0, &[&FLUSH.to_le_bytes()], &[3]).length, 0);
    }

    #[test]
    fn it_moves_only_to_a_range_at_the_same_place() {
        let mut driver = Driver::new(pmem());
        driver.start(0).unwrap();
        driver.move_to(pmem()).unwrap();
        assert_eq!(driver.request(0, &[&FLUSH.to_le_bytes()], &[4]).written(), OK.to_le_bytes());
        let saved = pmem().save().unwrap();
        Pmem::new(0x1_3000_0000, 0x20_0000).restore(saved).unwrap_err();
    }
}
