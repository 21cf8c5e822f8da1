//! Locks that are waited for.

use super::*;

#[test]
fn locks_are_waited_for_while_others_are_served() {
    let mut bench = bench();
    let (node, handle) = bench.create("f");
    assert_eq!(bench.ask(SETLK, node, &lock(handle, 1, (0, 9), 1, 0)), Ok(vec![]));
    assert_eq!(bench.ask(SETLK, node, &lock(handle, 2, (5, 6), 0, 0)), Err(EAGAIN));
    let found = bench.ask(GETLK, node, &lock(handle, 2, (5, 6), 0, 0)).unwrap();
    assert_eq!((u64_at(&found, 0), u64_at(&found, 8)), (0, 9));
    assert_eq!((u32_at(&found, 16), u32_at(&found, 20)), (1, 77));
    let waiting = message(SETLKW, node, &lock(handle, 2, (5, 6), 1, 0));
    let head = bench.driver.add(REQUESTS, &[&waiting], &[16]);
    bench.driver.notify(REQUESTS).unwrap();
    assert!(bench.driver.used(REQUESTS).is_empty());
    assert!(bench.ask(GETATTR, node, &Body::new().w(0).w(0).q(0).0).is_ok());
    // It goes on waiting over a pause.
    bench.driver.pause();
    bench.driver.resume().unwrap();
    assert!(bench.driver.used(REQUESTS).is_empty());
    bench.driver.source_ready(Token(0)).unwrap();
    assert!(bench.driver.used(REQUESTS).is_empty());
    // The end of the lock is the end of the wait.
    let unlock = message(SETLK, node, &lock(handle, 1, (0, 9), 2, 0));
    bench.driver.add(REQUESTS, &[&unlock], &[16]);
    bench.driver.notify(REQUESTS).unwrap();
    let used = bench.driver.used(REQUESTS);
    assert_eq!(used.len(), 2);
    assert!(used.iter().any(|it| it.head == head && parsed(it.written()) == Ok(vec![])));
}

#[test]
fn waiting_can_be_interrupted() {
    let mut bench = bench();
    let (node, handle) = bench.create("f");
    let opened = bench.ask(OPEN, node, &Body::new().w(O_RDWR).w(0).0).unwrap();
    let other = u64_at(&opened, 0);
    assert_eq!(bench.ask(SETLK, node, &lock(handle, 1, (0, u64::MAX), 1, 1)), Ok(vec![]));
    assert_eq!(bench.ask(SETLK, node, &lock(other, 2, (0, u64::MAX), 1, 1)), Err(EAGAIN));
    let waiting = message(SETLKW, node, &lock(other, 2, (0, u64::MAX), 1, 1));
    bench.driver.add(REQUESTS, &[&waiting], &[16]);
    bench.driver.notify(REQUESTS).unwrap();
    bench.tell(INTERRUPT, 0, &Body::new().q(UNIQUE + 1).0);
    assert!(bench.driver.used(REQUESTS).is_empty());
    bench.tell(INTERRUPT, 0, &Body::new().q(UNIQUE).0);
    let used = bench.driver.used(REQUESTS);
    assert_eq!(parsed(used[0].written()), Err(EINTR));
}
