//! Messages that no client sends.

use super::*;

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
