//! What holds of a disk whoever serves what it would have to wait for. For tests: of this crate with threads, of the crate
//! that has the host's ring with that.
//!
//! Everything here panics when the device does something wrong, as tests should.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Advice, fadvise, fdatasync};
use snowboot_virtio::testing::{Driver, Used};

use super::wire::{F_DISCARD, F_FLUSH, F_WRITE_ZEROES, Status};
use super::{ASIDE, Block, Disk, Format, Helpers, Options, SECTOR};
use crate::warnings::Warnings;

const FEATURES: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
/// Sectors of the disks.
const SECTORS: u64 = 2048;
const BYTES: usize = 1 << 20;
/// What the file of a ragged disk lacks of its last sector.
const LACKING: usize = 100;
/// Random requests at once: more than the device hands to threads at once, and no more descriptors than its queue has.
const MANY: usize = 40;
/// No answer takes longer.
const LIMIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Runs disks through the rules for what is done aside; `helpers` are those of one disk, `folder` is empty.
///
/// # Panics
/// When a rule is broken.
pub fn aside_conformance(folder: &Path, helpers: &dyn Fn() -> Arc<dyn Helpers>) {
    let bench = || Bench::new(folder, "disk.img", helpers());
    what_waits_is_answered(bench());
    pauses_and_resets_wait(bench());
    failures_are_told_once(bench());
    no_lock_is_left_behind(bench());
}

/// A request of a random test.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// `VIRTIO_BLK_T_`: 0 read, 1 write, 4 flush, 11 discard, 13 write zeroes.
    pub kind: u32,
    /// Where; as far as there is a disk.
    pub sector: u64,
    /// How many sectors, at least 1; as far as there is a disk.
    pub sectors: u32,
    /// What is written.
    pub fill: u8,
}

/// Makes the same requests of two disks with different helpers. Those in a row that do not change the disk are made at once,
/// and find nothing of it in the host's memory, where the host lets go of that.
///
/// # Panics
/// When answers or images differ.
pub fn same_by_both(folder: &Path, helpers: [Arc<dyn Helpers>; 2], asked: &[Asked]) {
    let [one, other] = helpers;
    let run = |name, helpers| {
        let mut bench = Bench::new(folder, name, helpers);
        let is_quiet = |asked: &Asked| matches!(asked.kind, READ | FLUSH);
        let mut answers = Vec::new();
        for together in asked.chunk_by(|a, b| is_quiet(a) == is_quiet(b)) {
            if together.iter().all(is_quiet) {
                bench.forget();
            }
            answers.extend(together.chunks(MANY).flat_map(|some| bench.ask(some)));
        }
        drop(bench.driver);
        (answers, std::fs::read(&bench.path).expect("the image is gone"))
    };
    assert!(run("one.img", one) == run("other.img", other), "the disks differ after {asked:?}");
}

struct Bench {
    driver: Driver<Block>,
    path: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// A disk whose last sector is not whole in its file, so that nobody finds all of that in the host's memory.
    fn new(folder: &Path, name: &str, helpers: Arc<dyn Helpers>) -> Self {
        let path = folder.join(name);
        std::fs::write(&path, pattern(0, BYTES - LACKING)).expect("cannot make an image");
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&told);
        let warnings =
            Warnings::new(move |line| lines.lock().expect("a test panicked").push(line.to_owned()));
        let disk = Disk::open(&path, false, Some(Format::Raw)).expect("cannot open an image");
        let device = Block::new(disk, Options::default()).warn(warnings);
        let mut driver = Driver::new(device.help(helpers).expect("no event descriptor"));
        driver.start(FEATURES).expect("it does not start");
        Self { driver, path, told }
    }

    /// Has the host let go of what it has in memory of the image.
    fn forget(&self) {
        let file = File::open(&self.path).expect("the image is gone");
        fdatasync(&file).expect("the host's storage fails");
        fadvise(&file, 0, None, Advice::DontNeed).expect("it is no file");
    }

    /// Makes requests at once; the answers in their order.
    fn ask(&mut self, asked: &[Asked]) -> Vec<Vec<u8>> {
        let heads: Vec<_> = asked.iter().map(|asked| self.add(*asked)).collect();
        self.driver.notify(0).expect("a fault");
        let mut answers = answers(&mut self.driver, asked.len());
        answers.sort_by_key(|used| heads.iter().position(|head| *head == used.head));
        answers.into_iter().map(|used| used.data).collect()
    }

    fn add(&mut self, asked: Asked) -> u16 {
        let Asked { kind, sector, sectors, fill } = asked;
        let sector = sector.min(SECTORS - 1);
        let sectors = u64::from(sectors).clamp(1, SECTORS - sector);
        let bytes = size(sectors);
        let half = u32::try_from(bytes / 2).expect("a small disk");
        let at = if kind == READ || kind == WRITE { sector } else { 0 };
        let header = [u64::from(kind), at].map(u64::to_le_bytes).concat();
        match kind {
            // In pieces, and the status in the last one.
            READ => self.driver.add(0, &[&header], &[half, 3, half - 2]),
            WRITE => self.driver.add(0, &[&header, &vec![fill; bytes]], &[1]),
            FLUSH => self.driver.add(0, &[&header], &[1]),
            _ => self.driver.add(0, &[&header, &[sector, sectors].map(u64::to_le_bytes).concat()], &[1]),
        }
    }

    fn read_last(&mut self) -> u16 {
        self.add(Asked { kind: READ, sector: SECTORS - 1, sectors: 1, fill: 0 })
    }
}

/// Bytes of so many sectors.
fn size(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR).expect("a small disk")
}

/// Bytes that tell where on the disk they belong.
fn pattern(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|index| u8::try_from((index / 512 + index) % 251).unwrap_or(0)).collect()
}

/// The last sector, and the status of its read.
fn last_sector() -> Vec<u8> {
    let mut bytes = pattern(BYTES - 512, 512 - LACKING);
    bytes.resize(512, 0);
    bytes.push(Status::Ok as u8);
    bytes
}

/// As many answers as are due.
fn answers(driver: &mut Driver<Block>, due: usize) -> Vec<Used> {
    let mut used = driver.used(0);
    while used.len() < due {
        let ready = {
            let sources = snowboot_virtio::Device::sources(driver.device());
            let mut watched: Vec<_> =
                sources.iter().map(|(_, source)| PollFd::new(source, PollFlags::IN)).collect();
            poll(&mut watched, Some(&LIMIT))
        };
        assert_ne!(ready, Ok(0), "{} of {due} answers came", used.len());
        driver.source_ready(ASIDE).expect("a fault");
        used.extend(driver.used(0));
    }
    assert_eq!(used.len(), due);
    used
}

fn what_waits_is_answered(mut bench: Bench) {
    for round in 0..4u64 {
        bench.forget();
        let mut asked = Vec::new();
        for place in 0..40 {
            // Of the disk's ends and from all over it, so that some are in memory, and some are there soon.
            let sector = if place % 4 == 0 { SECTORS - 1 } else { place * 47 };
            let sectors = if place % 5 == 1 { 16 } else { 1 };
            asked.push(Asked { kind: READ, sector, sectors, fill: 0 });
        }
        asked.push(Asked { kind: FLUSH, sector: 0, sectors: 1, fill: 0 });
        let before = bench.driver.interrupts(0);
        let found = bench.ask(&asked);
        let told = bench.driver.interrupts(0) - before;
        assert!((1..=asked.len() as u64).contains(&told), "{told} interrupts in round {round}");
        for (asked, data) in asked.iter().zip(found) {
            let (status, data) = data.split_last().expect("no status");
            assert_eq!(*status, Status::Ok as u8, "{asked:?}");
            if asked.kind == READ {
                let expected = match asked.sector == SECTORS - 1 {
                    true => last_sector()[..512].to_vec(),
                    false => pattern(size(asked.sector), size(asked.sectors.into())),
                };
                assert!(data == expected, "{asked:?}");
            }
        }
    }
}

fn pauses_and_resets_wait(mut bench: Bench) {
    for round in 0..20 {
        bench.forget();
        let count = 10;
        for _ in 0..count {
            bench.read_last();
        }
        bench.add(Asked { kind: FLUSH, sector: 0, sectors: 1, fill: 0 });
        snowboot_virtio::Device::queue_ready(bench.driver.device_mut(), 0).expect("a fault");
        if round % 2 == 0 {
            bench.driver.pause();
            let used = bench.driver.used(0);
            assert_eq!(used.len(), count + 1);
            assert!(used.iter().all(|used| used.data.len() == 1 || used.data == last_sector()));
            // Whatever news there was is of the past.
            bench.driver.source_ready(ASIDE).expect("a fault");
            bench.driver.resume().expect("it does not start");
        } else {
            bench.driver.reset();
            bench.driver.source_ready(ASIDE).expect("a fault");
            bench.driver.start(FEATURES).expect("it does not start");
            assert!(bench.driver.used(0).is_empty(), "an answer to a driver that is gone");
        }
    }
}

fn failures_are_told_once(mut bench: Bench) {
    let file = File::options().write(true).open(&bench.path).expect("the image is gone");
    file.set_len(512).expect("cannot cut the image");
    let last = Asked { kind: READ, sector: SECTORS - 1, sectors: 1, fill: 0 };
    for _ in 0..3 {
        for asked in [last, Asked { sector: 8, ..last }, Asked { kind: FLUSH, ..last }] {
            let answer = bench.ask(&[asked]).concat();
            assert_eq!(answer.last(), Some(&(Status::IoError as u8)), "{asked:?}");
        }
    }
    let first = bench.ask(&[Asked { sector: 0, ..last }]).concat();
    assert!(first[..512] == pattern(0, 512) && first[512] == Status::Ok as u8);
    let told = bench.told.lock().expect("a test panicked");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("disk.img: reading failed") && told[0].contains("cut short"), "{told:?}");
    assert!(told[1].contains("flushing failed"), "{told:?}");
}

fn no_lock_is_left_behind(mut bench: Bench) {
    bench.forget();
    for _ in 0..10 {
        bench.read_last();
    }
    snowboot_virtio::Device::queue_ready(bench.driver.device_mut(), 0).expect("a fault");
    drop(bench.driver);
    Disk::open(&bench.path, false, None).expect("its lock is still held");
}
