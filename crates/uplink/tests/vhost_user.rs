//! The back end of vhost-user with a real front end, which drives a card's rings in memory that both have.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test may panic")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use snowboot_devices::net::{DATA_FEATURES, HEADER_LENGTH};
use snowboot_network::{Frame, Port, Switch};
use snowboot_uplink::vhost_user::Backend;
use snowboot_virtio::features;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SOON: Duration = Duration::from_secs(30);
const MEMORY: usize = 1 << 20;
const ENTRIES: u16 = 8;
const RECEIVE: usize = 0;
const SEND: usize = 1;
/// Where the rings and the buffers are in memory, and how long each buffer is.
const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x1_0000;
const BUFFER: u64 = 0x1000;
const WRITE: u16 = 2;
const PROTOCOL: u64 = 1 << 30;

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A frame to everybody, of this length.
fn frame(from: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([0x52, 0x54, 0, 0x12, 1, from, 0x88, 0xb5]);
    bytes.resize(length, from);
    bytes
}

/// A machine of another VMM: its memory, its card's rings, and the connection.
struct Machine {
    front_end: Frontend,
    memory: GuestMemoryMmap,
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
    errors: [EventFd; 2],
    available: [u16; 2],
    used: [u16; 2],
}

impl Machine {
    fn new(socket: &Path) -> Self {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY as u64).unwrap();
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let events = || [event(), event()];
        let front_end = Frontend::connect(socket, 2).unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        Self {
            front_end,
            memory,
            kicks: events(),
            calls: events(),
            errors: events(),
            available: [0; 2],
            used: [0; 2],
        }
    }

    fn plugged(socket: &Path) -> Self {
        let mut machine = Self::new(socket);
        machine.negotiate();
        machine.share();
        machine.start(RECEIVE, 0);
        machine.start(SEND, 0);
        machine
    }

    fn negotiate(&mut self) {
        let offered = self.front_end.get_features().unwrap();
        assert_eq!(offered, DATA_FEATURES | features::COMMON | PROTOCOL);
        self.front_end.set_owner().unwrap();
        let protocol = self.front_end.get_protocol_features().unwrap();
        self.front_end.set_protocol_features(protocol & VhostUserProtocolFeatures::REPLY_ACK).unwrap();
        self.front_end.set_features(features::VERSION_1 | PROTOCOL).unwrap();
    }

    fn share(&self) {
        let regions: Vec<_> = self.memory.iter().collect();
        let regions: Vec<_> =
            regions.iter().map(|it| VhostUserMemoryRegionInfo::from_guest_region(it).unwrap()).collect();
        self.front_end.set_mem_table(&regions).unwrap();
    }

    /// Where the front end has what is at this address of its guest.
    fn user(&self, guest: u64) -> u64 {
        self.memory.get_host_address(GuestAddress(guest)).unwrap().addr().try_into().unwrap()
    }

    fn start(&mut self, ring: usize, base: u16) {
        let at = ring_at(ring);
        self.front_end.set_vring_num(ring, ENTRIES).unwrap();
        let config = VringConfigData {
            queue_max_size: ENTRIES,
            queue_size: ENTRIES,
            flags: 0,
            desc_table_addr: self.user(at),
            used_ring_addr: self.user(at + 0x200),
            avail_ring_addr: self.user(at + 0x100),
            log_addr: None,
        };
        self.front_end.set_vring_addr(ring, &config).unwrap();
        self.front_end.set_vring_base(ring, base).unwrap();
        self.front_end.set_vring_err(ring, &self.errors[ring]).unwrap();
        self.front_end.set_vring_call(ring, &self.calls[ring]).unwrap();
        self.front_end.set_vring_kick(ring, &self.kicks[ring]).unwrap();
        self.front_end.set_vring_enable(ring, true).unwrap();
        // To be called while a ring is set up means nothing.
        let _ = self.calls[ring].read();
    }

    /// Writes a descriptor, and makes it available.
    fn offer(&mut self, ring: usize, address: u64, length: u32, flags: u16) {
        let slot = u64::from(self.available[ring] % ENTRIES);
        let at = ring_at(ring);
        let mut descriptor = address.to_le_bytes().to_vec();
        descriptor.extend(length.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend([0; 2]);
        self.memory.write_slice(&descriptor, GuestAddress(at + 16 * slot)).unwrap();
        let head = u16::try_from(slot).unwrap();
        self.memory.write_slice(&head.to_le_bytes(), GuestAddress(at + 0x104 + 2 * slot)).unwrap();
        self.available[ring] = self.available[ring].wrapping_add(1);
        let index = self.available[ring].to_le();
        self.memory.store(index, GuestAddress(at + 0x102), Ordering::Release).unwrap();
    }

    fn kick(&self, ring: usize) {
        self.kicks[ring].write(1).unwrap();
    }

    fn send(&mut self, frame: &[u8]) {
        let address = buffer_at(SEND, self.available[SEND]);
        let bytes = [&[0; HEADER_LENGTH][..], frame].concat();
        self.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
        self.offer(SEND, address, bytes.len().try_into().unwrap(), 0);
        self.kick(SEND);
        assert_eq!(self.answer(SEND), 0);
    }

    /// Gives a buffer for a frame.
    fn give(&mut self) {
        let address = buffer_at(RECEIVE, self.available[RECEIVE]);
        self.offer(RECEIVE, address, BUFFER.try_into().unwrap(), WRITE);
        self.kick(RECEIVE);
    }

    /// Waits for a frame and its interrupt.
    fn receive(&mut self) -> Vec<u8> {
        let address = buffer_at(RECEIVE, self.used[RECEIVE]);
        let length = usize::try_from(self.answer(RECEIVE)).unwrap();
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes.split_off(HEADER_LENGTH)
    }

    /// Waits for the next answer and its interrupt: how much was written.
    fn answer(&mut self, ring: usize) -> u32 {
        let at = GuestAddress(ring_at(ring) + 0x202);
        let slot = u64::from(self.used[ring] % ENTRIES);
        wait(|| {
            let used: u16 = self.memory.load(at, Ordering::Acquire).unwrap();
            (u16::from_le(used) != self.used[ring]).then_some(())
        });
        wait(|| self.calls[ring].read().ok());
        self.used[ring] = self.used[ring].wrapping_add(1);
        let mut length = [0; 4];
        let element = ring_at(ring) + 0x204 + 8 * slot;
        self.memory.read_slice(&mut length, GuestAddress(element + 4)).unwrap();
        u32::from_le_bytes(length)
    }
}

fn ring_at(ring: usize) -> u64 {
    RINGS + 0x1000 * ring as u64
}

fn buffer_at(ring: usize, position: u16) -> u64 {
    BUFFERS + BUFFER * (u64::from(ENTRIES) * ring as u64 + u64::from(position % ENTRIES))
}

struct Setup {
    folder: tempfile::TempDir,
    guest: Port,
    backend: Backend,
}

fn setup() -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let switch = Switch::new();
    let guest = switch.attach("guest");
    guest.set_ready(true);
    let backend = Backend::listen(&folder.path().join("net"), switch.attach("vhost-user")).unwrap();
    Setup { folder, guest, backend }
}

impl Setup {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("net")
    }

    fn send(&self, bytes: Vec<u8>) {
        let mut frame = Frame::new(bytes);
        while let Err(full) = self.guest.send(now(), frame) {
            frame = full.frame;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn receive(&self) -> Vec<u8> {
        wait(|| self.guest.receive()).bytes
    }

    /// Whether frames pass in both directions.
    fn check(&self, machine: &mut Machine) {
        machine.send(&frame(1, 100));
        assert_eq!(self.receive(), frame(1, 100));
        machine.give();
        self.send(frame(2, 1514));
        assert_eq!(machine.receive(), frame(2, 1514));
    }
}

fn now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// QEMU's card does so before it knows of its driver's features.
#[test]
fn rings_may_be_enabled_before_features_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("net");
    let switch = Switch::new();
    let _backend = Backend::listen(&socket, switch.attach("vhost-user")).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let said = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let enable = |flags: u32, ring: u32, value: u32| said(&[18, flags, 8, ring, value]);
    stream.write_all(&enable(1, 0, 1)).unwrap();
    stream.write_all(&enable(1 | 8, 1, 1)).unwrap();
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, said(&[18, 1 | 4, 8, 0, 0])[..]);
    // It is still there.
    stream.write_all(&said(&[1, 1, 0])).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[12..], (DATA_FEATURES | features::COMMON | PROTOCOL).to_le_bytes());
    // There are two rings.
    stream.write_all(&enable(1 | 8, 2, 1)).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, said(&[18, 1 | 4, 8, 1, 0])[..]);
    assert_eq!(stream.read(&mut answer).unwrap(), 0, "it is cut off");
}

#[test]
fn frames_pass_both_ways_with_interrupts_and_the_ring_wraps() {
    let setup = setup();
    let mut machine = Machine::plugged(&setup.socket());
    for _ in 0..3 * ENTRIES {
        setup.check(&mut machine);
    }
    // A frame waits for a buffer.
    setup.send(frame(3, 60));
    std::thread::sleep(Duration::from_millis(20));
    machine.give();
    assert_eq!(machine.receive(), frame(3, 60));
}

#[test]
fn a_front_end_that_goes_may_come_again_and_nothing_of_the_former_stays() {
    let setup = setup();
    for _ in 0..3 {
        let mut machine = Machine::plugged(&setup.socket());
        setup.check(&mut machine);
        machine.give();
    }
    // One that waits for its turn gets it.
    let first = Machine::plugged(&setup.socket());
    let socket = setup.socket();
    let second = std::thread::spawn(move || Machine::plugged(&socket));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.is_finished());
    drop(first);
    setup.check(&mut second.join().unwrap());
    let Setup { folder, backend, .. } = setup;
    drop(backend);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn rings_stop_and_go_on_where_they_were() {
    let setup = setup();
    let mut machine = Machine::plugged(&setup.socket());
    setup.check(&mut machine);
    // A buffer that nothing has come for is still the next one.
    machine.give();
    for ring in [RECEIVE, SEND] {
        let base = machine.front_end.get_vring_base(ring).unwrap();
        assert_eq!(base, 1);
        machine.start(ring, u16::try_from(base).unwrap());
    }
    setup.send(frame(4, 60));
    assert_eq!(machine.receive(), frame(4, 60));
    setup.check(&mut machine);
    // Memory that is shared anew, while rings are in use; and a ring that is disabled for a while.
    machine.share();
    setup.check(&mut machine);
    machine.front_end.set_vring_enable(SEND, false).unwrap();
    machine.front_end.set_vring_enable(SEND, true).unwrap();
    let _ = machine.calls[SEND].read();
    setup.check(&mut machine);
}

#[test]
fn what_a_driver_corrupts_ends_its_ring_until_that_is_set_up_anew() {
    let setup = setup();
    let mut machine = Machine::plugged(&setup.socket());
    // A buffer outside of memory goes back unused, as for machines of our own.
    machine.offer(SEND, MEMORY as u64, 64, 0);
    machine.kick(SEND);
    assert_eq!(machine.answer(SEND), 0);
    setup.check(&mut machine);
    // More than the ring has: its index is nonsense.
    let at = GuestAddress(ring_at(SEND) + 0x102);
    machine
        .memory
        .store(machine.available[SEND].wrapping_add(ENTRIES + 1).to_le(), at, Ordering::Release)
        .unwrap();
    machine.kick(SEND);
    wait(|| machine.errors[SEND].read().ok());
    // The other ring goes on.
    machine.give();
    setup.send(frame(5, 60));
    assert_eq!(machine.receive(), frame(5, 60));
    machine.memory.store(machine.available[SEND].to_le(), at, Ordering::Release).unwrap();
    let base = machine.available[SEND];
    machine.start(SEND, base);
    setup.check(&mut machine);
}

#[test]
fn front_ends_that_ask_for_nonsense_are_cut_off_and_the_next_one_is_served() {
    let setup = setup();
    let refused: [fn(&mut Machine) -> bool; 6] = [
        |machine| machine.front_end.set_features(1 << 40).is_err(),
        |machine| machine.front_end.set_vring_num(0, 3).is_err(),
        |machine| machine.front_end.set_vring_num(0, 2048).is_err(),
        |machine| machine.front_end.set_vring_num(1, 0).is_err(),
        |machine| {
            // Rings that are not in memory.
            machine.share();
            machine.front_end.set_vring_num(0, ENTRIES).unwrap();
            let config = VringConfigData {
                queue_max_size: ENTRIES,
                queue_size: ENTRIES,
                flags: 0,
                desc_table_addr: 0x1000,
                used_ring_addr: 0x2000,
                avail_ring_addr: 0x3000,
                log_addr: None,
            };
            machine.front_end.set_vring_addr(0, &config).unwrap();
            machine.front_end.set_vring_enable(0, true).unwrap();
            machine.front_end.set_vring_kick(0, &machine.kicks[0]).is_err()
        },
        |machine| {
            // A region that is longer than its file.
            let region = machine.memory.iter().next().unwrap();
            let mut info = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
            info.memory_size += 0x1000;
            machine.front_end.set_mem_table(&[info]).is_err()
        },
    ];
    for ask in refused {
        let mut machine = Machine::new(&setup.socket());
        machine.negotiate();
        assert!(ask(&mut machine));
        drop(machine);
        setup.check(&mut Machine::plugged(&setup.socket()));
    }
    for bytes in [&[0xff; 12][..], &[1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1], b"GET / HTTP/1.0\r\n\r\n"] {
        let mut stream = UnixStream::connect(setup.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        setup.check(&mut Machine::plugged(&setup.socket()));
    }
}

#[test]
fn a_socket_that_is_taken_is_refused_and_one_that_was_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let listen = || Backend::listen(&path, Switch::new().attach("x"));
    drop(UnixListener::bind(&path).unwrap());
    let backend = listen().unwrap();
    let error = listen().unwrap_err().to_string();
    assert!(error.contains("another program listens there"), "{error}");
    drop(backend);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    let error = listen().unwrap_err().to_string();
    assert!(error.contains("no socket: choose another path"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let far = folder.path().join("none").join("net");
    let error = Backend::listen(&far, Switch::new().attach("x")).unwrap_err().to_string();
    assert!(error.contains("a socket cannot be made there"), "{error}");
}
