//! The device as a guest sees it, by messages made by hand.

mod confined;
mod hostile;
mod locks_and_attributes;

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
    assert_eq!((metadata.atime(), metadata.atime_nsec()), (7, 8));
    // Guests do not show this: Linux's client sends whole seconds.
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (9, 10));
    let known = client.ask(GETATTR, with(1).u64(0x3fff)).unwrap();
    assert_eq!([73, 81, 89, 97].map(|place| u64_at(&known, place)), [7, 8, 9, 10]);
    client.ask(SETATTR, set(0x20, 0, 0)).unwrap();
    assert!(fs::metadata(&path).unwrap().mtime() > 1_000_000_000, "now");
    client.ask(SETATTR, set(2 | 4, 0, 0)).unwrap();
    assert_eq!(client.ask(SETATTR, with(1)), Err(EPROTO));
    let state = client.ask(STATFS, with(ROOT)).unwrap();
    assert_eq!((state.len(), u32_at(&state, 0)), (60, 0x0102_1997));
    assert!(u64_at(&state, 8) > 0);
}
