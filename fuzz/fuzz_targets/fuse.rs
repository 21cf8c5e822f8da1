//! FUSE requests that no kernel sends, to a share of which a folder and a link out of it change places.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowboot_devices::fs::FileSystem;
use snowboot_fuzz::{Field, Grounds, Step};
use snowboot_share::fuse::{Cache, Server};
use snowboot_share::{Tree, TreeOptions};
use snowboot_virtio::testing::Driver;

const REQUESTS: u16 = 1;
const INIT: u32 = 26;
/// One more than the last operation that Linux has.
const OPERATIONS: u32 = 54;
/// Bytes of a header, and of an answer's.
const HEADER: usize = 40;
const ANSWER: usize = 16;
const UNIQUE: u64 = 77;

fuzz_target!(|story: (bool, Vec<Step>)| {
    let (writable, steps) = story;
    let grounds = Grounds::new();
    let tree = Tree::open(&grounds.root(), TreeOptions { writable }).expect("the folder is there");
    let device = FileSystem::new("share".try_into().expect("a tag"), Server::new(tree, Cache::Auto));
    let mut driver = Driver::new(device.expect("no device"));
    driver.start(0).expect("the rings are good");
    ask(&mut driver, &grounds, INIT, 0, &greeting());
    for step in &steps {
        match step {
            Step::Host(change) => grounds.change(change),
            Step::Ask(operation, node, fields) => {
                ask(
                    &mut driver,
                    &grounds,
                    u32::from(*operation) % OPERATIONS,
                    u64::from(node % 8),
                    &body(fields),
                );
            }
        }
    }
    grounds.check();
});

/// `fuse_init_in`, of a kernel that offers all there is.
fn greeting() -> Vec<u8> {
    let mut body: Vec<u8> =
        [7, 38, 128 << 10, u32::MAX, u32::MAX].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    body.resize(64, 0);
    body
}

fn body(fields: &[Field]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in fields {
        field.put(&mut body, |body, name| {
            body.extend(name.as_bytes());
            body.push(0);
        });
    }
    body
}

fn ask(driver: &mut Driver<FileSystem>, grounds: &Grounds, operation: u32, node: u64, body: &[u8]) {
    if !driver.has_room(REQUESTS, 3) {
        return;
    }
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADER + body.len()).expect("short").to_le_bytes());
    message.extend(operation.to_le_bytes());
    message.extend(UNIQUE.to_le_bytes());
    message.extend(node.to_le_bytes());
    message.extend([0; 16]);
    message.extend(body);
    driver.add(REQUESTS, &[&message], &[16, 4096]);
    driver.notify(REQUESTS).expect("the ring is good");
    for used in driver.used(REQUESTS) {
        let answer = used.written();
        if answer.is_empty() {
            continue;
        }
        let length = answer.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        assert_eq!(length, u32::try_from(answer.len()).ok(), "an answer of another length than it says");
        assert!(answer.len() >= ANSWER && answer[8..16] == UNIQUE.to_le_bytes(), "an answer to nothing");
        grounds.check_answer(answer);
    }
}
