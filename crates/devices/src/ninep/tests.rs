//! The device as a guest sees it, by messages made by hand.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use snowboot_share::{Tree, TreeOptions};
use snowboot_virtio::features::INDIRECT_DESC;
use snowboot_virtio::testing::Driver;
use tempfile::TempDir;

use super::*;

const MSIZE: u32 = 64 << 10;
const ROOT: u32 = 0;
const NO_FID: u32 = u32::MAX;
/// The user id that a guest's process attaches as.
const USER: u32 = 0;

const ENOENT: u32 = 2;
const EBADF: u32 = 9;
const EEXIST: u32 = 17;
const ENOTDIR: u32 = 20;
const EINVAL: u32 = 22;
const ENFILE: u32 = 23;
const EROFS: u32 = 30;
const ENAMETOOLONG: u32 = 36;
const ELOOP: u32 = 40;
const EPROTO: u32 = 71;
const EMSGSIZE: u32 = 90;
const EOPNOTSUPP: u32 = 95;
const ENODATA: u32 = 61;
const ESTALE: u32 = 116;

const RDONLY: u32 = 0;
const WRONLY: u32 = 1;
const RDWR: u32 = 2;
const TRUNC: u32 = 0o1000;
const EXCL: u32 = 0o200;

const LERROR: u8 = 7;
const STATFS: u8 = 8;
const LOPEN: u8 = 12;
const LCREATE: u8 = 14;
const SYMLINK: u8 = 16;
const MKNOD: u8 = 18;
const RENAME: u8 = 20;
const READLINK: u8 = 22;
const GETATTR: u8 = 24;
const SETATTR: u8 = 26;
const XATTRWALK: u8 = 30;
const XATTRCREATE: u8 = 32;
const READDIR: u8 = 40;
const FSYNC: u8 = 50;
const LOCK: u8 = 52;
const GETLOCK: u8 = 54;
const LINK: u8 = 70;
const MKDIR: u8 = 72;
const RENAMEAT: u8 = 74;
const UNLINKAT: u8 = 76;
const T_VERSION: u8 = 100;
const AUTH: u8 = 102;
const ATTACH: u8 = 104;
const FLUSH: u8 = 108;
const WALK: u8 = 110;
const READ: u8 = 116;
const WRITE: u8 = 118;
const CLUNK: u8 = 120;
const REMOVE: u8 = 122;

/// Fields of a message in the making.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

fn with(fid: u32) -> Message {
    Message::default().u32(fid)
}

impl Message {
    fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }
    fn u16(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn s(self, string: impl AsRef<[u8]>) -> Self {
        let string = string.as_ref();
        self.u16(u16::try_from(string.len()).unwrap()).raw(string)
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    /// With a header before it.
    fn framed(&self, kind: u8, tag: u16) -> Vec<u8> {
        let mut bytes = u32::try_from(self.0.len() + 7).unwrap().to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(tag.to_le_bytes());
        bytes.extend(&self.0);
        bytes
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// A guest's client, with a folder `root` on the host that it is given, and a folder `outside` that it is not.
struct Client {
    driver: Driver<NineP>,
    tag: u16,
}

struct Bench {
    client: Client,
    root: PathBuf,
    outside: PathBuf,
    _folder: TempDir,
}

fn device(root: &Path, writable: bool) -> NineP {
    let options = TreeOptions { writable };
    NineP::new("shared".try_into().unwrap(), Server::new(Tree::open(root, options).unwrap()))
}

fn client(root: &Path, writable: bool) -> Client {
    let mut driver = Driver::new(device(root, writable));
    driver.start(INDIRECT_DESC).unwrap();
    let mut client = Client { driver, tag: 0 };
    client.ask(T_VERSION, Message::default().u32(MSIZE).s("9P2000.L")).unwrap();
    client.ask(ATTACH, with(ROOT).u32(NO_FID).s("root").s("").u32(USER)).unwrap();
    client
}

fn bench() -> Bench {
    bench_with(true)
}

fn bench_with(writable: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    Bench { client: client(&root, writable), root, outside, _folder: folder }
}

impl Client {
    /// The fields of the answer, or the error in it.
    fn ask(&mut self, kind: u8, message: Message) -> Result<Vec<u8>, u32> {
        self.tag = self.tag.wrapping_add(1);
        let bytes = message.framed(kind, self.tag);
        let used = self.driver.request(0, &[&bytes], &[MSIZE]);
        check(used.written(), kind, self.tag)
    }

    fn walk(&mut self, from: u32, to: u32, names: &[&str]) -> Result<Vec<u8>, u32> {
        let mut message = with(from).u32(to).u16(u16::try_from(names.len()).unwrap());
        for name in names {
            message = message.s(name);
        }
        let answer = self.ask(WALK, message)?;
        let count = u16::from_le_bytes(answer[..2].try_into().unwrap());
        assert_eq!(answer.len(), 2 + 13 * usize::from(count));
        if usize::from(count) == names.len() { Ok(answer) } else { Err(ENOENT) }
    }

    /// A new handle of a file, opened.
    fn open(&mut self, fid: u32, name: &str, flags: u32) -> Result<(), u32> {
        self.walk(ROOT, fid, &[name])?;
        self.ask(LOPEN, with(fid).u32(flags)).map(drop)
    }

    /// A new file's handle.
    fn create(&mut self, fid: u32, name: &str, flags: u32) -> Result<(), u32> {
        self.walk(ROOT, fid, &[])?;
        self.ask(LCREATE, with(fid).s(name).u32(flags).u32(0o640).u32(0)).map(drop)
    }

    fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
        let answer = self.ask(READ, with(fid).u64(offset).u32(count))?;
        assert_eq!(usize::try_from(u32_at(&answer, 0)).unwrap(), answer.len() - 4);
        Ok(answer[4..].to_vec())
    }

    fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<u32, u32> {
        let count = u32::try_from(data.len()).unwrap();
        Ok(u32_at(&self.ask(WRITE, with(fid).u64(offset).u32(count).raw(data))?, 0))
    }

    fn clunk(&mut self, fid: u32) -> Result<(), u32> {
        self.ask(CLUNK, with(fid)).map(drop)
    }

    /// Names and cookies.
    fn list(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<(String, u64)>, u32> {
        let answer = self.ask(READDIR, with(fid).u64(offset).u32(count))?;
        assert_eq!(usize::try_from(u32_at(&answer, 0)).unwrap(), answer.len() - 4);
        assert!(answer.len() - 4 <= usize::try_from(count).unwrap());
        let (mut entries, mut rest) = (Vec::new(), &answer[4..]);
        while !rest.is_empty() {
            let length = usize::from(u16::from_le_bytes(rest[22..24].try_into().unwrap()));
            entries.push((String::from_utf8(rest[24..24 + length].to_vec()).unwrap(), u64_at(rest, 13)));
            rest = &rest[24 + length..];
        }
        Ok(entries)
    }

    fn lock(&mut self, fid: u32, kind: u8, range: (u64, u64), process: u32) -> Result<u8, u32> {
        let message = with(fid).u8(kind).u32(0).u64(range.0).u64(range.1).u32(process).s("guest");
        Ok(self.ask(LOCK, message)?[0])
    }
}

/// Checks that bytes are an answer, and takes it apart.
fn check(bytes: &[u8], kind: u8, tag: u16) -> Result<Vec<u8>, u32> {
    assert!(bytes.len() >= 7, "{bytes:?} is no message");
    assert_eq!(usize::try_from(u32_at(bytes, 0)).unwrap(), bytes.len(), "the size is wrong");
    assert_eq!(u16::from_le_bytes([bytes[5], bytes[6]]), tag, "the tag is wrong");
    if bytes[4] == LERROR {
        assert_eq!(bytes.len(), 11);
        return Err(u32_at(bytes, 7));
    }
    assert_eq!(bytes[4], kind + 1, "an answer to something else");
    Ok(bytes[7..].to_vec())
}

#[test]
fn it_is_a_virtio_device() {
    let folder = tempfile::tempdir().unwrap();
    let version = Message::default().u32(8192).s("9P2000.L").framed(T_VERSION, 1);
    let attributes = with(1).u64(0x3fff).framed(GETATTR, 2);
    let walk = with(1).u32(2).u16(1).s("..").framed(WALK, 3);
    let requests: [(u16, &[u8]); 3] = [(0, &version), (0, &attributes), (0, &walk)];
    snowboot_virtio::testing::conformance_with(&requests, || Box::new(device(folder.path(), true)));
}

#[test]
fn the_tag_is_in_the_configuration() {
    let bench = bench();
    assert_eq!(bench.client.driver.config::<10>(0), *b"\x06\x00shared\0\0");
    for bad in ["", "a\0b", &"x".repeat(256)] {
        assert_eq!(MountTag::try_from(bad), Err(BadMountTag(bad.to_owned())));
    }
}

#[test]
fn client_and_server_agree_on_the_version_first() {
    let bench = bench();
    let mut driver = Driver::new(device(&bench.root, true));
    driver.start(0).unwrap();
    let mut client = Client { driver, tag: 0 };
    let version = |msize: u32, name: &str| Message::default().u32(msize).s(name);
    assert_eq!(client.ask(ATTACH, with(0).u32(NO_FID).s("").s("").u32(0)), Err(EPROTO));
    let mut agreed = |msize, name| client.ask(T_VERSION, version(msize, name));
    assert_eq!(agreed(1 << 20, "9P2000.L"), Ok(version(512 << 10, "9P2000.L").0));
    assert_eq!(agreed(8192, "9P2000.L"), Ok(version(8192, "9P2000.L").0));
    assert_eq!(agreed(4095, "9P2000.L"), Err(EMSGSIZE));
    assert_eq!(agreed(8192, "9P2000.u"), Ok(version(8192, "unknown").0));
    assert_eq!(client.ask(ATTACH, with(0).u32(NO_FID).s("").s("").u32(0)), Err(EPROTO));
    client.ask(T_VERSION, version(8192, "9P2000.L")).unwrap();
    assert_eq!(client.ask(AUTH, with(1).s("").s("").u32(0)), Err(EOPNOTSUPP));
    assert_eq!(client.ask(ATTACH, with(0).u32(1).s("").s("").u32(0)), Err(EBADF));
    client.ask(ATTACH, with(0).u32(NO_FID).s("").s("/etc").u32(0)).unwrap();
    assert_eq!(client.ask(ATTACH, with(0).u32(NO_FID).s("").s("").u32(0)), Err(EBADF));
    assert_eq!(client.ask(FLUSH, Message::default().u16(7)), Ok(vec![]));
    // A new beginning forgets the old handles.
    client.ask(T_VERSION, version(8192, "9P2000.L")).unwrap();
    assert_eq!(client.clunk(0), Err(EBADF));
}

#[test]
fn walks_find_what_is_there() {
    let Bench { mut client, root, _folder, .. } = bench();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/file"), "12345").unwrap();
    let answer = client.walk(ROOT, 1, &["a", "b", "file"]).unwrap();
    assert_eq!((answer[2], answer[15], answer[28]), (0x80, 0x80, 0));
    let metadata = fs::metadata(root.join("a/b/file")).unwrap();
    let attributes = client.ask(GETATTR, with(1).u64(0x3fff)).unwrap();
    assert_eq!(attributes.len(), 153);
    assert_eq!(attributes[8..21], answer[28..41], "the same qid");
    assert_eq!(u64_at(&attributes, 13), metadata.ino());
    assert_ne!(u32_at(&attributes, 9), 0, "a version of 0 forbids caching");
    assert_eq!(u32_at(&attributes, 21), metadata.mode());
    assert_eq!((u32_at(&attributes, 25), u32_at(&attributes, 29)), (0, 0), "ours is root's");
    assert_eq!(u64_at(&attributes, 33), 1);
    assert_eq!(u64_at(&attributes, 49), 5);
    assert_eq!(u64_at(&attributes, 65), metadata.blocks());
    assert_eq!(u64_at(&attributes, 89), metadata.mtime().cast_unsigned());
    assert_eq!(u64_at(&attributes, 97), metadata.mtime_nsec().cast_unsigned());
    // How far it went; the new handle is not there.
    let far = client.ask(WALK, with(ROOT).u32(2).u16(3).s("a").s("no").s("b")).unwrap();
    assert_eq!(far.len(), 2 + 13);
    assert_eq!(client.clunk(2), Err(EBADF));
    assert_eq!(client.walk(ROOT, 2, &["no"]), Err(ENOENT));
    assert_eq!(client.walk(1, 2, &["below"]), Err(ENOTDIR));
    assert_eq!(client.walk(ROOT, 1, &["a"]), Err(EBADF), "the handle is taken");
    assert_eq!(client.ask(WALK, with(ROOT).u32(2).u16(17)), Err(EPROTO));
    // In place, and as a copy.
    client.walk(1, 1, &[]).unwrap();
    client.walk(ROOT, 3, &["a"]).unwrap();
    client.walk(3, 3, &["b", "c", "..", ".."]).unwrap();
    client.walk(3, 4, &["b"]).unwrap();
    for fid in [1, 3, 4] {
        client.clunk(fid).unwrap();
    }
}

#[test]
fn content_goes_both_ways() {
    let Bench { mut client, root, _folder, .. } = bench();
    client.create(1, "new", RDWR).unwrap();
    assert_eq!(fs::metadata(root.join("new")).unwrap().permissions().mode() & 0o7777, 0o640);
    let data: Vec<u8> = (0..=250).cycle().take(60_000).collect();
    assert_eq!(client.write(1, 10, &data), Ok(60_000));
    assert_eq!(fs::read(root.join("new")).unwrap()[10..], data);
    assert_eq!(client.read(1, 10, 60_000), Ok(data.clone()));
    assert_eq!(client.read(1, 60_000, 100).unwrap().len(), 10, "up to the end");
    assert_eq!(client.read(1, 60_010, 100), Ok(vec![]));
    assert_eq!(client.read(1, 0, u32::MAX).unwrap().len(), 60_010);
    assert_eq!(client.write(1, 1 << 33, b"far"), Ok(3));
    assert_eq!(client.read(1, 1 << 33, 10), Ok(b"far".to_vec()));
    client.ask(FSYNC, with(1).u32(0)).unwrap();
    client.ask(FSYNC, with(1).u32(1)).unwrap();
    client.ask(FSYNC, with(1)).unwrap();
    client.clunk(1).unwrap();
    client.open(1, "new", WRONLY | TRUNC).unwrap();
    assert_eq!(fs::read(root.join("new")).unwrap(), b"");
    assert_eq!(client.read(1, 0, 10), Err(EBADF));
    assert_eq!(client.ask(LOPEN, with(1).u32(RDONLY)), Err(EBADF), "it is open");
    client.open(2, "new", RDONLY).unwrap();
    assert_eq!(client.write(2, 0, b"x"), Err(EBADF));
    assert_eq!(client.create(3, "new", RDWR | EXCL), Err(EEXIST));
    client.clunk(3).unwrap();
    client.create(3, "new", RDWR).unwrap();
    // A count beyond the data that is there.
    assert_eq!(client.ask(WRITE, with(1).u64(0).u32(9).raw(b"12345678")), Err(EPROTO));
    assert_eq!(client.read(ROOT, 0, 10), Err(EBADF), "it is not open");
    assert_eq!(client.read(2, u64::MAX, 10), Err(EINVAL));
}

#[test]
fn borders_between_descriptors_mean_nothing() {
    let Bench { mut client, root, _folder, .. } = bench();
    fs::write(root.join("file"), "0123456789").unwrap();
    client.open(1, "file", RDWR).unwrap();
    // As Linux has it for large reads: a place for the header, then the pages.
    let bytes = with(1).u64(2).u32(6).framed(READ, 9);
    let used = client.driver.request(0, &[&bytes], &[11, 3, 3]);
    assert_eq!(used.written(), b"\x11\0\0\0\x75\x09\0\x06\0\0\x00234567");
    let used = client.driver.request(0, &[&bytes[..3], &bytes[3..]], &[2, 0, 10, 1]);
    assert_eq!(used.written(), b"\x0d\0\0\0\x75\x09\0\x02\0\0\x0023");
    let bytes = with(1).u64(4).u32(4).framed(WRITE, 9);
    let mut whole = bytes.clone();
    whole[0] += 4;
    let used = client.driver.request(0, &[&whole, b"ab", b"cd"], &[24]);
    assert_eq!(check(used.written(), WRITE, 9), Ok(vec![4, 0, 0, 0]));
    assert_eq!(fs::read(root.join("file")).unwrap(), b"0123abcd89");
    // An error has its place where the pages' header would be.
    let bytes = with(7).u64(2).u32(6).framed(READ, 9);
    assert_eq!(check(client.driver.request(0, &[&bytes], &[11, 6]).written(), READ, 9), Err(EBADF));
}

#[test]
fn folders_are_listed_in_parts() {
    let Bench { mut client, root, _folder, .. } = bench();
    let mut expected: Vec<String> = (0..500).map(|number| format!("{number:0>200}")).collect();
    expected.iter().for_each(|name| fs::write(root.join(name), "").unwrap());
    expected.extend([".".into(), "..".into()]);
    client.walk(ROOT, 1, &[]).unwrap();
    client.ask(LOPEN, with(1).u32(RDONLY)).unwrap();
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let part = client.list(1, offset, 4096).unwrap();
        let Some((_, last)) = part.last() else { break };
        assert!(part.len() >= 17 || found.len() + part.len() == 502, "only {} names", part.len());
        offset = *last;
        found.extend(part);
    }
    let mut names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    // From the middle, and again from the beginning.
    assert_eq!(client.list(1, found[99].1, 4096).unwrap()[0], found[100]);
    assert_eq!(client.list(1, 0, 4096).unwrap()[0], found[0]);
    assert_eq!(client.list(1, 0, 24), Err(EINVAL), "nothing fits, which must not look like the end");
    assert_eq!(client.list(ROOT, 0, 4096), Err(EBADF));
    fs::write(root.join("file"), "").unwrap();
    client.open(2, "file", RDONLY).unwrap();
    assert_eq!(client.list(2, 0, 4096), Err(ENOTDIR));
    assert_eq!(client.read(1, 0, 10), Err(21), "EISDIR");
    client.ask(FSYNC, with(1).u32(0)).unwrap();
}

#[test]
fn things_are_made_linked_moved_and_removed() {
    let Bench { mut client, root, _folder, .. } = bench();
    assert_eq!(client.ask(MKDIR, with(ROOT).s("d").u32(0o750).u32(0)).unwrap()[0], 0x80);
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(client.ask(SYMLINK, with(ROOT).s("link").s("/etc/passwd").u32(0)).unwrap()[0], 2);
    client.walk(ROOT, 1, &["link"]).unwrap();
    assert_eq!(client.ask(READLINK, with(1)), Ok(Message::default().s("/etc/passwd").0));
    assert_eq!(client.ask(READLINK, with(ROOT)), Err(EINVAL));
    assert_eq!(client.ask(LOPEN, with(1).u32(RDONLY)), Err(ELOOP), "the guest follows links itself");
    client.ask(MKNOD, with(ROOT).s("pipe").u32(0o010_600).u32(0).u32(0).u32(0)).unwrap();
    assert!(fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    let device = client.ask(MKNOD, with(ROOT).s("sda").u32(0o060_600).u32(8).u32(0).u32(0));
    assert_eq!(device, Err(1), "a device file would be the host's device");
    client.create(2, "file", WRONLY).unwrap();
    client.ask(LINK, with(ROOT).u32(2).s("other")).unwrap();
    assert_eq!(fs::metadata(root.join("other")).unwrap().nlink(), 2);
    client.walk(ROOT, 3, &["d"]).unwrap();
    client.ask(RENAMEAT, with(ROOT).s("other").u32(3).s("moved")).unwrap();
    assert!(root.join("d/moved").exists() && !root.join("other").exists());
    assert_eq!(client.ask(UNLINKAT, with(ROOT).s("d").u32(0x200)), Err(39), "ENOTEMPTY");
    assert_eq!(client.ask(UNLINKAT, with(ROOT).s("d").u32(1)), Err(EINVAL));
    // The old forms.
    client.walk(ROOT, 4, &["d", "moved"]).unwrap();
    client.ask(RENAME, with(4).u32(ROOT).s("back")).unwrap();
    client.ask(REMOVE, with(4)).unwrap();
    assert_eq!(client.clunk(4), Err(EBADF), "its handle is gone with it");
    assert!(root.join("file").exists() && !root.join("back").exists());
    client.ask(REMOVE, with(3)).unwrap();
    assert_eq!(client.ask(REMOVE, with(ROOT)), Err(16), "EBUSY");
    assert!(root.exists() && !root.join("d").exists());
    assert_eq!(client.clunk(ROOT), Err(EBADF), "it is given up all the same");
}

#[test]
fn handles_outlive_names() {
    let Bench { mut client, root, _folder, .. } = bench();
    client.create(1, "file", RDWR).unwrap();
    client.write(1, 0, b"content").unwrap();
    client.walk(ROOT, 2, &["file"]).unwrap();
    client.ask(UNLINKAT, with(ROOT).s("file").u32(0)).unwrap();
    assert!(!root.join("file").exists());
    assert_eq!(client.read(1, 0, 10), Ok(b"content".to_vec()));
    client.write(1, 7, b"!").unwrap();
    assert_eq!(u64_at(&client.ask(GETATTR, with(2).u64(0x7ff)).unwrap(), 49), 8);
    assert_eq!(u64_at(&client.ask(GETATTR, with(2).u64(0x7ff)).unwrap(), 33), 0, "no names");
    assert_eq!(client.ask(REMOVE, with(2)), Err(ESTALE));
    // What is below a folder that is renamed moves with it.
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "below").unwrap();
    client.walk(ROOT, 3, &["d", "f"]).unwrap();
    client.ask(RENAMEAT, with(ROOT).s("d").u32(ROOT).s("e")).unwrap();
    client.ask(LOPEN, with(3).u32(RDONLY)).unwrap();
    assert_eq!(client.read(3, 0, 10), Ok(b"below".to_vec()));
}

#[test]
fn attributes_are_set() {
    let Bench { mut client, root, _folder, .. } = bench();
    fs::write(root.join("file"), "content").unwrap();
    client.walk(ROOT, 1, &["file"]).unwrap();
    let set = |valid: u32, mode: u32, size: u64| {
        let times = Message::default().u64(7).u64(8).u64(9).u64(10);
        with(1).u32(valid).u32(mode).u32(0).u32(0).u64(size).raw(&times.0)
    };
    let path = root.join("file");
    client.ask(SETATTR, set(1, 0o604, 0)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o604);
    client.ask(SETATTR, set(8, 0, 3)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"con");
    client.ask(SETATTR, set(0x10 | 0x20 | 0x80 | 0x100, 0, 0)).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.atime(), metadata.atime_nsec(), metadata.mtime()), (7, 8, 9));
    client.ask(SETATTR, set(0x20, 0, 0)).unwrap();
    assert!(fs::metadata(&path).unwrap().mtime() > 1_000_000_000, "now");
    client.ask(SETATTR, set(2 | 4, 0, 0)).unwrap();
    assert_eq!(client.ask(SETATTR, with(1)), Err(EPROTO));
    let state = client.ask(STATFS, with(ROOT)).unwrap();
    assert_eq!((state.len(), u32_at(&state, 0)), (60, 0x0102_1997));
    assert!(u64_at(&state, 8) > 0);
}

#[test]
fn locks_keep_machines_apart() {
    let Bench { client: mut one, root, _folder, .. } = bench();
    fs::write(root.join("file"), "content").unwrap();
    let mut two = client(&root, true);
    one.open(1, "file", RDWR).unwrap();
    two.open(1, "file", RDWR).unwrap();
    let (read, write, none) = (0, 1, 2);
    let (success, blocked) = (0, 1);
    assert_eq!(one.lock(1, write, (10, 10), 5), Ok(success));
    assert_eq!(two.lock(1, write, (19, 1), 5), Ok(blocked));
    assert_eq!(two.lock(1, read, (20, 0), 5), Ok(success));
    assert_eq!(one.lock(1, write, (0, 0), 5), Ok(blocked));
    assert_eq!(one.lock(1, write, (12, 1), 6), Ok(blocked), "another process of the same guest");
    let ask = |kind: u8| with(1).u8(kind).u64(0).u64(0).u32(9).s("guest");
    let found = two.ask(GETLOCK, ask(write)).unwrap();
    assert_eq!((found[0], u64_at(&found, 1), u64_at(&found, 9)), (write, 10, 10));
    let found = two.ask(GETLOCK, with(1).u8(write).u64(0).u64(5).u32(9).s("guest")).unwrap();
    assert_eq!((found[0], u64_at(&found, 1), u64_at(&found, 9), u32_at(&found, 17)), (none, 0, 5, 9));
    assert_eq!(found[21..], Message::default().s("guest").0);
    assert_eq!(one.lock(1, none, (10, 10), 5), Ok(success));
    assert_eq!(two.lock(1, write, (10, 0), 5), Ok(success));
    // Closing gives them back.
    two.clunk(1).unwrap();
    assert_eq!(one.lock(1, write, (0, 0), 5), Ok(success));
    two.open(1, "file", RDWR).unwrap();
    assert_eq!(two.lock(1, write, (0, 0), 5), Ok(blocked));
    assert_eq!(one.lock(1, none, (0, 0), 5), Ok(success));
    assert_eq!(two.lock(1, write, (0, 0), 5), Ok(success));
    assert_eq!(one.lock(1, 3, (0, 0), 5), Err(EINVAL));
    assert_eq!(one.lock(1, write, (2, u64::MAX), 5), Err(EINVAL));
    assert_eq!(one.lock(ROOT, write, (0, 0), 5), Err(EBADF));
}

/// Sets an attribute as Linux does: by a copy of a handle.
fn set_xattr(client: &mut Client, name: &str, value: &[u8], flags: u32) -> Result<(), u32> {
    client.walk(1, 50, &[]).unwrap();
    let create = with(50).s(name).u64(value.len().try_into().unwrap()).u32(flags);
    let outcome = client.ask(XATTRCREATE, create).map(drop);
    if outcome.is_ok() && !value.is_empty() {
        let (first, second) = value.split_at(value.len() / 2);
        client.write(50, 0, first).unwrap();
        client.write(50, first.len().try_into().unwrap(), second).unwrap();
    }
    outcome.and(client.clunk(50))
}

fn xattr(client: &mut Client, name: &str) -> Result<Vec<u8>, u32> {
    let size = u64_at(&client.ask(XATTRWALK, with(1).u32(51).s(name))?, 0);
    let value = client.read(51, 0, 60_000).unwrap();
    assert_eq!(size, u64::try_from(value.len()).unwrap());
    assert_eq!(client.read(51, size, 10), Ok(vec![]));
    client.clunk(51).unwrap();
    Ok(value)
}

#[test]
fn extended_attributes_are_kept() {
    let Bench { mut client, root, _folder, .. } = bench();
    fs::write(root.join("file"), "content").unwrap();
    client.walk(ROOT, 1, &["file"]).unwrap();
    set_xattr(&mut client, "user.one", b"first", 0).unwrap();
    set_xattr(&mut client, "user.two", &[9; 1000], 1).unwrap();
    assert_eq!(xattr(&mut client, "user.one"), Ok(b"first".to_vec()));
    assert_eq!(xattr(&mut client, "user.two"), Ok(vec![9; 1000]));
    let names = xattr(&mut client, "").unwrap();
    let mut names: Vec<_> = names.split_inclusive(|byte| *byte == 0).collect();
    names.sort();
    assert_eq!(names, [b"user.one\0", b"user.two\0"]);
    assert_eq!(set_xattr(&mut client, "user.one", b"x", 1), Err(EEXIST));
    assert_eq!(set_xattr(&mut client, "user.new", b"x", 2), Err(ENODATA));
    set_xattr(&mut client, "user.one", b"", 0).unwrap();
    assert_eq!(xattr(&mut client, "user.one"), Ok(vec![]));
    set_xattr(&mut client, "user.one", b"", 2).unwrap();
    assert_eq!(xattr(&mut client, "user.one"), Err(ENODATA), "removed");
    for name in ["security.capability", "trusted.x", "system.posix_acl_access"] {
        assert_eq!(xattr(&mut client, name), Err(EOPNOTSUPP));
        assert_eq!(set_xattr(&mut client, name, b"x", 0), Err(EOPNOTSUPP));
    }
    // Not as long as it was to be, or written elsewhere.
    client.walk(1, 50, &[]).unwrap();
    client.ask(XATTRCREATE, with(50).s("user.three").u64(5).u32(0)).unwrap();
    assert_eq!(client.write(50, 1, b"x"), Err(EINVAL));
    assert_eq!(client.write(50, 0, b"123456"), Err(EINVAL));
    assert_eq!(client.read(50, 0, 1), Err(EBADF));
    assert_eq!(client.clunk(50), Err(EINVAL));
    assert_eq!(xattr(&mut client, "user.three"), Err(ENODATA));
    client.walk(1, 50, &[]).unwrap();
    assert_eq!(client.ask(XATTRCREATE, with(50).s("user.big").u64(1 << 40).u32(0)), Err(7), "E2BIG");
    // Not all of memory.
    let count = (100..1000).take_while(|fid| client.ask(XATTRWALK, with(1).u32(*fid).s("")).is_ok()).count();
    assert_eq!(count, 256);
    assert_eq!(client.ask(XATTRWALK, with(1).u32(2000).s("")), Err(ENFILE));
    client.clunk(100).unwrap();
    client.ask(XATTRWALK, with(1).u32(2000).s("")).unwrap();
}

#[test]
fn nothing_changes_in_what_is_read_only() {
    let Bench { mut client, root, _folder, .. } = bench_with(false);
    fs::write(root.join("file"), "content").unwrap();
    client.open(1, "file", RDONLY).unwrap();
    assert_eq!(client.read(1, 0, 10), Ok(b"content".to_vec()));
    client.walk(ROOT, 2, &["file"]).unwrap();
    for message in [
        (LOPEN, with(2).u32(RDWR)),
        (LOPEN, with(2).u32(RDONLY | TRUNC)),
        (LCREATE, with(ROOT).s("new").u32(RDWR).u32(0o600).u32(0)),
        (SYMLINK, with(ROOT).s("new").s("x").u32(0)),
        (MKNOD, with(ROOT).s("new").u32(0o010_600).u32(0).u32(0).u32(0)),
        (MKDIR, with(ROOT).s("new").u32(0o700).u32(0)),
        (LINK, with(ROOT).u32(2).s("new")),
        (RENAME, with(2).u32(ROOT).s("new")),
        (RENAMEAT, with(ROOT).s("file").u32(ROOT).s("new")),
        (UNLINKAT, with(ROOT).s("file").u32(0)),
        (SETATTR, with(2).u32(1).raw(&[0; 52])),
        (XATTRCREATE, with(2).s("user.x").u64(1).u32(0)),
        (REMOVE, with(2)),
    ] {
        assert_eq!(client.ask(message.0, message.1), Err(EROFS), "type {}", message.0);
    }
    assert_eq!(client.write(1, 0, b"x"), Err(EBADF));
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(fs::read(root.join("file")).unwrap(), b"content");
}

/// All messages that have names, with a name in each place.
fn named(name: &[u8]) -> Vec<(u8, Message)> {
    vec![
        (WALK, with(ROOT).u32(90).u16(1).s(name)),
        (WALK, with(ROOT).u32(90).u16(2).s("d").s(name)),
        (LCREATE, with(ROOT).s(name).u32(RDWR).u32(0o600).u32(0)),
        (SYMLINK, with(ROOT).s(name).s("x").u32(0)),
        (MKNOD, with(ROOT).s(name).u32(0o100_600).u32(0).u32(0).u32(0)),
        (MKDIR, with(ROOT).s(name).u32(0o700).u32(0)),
        (LINK, with(ROOT).u32(1).s(name)),
        (RENAME, with(1).u32(ROOT).s(name)),
        (RENAMEAT, with(ROOT).s("file").u32(ROOT).s(name)),
        (RENAMEAT, with(ROOT).s(name).u32(ROOT).s("new")),
        (UNLINKAT, with(ROOT).s(name).u32(0)),
        (UNLINKAT, with(ROOT).s(name).u32(0x200)),
    ]
}

#[test]
fn no_name_leads_out() {
    let Bench { mut client, root, outside, _folder } = bench();
    fs::write(root.join("file"), "content").unwrap();
    fs::create_dir(root.join("d")).unwrap();
    client.walk(ROOT, 1, &["file"]).unwrap();
    let absolute = outside.join("secret").into_os_string().into_encoded_bytes();
    let names: [&[u8]; 9] = [
        b"..",
        b".",
        b"/",
        b"../outside",
        b"../outside/new",
        b"d/../../outside/secret",
        b"a\0b",
        b"",
        &absolute,
    ];
    for name in names {
        for (kind, message) in named(name) {
            if kind == WALK && name == b".." {
                continue;
            }
            match client.ask(kind, message) {
                Err(EINVAL | ENOENT) => {}
                // The first step of a walk may be one.
                Ok(answer) if kind == WALK && answer[0] == 1 => {}
                other => panic!("type {kind} takes {}: {other:?}", name.escape_ascii()),
            }
            assert_eq!(client.clunk(90), Err(EBADF));
        }
    }
    for (kind, message) in named(&[b'x'; 256]) {
        if kind != WALK || message.0[8] == 1 {
            assert_eq!(client.ask(kind, message), Err(ENAMETOOLONG), "type {kind}");
        }
    }
    // However often, it is the root.
    let answer = client.walk(ROOT, 2, &[".."; 16]).unwrap();
    assert_eq!(u64_at(&answer, 2 + 15 * 13 + 5), fs::metadata(&root).unwrap().ino());
    assert_eq!(client.walk(2, 3, &["outside"]), Err(ENOENT));
    assert_eq!(client.walk(ROOT, 3, &["d", "..", "..", "outside"]), Err(ENOENT));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    assert_eq!(fs::read_dir(root.parent().unwrap()).unwrap().count(), 2);
}

#[test]
fn no_link_leads_out() {
    let Bench { mut client, root, outside, _folder } = bench();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink("../outside/secret", root.join("file")).unwrap();
    for link in ["absolute", "relative"] {
        assert_eq!(client.walk(ROOT, 1, &[link, "secret"]), Err(ENOENT), "only one step");
        client.walk(ROOT, 1, &[link]).unwrap();
        assert_eq!(client.walk(1, 2, &["secret"]), Err(ENOTDIR));
        assert_eq!(client.ask(LCREATE, with(1).s("new").u32(RDWR).u32(0o600).u32(0)), Err(ENOTDIR));
        assert_eq!(client.ask(MKDIR, with(1).s("new").u32(0o700).u32(0)), Err(ENOTDIR));
        assert_eq!(client.ask(UNLINKAT, with(1).s("secret").u32(0)), Err(ENOTDIR));
        assert_eq!(client.ask(LOPEN, with(1).u32(RDONLY)), Err(ELOOP));
        client.clunk(1).unwrap();
    }
    client.walk(ROOT, 1, &["file"]).unwrap();
    assert_eq!(client.ask(LOPEN, with(1).u32(RDONLY)), Err(ELOOP));
    let size = with(1).u32(8).u32(0).u32(0).u32(0).u64(0).raw(&[0; 32]);
    assert_eq!(client.ask(SETATTR, size), Err(EINVAL));
    assert_eq!(client.create(2, "file", RDWR | TRUNC), Err(ELOOP));
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let Bench { mut client, root, outside, _folder } = bench();
    fs::create_dir_all(root.join("d/outside")).unwrap();
    fs::write(root.join("d/outside/secret"), "harmless").unwrap();
    client.walk(ROOT, 1, &["d"]).unwrap();
    client.walk(ROOT, 2, &["d", "outside", "secret"]).unwrap();
    client.walk(ROOT, 3, &["d", "outside"]).unwrap();
    fs::rename(root.join("d"), root.join("gone")).unwrap();
    symlink(outside.parent().unwrap(), root.join("d")).unwrap();
    // What is cached may still be the old folder; never the new one.
    for (kind, message) in [
        (LOPEN, with(2).u32(RDONLY)),
        (UNLINKAT, with(3).s("secret").u32(0)),
        (LCREATE, with(3).s("new").u32(RDWR).u32(0o600).u32(0)),
        (MKDIR, with(3).s("new").u32(0o700).u32(0)),
        (RENAMEAT, with(3).s("secret").u32(3).s("moved")),
        (WALK, with(1).u32(9).u16(2).s("outside").s("secret")),
    ] {
        let _ = client.ask(kind, message);
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret", "after type {kind}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "after type {kind}");
    }
    if let Ok(content) = client.read(2, 0, 10) {
        assert_eq!(content, b"harmless");
    }
}

#[test]
fn what_is_malformed_is_refused() {
    let Bench { mut client, _folder, .. } = bench();
    let mut ask = |bytes: &[u8], room: u32| client.driver.request(0, &[bytes], &[room]).written().to_vec();
    let good = with(ROOT).u64(0).framed(GETATTR, 3);
    assert!(check(&ask(&good, 4096), GETATTR, 3).is_ok());
    // More bytes than the message has.
    let longer = [&good[..], &[1; 100]].concat();
    assert!(check(&ask(&longer, 4096), GETATTR, 3).is_ok());
    let resized = |size: u32| [&size.to_le_bytes()[..], &good[4..]].concat();
    for size in [0, 6, 20, 4096] {
        assert_eq!(check(&ask(&resized(size), 4096), GETATTR, 3), Err(EPROTO), "size {size}");
    }
    for size in [MSIZE + 1, u32::MAX] {
        assert_eq!(check(&ask(&resized(size), 4096), GETATTR, 3), Err(EMSGSIZE), "size {size}");
    }
    for kind in [0, 6, 112, 114, 124, 126, 200, 255] {
        assert_eq!(check(&ask(&with(ROOT).u64(0).framed(kind, 3), 4096), kind, 3), Err(EOPNOTSUPP));
    }
    assert_eq!(ask(&good[..6], 4096), b"", "nobody to answer");
    assert_eq!(ask(&good, 10), b"", "no room for an answer");
    assert_eq!(check(&ask(&good, 100), GETATTR, 3), Err(EMSGSIZE));
    assert_eq!(client.ask(WALK, with(ROOT).u32(1).u16(1).u16(500)), Err(EPROTO));
}

#[test]
fn a_reset_forgets_the_guest() {
    let Bench { mut client, root, _folder, .. } = bench();
    assert!(client.driver.device().save().is_err(), "its handles are the server's alone");
    client.driver.pause();
    client.driver.resume().unwrap();
    client.create(1, "kept", RDWR).unwrap();
    client.driver.reset();
    assert!(client.driver.device().save().is_ok());
    client.driver.start(0).unwrap();
    assert_eq!(client.read(1, 0, 1), Err(EPROTO));
    assert!(root.join("kept").exists());
}

/// Types that mean something, and names that are there.
fn any_message() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let field = prop_oneof![
        (0..4u32).prop_map(|fid| fid.to_le_bytes().to_vec()),
        Just(0u64.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|number| number.to_le_bytes().to_vec()),
        "(d|file|link|\\.\\.|/|new|user.x|../outside|a/b)".prop_map(|name| Message::default().s(name).0),
        (0..3u8).prop_map(|byte| vec![byte]),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let fields = proptest::collection::vec(field, 0..7).prop_map(|fields| fields.concat());
    let version = Just((T_VERSION, Message::default().u32(8192).s("9P2000.L").0));
    let attach = Just((ATTACH, with(ROOT).u32(NO_FID).s("").s("").u32(0).0));
    let walk = (0..4u32, 1..4u32, "(d|file|link|\\.\\.)")
        .prop_map(|(from, to, name)| (WALK, with(from).u32(to).u16(1).s(name).0));
    prop_oneof![
        1 => version,
        2 => attach,
        3 => walk,
        12 => ((0..64u8).prop_map(|half| half * 2), fields.clone()),
        1 => (any::<u8>().prop_filter("an answer's own", |kind| *kind != 255), fields),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_request_has_one_answer(messages in proptest::collection::vec(any_message(), 1..60)) {
        let Bench { mut client, root, outside, _folder } = bench();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("file"), "content").unwrap();
        symlink("../outside", root.join("link")).unwrap();
        for (kind, fields) in messages {
            let _ = client.ask(kind, Message(fields));
        }
        prop_assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        prop_assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        prop_assert_eq!(fs::read_dir(root.parent().unwrap()).unwrap().count(), 2);
    }
}
