//! Virtqueues: what a device spends on each chain. The driver's side, which tests play, is not counted.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use snowboot_virtio::testing::Driver;
use snowboot_virtio::{
    Device, DeviceId, Identity, NotSaveable, Queue, QueueFault, RestoreError, Saved, Served, Session,
    StartError, features,
};

/// Descriptors of the queue, as Linux sees them at most devices.
const SIZE: u16 = 256;
/// Requests that wait when the device is notified: a burst, and one alone, which costs an interrupt.
const BURSTS: [u16; 2] = [1, 64];

/// Reads all of each request and answers with one byte.
struct Reader {
    session: Option<Session>,
    buffer: Vec<u8>,
}

impl Device for Reader {
    fn identity(&self) -> Identity {
        Identity { id: DeviceId::Entropy, features: 0, queue_sizes: vec![SIZE] }
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        Ok(())
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn queue_ready(&mut self, _: u16) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
        let queue: &mut Queue = queue;
        queue.serve(&session.interrupt, |mut chain| {
            let length = chain.reader.remaining();
            let bytes = self.buffer.get_mut(..length).expect("the buffer is as long as the longest request");
            std::io::Read::read_exact(&mut chain.reader, bytes).expect("so much is there");
            chain.writer.write_obj(0u8).expect("there is room for the status");
            Served::Done(chain)
        })
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        Saved::new("reader", 1, &())
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        saved.open::<()>("reader", 1)
    }
}

/// A driver whose requests are of `length` bytes.
struct Bench {
    driver: Driver<Reader>,
    request: Vec<u8>,
    indirect: bool,
}

impl Bench {
    fn new(length: usize, indirect: bool) -> Self {
        let mut driver = Driver::new(Reader { session: None, buffer: vec![0; length] });
        driver.start(features::COMMON).expect("the device starts");
        Self { driver, request: vec![7; length], indirect }
    }

    /// How long the device takes for `rounds` bursts.
    fn run(&mut self, burst: u16, rounds: u64) -> Duration {
        let mut taken = Duration::ZERO;
        for _ in 0..rounds {
            for _ in 0..burst {
                let add = if self.indirect { Driver::add_indirect } else { Driver::add };
                add(&mut self.driver, 0, &[&self.request], &[1]);
            }
            let start = Instant::now();
            self.driver.device_mut().queue_ready(0).expect("the ring is sound");
            taken += start.elapsed();
            assert_eq!(self.driver.used(0).len(), usize::from(burst), "each request is answered");
        }
        taken
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    for (length, indirect) in [(64, false), (64, true), (1500, true), (65_536, true)] {
        for burst in BURSTS {
            let kind = if indirect { "indirect" } else { "direct" };
            let mut bench = Bench::new(length, indirect);
            group.throughput(Throughput::Elements(burst.into()));
            group.bench_function(BenchmarkId::new(format!("{kind}-{length}"), burst), |bencher| {
                bencher.iter_custom(|rounds| bench.run(burst, rounds));
            });
        }
    }
    group.finish();
}
