mod hostile;
mod locks;
mod troubles;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use snowboot_share::fuse::Cache;
use snowboot_share::{Tree, TreeOptions};
use snowboot_virtio::testing::Driver;
use tempfile::TempDir;

use super::*;

const HIPRIO: u16 = 0;
const REQUESTS: u16 = 1;
const ROOT: u64 = 1;
const UNIQUE: u64 = 0x0102_0304;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const READLINK: u32 = 5;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const FSYNCDIR: u32 = 30;
const GETLK: u32 = 31;
const SETLK: u32 = 32;
const SETLKW: u32 = 33;
const ACCESS: u32 = 34;
const CREATE: u32 = 35;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const IOCTL: u32 = 39;
const POLL: u32 = 40;
const BATCH_FORGET: u32 = 42;
const FALLOCATE: u32 = 43;
const READDIRPLUS: u32 = 44;
const RENAME2: u32 = 45;
const LSEEK: u32 = 46;
const COPY_FILE_RANGE: u32 = 47;
const SYNCFS: u32 = 50;
const TMPFILE: u32 = 51;

const EIO: i32 = 5;
const ENXIO: i32 = 6;
const EBADF: i32 = 9;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
const EROFS: i32 = 30;
const ERANGE: i32 = 34;
const ENAMETOOLONG: i32 = 36;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;
const ESTALE: i32 = 116;

const O_RDWR: u32 = 2;
const O_EXCL: u32 = 0o200;

struct Bench {
    driver: Driver<FileSystem>,
    folder: TempDir,
}

/// Little-endian fields in a row: `u32` and `u64` by their types, and bytes as they are.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn new() -> Self {
        Self::default()
    }

    fn w(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn q(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn s(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }
}

fn s(text: &str) -> Vec<u8> {
    Body::new().s(text).0
}

fn device(folder: &TempDir, writable: bool, cache: Cache) -> FileSystem {
    let tree = Tree::open(&folder.path().join("inside"), TreeOptions { writable }).unwrap();
    FileSystem::new("shared".try_into().unwrap(), Server::new(tree, cache)).unwrap()
}

fn fresh(writable: bool, cache: Cache) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inside")).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let mut driver = Driver::new(device(&folder, writable, cache));
    driver.start(0).unwrap();
    Bench { driver, folder }
}

fn bench() -> Bench {
    bench_with(true, Cache::Auto)
}

fn bench_with(writable: bool, cache: Cache) -> Bench {
    let mut bench = fresh(writable, cache);
    let reply = bench.ask(INIT, 0, &init(38)).unwrap();
    assert_eq!(u32_at(&reply, 4), 38);
    bench
}

fn init(minor: u32) -> Vec<u8> {
    let mut body = Body::new().w(7).w(minor).w(128 << 10).w(u32::MAX).w(u32::MAX).0;
    body.resize(64, 0);
    body
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(40 + body.len()).unwrap();
    let mut bytes = Body::new().w(length).w(opcode).q(UNIQUE).q(node).w(0).w(0).w(99).w(0).0;
    bytes.extend(body);
    bytes
}

/// The body of an answer, or the error in it.
fn parsed(answer: &[u8]) -> Result<Vec<u8>, i32> {
    assert_eq!(usize::try_from(u32_at(answer, 0)).unwrap(), answer.len());
    assert_eq!(u64_at(answer, 8), UNIQUE);
    match u32_at(answer, 4).cast_signed() {
        0 => Ok(answer[16..].to_vec()),
        error => {
            assert!(error < 0 && answer.len() == 16);
            Err(-error)
        }
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("inside").join(name)
    }

    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let used = self.driver.request(REQUESTS, &[&message(opcode, node, body)], &[16, 1 << 16]);
        parsed(used.written())
    }

    /// A request that has no answer.
    fn tell(&mut self, opcode: u32, node: u64, body: &[u8]) {
        let used = self.driver.request(HIPRIO, &[&message(opcode, node, body)], &[]);
        assert_eq!(used.length, 0);
    }

    fn find(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        Ok(u64_at(&self.ask(LOOKUP, parent, &s(name))?, 0))
    }

    /// Makes a file; its node and a handle.
    fn create(&mut self, name: &str) -> (u64, u64) {
        let body = Body::new().w(O_RDWR).w(0o100_644).w(0o22).w(0).s(name).0;
        let reply = self.ask(CREATE, ROOT, &body).unwrap();
        (u64_at(&reply, 0), u64_at(&reply, 128))
    }

    fn write(&mut self, (node, handle): (u64, u64), offset: u64, data: &[u8]) -> Result<u32, i32> {
        let size = u32::try_from(data.len()).unwrap();
        let mut body = Body::new().q(handle).q(offset).w(size).w(0).q(0).w(0).w(0).0;
        body.extend(data);
        Ok(u32_at(&self.ask(WRITE, node, &body)?, 0))
    }

    fn read(&mut self, (node, handle): (u64, u64), offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.ask(READ, node, &Body::new().q(handle).q(offset).w(size).w(0).q(0).w(0).w(0).0)
    }

    fn names(&mut self, node: u64, handle: u64, opcode: u32) -> Vec<String> {
        let (mut names, mut offset) = (Vec::new(), 0);
        let skip = if opcode == READDIRPLUS { 128 } else { 0 };
        loop {
            let reply =
                self.ask(opcode, node, &Body::new().q(handle).q(offset).w(4096).w(0).q(0).q(0).0).unwrap();
            if reply.is_empty() {
                break;
            }
            let mut rest = reply.as_slice();
            while !rest.is_empty() {
                let entry = &rest[skip..];
                let length = usize::try_from(u32_at(entry, 16)).unwrap();
                offset = u64_at(entry, 8);
                names.push(String::from_utf8(entry[24..24 + length].to_vec()).unwrap());
                rest = &rest[skip + (24 + length).next_multiple_of(8)..];
            }
        }
        names.sort();
        names
    }
}

fn lock(handle: u64, owner: u64, range: (u64, u64), kind: u32, flags: u32) -> Vec<u8> {
    Body::new().q(handle).q(owner).q(range.0).q(range.1).w(kind).w(77).w(flags).w(0).0
}

#[test]
fn it_is_a_virtio_device() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inside")).unwrap();
    let init = message(INIT, 0, &init(38));
    let lookup = message(LOOKUP, ROOT, &s("a"));
    let waiting = message(SETLKW, ROOT, &lock(1, 1, (0, 1), 1, 0));
    for writable in [false, true] {
        snowboot_virtio::testing::conformance(|| Box::new(device(&folder, writable, Cache::Always)));
        let mut driver = Driver::new(device(&folder, writable, Cache::Always));
        driver.start(0).unwrap();
        for request in [&init, &lookup, &waiting] {
            driver.request(REQUESTS, &[request.as_slice()], &[256]);
        }
        assert!(driver.device().save().is_err());
        driver.reset();
        assert!(driver.device().save().is_ok());
    }
}

#[test]
fn it_says_what_it_is() {
    let bench = fresh(false, Cache::Always);
    assert_eq!(bench.driver.config::<6>(0), *b"shared");
    assert_eq!(bench.driver.config::<4>(36), [1, 0, 0, 0]);
    for bad in ["", &"x".repeat(37), "a\0"] {
        assert!(Tag::try_from(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn it_agrees_on_what_both_can_do() {
    let flags = |writable, cache| {
        let reply = fresh(writable, cache).ask(INIT, 0, &init(45)).unwrap();
        assert_eq!((u32_at(&reply, 0), u32_at(&reply, 4), reply.len()), (7, 38, 64));
        assert_eq!(u32_at(&reply, 20), 1 << 20);
        u32_at(&reply, 12)
    };
    const WRITEBACK: u32 = 1 << 16;
    const NO_OPEN: u32 = 1 << 17;
    const LOCKS: u32 = 1 << 1 | 1 << 10;
    assert_eq!(flags(true, Cache::Always) & (WRITEBACK | NO_OPEN | LOCKS), WRITEBACK | LOCKS);
    assert_eq!(flags(true, Cache::Auto) & (WRITEBACK | NO_OPEN | LOCKS), LOCKS);
    assert_eq!(flags(false, Cache::Always) & (WRITEBACK | NO_OPEN | LOCKS), NO_OPEN);
    assert_eq!(flags(false, Cache::Never) & (WRITEBACK | NO_OPEN | LOCKS), 0);
    let mut bench = fresh(true, Cache::Auto);
    assert_eq!(bench.ask(LOOKUP, ROOT, &s("x")), Err(EIO));
    assert_eq!(bench.ask(INIT, 0, &Body::new().w(6).w(1).w(0).w(0).0), Err(71));
    let newer = bench.ask(INIT, 0, &Body::new().w(8).w(0).w(0).w(0).0).unwrap();
    assert_eq!((u32_at(&newer, 0), newer.len()), (7, 64));
    // What the guest does not offer is not used.
    let plain = bench.ask(INIT, 0, &Body::new().w(7).w(31).w(4096).w(0).0).unwrap();
    assert_eq!((u32_at(&plain, 4), u32_at(&plain, 8), u32_at(&plain, 12)), (31, 4096, 0));
}

#[test]
fn files_are_made_written_and_read() {
    let mut bench = bench();
    let file = bench.create("f");
    let data: Vec<u8> = (0..50_000u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    assert_eq!(bench.write(file, 5, &data), Ok(50_000));
    assert_eq!(fs::read(bench.path("f")).unwrap()[5..], data);
    assert_eq!(bench.read(file, 5, 60_000).unwrap(), data);
    assert_eq!(bench.read(file, 49_000, 4096).unwrap(), data[48_995..]);
    assert!(bench.read(file, 60_000, 4096).unwrap().is_empty());
    assert_eq!(bench.write(file, 5 << 30, b"x"), Ok(1));
    let found = bench.ask(LSEEK, file.0, &Body::new().q(file.1).q(1 << 20).w(3).w(0).0).unwrap();
    assert_eq!(u64_at(&found, 0), 5 << 30);
    assert_eq!(bench.ask(LSEEK, file.0, &Body::new().q(file.1).q(6 << 30).w(3).w(0).0), Err(ENXIO));
    assert_eq!(bench.ask(LSEEK, file.0, &Body::new().q(file.1).q(0).w(9).w(0).0), Err(EINVAL));
    // The host changes the size while the file is open.
    fs::write(bench.path("f"), "short").unwrap();
    assert_eq!(bench.read(file, 0, 100).unwrap(), b"short");
    assert_eq!(bench.ask(FSYNC, file.0, &Body::new().q(file.1).w(1).w(0).0), Ok(vec![]));
    let space = Body::new().q(file.1).q(0).q(4096).w(0).w(0).0;
    assert_eq!(bench.ask(FALLOCATE, file.0, &space), Ok(vec![]));
    assert_eq!(fs::metadata(bench.path("f")).unwrap().len(), 4096);
    let other = bench.create("g");
    let copy = Body::new().q(file.1).q(0).q(other.0).q(other.1).q(1).q(5).q(0).0;
    assert_eq!(u32_at(&bench.ask(COPY_FILE_RANGE, file.0, &copy).unwrap(), 0), 5);
    assert_eq!(fs::read(bench.path("g")).unwrap(), b"\0short");
    assert_eq!(bench.ask(FLUSH, file.0, &Body::new().q(file.1).q(0).q(0).0), Ok(vec![]));
    assert_eq!(bench.ask(RELEASE, file.0, &Body::new().q(file.1).w(0).w(2).q(0).0), Ok(vec![]));
    assert_eq!(bench.read(file, 0, 1), Err(EBADF));
    let opened = bench.ask(OPEN, file.0, &Body::new().w(0).w(0).0).unwrap();
    assert_eq!(bench.write((file.0, u64_at(&opened, 0)), 0, b"x"), Err(EBADF));
}

#[test]
fn exclusive_and_nameless_files_are_made() {
    let mut bench = bench();
    bench.create("f");
    let body = Body::new().w(O_RDWR | O_EXCL).w(0o100_600).w(0).w(0).s("f").0;
    assert_eq!(bench.ask(CREATE, ROOT, &body), Err(EEXIST));
    match bench.ask(TMPFILE, ROOT, &Body::new().w(O_RDWR).w(0o100_600).w(0).w(0).s("").0) {
        Err(error) => assert_eq!(error, EOPNOTSUPP),
        Ok(reply) => {
            let node = u64_at(&reply, 0);
            let named = bench.ask(LINK, ROOT, &Body::new().q(node).s("named").0).unwrap();
            assert_eq!(u64_at(&named, 0), node);
        }
    }
}

#[test]
fn names_come_and_go() {
    let mut bench = bench();
    let folder = u64_at(&bench.ask(MKDIR, ROOT, &Body::new().w(0o755).w(0).s("d").0).unwrap(), 0);
    let link = u64_at(&bench.ask(SYMLINK, folder, &Body::new().s("l").s("../../secret").0).unwrap(), 0);
    assert_eq!(bench.ask(READLINK, link, &[]).unwrap(), b"../../secret");
    assert_eq!(bench.ask(OPEN, link, &Body::new().w(0).w(0).0), Err(40));
    let pipe = Body::new().w(0o010_644).w(0).w(0).w(0).s("p").0;
    bench.ask(MKNOD, folder, &pipe).unwrap();
    let device = Body::new().w(0o020_644).w(0x103).w(0).w(0).s("null").0;
    assert_eq!(bench.ask(MKNOD, folder, &device), Err(1));
    bench.create("f");
    assert_eq!(bench.ask(RENAME, ROOT, &Body::new().q(folder).s("f").s("g").0), Ok(vec![]));
    assert!(bench.path("d/g").exists());
    let refused = Body::new().q(folder).w(1).w(0).s("g").s("p").0;
    assert_eq!(bench.ask(RENAME2, folder, &refused), Err(EEXIST));
    let unknown = Body::new().q(folder).w(4).w(0).s("g").s("p").0;
    assert_eq!(bench.ask(RENAME2, folder, &unknown), Err(EINVAL));
    assert_eq!(bench.ask(RMDIR, ROOT, &s("d")), Err(39));
    for name in ["g", "l", "p"] {
        assert_eq!(bench.ask(UNLINK, folder, &s(name)), Ok(vec![]), "{name}");
    }
    assert_eq!(bench.ask(RMDIR, ROOT, &s("d")), Ok(vec![]));
    assert_eq!(fs::read_dir(bench.path("")).unwrap().count(), 0);
}

#[test]
fn attributes_are_told_and_changed() {
    let mut bench = bench();
    let (node, handle) = bench.create("f");
    let attributes = bench.ask(GETATTR, node, &Body::new().w(1).w(0).q(handle).0).unwrap();
    assert_eq!((attributes.len(), u64_at(&attributes, 0)), (104, 1));
    assert_eq!(u32_at(&attributes, 16 + 60), 0o100_644);
    // Mode, size, and both times.
    let times = Body::new().w(1 | 8 | 16 | 256).w(0).q(0).q(77).q(0).q(1000).q(0).q(0);
    let body = times.w(5).w(0).w(0).w(0o4711).w(0).w(0).w(0).w(0).0;
    let changed = bench.ask(SETATTR, node, &body).unwrap();
    assert_eq!((u64_at(&changed, 24), u64_at(&changed, 40)), (77, 1000));
    assert_eq!(u32_at(&changed, 16 + 60), 0o104_711);
    assert_eq!(bench.ask(ACCESS, node, &Body::new().w(2).w(0).0), Ok(vec![]));
    let state = bench.ask(STATFS, ROOT, &[]).unwrap();
    assert_eq!(state.len(), 80);
    assert!(u64_at(&state, 0) > 0);
    assert_eq!(bench.ask(SYNCFS, ROOT, &Body::new().q(0).0), Ok(vec![]));
    assert_eq!(bench.ask(FSYNCDIR, ROOT, &Body::new().q(0).w(0).w(0).0), Ok(vec![]));
}

#[test]
fn extended_attributes_fit_or_say_how_long_they_are() {
    let mut bench = bench();
    let (node, _) = bench.create("f");
    let mut set = Body::new().w(3).w(0).s("user.a").0;
    set.extend(b"abc");
    match bench.ask(SETXATTR, node, &set) {
        Err(EOPNOTSUPP) => return, // This file system has none.
        outcome => assert_eq!(outcome, Ok(vec![])),
    }
    let get = |size| Body::new().w(size).w(0).s("user.a").0;
    assert_eq!(u32_at(&bench.ask(GETXATTR, node, &get(0)).unwrap(), 0), 3);
    assert_eq!(bench.ask(GETXATTR, node, &get(2)), Err(ERANGE));
    assert_eq!(bench.ask(GETXATTR, node, &get(64)).unwrap(), b"abc");
    assert_eq!(bench.ask(LISTXATTR, node, &Body::new().w(64).w(0).0).unwrap(), b"user.a\0");
    assert_eq!(bench.ask(REMOVEXATTR, node, &s("user.a")), Ok(vec![]));
    assert_eq!(bench.ask(GETXATTR, node, &get(64)), Err(61));
    let capability = Body::new().w(64).w(0).s("security.capability").0;
    assert_eq!(bench.ask(GETXATTR, node, &capability), Err(EOPNOTSUPP));
}

#[test]
fn folders_are_read_with_and_without_attributes() {
    let mut bench = bench();
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    for number in 0..200 {
        let name = format!("file-{number}");
        fs::write(bench.path(&name), "").unwrap();
        expected.push(name);
    }
    expected.sort();
    let handle = u64_at(&bench.ask(OPENDIR, ROOT, &Body::new().w(0).w(0).0).unwrap(), 0);
    assert_eq!(bench.names(ROOT, handle, READDIR), expected);
    assert_eq!(bench.names(ROOT, handle, READDIRPLUS), expected);
    assert_eq!(bench.ask(RELEASEDIR, ROOT, &Body::new().q(handle).w(0).w(0).q(0).0), Ok(vec![]));
    let gone = Body::new().q(handle).q(0).w(4096).w(0).q(0).q(0).0;
    assert_eq!(bench.ask(READDIR, ROOT, &gone), Err(EBADF));
}

#[test]
fn what_is_fixed_needs_no_opening() {
    let mut bench = bench_with(false, Cache::Always);
    fs::write(bench.path("f"), "content").unwrap();
    let node = bench.find(ROOT, "f").unwrap();
    assert_eq!(bench.ask(OPEN, node, &Body::new().w(0).w(0).0), Err(ENOSYS));
    assert_eq!(bench.ask(OPENDIR, ROOT, &Body::new().w(0).w(0).0), Err(ENOSYS));
    assert_eq!(bench.ask(FLUSH, node, &Body::new().q(0).q(0).q(0).0), Err(ENOSYS));
    assert_eq!(bench.read((node, 0), 3, 100).unwrap(), b"tent");
    assert_eq!(bench.names(ROOT, 0, READDIR), [".", "..", "f"]);
    assert_eq!(bench.names(ROOT, 0, READDIRPLUS), [".", "..", "f"]);
    assert_eq!(bench.write((node, 0), 0, b"x"), Err(EROFS));
    assert_eq!(bench.ask(UNLINK, ROOT, &s("f")), Err(EROFS));
    assert_eq!(bench.ask(MKDIR, ROOT, &Body::new().w(0o755).w(0).s("d").0), Err(EROFS));
    assert_eq!(bench.ask(FALLOCATE, node, &Body::new().q(0).q(0).q(1).w(0).w(0).0), Err(EROFS));
    assert_eq!(bench.ask(ACCESS, node, &Body::new().w(2).w(0).0), Err(EROFS));
}

#[test]
fn nodes_are_forgotten() {
    let mut bench = bench();
    let (one, _) = bench.create("one");
    fs::write(bench.path("two"), "").unwrap();
    let two = bench.find(ROOT, "two").unwrap();
    assert_eq!(bench.find(ROOT, "two"), Ok(two));
    bench.tell(FORGET, two, &Body::new().q(1).0);
    assert!(bench.ask(GETATTR, two, &Body::new().w(0).w(0).q(0).0).is_ok());
    bench.tell(BATCH_FORGET, 0, &Body::new().w(2).w(0).q(one).q(1).q(two).q(1).0);
    for node in [one, two, 12345, u64::MAX] {
        assert_eq!(bench.ask(GETATTR, node, &Body::new().w(0).w(0).q(0).0), Err(ESTALE));
    }
    bench.tell(FORGET, ROOT, &Body::new().q(u64::MAX).0);
    bench.tell(FORGET, 999, &[]);
    bench.tell(BATCH_FORGET, 0, &Body::new().w(u32::MAX).w(0).0);
    assert!(bench.ask(GETATTR, ROOT, &Body::new().w(0).w(0).q(0).0).is_ok());
    assert_eq!(bench.ask(DESTROY, 0, &[]), Ok(vec![]));
    assert_eq!(bench.ask(GETATTR, ROOT, &Body::new().w(0).w(0).q(0).0), Err(EIO));
}
