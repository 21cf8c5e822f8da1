//! What every device must get right, whatever it does.

use snowboot_bus::pci::PciFunction;
use snowboot_bus::testing::Random;

use super::{Descriptor, Driver, Function, INDIRECT, NEXT, WRITE};
use crate::{Device, Identity, PciTransport, Saved, Token, TransportState, features};

/// Offsets of the configuration space that are read.
const CONFIG: u32 = 0x120;
const FUZZ_STEPS: u32 = 4000;
const FUZZ_SEEDS: u64 = 16;

/// Runs a device through the rules that are the same for all devices: `make` returns a fresh one, always the same kind.
///
/// ```no_run
/// # fn entropy() -> Box<dyn snowboot_virtio::Device> { unimplemented!() }
/// snowboot_virtio::testing::conformance(entropy);
/// ```
///
/// Checked are: the identity; stopping twice; work that waits when the device starts; a reset in the middle of requests;
/// state that survives saving and restoring; malformed chains; queues of size 1, 2 and the maximum; refusal of features
/// that are not offered; configuration reads of every width; and random accesses to everything.
///
/// # Panics
/// When the device breaks a rule.
pub fn conformance(make: impl Fn() -> Box<dyn Device>) {
    conformance_with(&[], make);
}

/// As [`conformance`], for a device that random bytes hardly ever tell anything: some of the random requests are these, each
/// a queue and what the device reads there.
///
/// # Panics
/// When the device breaks a rule.
pub fn conformance_with(requests: &[(u16, &[u8])], make: impl Fn() -> Box<dyn Device>) {
    identity(&make);
    stopping(&make);
    let eager = eager_queues(&make);
    waiting_work(&make, &eager);
    reset_in_the_middle(&make, &eager);
    malformed_chains(&make, &eager);
    queue_sizes(&make, &eager);
    refused_features(&make);
    config_reads(&make);
    for seed in 1..=FUZZ_SEEDS {
        saving(&make, requests, seed);
        random_requests(&make, requests, seed);
        random_accesses(&make, seed);
    }
}

type Make<'a> = &'a dyn Fn() -> Box<dyn Device>;
type Requests<'a> = &'a [(u16, &'a [u8])];

fn queues(device: &dyn Device) -> Vec<u16> {
    (0..).zip(device.identity().queue_sizes).map(|(index, _)| index).collect()
}

fn tokens(device: &dyn Device) -> Vec<Token> {
    device.sources().into_iter().map(|(token, _)| token).collect()
}

/// The ring features, and what the device itself offers.
fn all_features(device: &dyn Device) -> u64 {
    device.identity().features | features::COMMON
}

/// A request that any device can answer somehow.
fn add_any(driver: &mut Driver<Box<dyn Device>>, queue: u16) -> u16 {
    if driver.has_room(queue, 2) {
        driver.add(queue, &[&[0; 64]], &[64])
    } else {
        driver.add(queue, &[], &[64])
    }
}

fn identity(make: Make<'_>) {
    let device = make();
    let identity = device.identity();
    assert_eq!(identity, device.identity(), "the identity changes");
    assert_eq!(identity, make().identity(), "the identity differs between two of a kind");
    let Identity { features, queue_sizes, .. } = identity;
    assert_eq!(features & !features::DEVICE_SPECIFIC, 0, "features 24 to 49 are the transport's");
    for size in queue_sizes {
        assert!(size.is_power_of_two() && size <= 32768, "{size} is no queue size");
    }
}

fn stopping(make: Make<'_>) {
    let mut device = make();
    assert!(device.stop().is_none(), "a device that never started has a session");
    for queue in queues(&device) {
        device.queue_ready(queue).expect("an idle device has no queue to fault");
    }
    for token in tokens(&device) {
        device.source_ready(token).expect("an idle device has no queue to fault");
    }
    let mut driver = Driver::new(device);
    driver.start(0).expect("the device starts");
    driver.pause();
    assert!(driver.device_mut().stop().is_none(), "the second stop has a session");
    driver.resume().expect("the device starts again");
    driver.reset();
    assert!(driver.device_mut().stop().is_none(), "the second stop has a session");
}

/// The queues whose requests come back at once, rather than when something happens.
fn eager_queues(make: Make<'_>) -> Vec<u16> {
    let mut driver = Driver::new(make());
    driver.start(0).expect("the device starts");
    let mut eager = Vec::new();
    for queue in queues(driver.device()) {
        // A device that has news to begin with answers once for that.
        let mut answers = || {
            add_any(&mut driver, queue);
            driver.notify(queue).expect("a valid chain is no fault");
            !driver.used(queue).is_empty()
        };
        if answers() && answers() {
            eager.push(queue);
        }
    }
    eager
}

fn answered(driver: &mut Driver<Box<dyn Device>>, eager: &[u16], what: &str) {
    for queue in eager {
        assert_eq!(driver.used(*queue).len(), 1, "queue {queue} {what}");
    }
}

fn waiting_work(make: Make<'_>, eager: &[u16]) {
    let mut driver = Driver::new(make());
    for queue in queues(driver.device()) {
        add_any(&mut driver, queue);
    }
    driver.start(0).expect("the device starts");
    answered(&mut driver, eager, "ignores what waited when it started");
    driver.pause();
    for queue in queues(driver.device()) {
        add_any(&mut driver, queue);
    }
    driver.resume().expect("the device starts again");
    answered(&mut driver, eager, "ignores what waited when it was resumed");
}

fn reset_in_the_middle(make: Make<'_>, eager: &[u16]) {
    let mut driver = Driver::new(make());
    for _ in 0..3 {
        driver.start(features::COMMON).expect("the device starts");
        for queue in queues(driver.device()) {
            add_any(&mut driver, queue);
            driver.notify(queue).expect("a valid chain is no fault");
        }
        answered(&mut driver, eager, "stops answering after a reset");
        for queue in queues(driver.device()) {
            add_any(&mut driver, queue);
        }
        driver.reset();
    }
}

fn save(device: &dyn Device) -> Saved {
    device.save().expect("a stopped device can be saved")
}

/// State in use: the driver has written what it can, and requests wait in every queue.
fn saving(make: Make<'_>, requests: Requests<'_>, seed: u64) {
    let mut random = Random::new(seed);
    let mut driver = Driver::new(make());
    // Once with all that the device offers, for what a driver can only change then.
    let chosen = if seed == 1 { u64::MAX } else { random.next() };
    driver.start((all_features(driver.device()) & chosen) | features::VERSION_1).expect("the device starts");
    for _ in 0..FUZZ_STEPS / 8 {
        random_request(&mut driver, requests, &mut random);
    }
    for queue in queues(driver.device()) {
        if driver.has_room(queue, 1) {
            add_any(&mut driver, queue);
        }
        driver.notify(queue).expect("a valid chain is no fault");
    }
    driver.pause();
    let states = driver.queue_states();
    let saved = save(driver.device());
    let mut other = make();
    other.restore(saved.clone()).expect("a device's own state fits");
    assert_eq!(save(&other), saved, "saved, restored, saved: not the same");
    refused_states(make, &mut other, &saved);
    driver.device_mut().restore(saved.clone()).expect("a device's own state fits");
    assert_eq!(save(driver.device()), saved, "a device's own state changes it");
    driver.resume().expect("the device starts again");
    driver.pause();
    assert_eq!(driver.queue_states(), states, "pausing loses or repeats requests");
    driver.move_to(make()).expect("a device's own state fits");
    for _ in 0..FUZZ_STEPS / 8 {
        random_request(&mut driver, requests, &mut random);
    }
}

/// What is refused changes nothing, neither in a device in use nor in a fresh one.
fn refused_states(make: Make<'_>, used: &mut dyn Device, own: &Saved) {
    let mut fresh = make();
    let body = |body: serde_json::Value| Saved { body, ..own.clone() };
    for state in [
        Saved { kind: "nothing".into(), ..own.clone() },
        Saved { version: u16::MAX, ..own.clone() },
        body("malformed".into()),
        body(serde_json::json!([{}])),
    ] {
        for device in [&mut *used, fresh.as_mut()] {
            let before = save(device);
            device.restore(state.clone()).expect_err("a state that is not this device's was taken");
            assert_eq!(save(device), before, "{state:?} was refused, and changed something");
        }
    }
}

fn malformed_chains(make: Make<'_>, eager: &[u16]) {
    let outside = u64::MAX - 0xfff;
    for queue in queues(&make()) {
        let mut driver = Driver::new(make());
        driver.start(features::COMMON).expect("the device starts");
        let good = driver.allocate(64);
        let empty_table = driver.allocate(16);
        let size = driver.queue_config(queue).size;
        let chains = [
            Descriptor { address: outside, length: 64, flags: 0, next: 0 },
            Descriptor { address: outside, length: 64, flags: WRITE, next: 0 },
            Descriptor { address: good, length: u32::MAX, flags: WRITE, next: 0 },
            Descriptor { address: good, length: 64, flags: NEXT, next: 0 },
            Descriptor { address: good, length: 64, flags: NEXT | WRITE, next: size },
            Descriptor { address: empty_table, length: 8, flags: INDIRECT, next: 0 },
            Descriptor { address: outside, length: 16, flags: INDIRECT, next: 0 },
            Descriptor { address: empty_table, length: 16, flags: INDIRECT | NEXT, next: 0 },
        ];
        for chain in chains {
            driver.write_descriptor(queue, 0, chain);
            driver.offer(queue, 0);
            driver.notify(queue).expect("a malformed chain is no fault of the ring");
            let used: Vec<(u16, u32)> =
                driver.used(queue).iter().map(|used| (used.head, used.length)).collect();
            assert!(used.iter().all(|used| *used == (0, 0)), "{chain:?} was used for something: {used:?}");
            assert!(used.len() == 1 || !eager.contains(&queue), "{chain:?} did not come back");
        }
        if eager.contains(&queue) {
            add_any(&mut driver, queue);
            driver.notify(queue).expect("a valid chain is no fault");
            answered(&mut driver, &[queue], "does not work after malformed chains");
        }
    }
}

fn queue_sizes(make: Make<'_>, eager: &[u16]) {
    for size in [1, 2, u16::MAX] {
        let mut driver = Driver::with_queue_size(make(), size);
        driver.start(features::COMMON).expect("the device starts");
        for queue in eager {
            for _ in 0..3 {
                driver.add_indirect(*queue, &[&[0; 64]], &[64]);
                driver.notify(*queue).expect("a valid chain is no fault");
                answered(&mut driver, &[*queue], "does not answer in a small ring");
            }
        }
    }
}

fn refused_features(make: Make<'_>) {
    let own = all_features(&make());
    let mut function = Function::new(make());
    assert_eq!(function.offered(), own, "the driver sees other features than the device has");
    assert!(function.negotiate(own), "all that is offered is refused");
    assert!(function.negotiate(features::VERSION_1), "the least that is possible is refused");
    assert!(!function.negotiate(own & !features::VERSION_1), "a legacy driver is accepted");
    for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| own & bit == 0) {
        assert!(!function.negotiate(features::VERSION_1 | bit), "feature {bit:#x} is accepted, not offered");
    }
    function.start(0);
    assert_eq!(function.status(), 0xf, "the device does not start");
}

fn config_reads(make: Make<'_>) {
    let device = make();
    let mut bytes = [0; 8];
    let mut image = Vec::new();
    for offset in 0..CONFIG {
        let mut byte = [0];
        device.read_config(offset, &mut byte);
        image.extend(byte);
    }
    let mut function = Function::new(make());
    for width in [1, 2, 4, 8] {
        for (offset, expected) in (0u32..).zip(image.windows(width)) {
            let part = bytes.get_mut(..width).expect("at most eight");
            part.fill(0);
            device.read_config(offset, part);
            assert_eq!(part, expected, "{width} bytes at {offset:#x} differ from single bytes");
            part.fill(0xff);
            let place = function.parts.device + u64::from(offset);
            function.transport.read_bar(0, place, part);
            assert_eq!(part, expected, "{width} bytes at {offset:#x} through PCI differ");
        }
    }
    for offset in [0xfff, 0x1000, u32::MAX - 1, u32::MAX] {
        device.read_config(offset, &mut [0; 8]);
        make().write_config(offset, &[0xff; 8]);
    }
}

/// Requests with any content and shape; answers only have to be answers.
fn random_requests(make: Make<'_>, requests: Requests<'_>, seed: u64) {
    let mut random = Random::new(seed);
    let mut driver = Driver::new(make());
    let offered = driver.device().identity().features;
    driver.start((offered & random.next()) | features::COMMON).expect("the device starts");
    for _ in 0..FUZZ_STEPS / 8 {
        random_request(&mut driver, requests, &mut random);
        if random.below(50) == 0 {
            driver.pause();
            driver.resume().expect("the device starts again");
        }
    }
}

/// A queue, and any bytes for the device to read.
fn any_request(driver: &Driver<Box<dyn Device>>, random: &mut Random) -> (u16, Vec<Vec<u8>>) {
    let queues = queues(driver.device());
    let queue = queues[usize::from(random.below_u16(u16::try_from(queues.len()).expect("few queues")))];
    let lengths = [0, 1, 4, 8, 12, 16, 64, 600, 5000];
    let readable = (0..random.below(3)).map(|_| random.below_u16(9)).collect::<Vec<_>>();
    (queue, readable.into_iter().map(|index| random.bytes(lengths[usize::from(index)])).collect())
}

/// One request, news of everything that is not a request, and a write to the configuration space.
fn random_request(driver: &mut Driver<Box<dyn Device>>, requests: Requests<'_>, random: &mut Random) {
    let (queue, readable) = match requests.get(usize::from(random.below_u16(16))) {
        Some((queue, bytes)) => (*queue, vec![bytes.to_vec()]),
        None => any_request(driver, random),
    };
    let readable: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
    let writable: Vec<u32> = (0..random.below(3)).map(|_| u32::from(random.below_u16(3000))).collect();
    let count = readable.len() + writable.len();
    if count > 0 && driver.has_room(queue, count) {
        driver.add(queue, &readable, &writable);
    }
    driver.notify(queue).expect("a valid chain is no fault");
    for token in tokens(driver.device()) {
        driver.source_ready(token).expect("a valid chain is no fault");
    }
    let offset = u32::from(random.below_u16(0x100));
    let bytes = random.access(4);
    driver.device_mut().write_config(offset, &bytes);
    for used in driver.used(queue) {
        let _ = used.written();
    }
}

/// Restores a paused function.
fn restored(transport: &mut PciTransport, state: TransportState) {
    let _ = transport.restore(state.clone()).expect("a device's own state fits");
    assert_eq!(transport.save().expect("a paused device"), state, "saved, restored, saved: not the same");
}

/// Another function in the place of this one, with the state that it has saved: whatever is not in it is lost.
fn moved(mut old: Function, device: Box<dyn Device>, state: TransportState) -> Function {
    let sizes: Vec<u16> = old.rings.iter().map(|ring| ring.config.size).collect();
    let mut new = Function::with_memory(device, &old.memory, &sizes);
    new.transport.pause();
    restored(&mut new.transport, state);
    new.rings = std::mem::take(&mut old.rings);
    new
}

/// Anything a guest can do to the function, and anything its machine does meanwhile.
fn random_accesses(make: Make<'_>, seed: u64) {
    let mut random = Random::new(seed);
    let mut function = Function::new(make());
    let offered = function.offered();
    let queues = u16::try_from(function.rings.len()).expect("few queues");
    for _ in 0..FUZZ_STEPS {
        match random.below(16) {
            0 if random.below(4) == 0 => function.start(offered & random.next()),
            0 => {
                function.transport.pause();
                if let Ok(state) = function.transport.save() {
                    match random.below(4) {
                        0 => restored(&mut function.transport, state),
                        1 => function = moved(function, make(), state),
                        _ => {}
                    }
                }
                function.transport.resume();
            }
            1 => function.transport.queue_ready(random.below_u16(queues.saturating_add(1))),
            2 => function.run_sources(),
            3 => {
                let queue = random.below_u16(queues);
                let bytes = random.bytes(64);
                if let Some(ring) = function.rings.get_mut(usize::from(queue)) {
                    if ring.has_room(2) {
                        function.add(queue, &bytes);
                        function.notify(queue);
                    } else {
                        ring.offer(random.below_u16(20));
                    }
                }
            }
            4 => {
                let offset = random.below_u16(0x140);
                let bytes = random.access(3);
                let _ = function.transport.write_config(offset, &bytes);
                // Most of what follows would go nowhere without these.
                let _ = function.transport.write_config(4, &[random.next().to_le_bytes()[0] | 6]);
            }
            5 => drop(function.config::<4>(random.below_u16(0x1000))),
            6..9 => {
                let offset = random.below(0x9000);
                let mut bytes = vec![0; usize::from(1u16 << random.below_u16(4))];
                function.transport.read_bar(0, offset, &mut bytes);
            }
            9..14 => {
                // Whole fields of the common configuration, with values near those that mean something.
                let field = function.parts.common + random.below(0x40);
                let bytes = random.access(3);
                function.write(field, &bytes);
            }
            _ => {
                let offset = random.below(0x9000);
                let bytes = random.access(4);
                function.write(offset, &bytes);
            }
        }
        for ring in &mut function.rings {
            if random.below(64) == 0 {
                ring.reset();
            }
        }
    }
    function.transport.reset();
    function.transport.save().expect_err("it is not paused");
    let _ = function.transport.write_config(4, &[6]);
    function.start(0);
    assert_eq!(function.status(), 0xf, "the device does not start any more");
}
