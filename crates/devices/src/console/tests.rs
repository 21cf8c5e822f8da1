mod named;

use std::time::Instant;

use snowboot_virtio::features::EVENT_IDX;
use snowboot_virtio::testing::Driver;

use super::*;
use crate::stream::{HostEnd, pair};

const CAPACITY: usize = 4096;

struct Bench {
    driver: Driver<Console>,
    hosts: Vec<HostEnd>,
    control: ConsoleControl,
}

fn console(ports: usize) -> (Console, Vec<HostEnd>, ConsoleControl) {
    let (hosts, devices): (Vec<_>, Vec<_>) = (0..ports).map(|_| pair(CAPACITY).unwrap()).unzip();
    let (console, control) = Console::new(devices.into_iter().map(PortEnd::console).collect()).unwrap();
    (console, hosts, control)
}

fn bench(ports: usize, features: u64) -> Bench {
    let (console, hosts, control) = console(ports);
    let mut driver = Driver::new(console);
    driver.start(features).unwrap();
    Bench { driver, hosts, control }
}

fn message(id: u32, event: u16, value: u16) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

impl Bench {
    fn tell(&mut self, id: u32, event: u16, value: u16) {
        self.driver.request(3, &[&message(id, event, value)], &[]);
    }

    /// The control messages that the device sends now.
    fn told(&mut self) -> Vec<Vec<u8>> {
        while self.driver.has_room(2, 1) {
            self.driver.add(2, &[], &[32]);
        }
        self.driver.notify(2).unwrap();
        self.driver.used(2).iter().map(|used| used.written().to_vec()).collect()
    }

    fn open(&mut self, port: u32) {
        self.tell(0, 0, 1);
        self.tell(port, 3, 1);
        self.tell(port, 6, 1);
    }

    /// What an event loop does for a readable descriptor.
    fn news(&mut self, source: u32) {
        self.driver.source_ready(Token(source)).unwrap();
    }

    fn read(&self, port: usize) -> Vec<u8> {
        let mut buffer = vec![0; CAPACITY * 2];
        match self.hosts[port].read(&mut buffer, Some(Instant::now())) {
            Ok(count) => buffer[..count].to_vec(),
            Err(_) => Vec::new(),
        }
    }

    fn write(&self, port: usize, bytes: &[u8]) -> usize {
        self.hosts[port].write(bytes, Some(Instant::now())).unwrap_or(0)
    }
}

#[test]
fn it_is_a_virtio_device() {
    let messages = [(0, 0, 1), (0, 3, 1), (0, 6, 1), (2, 3, 1), (2, 6, 1), (0, 6, 0)];
    let messages = messages.map(|(id, event, value)| message(id, event, value));
    let messages: Vec<(u16, &[u8])> = messages.iter().map(|message| (3, message.as_slice())).collect();
    for ports in [1, 3] {
        let hosts = Mutex::new(Vec::new());
        snowboot_virtio::testing::conformance_with(&messages, || {
            let (console, ends, control) = console(ports);
            // Typed, and resized, but not yet read; so each has more than what another one has saved.
            ends[0].write(b"typed before the guest reads", Some(Instant::now())).unwrap();
            control.resize(ports - 1, 80, 25);
            hosts.lock().unwrap().extend(ends);
            Box::new(console)
        });
    }
}

#[test]
fn the_handshake_announces_every_port() {
    let mut bench = bench(2, F_MULTIPORT);
    assert!(bench.told().is_empty());
    bench.tell(0, 0, 1);
    assert_eq!(bench.told(), [message(0, 1, 0), message(1, 1, 0)]);
    bench.tell(1, 3, 1);
    assert_eq!(bench.told(), [message(1, 4, 1), message(1, 6, 1)]);
    bench.tell(9, 3, 1);
    bench.tell(u32::MAX, 6, 1);
    bench.tell(0, 99, 1);
    assert!(bench.told().is_empty());
    assert_eq!(bench.driver.config::<4>(4), 2u32.to_le_bytes());
}

#[test]
fn output_arrives_and_the_driver_is_interrupted() {
    let mut bench = bench(2, F_MULTIPORT);
    bench.open(1);
    bench.driver.request(5, &[b"hello ", b"", b"world"], &[]);
    assert_eq!(bench.read(1), b"hello world");
    assert_eq!(bench.read(0), b"");
    assert_eq!(bench.driver.interrupts(5), 1);
}

#[test]
fn early_input_waits_until_the_guest_opens_the_port() {
    let mut bench = bench(1, F_MULTIPORT);
    bench.write(0, b"early");
    bench.news(0);
    bench.driver.add(0, &[], &[64]);
    bench.driver.notify(0).unwrap();
    assert!(bench.driver.used(0).is_empty());
    bench.open(0);
    assert_eq!(bench.driver.used(0)[0].written(), b"early");
    bench.driver.add(0, &[], &[64]);
    bench.driver.notify(0).unwrap();
    assert!(bench.driver.used(0).is_empty());
    bench.write(0, b"later");
    bench.news(0);
    assert_eq!(bench.driver.used(0)[0].written(), b"later");
}

#[test]
fn input_fills_buffers_of_any_size_without_losing_a_byte() {
    let mut bench = bench(1, F_MULTIPORT | EVENT_IDX);
    bench.open(0);
    let text: Vec<u8> = (0..=255).cycle().take(CAPACITY).collect();
    assert_eq!(bench.write(0, &text), CAPACITY);
    bench.news(0);
    let mut received = Vec::new();
    for size in [0, 1, 2, 700, 3, 4096] {
        bench.driver.add(0, &[], &[size, 0, 1]);
        bench.driver.kick(0).unwrap();
        for used in bench.driver.used(0) {
            received.extend_from_slice(used.written());
        }
    }
    assert_eq!(received, text);
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_back() {
    let mut bench = bench(1, F_MULTIPORT);
    bench.open(0);
    let line = [b'x'; 1500];
    for _ in 0..10 {
        bench.driver.add(1, &[&line], &[]);
    }
    bench.driver.notify(1).unwrap();
    let taken = bench.driver.used(1).len();
    assert!((3..=4).contains(&taken), "{taken} buffers were taken");
    let mut total = 0;
    for _ in 0..20 {
        total += bench.read(0).len();
        bench.news(0);
    }
    assert_eq!(total, 10 * line.len());
    assert_eq!(bench.driver.used(1).len(), 10 - taken);
}

#[test]
fn a_buffer_larger_than_the_stream_arrives_whole() {
    let mut bench = bench(1, F_MULTIPORT);
    bench.open(0);
    let text: Vec<u8> = (0..=250).cycle().take(CAPACITY * 5).collect();
    bench.driver.request(1, &[&text], &[]);
    let mut received = Vec::new();
    for _ in 0..10 {
        received.extend(bench.read(0));
        bench.news(0);
    }
    assert_eq!(received, text);
}

#[test]
fn nobody_on_the_host_is_no_obstacle() {
    let mut bench = bench(1, F_MULTIPORT);
    bench.hosts.clear();
    bench.news(0);
    for _ in 0..100 {
        bench.driver.request(1, &[&[0; 4096]], &[]);
    }
}

#[test]
fn a_driver_without_ports_gets_the_first_one_at_once() {
    let (console, hosts, _) = console(2);
    let mut driver = Driver::new(console);
    hosts[0].write(b"in", None).unwrap();
    driver.add(0, &[], &[64]);
    driver.start_queues(0, &[0, 1]).unwrap();
    assert_eq!(driver.used(0)[0].written(), b"in");
    driver.request(1, &[b"out"], &[]);
    let mut buffer = [0; 8];
    assert_eq!(hosts[0].read(&mut buffer, None).unwrap(), 3);
}

#[test]
fn a_new_size_is_announced() {
    let mut bench = bench(2, F_MULTIPORT | F_SIZE);
    bench.control.resize(0, 80, 24);
    bench.control.resize(1, 132, 50);
    bench.control.resize(7, 1, 1);
    bench.news(2);
    assert_eq!(bench.driver.config_interrupts(), 1);
    assert_eq!(bench.driver.config::<4>(0), [80, 0, 24, 0]);
    bench.told();
    bench.tell(0, 0, 1);
    bench.tell(1, 3, 1);
    let told = bench.told();
    let mut resize = message(1, 5, 0);
    resize.extend([132, 0, 50, 0]);
    assert_eq!(told.last(), Some(&resize));
    bench.news(2);
    assert!(bench.told().is_empty());
}

#[test]
fn a_size_that_changes_in_a_pause_is_announced_afterwards() {
    let mut bench = bench(2, F_MULTIPORT | F_SIZE);
    bench.open(0);
    bench.open(1);
    bench.told();
    bench.driver.pause();
    for columns in [10, 20, 30] {
        bench.control.resize(0, columns, 24);
        bench.control.resize(1, columns, 50);
        bench.news(2);
    }
    let told = bench.driver.config_interrupts();
    bench.driver.resume().unwrap();
    assert_eq!(bench.driver.config_interrupts(), told + 1);
    let resizes = |id, rows| [message(id, 5, 0), vec![30, 0, rows, 0]].concat();
    assert_eq!(bench.told(), [resizes(0, 24), resizes(1, 50)]);
}

#[test]
fn a_reset_closes_the_ports_and_forgets_what_was_to_be_told() {
    let mut bench = bench(2, F_MULTIPORT);
    let fresh = bench.driver.device().save().unwrap();
    bench.open(0);
    for _ in 0..40 {
        bench.driver.request(3, &[&message(1, 3, 1)], &[]);
    }
    bench.driver.pause();
    assert_ne!(bench.driver.device().save().unwrap(), fresh);
    bench.driver.reset();
    assert_eq!(bench.driver.device().save().unwrap(), fresh);
}

#[test]
fn what_was_typed_after_a_state_was_saved_is_gone_when_that_comes_back() {
    let (mut console, hosts, _) = console(1);
    hosts[0].write(b"before", None).unwrap();
    let saved = console.save().unwrap();
    hosts[0].write(b"after", None).unwrap();
    console.restore(saved.clone()).unwrap();
    assert_eq!(console.save().unwrap(), saved);
}

#[test]
fn an_emergency_byte_goes_out_before_anything_is_set_up() {
    let (mut console, hosts, _) = console(1);
    console.write_config(EMERGENCY_WRITE, &u32::from(b'!').to_le_bytes());
    console.write_config(0, &[1, 2, 3, 4]);
    let mut buffer = [0; 8];
    assert_eq!(hosts[0].read(&mut buffer, Some(Instant::now())).unwrap(), 1);
    assert_eq!(buffer[0], b'!');
}

#[test]
fn a_driver_that_asks_without_listening_uses_up_nothing() {
    let mut bench = bench(2, F_MULTIPORT);
    for _ in 0..1000 {
        bench.tell(1, 3, 1);
    }
    assert!(bench.told().len() <= MOST_WAITING_PER_PORT * 2);
    bench.driver.request(3, &[&[1, 2, 3]], &[]);
    bench.driver.request(3, &[], &[16]);
}

#[test]
fn bytes_on_their_way_survive_a_pause_and_a_move() {
    let mut bench = bench(2, F_MULTIPORT);
    bench.open(0);
    let text: Vec<u8> = (0..=250).cycle().take(CAPACITY + 100).collect();
    bench.driver.request(1, &[&text], &[]);
    bench.write(0, b"typed");
    bench.driver.pause();
    bench.news(0);
    bench.driver.resume().unwrap();

    let (other, hosts, _) = console(2);
    let mut received = bench.read(0);
    bench.driver.move_to(other).unwrap();
    bench.hosts = hosts;
    assert_eq!(bench.driver.device().ports.len(), 2);
    bench.news(0);
    received.extend(bench.read(0));
    assert_eq!(received, text);
    bench.driver.add(0, &[], &[2]);
    bench.driver.add(0, &[], &[64]);
    bench.write(0, b" more");
    bench.driver.notify(0).unwrap();
    let input: Vec<u8> = bench.driver.used(0).iter().flat_map(|used| used.written().to_vec()).collect();
    assert_eq!(input, b"typed more");
}

#[test]
fn a_state_that_is_not_its_own_is_refused() {
    let (device, ..) = console(2);
    let saved = device.save().unwrap();
    let (mut same, ..) = console(2);
    same.restore(saved.clone()).unwrap();
    assert_eq!(same.save().unwrap(), saved);
    assert!(console(1).0.restore(saved.clone()).is_err());
    let mut bad = saved.clone();
    bad.body["waiting"] = serde_json::json!([{ "Add": 2 }]);
    assert!(same.restore(bad).is_err());
    let mut bad = saved;
    bad.body["ports"][0]["output"] = vec![0u8; (256 << 10) + 1].into();
    assert!(same.restore(bad).is_err());
}
