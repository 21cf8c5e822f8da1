//! Locks, and extended attributes.

use super::*;

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
