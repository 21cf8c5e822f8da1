use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use snowboot_bus::GuestAddress;
use snowboot_virtio::features::{EVENT_IDX, INDIRECT_DESC};
use snowboot_virtio::testing::{Descriptor, Driver, NEXT, Used, WRITE};
use tempfile::TempDir;
use vm_memory::Bytes;

use super::*;

const SECTORS: u64 = 2048;
const BYTES: usize = 2048 * 512;
const FEATURES: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_SEG_MAX | F_BLK_SIZE;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// A thread for each chore, and how many there were.
#[derive(Debug, Default)]
struct Threads(AtomicUsize);

impl Helpers for Threads {
    fn help(&self, chore: Chore) {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::thread::spawn(chore);
    }
}

struct Bench {
    driver: Driver<Block>,
    path: PathBuf,
    _folder: TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, pattern(0, BYTES)).unwrap();
    let mut driver = Driver::new(block(&path, false));
    driver.start(FEATURES).unwrap();
    Bench { driver, path, _folder: folder }
}

fn block(path: &std::path::Path, read_only: bool) -> Block {
    let serial = "root".try_into().unwrap();
    Block::new(Disk::open(path, read_only, None).unwrap(), Options { serial, ..Options::default() })
        .help(Arc::new(Threads::default()))
        .unwrap()
}

/// Bytes that tell where on the disk they belong.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|index| u8::try_from((index / 512 + index) % 251).unwrap()).collect()
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// The status of a request: the last writable byte.
fn ask(driver: &mut Driver<Block>, readable: &[&[u8]], writable: &[u32]) -> (u8, Vec<u8>) {
    let mut used = request(driver, 0, readable, writable);
    let status = used.data.pop().unwrap();
    (status, used.data)
}

fn request(driver: &mut Driver<Block>, queue: u16, readable: &[&[u8]], writable: &[u32]) -> Used {
    let head = driver.add(queue, readable, writable);
    driver.notify(queue).unwrap();
    let mut used = answers(driver, queue, 1);
    let used = used.pop().unwrap();
    assert_eq!(used.head, head);
    used
}

/// As many answers as are due, also those that are made aside.
fn answers(driver: &mut Driver<Block>, queue: u16, due: usize) -> Vec<Used> {
    let mut used = driver.used(queue);
    while used.len() < due {
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        let ready = {
            let sources = driver.device().sources();
            poll(&mut [PollFd::new(&sources[0].1, PollFlags::IN)], Some(&limit)).unwrap()
        };
        assert_eq!(ready, 1, "{} of {due} answers came", used.len());
        driver.source_ready(ASIDE).unwrap();
        used.extend(driver.used(queue));
    }
    assert_eq!(used.len(), due);
    used
}

#[test]
fn it_is_a_virtio_device() {
    for read_only in [false, true] {
        snowboot_virtio::testing::conformance(|| {
            let folder = tempfile::tempdir().unwrap();
            let disk = Disk::create(&folder.path().join("disk.img"), 1 << 20, None, |_| Ok(())).unwrap();
            Box::new(Block::new(disk, Options { read_only, ..Options::default() }))
        });
    }
}

#[test]
fn sectors_are_read_and_written() {
    let mut bench = bench();
    let used = request(&mut bench.driver, 0, &[&header(0, 3)], &[1024, 1]);
    assert_eq!(used.length, 1025);
    assert_eq!(used.data[..1024], pattern(3 * 512, 1024));
    assert_eq!(used.data[1024], OK);
    let used = request(&mut bench.driver, 0, &[&header(1, 5), &[7; 512]], &[1]);
    assert_eq!((used.length, used.data[0]), (1, OK));
    let content = std::fs::read(&bench.path).unwrap();
    assert_eq!(content[5 * 512..6 * 512], [7; 512]);
    assert_eq!(content[6 * 512..], pattern(6 * 512, content.len() - 6 * 512));
}

#[test]
fn borders_between_descriptors_mean_nothing() {
    let mut bench = bench();
    let header_bytes = header(0, 1);
    let bytewise: Vec<&[u8]> = header_bytes.chunks(1).collect();
    // Data and status share a descriptor, and there are empty ones.
    let (status, data) = ask(&mut bench.driver, &bytewise, &[0, 1, 510, 0, 2]);
    assert_eq!((status, data), (OK, pattern(512, 512)));
    let mut written = header(1, 9);
    written.extend([3; 512]);
    let (first, second) = written.split_at(17);
    assert_eq!(ask(&mut bench.driver, &[first, &[], second], &[1]).0, OK);
    assert_eq!(std::fs::read(&bench.path).unwrap()[9 * 512..10 * 512], [3; 512]);
}

#[test]
fn what_is_off_the_disk_or_not_whole_is_an_error() {
    let mut bench = bench();
    let mut error = |kind, sector, readable: &[u8], writable: u32| {
        let (status, _) = ask(&mut bench.driver, &[&header(kind, sector), readable], &[writable + 1]);
        assert_eq!(status, IOERR, "type {kind}, sector {sector:#x}, {} and {writable}", readable.len());
    };
    for sector in [SECTORS, SECTORS - 1, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 63] {
        error(0, sector, &[], 1024);
        error(1, sector, &[0; 1024], 0);
    }
    error(0, 0, &[], 511);
    error(1, 0, &[0; 513], 0);
    let content = std::fs::read(&bench.path).unwrap();
    assert_eq!(content, pattern(0, content.len()));
}

#[test]
fn a_request_without_a_header_or_a_status_does_no_harm() {
    let mut bench = bench();
    assert_eq!(ask(&mut bench.driver, &[&[0; 15]], &[1]).0, IOERR);
    assert_eq!(ask(&mut bench.driver, &[], &[1]).0, IOERR);
    let used = request(&mut bench.driver, 0, &[&header(1, 0), &[9; 512]], &[]);
    assert_eq!(used.length, 0);
    assert_eq!(std::fs::read(&bench.path).unwrap()[..512], pattern(0, 512));
    assert_eq!(ask(&mut bench.driver, &[&header(0x99, 0)], &[513]).0, UNSUPP);
}

#[test]
fn a_failed_read_claims_no_bytes_it_did_not_write() {
    let mut bench = bench();
    let used = request(&mut bench.driver, 0, &[&header(0, SECTORS)], &[512, 1]);
    assert_eq!((used.length, used.data[512]), (0, IOERR));
}

#[test]
fn overlapping_descriptors_do_not_multiply_into_endless_work() {
    let mut bench = bench();
    let size = bench.driver.queue_config(0).size;
    let header_at = bench.driver.allocate(16);
    let data_at = bench.driver.allocate(16 << 20);
    bench.driver.write_descriptor(0, 0, Descriptor { address: header_at, length: 16, flags: NEXT, next: 1 });
    for index in 1..size {
        let flags = if index + 1 < size { WRITE | NEXT } else { WRITE };
        let descriptor = Descriptor { address: data_at, length: 16 << 20, flags, next: index + 1 };
        bench.driver.write_descriptor(0, index, descriptor);
    }
    bench.driver.offer(0, 0);
    bench.driver.notify(0).unwrap();
    assert_eq!(bench.driver.used_index(0), 1);
}

#[test]
fn a_turn_ends_with_what_takes_long_and_goes_on_by_itself() {
    let mut bench = bench();
    for _ in 0..2 {
        bench.driver.add(0, &[&header(0, 0)], &[512, 1]);
        bench.driver.add(0, &[&header(11, 0), &range(0, 8, 0)], &[1]);
    }
    bench.driver.device_mut().queue_ready(0).unwrap();
    assert_eq!(bench.driver.used(0).len(), 2, "a discard is the last of its turn");
    bench.driver.notify(0).unwrap();
    assert_eq!(bench.driver.used(0).len(), 2);
    // Four overlapping descriptors of 3 MiB are more than a turn's data.
    let address = bench.driver.allocate(4 << 20);
    let status = bench.driver.allocate(1);
    for head in [0, 8] {
        let at = bench.driver.allocate(16);
        bench.driver.memory().write_slice(&header(0, 0), GuestAddress(at)).unwrap();
        let mut index = head;
        let mut put = |address, length, flags| {
            bench.driver.write_descriptor(0, index, Descriptor { address, length, flags, next: index + 1 });
            index += 1;
        };
        put(at, 16, NEXT);
        (0..4).for_each(|_| put(address, 3 << 20, NEXT | WRITE));
        put(status, 1, WRITE);
        bench.driver.offer(0, head);
    }
    bench.driver.device_mut().queue_ready(0).unwrap();
    assert_eq!(bench.driver.used(0).len(), 1);
    bench.driver.notify(0).unwrap();
    assert_eq!(bench.driver.used(0).len(), 1);
}

#[test]
fn the_serial_number_is_told_and_checked() {
    let mut bench = bench();
    let (status, id) = ask(&mut bench.driver, &[&header(8, 0)], &[20, 1]);
    assert_eq!((status, &id[..5]), (OK, &b"root\0"[..]));
    assert_eq!(ask(&mut bench.driver, &[&header(8, 0)], &[2, 1]), (OK, b"ro".to_vec()));
    assert!(SerialNumber::try_from("twenty-bytes-exactly").is_ok());
    assert!(SerialNumber::try_from("twenty-one-bytes-here").is_err());
}

#[test]
fn ranges_are_zeroed_and_discarded_after_they_were_all_checked() {
    let mut bench = bench();
    let mut zero = |readable: &[&[u8]]| ask(&mut bench.driver, readable, &[1]).0;
    assert_eq!(zero(&[&header(13, 0), &range(8, 8, 0)]), OK);
    assert_eq!(zero(&[&header(13, 0), &range(32, 8, 1), &range(48, 0, 0)]), OK);
    assert_eq!(zero(&[&header(11, 0), &range(64, 8, 0)]), OK);
    assert_eq!(zero(&[&header(11, 0), &range(64, 8, 1)]), UNSUPP);
    assert_eq!(zero(&[&header(13, 0), &range(0, 1, 2)]), UNSUPP);
    assert_eq!(zero(&[&header(13, 0), &range(0, 1, 0), &range(SECTORS, 1, 0)]), IOERR);
    assert_eq!(zero(&[&header(13, 0), &range(u64::MAX, u32::MAX, 0)]), IOERR);
    assert_eq!(zero(&[&header(13, 0), &range(0, 1, 0)[..15]]), IOERR);
    assert_eq!(zero(&[&header(13, 0)]), IOERR);
    let many = range(0, 1, 0).repeat(17);
    assert_eq!(zero(&[&header(13, 0), &many]), IOERR);
    let mut expected = pattern(0, BYTES);
    for sector in [8, 32, 64] {
        expected[sector * 512..(sector + 8) * 512].fill(0);
    }
    assert_eq!(std::fs::read(&bench.path).unwrap(), expected);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let bench = bench();
    drop(bench.driver);
    for (image, option) in [(true, false), (false, true)] {
        let disk = Disk::open(&bench.path, image, None).unwrap();
        let device = Block::new(disk, Options { read_only: option, ..Options::default() });
        let features = device.identity().features;
        assert_eq!((features & F_RO, features & F_DISCARD), (F_RO, 0));
        let mut driver = Driver::new(device);
        driver.start(F_RO | F_FLUSH).unwrap();
        assert_eq!(ask(&mut driver, &[&header(1, 0), &[9; 512]], &[1]).0, IOERR);
        assert_eq!(ask(&mut driver, &[&header(13, 0), &range(0, 8, 0)], &[1]).0, IOERR);
        assert_eq!(ask(&mut driver, &[&header(4, 0)], &[1]).0, OK);
        assert_eq!(ask(&mut driver, &[&header(0, 0)], &[513]), (OK, pattern(0, 512)));
    }
    assert_eq!(std::fs::read(&bench.path).unwrap()[..512], pattern(0, 512));
}

#[test]
fn the_cache_can_be_switched_once_that_is_negotiated() {
    let mut bench = bench();
    bench.driver.device_mut().write_config(WRITEBACK, &[0]);
    assert_eq!(bench.driver.config::<1>(WRITEBACK), [1]);
    bench.driver.reset();
    bench.driver.start(FEATURES | F_CONFIG_WCE).unwrap();
    bench.driver.device_mut().write_config(WRITEBACK, &[2]);
    bench.driver.device_mut().write_config(WRITEBACK, &[0]);
    assert_eq!(bench.driver.config::<1>(WRITEBACK), [0]);
    assert_eq!(ask(&mut bench.driver, &[&header(1, 0), &[9; 512]], &[1]).0, OK);
}

#[test]
fn the_configuration_space_can_be_read_in_any_piece() {
    let bench = bench();
    assert_eq!(u64::from_le_bytes(bench.driver.config(0)), SECTORS);
    assert_eq!(bench.driver.config::<4>(2), [0; 4]);
    let whole: [u8; 64] = bench.driver.config(0);
    for offset in 0..64 {
        assert_eq!(bench.driver.config::<1>(offset)[0], whole[offset as usize]);
    }
    assert_eq!(bench.driver.config::<8>(u32::MAX), [0; 8]);
}

#[test]
fn requests_in_the_ring_survive_a_move_to_another_process() {
    let mut bench = bench();
    bench.driver.pause();
    bench.driver.add(0, &[&header(0, 2)], &[512, 1]);
    let twin = bench.path.with_extension("copy");
    std::fs::copy(&bench.path, &twin).unwrap();
    let saved = bench.driver.device().save().unwrap();
    bench.driver.move_to(block(&twin, false)).unwrap();
    assert_eq!(bench.driver.device().save().unwrap(), saved);
    assert_eq!(bench.driver.used(0)[0].data[..512], pattern(1024, 512));

    std::fs::write(&twin, []).unwrap();
    let other = bench.path.with_extension("other");
    std::fs::write(&other, [0; 512]).unwrap();
    assert!(block(&other, false).restore(saved).is_err());
}

#[test]
fn every_queue_is_served() {
    let bench = bench();
    drop(bench.driver);
    for (asked, given) in [(0u16, 1u16), (1, 1), (3, 3), (32, 8)] {
        let disk = Disk::open(&bench.path, true, None).unwrap();
        let device = Block::new(disk, Options { queues: asked, ..Options::default() });
        assert_eq!(device.identity().queue_sizes.len(), usize::from(given));
        assert_eq!(device.identity().features & F_MQ != 0, given > 1);
        let mut driver = Driver::new(device);
        driver.start(F_RO | F_FLUSH | if given > 1 { F_MQ } else { 0 }).unwrap();
        assert_eq!(u16::from_le_bytes(driver.config(34)), given);
        for queue in 0..given {
            let used = request(&mut driver, queue, &[&header(0, queue.into())], &[512, 1]);
            assert_eq!(used.data[..512], pattern(usize::from(queue) * 512, 512));
        }
        driver.device_mut().queue_ready(given).unwrap();
    }
}

#[test]
fn what_is_done_aside_is_as_if_it_were_not() {
    let folder = tempfile::tempdir().unwrap();
    testing::aside_conformance(folder.path(), &|| Arc::new(Threads::default()));
}

/// A disk whose last sector is not whole in its file: one cannot know of it without waiting that there is no more.
fn ragged() -> (Bench, Arc<Threads>) {
    let bench = bench();
    drop(bench.driver);
    std::fs::File::options().write(true).open(&bench.path).unwrap().set_len(BYTES as u64 - 100).unwrap();
    let threads = Arc::new(Threads::default());
    let disk = Disk::open(&bench.path, false, None).unwrap();
    let device = Block::new(disk, Options::default()).help(Arc::clone(&threads) as Arc<dyn Helpers>);
    let mut driver = Driver::new(device.unwrap());
    driver.start(FEATURES).unwrap();
    (Bench { driver, ..bench }, threads)
}

fn last_sector() -> Vec<u8> {
    let mut bytes = pattern(BYTES - 512, 412);
    bytes.resize(512, 0);
    bytes
}

#[test]
fn what_waits_for_storage_is_done_aside_and_all_at_once() {
    let (mut bench, threads) = ragged();
    for _ in 0..50 {
        bench.driver.add(0, &[&header(0, SECTORS - 1)], &[512, 1]);
    }
    bench.driver.add(0, &[&header(4, 0)], &[1]);
    bench.driver.notify(0).unwrap();
    assert_eq!(threads.0.load(Ordering::Relaxed), 32, "the others wait in the ring");
    for used in answers(&mut bench.driver, 0, 51) {
        let (status, data) = used.data.split_last().unwrap();
        assert_eq!(*status, OK);
        assert!(data.is_empty() || data == last_sector());
        assert_eq!(used.length as usize, used.data.len());
    }
    // What is in memory is not.
    bench.driver.add(0, &[&header(0, 0)], &[512, 1]);
    bench.driver.notify(0).unwrap();
    assert_eq!(bench.driver.used(0)[0].data[..512], pattern(0, 512));
    assert_eq!(threads.0.load(Ordering::Relaxed), 51);
}

#[test]
fn a_flush_that_waits_for_nothing_does_not_end_a_turn() {
    let bench = bench();
    drop(bench.driver);
    let disk = Disk::open(&bench.path, false, None).unwrap();
    let mut driver = Driver::new(Block::new(disk, Options { volatile: true, ..Options::default() }));
    driver.start(FEATURES).unwrap();
    for _ in 0..3 {
        driver.add(0, &[&header(4, 0)], &[1]);
    }
    driver.device_mut().queue_ready(0).unwrap();
    assert!(driver.used(0).iter().all(|used| used.data == [OK]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the guest asks, however it is cut up, it gets one answer, and sectors it did not name stay.
    #[test]
    fn any_request_gets_an_answer(
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0..2 * SECTORS, any::<u64>()],
        data in proptest::collection::vec(any::<u8>(), 0..1200),
        cut in 0usize..1216,
        writable in proptest::collection::vec(0u32..700, 0..5),
        indirect: bool,
    ) {
        let mut bench = bench();
        bench.driver.reset();
        bench.driver.start(FEATURES | INDIRECT_DESC | EVENT_IDX).unwrap();
        let mut bytes = header(kind, sector);
        bytes.extend(&data);
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        if indirect {
            bench.driver.add_indirect(0, &[first, second], &writable);
        } else {
            bench.driver.add(0, &[first, second], &writable);
        }
        bench.driver.notify(0).unwrap();
        answers(&mut bench.driver, 0, 1);
        let content = std::fs::read(&bench.path).unwrap();
        prop_assert_eq!(content.len(), BYTES);
        if ![1, 11, 13].contains(&kind) {
            prop_assert!(content == pattern(0, content.len()));
        }
    }
}

#[test]
fn a_buffer_that_is_no_memory_is_an_error_and_never_an_old_status() {
    let mut bench = bench();
    let (at, status) = (bench.driver.allocate(16), bench.driver.allocate(1));
    bench.driver.memory().write_slice(&header(1, 0), GuestAddress(at)).unwrap();
    let chain = [(at, 16, NEXT), (1 << 40, 512, NEXT), (status, 1, WRITE)];
    for (index, (address, length, flags)) in (0..).zip(chain) {
        let descriptor = Descriptor { address, length, flags, next: index + 1 };
        bench.driver.write_descriptor(0, index, descriptor);
    }
    bench.driver.offer(0, 0);
    bench.driver.notify(0).unwrap();
    assert_eq!(bench.driver.used_index(0), 1);
    assert_eq!(bench.driver.memory().read_obj::<u8>(GuestAddress(status)).unwrap(), IOERR);
    assert_eq!(std::fs::read(&bench.path).unwrap(), pattern(0, BYTES));
}
