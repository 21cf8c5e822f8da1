//! The front end with a real back end, which turns bytes around, on a thread of this process.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use snowboot_bus::GuestAddress;
use snowboot_virtio::features;
use snowboot_virtio::testing::{Function, Used};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{ShutdownHandle, VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{FileOffset, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::*;

const MEMORY: usize = 16 << 20;
/// Bits of `status`.
const NEEDS_RESET: u8 = 0x40;
const PROTOCOL: u64 = 1 << 30;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

struct Turn {
    memory: Memory,
    features: u64,
    protocol: VhostUserProtocolFeatures,
    config: Vec<u8>,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            memory: Memory::new(GuestMemoryMmap::new()),
            features: features::COMMON | PROTOCOL | 1 << 9 | 1 << 11 | 1 << 12,
            protocol: VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ,
            config: (0..60).collect(),
        }
    }
}

impl VhostUserBackendMut for Turn {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    fn set_event_idx(&mut self, _: bool) {}

    fn get_config(&self, _: u32, size: u32) -> Vec<u8> {
        self.config.iter().copied().take(usize::try_from(size).unwrap()).collect()
    }

    fn update_memory(&mut self, memory: Memory) -> std::io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::empty()).ok()
    }

    fn handle_event(
        &mut self,
        queue: u16,
        _: EventSet,
        vrings: &[VringRwLock],
        _: usize,
    ) -> std::io::Result<()> {
        let memory = self.memory.memory();
        let mut vring = vrings[usize::from(queue)].get_mut();
        let chains: Vec<_> = vring.get_queue_mut().iter(memory.clone()).unwrap().collect();
        for chain in chains {
            let head = chain.head_index();
            let mut bytes = Vec::new();
            chain.clone().reader(&memory).unwrap().read_to_end(&mut bytes).unwrap();
            bytes.reverse();
            chain.writer(&memory).unwrap().write_all(&bytes).unwrap();
            vring.add_used(head, u32::try_from(bytes.len()).unwrap()).unwrap();
            vring.signal_used_queue().unwrap();
        }
        Ok(())
    }
}

struct Daemon {
    thread: Option<JoinHandle<()>>,
    handle: ShutdownHandle,
}

impl Daemon {
    /// Ends it as if its process had been killed.
    fn kill(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(path: &Path, turn: Turn) -> (Daemon, UnixStream) {
    let mut listener = Listener::new(path, true).unwrap();
    let stream = UnixStream::connect(path).unwrap();
    let memory = Memory::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("turn".into(), Arc::new(RwLock::new(turn)), memory).unwrap();
    daemon.start(&mut listener).unwrap();
    let handle = daemon.shutdown_handle().unwrap();
    let thread = std::thread::spawn(move || {
        let _ = daemon.wait();
    });
    (Daemon { thread: Some(thread), handle }, stream)
}

fn shared() -> Arc<GuestMemory> {
    let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY as u64).unwrap();
    let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
    Arc::new(GuestMemory::from_ranges_with_files([range]).unwrap())
}

struct Setup {
    _folder: tempfile::TempDir,
    daemon: Daemon,
    function: Function,
}

fn fs() -> Kind {
    Kind::Fs { tag: "store".into() }
}

fn setup(kind: &Kind, turn: Turn) -> Result<Setup, BackendError> {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, stream) = serve(&folder.path().join("socket"), turn);
    let memory = shared();
    let device = VhostUser::new(stream, kind, GuestMemory::clone(&memory), "socket")?;
    let sizes = vec![8; device.queues.into()];
    let function = Function::with_memory(Box::new(device), &memory, &sizes);
    Ok(Setup { _folder: folder, daemon, function })
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the answer of another thread, and for its interrupt.
fn answer(function: &mut Function, queue: u16) -> Used {
    let before = function.interrupts(queue);
    let used = wait(|| function.used(queue).pop());
    wait(|| {
        function.run_sources();
        (function.interrupts(queue) > before).then_some(())
    });
    used
}

#[test]
fn requests_go_to_the_back_end_and_answers_come_with_interrupts() {
    let Setup { daemon: _daemon, mut function, .. } = setup(&fs(), Turn::default()).unwrap();
    assert_eq!(function.transport.watched_doorbells().len(), 0);
    assert_eq!(function.config::<2>(2), 0x105au16.to_le_bytes());
    assert_eq!(&function.read::<8>(0x2000), b"store\0\0\0");
    assert_eq!(function.read::<4>(0x2000 + 36), [1, 0, 0, 0]);
    assert_eq!(function.offered(), features::COMMON);
    function.start(features::EVENT_IDX);
    for queue in [0, 1, 1] {
        function.add(queue, b"abc");
        function.notify(queue);
        assert_eq!(answer(&mut function, queue).written(), b"cba");
    }
}

#[test]
fn a_disk_has_the_back_ends_configuration_and_features() {
    let Setup { daemon: _daemon, mut function, .. } = setup(&Kind::Block, Turn::default()).unwrap();
    assert_eq!(function.read::<4>(0x2000 + 8), [8, 9, 10, 11]);
    assert_eq!(function.read::<1>(0x2000 + 59), [59]);
    assert_eq!(function.offered(), features::COMMON | 1 << 9);
    function.start(1 << 9);
    function.add(0, b"xy");
    function.notify(0);
    assert_eq!(answer(&mut function, 0).written(), b"yx");
}

#[test]
fn a_pause_takes_the_queues_back_and_a_resume_goes_on_where_they_are() {
    let Setup { daemon: _daemon, mut function, .. } = setup(&fs(), Turn::default()).unwrap();
    function.start(0);
    for text in [b"one", b"two"] {
        function.add(1, text);
        function.notify(1);
        answer(&mut function, 1);
        function.transport.pause();
        function.add(1, b"late");
        function.notify(1);
        assert!(function.used(1).is_empty());
        function.transport.resume();
        assert_eq!(answer(&mut function, 1).written(), b"etal");
    }
    function.transport.pause();
    assert!(function.transport.save().unwrap_err().to_string().contains("another process"));
    function.transport.resume();
    // Another driver.
    function.start(features::EVENT_IDX);
    function.add(1, b"new");
    function.notify(1);
    assert_eq!(answer(&mut function, 1).written(), b"wen");
}

#[test]
fn a_back_end_that_dies_takes_only_its_device_along_and_does_not_come_back() {
    for is_busy in [true, false] {
        let Setup { mut daemon, mut function, .. } = setup(&fs(), Turn::default()).unwrap();
        if is_busy {
            function.start(0);
        }
        daemon.kill();
        wait(|| {
            function.run_sources();
            (function.status() & NEEDS_RESET != 0).then_some(())
        });
        // Once: the event loop is not to be kept busy by a closed connection.
        assert_eq!(function.config_interrupts(), u64::from(is_busy));
        function.run_sources();
        assert_eq!(function.config_interrupts(), u64::from(is_busy));
        function.add(1, b"lost");
        function.notify(1);
        function.start(0);
        assert!(function.status() & NEEDS_RESET != 0);
        function.transport.pause();
        function.transport.resume();
    }
}

#[test]
fn a_back_end_that_dies_while_it_is_asked_is_noticed_too() {
    let Setup { mut daemon, mut function, .. } = setup(&fs(), Turn::default()).unwrap();
    daemon.kill();
    function.start(0);
    assert!(function.status() & NEEDS_RESET != 0);
}

#[test]
fn what_a_back_end_lacks_is_said() {
    let fails = |kind: &Kind, turn: Turn| setup(kind, turn).err().expect("it was taken").to_string();
    let old = Turn { features: PROTOCOL | features::VERSION_1, ..Turn::default() };
    assert!(fails(&fs(), old).contains("0x30000000"));
    let silent = Turn { protocol: VhostUserProtocolFeatures::MQ, ..Turn::default() };
    assert!(fails(&Kind::Block, silent).contains("does not tell its configuration"));
    for tag in ["", "a\0b", &"x".repeat(37)] {
        assert!(fails(&Kind::Fs { tag: tag.into() }, Turn::default()).contains("1 to 36 bytes"));
    }
    setup(&Kind::Fs { tag: "x".repeat(36) }, Turn::default()).unwrap();
}

#[test]
fn without_the_protocols_additions_it_works_as_well() {
    let plain = Turn { features: features::COMMON, ..Turn::default() };
    let Setup { daemon: _daemon, mut function, .. } = setup(&fs(), plain).unwrap();
    function.start(0);
    function.add(1, b"ab");
    function.notify(1);
    assert_eq!(answer(&mut function, 1).written(), b"ba");
}

#[test]
fn memory_that_is_not_shared_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_daemon, stream) = serve(&folder.path().join("socket"), Turn::default());
    let memory = snowboot_virtio::testing::memory(MEMORY);
    let device = VhostUser::new(stream, &fs(), GuestMemory::clone(&memory), "socket").unwrap();
    let mut function = Function::with_memory(Box::new(device), &memory, &[8, 8]);
    function.start(0);
    assert!(function.status() & NEEDS_RESET != 0);
}
