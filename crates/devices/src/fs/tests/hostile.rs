//! What a guest must not reach, and messages that no kernel sends.

use super::*;

#[test]
fn nothing_leads_out() {
    let mut bench = bench();
    std::os::unix::fs::symlink("..", bench.path("up")).unwrap();
    let link = bench.find(ROOT, "up").unwrap();
    for name in ["..", ".", "/etc/passwd", "../secret", "up/secret", "/"] {
        assert_eq!(bench.find(ROOT, name), Err(EINVAL), "{name}");
        for body in [Body::new().w(0o755).w(0).s(name).0, Body::new().w(0o755).w(0).0] {
            assert_eq!(bench.ask(MKDIR, ROOT, &body), Err(EINVAL));
        }
        let create = Body::new().w(O_RDWR).w(0o644).w(0).w(0).s(name).0;
        assert_eq!(bench.ask(CREATE, ROOT, &create), Err(EINVAL));
        assert_eq!(bench.ask(UNLINK, ROOT, &s(name)), Err(EINVAL));
        assert_eq!(bench.ask(RENAME, ROOT, &Body::new().q(ROOT).s("up").s(name).0), Err(EINVAL));
        assert_eq!(bench.ask(LINK, ROOT, &Body::new().q(link).s(name).0), Err(EINVAL));
        assert_eq!(bench.ask(SYMLINK, ROOT, &Body::new().s(name).s("x").0), Err(EINVAL));
    }
    assert_eq!(bench.find(ROOT, ""), Err(2));
    assert_eq!(bench.find(ROOT, &"x".repeat(256)), Err(ENAMETOOLONG));
    assert_eq!(bench.find(link, "secret"), Err(20));
    let outside = fs::read_dir(bench.folder.path()).unwrap().count();
    assert_eq!(outside, 2);
}

#[test]
fn what_is_wrong_or_unknown_is_refused() {
    let mut bench = bench();
    let (node, handle) = bench.create("f");
    assert_eq!(bench.ask(IOCTL, node, &[0; 32]), Err(ENOTTY));
    assert_eq!(bench.ask(POLL, node, &[0; 24]), Err(ENOSYS));
    assert_eq!(bench.ask(0, node, &[]), Err(ENOSYS));
    assert_eq!(bench.ask(4096, node, &[]), Err(ENOSYS));
    assert_eq!(bench.ask(LOOKUP, ROOT, b"no end"), Err(EINVAL));
    assert_eq!(bench.ask(GETATTR, node, &[0; 3]), Err(EINVAL));
    assert_eq!(bench.read((node, handle), 0, (1 << 20) + 1), Err(EINVAL));
    assert_eq!(bench.read((node, handle), 0, 1 << 17), Err(EINVAL));
    assert_eq!(bench.read((node, handle), u64::MAX, 16), Err(EINVAL));
    let short = Body::new().q(handle).q(0).w(100).w(0).q(0).w(0).w(0).0;
    assert_eq!(bench.ask(WRITE, node, &short), Err(EINVAL));
    assert_eq!(bench.ask(SETLK, node, &lock(handle, 1, (9, 0), 1, 0)), Err(EINVAL));
    assert_eq!(bench.ask(SETLK, node, &lock(handle, 1, (0, 9), 7, 0)), Err(EINVAL));
    // A wrong length, no header, and no room for an answer.
    let mut wrong = message(LOOKUP, ROOT, &s("f"));
    wrong[0] = 200;
    let used = bench.driver.request(REQUESTS, &[&wrong], &[64]);
    assert_eq!(parsed(used.written()), Err(EINVAL));
    assert_eq!(bench.driver.request(REQUESTS, &[&[0; 20]], &[64]).length, 0);
    assert_eq!(bench.driver.request(REQUESTS, &[&message(LOOKUP, ROOT, &s("f"))], &[8]).length, 0);
    let used = bench.driver.request(REQUESTS, &[&message(LOOKUP, ROOT, &s("f"))], &[100]);
    assert_eq!(parsed(used.written()), Err(EINVAL));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest says, it is answered in form, and nothing happens outside of the share.
    #[test]
    fn random_requests_are_answered_in_form(
        requests in prop::collection::vec((1u32..54, 0u64..6, prop::collection::vec(any::<u8>(), 0..120)), 1..40),
        writable: bool,
        cut in 0usize..60,
    ) {
        let mut bench = bench_with(writable, Cache::Always);
        for (opcode, node, mut body) in requests {
            // Some names that are there, so that more than the first check is reached.
            if body.len() > 60 {
                body.truncate(cut);
                body.extend(b"a\0b\0");
            }
            let request = message(opcode, node, &body);
            let head = bench.driver.add(REQUESTS, &[&request], &[16, 4096]);
            bench.driver.notify(REQUESTS).unwrap();
            for used in bench.driver.used(REQUESTS) {
                if used.length > 0 {
                    let _ = parsed(used.written());
                } else {
                    prop_assert!(matches!(opcode, 2 | 36 | 42) || used.head != head);
                }
            }
        }
        prop_assert_eq!(fs::read(bench.folder.path().join("secret")).unwrap(), b"secret");
        prop_assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 2);
    }
}
