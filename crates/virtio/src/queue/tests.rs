//! The queue against a driver that behaves, one that does not, and one that writes nonsense.

mod buffers;
mod malformed;

use std::io::Write;

use proptest::prelude::*;
use vm_memory::GuestMemoryBackend;

use super::*;
use crate::testing::ring::Ring;
use crate::testing::{self, CountingMsi, Descriptor, INDIRECT, NEXT, WRITE};

const SIZE: u16 = 8;
const BUFFERS: u64 = 0x10000;
const MEMORY: u64 = 0x40000;

/// A way to spoil something.
type Case<T> = (&'static str, fn(&mut T));

struct Rig {
    memory: Arc<GuestMemory>,
    ring: Ring,
    queue: Queue,
    doorbell: Arc<EventFd>,
    msi: CountingMsi,
    interrupt: Interrupt,
}

impl Rig {
    fn new(features: u64) -> Self {
        let ranges = [(GuestAddress(0), 0x20000), (GuestAddress(0x20000), 0x20000)];
        let memory = Arc::new(GuestMemory::from_ranges(&ranges).unwrap());
        let mut ring = Ring::new(&memory, SIZE, SIZE, &mut 0x1000);
        ring.event_index = features & features::EVENT_IDX != 0;
        let doorbell = testing::doorbell();
        let queue =
            Queue::new(0, &ring.config, features, &memory).unwrap().with_doorbell(Arc::clone(&doorbell));
        let msi = CountingMsi::default();
        let interrupt = testing::interrupt(&msi, 1);
        Self { memory, ring, queue, doorbell, msi, interrupt }
    }

    fn read(&mut self, text: &str) -> u16 {
        let length = u32::try_from(text.len()).unwrap();
        self.memory.write_slice(text.as_bytes(), GuestAddress(BUFFERS)).unwrap();
        self.ring.add(&[Descriptor { address: BUFFERS, length, ..Default::default() }])
    }

    fn room(&mut self, length: u32) -> u16 {
        self.ring.add(&[Descriptor { address: BUFFERS, length, flags: WRITE, next: 0 }])
    }

    /// Serves by answering with `answer`, and returns how many requests there were.
    fn answer(&mut self, answer: &[u8]) -> Result<usize, QueueFault> {
        let mut requests = 0;
        self.queue.serve(&self.interrupt, |mut chain| {
            requests += 1;
            let _ = chain.writer.write(answer);
            Served::Done(chain)
        })?;
        Ok(requests)
    }

    fn interrupts(&self) -> u64 {
        self.msi.count(1)
    }

    fn doorbell_rang(&self) -> bool {
        self.doorbell.read().is_ok()
    }

    fn used_lengths(&mut self) -> Vec<(u16, u32)> {
        self.ring.used().iter().map(|used| (used.head, used.length)).collect()
    }

    /// Makes raw descriptors available as a chain from 0 on, and serves.
    fn raw(&mut self, descriptors: &[Descriptor]) -> Result<usize, QueueFault> {
        for (index, descriptor) in (0..).zip(descriptors) {
            self.ring.write_descriptor(index, *descriptor);
        }
        self.ring.offer(0);
        self.answer(b"")
    }
}

fn buffer(address: u64, length: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, length, flags, next }
}

#[test]
fn requests_are_served_in_order_with_one_interrupt() {
    let mut rig = Rig::new(0);
    let heads = [rig.room(4), rig.room(2), rig.room(0)];
    assert_eq!(rig.answer(b"abcd").unwrap(), 3);
    assert_eq!(rig.used_lengths(), [(heads[0], 4), (heads[1], 2), (heads[2], 0)]);
    assert_eq!(rig.interrupts(), 1);
    assert_eq!(rig.answer(b"abcd").unwrap(), 0);
    assert_eq!(rig.interrupts(), 1, "nothing new, no interrupt");
}

#[test]
fn a_chain_put_back_stays_first_and_is_whole_again() {
    let mut rig = Rig::new(0);
    rig.read("one");
    rig.read("two");
    let mut seen = 0;
    rig.queue
        .serve(&rig.interrupt, |mut chain| {
            seen += 1;
            chain.reader.skip(2);
            Served::PutBack(chain)
        })
        .unwrap();
    assert_eq!(seen, 1);
    assert_eq!(rig.interrupts(), 0);
    assert!(rig.queue.has_more().unwrap());
    let mut lengths = Vec::new();
    let serve = |chain: DescriptorChain| {
        lengths.push((chain.head(), chain.reader.remaining()));
        Served::Done(chain)
    };
    rig.queue.serve(&rig.interrupt, serve).unwrap();
    assert_eq!(lengths, [(0, 3), (1, 3)]);
    assert!(!rig.queue.has_more().unwrap());
}

#[test]
fn a_device_that_has_had_enough_is_called_again() {
    let mut rig = Rig::new(0);
    let heads = [rig.room(1), rig.room(1)];
    rig.queue.serve(&rig.interrupt, Served::Last).unwrap();
    assert_eq!((rig.used_lengths(), rig.interrupts()), (vec![(heads[0], 0)], 1));
    assert!(rig.doorbell_rang());
    rig.queue.serve(&rig.interrupt, Served::Last).unwrap();
    assert_eq!((rig.used_lengths(), rig.interrupts()), (vec![(heads[1], 0)], 2));
    assert!(!rig.doorbell_rang(), "there is nothing to be called for");
    assert!(rig.ring.wants_notification());
}

#[test]
fn chains_beyond_a_budget_stay_in_the_ring() {
    let mut rig = Rig::new(0);
    rig.ring.write_descriptor(SIZE - 1, buffer(u64::MAX, 1, 0, 0));
    rig.ring.offer(SIZE - 1);
    let head = rig.ring.add(&[Descriptor { address: BUFFERS, length: 1, flags: WRITE, next: 0 }]);
    let mut budget = 1;
    assert!(rig.queue.pop_within(&mut budget).unwrap().is_none(), "the malformed one was looked at");
    assert_eq!(budget, 0);
    let chain = rig.queue.pop_within(&mut 1).unwrap().unwrap();
    rig.queue.add_used(chain).unwrap();
    rig.queue.signal(&rig.interrupt).unwrap();
    assert_eq!(rig.used_lengths().last(), Some(&(head, 0)));
    let mut budget = 2;
    assert!(rig.queue.pop_within(&mut budget).unwrap().is_none());
    assert_eq!(budget, 2, "an empty ring costs nothing");
}

#[test]
fn kept_chains_are_completed_in_any_order() {
    let mut rig = Rig::new(0);
    rig.room(4);
    rig.room(4);
    let mut kept = Vec::new();
    rig.queue
        .serve(&rig.interrupt, |chain| {
            kept.push(chain);
            Served::Later
        })
        .unwrap();
    assert_eq!((rig.interrupts(), rig.used_lengths()), (0, vec![]));
    assert!(rig.queue.state().is_err(), "requests in flight cannot be saved");
    for mut chain in kept.into_iter().rev() {
        chain.writer.write_all(b"ab").unwrap();
        rig.queue.complete(&rig.interrupt, chain).unwrap();
    }
    assert_eq!(rig.used_lengths(), [(1, 2), (0, 2)]);
    assert_eq!(rig.interrupts(), 2);
    rig.queue.state().unwrap();
}

#[test]
fn staged_answers_appear_together_or_not_at_all() {
    let mut rig = Rig::new(0);
    rig.room(4);
    rig.room(4);
    let (first, second) = (rig.queue.pop().unwrap().unwrap(), rig.queue.pop().unwrap().unwrap());
    assert!(rig.queue.pop().unwrap().is_none());
    rig.queue.put_back(second);
    rig.queue.put_back(first);
    assert_eq!(rig.ring.used_index(), 0);
    let (first, second) = (rig.queue.pop().unwrap().unwrap(), rig.queue.pop().unwrap().unwrap());
    assert_eq!((first.head(), second.head()), (0, 1));
    rig.queue.add_used(first).unwrap();
    rig.queue.add_used(second).unwrap();
    assert_eq!((rig.ring.used_index(), rig.interrupts()), (0, 0));
    assert!(rig.queue.state().is_err(), "staged answers would be lost");
    rig.queue.signal(&rig.interrupt).unwrap();
    assert_eq!((rig.ring.used_index(), rig.interrupts()), (2, 1));
}

#[test]
fn putting_back_around_a_malformed_chain_loses_and_repeats_nothing() {
    let mut rig = Rig::new(0);
    let first = rig.room(4);
    rig.ring.write_descriptor(7, buffer(MEMORY, 1, WRITE, 0));
    rig.ring.offer(7);
    let last = rig.room(4);
    let chains: Vec<_> = std::iter::from_fn(|| rig.queue.pop().unwrap()).collect();
    assert_eq!(chains.len(), 2);
    for chain in chains.into_iter().rev() {
        rig.queue.put_back(chain);
    }
    rig.queue.signal(&rig.interrupt).unwrap();
    assert_eq!(rig.used_lengths(), [(7, 0)]);
    let state = rig.queue.state().unwrap();
    assert_eq!(state, QueueState { next_avail: 3, next_used: 1, put_back: vec![first, last] });
    rig.queue = Queue::new(0, &rig.ring.config, 0, &rig.memory).unwrap();
    rig.queue.restore(state).unwrap();
    assert_eq!(rig.answer(b"ab").unwrap(), 2);
    assert_eq!(rig.used_lengths(), [(first, 2), (last, 2)]);
}

#[test]
fn an_endless_driver_gets_one_ring_s_worth_per_call() {
    for feature in [0, features::EVENT_IDX] {
        let mut rig = Rig::new(feature);
        rig.read("again");
        let (ring, queue) = (&mut rig.ring, &mut rig.queue);
        let mut served = 0;
        let serve = |chain| {
            served += 1;
            ring.offer(0);
            Served::Done(chain)
        };
        queue.serve(&rig.interrupt, serve).unwrap();
        assert_eq!(served, SIZE);
        assert!(rig.doorbell_rang(), "work is left over and nobody else would say so");
        assert_eq!(rig.answer(b"").unwrap(), 1);
        assert!(!rig.doorbell_rang());
    }
}

#[test]
fn a_full_ring_is_served_and_notifications_are_on_again() {
    for feature in [0, features::EVENT_IDX] {
        let mut rig = Rig::new(feature);
        for round in 0..3 {
            for _ in 0..SIZE {
                rig.room(1);
            }
            assert!(rig.ring.wants_notification(), "round {round}");
            assert_eq!(rig.answer(b"x").unwrap(), usize::from(SIZE));
            assert_eq!(rig.used_lengths().len(), usize::from(SIZE));
            assert!(!rig.doorbell_rang());
        }
    }
}

#[test]
fn notifications_are_suppressed_while_serving() {
    for feature in [0, features::EVENT_IDX] {
        let mut rig = Rig::new(feature);
        rig.read("one");
        assert!(rig.ring.wants_notification());
        let ring = &mut rig.ring;
        let mut served = 0;
        let serve = |chain| {
            served += 1;
            if served == 1 {
                ring.add(&[buffer(BUFFERS, 4, 0, 0)]);
                assert!(!ring.wants_notification());
            }
            Served::Done(chain)
        };
        rig.queue.serve(&rig.interrupt, serve).unwrap();
        assert_eq!(served, 2);
        rig.read("three");
        assert!(rig.ring.wants_notification());
    }
}

#[test]
fn the_driver_chooses_its_interrupts() {
    let mut rig = Rig::new(0);
    rig.ring.set_avail_flags(NO_INTERRUPT);
    rig.room(1);
    rig.answer(b"x").unwrap();
    assert_eq!(rig.interrupts(), 0);

    let mut rig = Rig::new(features::EVENT_IDX);
    rig.ring.set_avail_flags(NO_INTERRUPT); // Means nothing here (2.7.7.2).
    rig.ring.set_used_event(2);
    for expected in [0, 0, 1, 1] {
        rig.room(1);
        rig.answer(b"x").unwrap();
        assert_eq!(rig.interrupts(), expected);
    }
}

#[test]
fn a_driver_cannot_have_more_in_flight_than_it_has_descriptors() {
    let mut rig = Rig::new(0);
    rig.read("twice");
    let mut kept = Vec::new();
    for _ in 0..SIZE {
        kept.push(rig.queue.pop().unwrap().unwrap());
        rig.ring.offer(0);
    }
    rig.queue.pop().unwrap_err();
    drop(kept);
}

#[test]
fn a_chain_that_was_not_taken_is_not_given_back() {
    let mut rig = Rig::new(0);
    rig.read("one");
    let chain = rig.queue.pop().unwrap().unwrap();
    let mut other = Queue::new(0, &rig.ring.config, 0, &rig.memory).unwrap();
    other.add_used(chain).unwrap_err();
}

#[test]
fn a_queue_is_checked_before_it_lives() {
    let rig = Rig::new(0);
    let good = rig.ring.config;
    let bad: [Case<QueueConfig>; 13] = [
        ("disabled", |config| config.ready = false),
        ("no descriptors", |config| config.size = 0),
        ("no power of two", |config| config.size = 6),
        ("larger than offered", |config| config.size = SIZE * 2),
        ("offer too large", |config| config.max_size = u16::MAX),
        ("descriptor alignment", |config| config.desc_table += 8),
        ("available alignment", |config| config.avail_ring += 1),
        ("used alignment", |config| config.used_ring += 2),
        ("descriptors outside", |config| config.desc_table = MEMORY - 16),
        ("available outside", |config| config.avail_ring = MEMORY - 20),
        ("used outside", |config| config.used_ring = MEMORY - 68),
        ("used at the end of the world", |config| config.used_ring = u64::MAX - 3),
        ("forgotten", |config| config.avail_ring = 0),
    ];
    for (name, spoil) in bad {
        let mut config = good;
        spoil(&mut config);
        assert!(Queue::new(0, &config, 0, &rig.memory).is_err(), "{name}");
    }
    Queue::new(0, &good, 0, &rig.memory).unwrap();
}

#[test]
fn a_saved_state_is_checked() {
    let mut rig = Rig::new(0);
    for put_back in [vec![SIZE], vec![0; usize::from(SIZE) + 1]] {
        rig.queue.restore(QueueState { put_back, ..Default::default() }).unwrap_err();
    }
    rig.queue.restore(QueueState { next_avail: 500, next_used: 7, put_back: vec![] }).unwrap();
    rig.answer(b"x").unwrap_err();
}

/// Stretches the moment between finding the ring empty and asking for notifications, which is when wake-ups get lost.
pub(super) fn linger() {
    for _ in 0..20 {
        std::hint::spin_loop();
    }
}

/// Driver and device on two threads, which meet at every point between looking at the ring and going to sleep.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const REQUESTS: usize = 20_000;
    for feature in [0, features::EVENT_IDX] {
        let Rig { mut ring, mut queue, interrupt, .. } = Rig::new(feature);
        let (kick, kicked) = std::sync::mpsc::channel();
        let device = std::thread::spawn(move || {
            let mut served = 0;
            while served < REQUESTS {
                let waited = kicked.recv_timeout(std::time::Duration::from_secs(30));
                waited.unwrap_or_else(|_| unreachable!("asleep after {served} requests"));
                while {
                    let before = served;
                    queue
                        .serve(&interrupt, |chain| {
                            served += 1;
                            Served::Done(chain)
                        })
                        .unwrap();
                    // The event loop's part for a doorbell that the queue rings itself.
                    served - before == usize::from(SIZE)
                } {}
            }
        });
        let mut added = 0;
        while added < REQUESTS && !device.is_finished() {
            if ring.is_idle() {
                // The device is on its way to sleep now: try all points of that.
                for _ in 0..added % 256 {
                    std::hint::spin_loop();
                }
                ring.add(&[buffer(BUFFERS, 1, 0, 0)]);
                added += 1;
                if ring.wants_notification() {
                    let _ = kick.send(());
                }
            }
            ring.used();
        }
        device.join().unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add,
    /// Serves if the driver would have notified, keeping every chain whose number is a multiple.
    Turn(usize),
    /// Serves as after an event of the device's own.
    Source(usize),
    Collect,
    /// Save and restore.
    Move,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Add),
        2 => (2usize..5).prop_map(Step::Turn),
        1 => (1usize..5).prop_map(Step::Source),
        2 => Just(Step::Collect),
        1 => Just(Step::Move),
    ]
}

proptest! {
    /// However a driver and a device that behave are interleaved, every request is answered exactly once, in order, and a
    /// notification or a put-back chain's own event is enough to get there.
    #[test]
    fn no_request_and_no_wake_up_is_lost(
        event_index in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let feature = if event_index { features::EVENT_IDX } else { 0 };
        let mut rig = Rig::new(feature);
        let (mut added, mut answered, mut blocked) = (Vec::new(), Vec::new(), false);
        for step in steps.into_iter().chain([Step::Turn(1000), Step::Source(1000), Step::Collect]) {
            let put_back = match step {
                Step::Add => {
                    if rig.ring.has_room(1) {
                        added.push(rig.read("request"));
                    }
                    continue;
                }
                Step::Collect => {
                    answered.extend(rig.ring.used().iter().map(|used| used.head));
                    continue;
                }
                Step::Move => {
                    let state = rig.queue.state().unwrap();
                    let bell = Arc::clone(&rig.doorbell);
                    rig.queue = Queue::new(0, &rig.ring.config, feature, &rig.memory).unwrap().with_doorbell(bell);
                    rig.queue.restore(state).unwrap();
                    1000 // Starting serves what is there.
                }
                Step::Turn(every) if rig.ring.wants_notification() || rig.doorbell_rang() => every,
                Step::Source(every) if blocked => every,
                Step::Turn(_) | Step::Source(_) => continue,
            };
            let mut turn = 0;
            blocked = false;
            rig.queue.serve(&rig.interrupt, |chain| {
                turn += 1;
                blocked = turn % put_back == 0;
                if blocked { Served::PutBack(chain) } else { Served::Done(chain) }
            }).unwrap();
        }
        prop_assert!(!blocked);
        prop_assert_eq!(added, answered);
    }

    /// Nothing in memory makes the queue panic, spin or touch anything beyond the memory.
    #[test]
    fn any_memory_is_survived(
        features in prop::sample::select(vec![0, features::INDIRECT_DESC, features::COMMON]),
        image in prop::collection::vec(any::<u8>(), 0x400),
        small in any::<bool>(),
        index in any::<u16>(),
        turns in 1usize..4,
    ) {
        let memory = testing::memory(0x1000);
        let mut ring = Ring::new(&memory, SIZE, SIZE, &mut 0x10);
        memory.write_slice(&image, GuestAddress(0x10)).unwrap();
        if small {
            // Descriptors that are nearly right reach further than noise does.
            for (slot, bytes) in (0u16..SIZE).zip(image.chunks_exact(8)) {
                let [a, b, c, d, e, f, g, _] = <[u8; 8]>::try_from(bytes).unwrap();
                let address = u64::from(u16::from_le_bytes([a, b])) % 0x1100;
                let length = u32::from(u16::from_le_bytes([c, d])) % 0x100;
                let descriptor = buffer(address, length & !u32::from(e), u16::from(f & 7), u16::from(g % 9));
                ring.write_descriptor(slot, descriptor);
                memory.write_slice(&(u16::from(g) % SIZE).to_le_bytes(),
                    GuestAddress(ring.config.avail_ring + 4 + 2 * u64::from(slot))).unwrap();
            }
        }
        ring.set_avail_index(if small { index % (SIZE + 2) } else { index });
        let interrupt = testing::interrupt(&CountingMsi::default(), 1);
        let mut queue = Queue::new(0, &ring.config, features, &memory).unwrap();
        for _ in 0..turns {
            let mut served = 0u16;
            let _ = queue.serve(&interrupt, |mut chain| {
                served += 1;
                let _ = std::io::copy(&mut chain.reader, &mut std::io::sink());
                let _ = chain.writer.fill_from(&mut std::io::repeat(0xa5));
                match served % 4 {
                    3 => Served::PutBack(chain),
                    _ => Served::Done(chain),
                }
            });
            prop_assert!(served <= SIZE);
        }
    }
}
