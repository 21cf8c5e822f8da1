//! What a guest must not reach or change.

use std::sync::{Arc, Mutex};

use super::*;
use crate::warnings::Warnings;

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
fn a_root_that_is_gone_is_told_once() {
    let Bench { mut client, root, _folder, .. } = bench();
    let told = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&told);
    client.driver.device_mut().warnings =
        Warnings::new(move |line| lines.lock().unwrap().push(line.to_owned()));
    assert!(client.walk(ROOT, 1, &["missing"]).is_err());
    assert!(told.lock().unwrap().is_empty(), "that is no trouble");
    fs::remove_dir(&root).unwrap();
    for _ in 0..2 {
        assert_eq!(client.ask(MKDIR, with(ROOT).s("new").u32(0o700).u32(0)), Err(ENOENT));
    }
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("the folder was removed on the host"), "{told:?}");
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
