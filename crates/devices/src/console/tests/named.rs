//! Ports that programs on both sides open and close.

use std::io::ErrorKind;

use super::*;

const NAME: &str = "org.example.files.0";

/// A console and, as port 1, a named port.
fn device() -> (Console, Vec<HostEnd>) {
    let (first, console) = pair(CAPACITY).unwrap();
    let (second, named) = pair(CAPACITY).unwrap();
    let ports = vec![PortEnd::console(console), PortEnd::named(NAME, named).unwrap()];
    let (console, _) = Console::new(ports).unwrap();
    (console, vec![first, second])
}

/// With a driver that has set it up, and has heard everything.
fn named() -> Bench {
    let (first, console) = pair(CAPACITY).unwrap();
    let (second, named) = pair(CAPACITY).unwrap();
    let ports = vec![PortEnd::console(console), PortEnd::named(NAME, named).unwrap()];
    let (console, control) = Console::new(ports).unwrap();
    let mut driver = Driver::new(console);
    driver.start(F_MULTIPORT).unwrap();
    let mut bench = Bench { driver, hosts: vec![first, second], control };
    bench.tell(0, 0, 1);
    bench.tell(1, 3, 1);
    bench.told();
    bench
}

impl Bench {
    fn host_opens(&mut self) {
        self.hosts[1].open();
        self.news(1);
    }

    fn host_reads(&self) -> Result<Vec<u8>, ErrorKind> {
        let mut buffer = vec![0; CAPACITY * 2];
        let count = self.hosts[1].read(&mut buffer, Some(Instant::now())).map_err(|error| error.kind())?;
        Ok(buffer[..count].to_vec())
    }

    /// What the guest reads with one buffer.
    fn guest_reads(&mut self, size: u32) -> Vec<u8> {
        self.driver.add(4, &[], &[size]);
        self.driver.notify(4).unwrap();
        self.driver.used(4).iter().flat_map(|used| used.written().to_vec()).collect()
    }
}

#[test]
fn it_is_a_virtio_device() {
    let messages = [(0, 0, 1), (1, 3, 1), (1, 6, 1), (1, 6, 0), (1, 6, 1)];
    let messages = messages.map(|(id, event, value)| message(id, event, value));
    let messages: Vec<(u16, &[u8])> = messages.iter().map(|message| (3, message.as_slice())).collect();
    let hosts = Mutex::new(Vec::new());
    snowboot_virtio::testing::conformance_with(&messages, || {
        let (console, ends) = device();
        ends[1].open();
        ends[1].write(b"for whoever opens it", Some(Instant::now())).unwrap();
        hosts.lock().unwrap().extend(ends);
        Box::new(console)
    });
}

#[test]
fn it_has_a_name_and_is_no_console() {
    let mut bench = named();
    bench.tell(0, 3, 1);
    assert_eq!(bench.told(), [message(0, 4, 1), message(0, 6, 1)]);
    bench.tell(1, 3, 1);
    let name = [message(1, 7, 1), NAME.as_bytes().to_vec()].concat();
    assert_eq!(bench.told(), std::slice::from_ref(&name));
    // Once a program has opened it, that is told with the name.
    bench.host_opens();
    assert_eq!(bench.told(), [message(1, 6, 1)]);
    bench.tell(1, 3, 1);
    assert_eq!(bench.told(), [name, message(1, 6, 1)]);
}

#[test]
fn names_that_cannot_be_files_are_refused() {
    for name in ["", "a/b", "a b", "\n", "\u{e9}", &"x".repeat(65)] {
        let (_host, end) = pair(16).unwrap();
        let error = PortEnd::named(name, end).unwrap_err().to_string();
        assert!(error.contains("is no name for a port"), "{error}");
    }
}

#[test]
fn the_guest_hears_of_the_end_after_the_last_byte() {
    let mut bench = named();
    bench.host_opens();
    assert_eq!(bench.told(), [message(1, 6, 1)]);
    bench.tell(1, 6, 1);
    bench.write(1, b"all of it");
    bench.hosts[1].finish();
    bench.news(1);
    assert!(bench.told().is_empty());
    assert_eq!(bench.guest_reads(4), b"all ");
    assert!(bench.told().is_empty());
    assert_eq!(bench.guest_reads(64), b"of it");
    assert_eq!(bench.told(), [message(1, 6, 0)]);
    // Nothing more to write is the end at once.
    bench.hosts[1].open();
    bench.hosts[1].finish();
    bench.hosts[1].open();
    bench.news(1);
    assert_eq!(bench.told(), [message(1, 6, 1)]);
    bench.hosts[1].close();
    bench.news(1);
    assert_eq!(bench.told(), [message(1, 6, 0)]);
}

#[test]
fn the_host_hears_of_the_end_after_the_last_byte() {
    let mut bench = named();
    bench.host_opens();
    bench.tell(1, 6, 1);
    assert_eq!(bench.host_reads(), Err(ErrorKind::TimedOut));
    let text: Vec<u8> = (0..=250).cycle().take(CAPACITY * 2).collect();
    bench.driver.add(5, &[&text[..100]], &[]);
    bench.driver.add(5, &[&text[100..CAPACITY + 50]], &[]);
    bench.driver.add(5, &[&text[CAPACITY + 50..]], &[]);
    // The close comes first to the device, the output lies in its queue.
    bench.tell(1, 6, 0);
    let mut received = Vec::new();
    loop {
        match bench.host_reads() {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => received.extend(bytes),
            Err(error) => assert_eq!(error, ErrorKind::TimedOut, "{} bytes came", received.len()),
        }
        bench.news(1);
    }
    assert_eq!(received, text);
    assert_eq!(bench.hosts[1].write(b"x", Some(Instant::now())).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn conversations_do_not_mix() {
    let mut bench = named();
    // Before the host opens it, output is for nobody.
    bench.tell(1, 6, 1);
    bench.driver.request(5, &[b"to nobody"], &[]);
    bench.host_opens();
    assert_eq!(bench.told(), [message(1, 6, 1)]);
    assert_eq!(bench.host_reads(), Err(ErrorKind::TimedOut));
    bench.driver.request(5, &[b"one"], &[]);
    bench.write(1, b"unread by the guest");
    // Closed and opened again before the device looks: the guest hears of both, and neither side gets the other's rest.
    bench.hosts[1].close();
    bench.hosts[1].open();
    bench.driver.add(5, &[b"late"], &[]);
    bench.driver.notify(5).unwrap();
    bench.news(1);
    assert_eq!(bench.told(), [message(1, 6, 0), message(1, 6, 1)]);
    assert!(bench.guest_reads(64).is_empty());
    assert_eq!(bench.host_reads(), Err(ErrorKind::TimedOut));
    assert_eq!(bench.driver.used(5).len(), 1);
    bench.driver.request(5, &[b"two"], &[]);
    assert_eq!(bench.host_reads().unwrap(), b"two");
    // A guest that leaves takes what it has not read with it.
    bench.write(1, b"unread again");
    bench.tell(1, 6, 0);
    assert_eq!(bench.host_reads().unwrap(), b"");
    bench.host_opens();
    bench.tell(1, 6, 1);
    bench.write(1, b"three");
    bench.news(1);
    // The buffer from before is still there.
    let read: Vec<u8> = bench.driver.used(4).iter().flat_map(|used| used.written().to_vec()).collect();
    assert_eq!(read, b"three");
}

#[test]
fn a_host_that_closes_in_the_middle_sets_the_guest_free() {
    let mut bench = named();
    bench.host_opens();
    bench.tell(1, 6, 1);
    for _ in 0..8 {
        bench.driver.add(5, &[&[b'x'; 1500]], &[]);
    }
    bench.driver.notify(5).unwrap();
    assert!(bench.driver.used(5).len() < 8);
    bench.hosts[1].close();
    bench.news(1);
    assert!(bench.driver.used(5).len() >= 4);
    bench.tell(1, 6, 0);
    bench.host_opens();
    bench.tell(1, 6, 1);
    bench.driver.request(5, &[b"new"], &[]);
    assert_eq!(bench.host_reads().unwrap(), b"new");
}

#[test]
fn a_guest_that_begins_anew_has_left() {
    for reset in [true, false] {
        let mut bench = named();
        bench.host_opens();
        bench.tell(1, 6, 1);
        bench.driver.request(5, &[b"last words"], &[]);
        if reset {
            bench.driver.reset();
        } else {
            bench.tell(0, 0, 1);
        }
        assert_eq!(bench.host_reads().unwrap(), b"last words");
        assert_eq!(bench.host_reads().unwrap(), b"");
    }
}

#[test]
fn a_moved_guest_hears_that_nobody_is_there_any_more() {
    let mut bench = named();
    bench.host_opens();
    bench.told();
    bench.tell(1, 6, 1);
    bench.write(1, b"unread");
    bench.driver.pause();
    bench.driver.resume().unwrap();
    let (other, hosts) = device();
    bench.driver.move_to(other).unwrap();
    bench.hosts = hosts;
    assert!(bench.told().is_empty());
    assert_eq!(bench.guest_reads(64), b"unread");
    assert_eq!(bench.told(), [message(1, 6, 0)]);
    // A program that comes now finds the guest's there.
    bench.host_opens();
    assert_eq!(bench.told(), [message(1, 6, 1)]);
    bench.driver.request(5, &[b"still here"], &[]);
    assert_eq!(bench.host_reads().unwrap(), b"still here");
    bench.tell(1, 6, 0);
    assert_eq!(bench.host_reads().unwrap(), b"");
}

#[test]
fn a_guest_that_opens_and_closes_without_listening_uses_up_nothing() {
    let mut bench = named();
    for _ in 0..1000 {
        bench.hosts[1].open();
        bench.news(1);
        bench.tell(1, 6, 1);
        bench.tell(1, 3, 1);
        bench.tell(1, 6, 0);
    }
    assert!(bench.told().len() <= MOST_WAITING_PER_PORT * 2);
}
