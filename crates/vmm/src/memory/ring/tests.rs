use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use snowboot_devices::block::testing::{Asked, aside_conformance, same_by_both};
use snowboot_devices::block::{Chore, Helpers};

use super::*;

/// More than the host's largest ring has (`IORING_MAX_ENTRIES`).
const TOO_MANY: u32 = 1 << 20;

/// A thread for each chore, and a ring of so many requests, whatever the device asks for.
#[derive(Debug)]
struct RingOf(u32);

impl Helpers for RingOf {
    fn help(&self, chore: Chore) {
        std::thread::spawn(chore);
    }

    fn ring(&self, _entries: u32, news: BorrowedFd<'_>) -> io::Result<Box<dyn block::Ring>> {
        Ok(Box::new(Ring::open(self.0, news)?))
    }
}

/// A ring that nobody has.
fn open(entries: u32) -> io::Result<Ring> {
    let news = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    Ring::open(entries, news.as_fd())
}

#[test]
fn disks_are_served_by_it_and_what_is_too_much_for_it_by_threads() {
    for entries in [1, 8, 64] {
        open(entries).unwrap();
        let folder = tempfile::tempdir().unwrap();
        aside_conformance(folder.path(), &|| Arc::new(RingOf(entries)));
    }
}

#[test]
fn where_the_host_refuses_it_threads_serve() {
    let error = open(TOO_MANY).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let folder = tempfile::tempdir().unwrap();
    aside_conformance(folder.path(), &|| Arc::new(RingOf(TOO_MANY)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is asked for, guest and image get the same by the ring as by threads.
    #[test]
    fn it_does_what_threads_do(asked in proptest::collection::vec(asked(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        same_by_both(folder.path(), [Arc::new(RingOf(64)), Arc::new(RingOf(TOO_MANY))], &asked);
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let kind = prop_oneof![8 => Just(0), 4 => Just(1), 1 => Just(4), 1 => Just(11), 1 => Just(13)];
    let sector = prop_oneof![4 => 0u64..64, 2 => 0u64..2048, 1 => 2040u64..2048];
    (kind, sector, 1u32..17, any::<u8>()).prop_map(|(kind, sector, sectors, fill)| Asked {
        kind,
        sector,
        sectors,
        fill,
    })
}
