//! 9P2000.L requests that no client sends, to a share of which a folder and a link out of it change places.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowboot_devices::ninep::NineP;
use snowboot_fuzz::{Grounds, Step};
use snowboot_share::ninep::Server;
use snowboot_share::{Tree, TreeOptions};
use snowboot_virtio::testing::Driver;

const VERSION: u8 = 100;
const ATTACH: u8 = 104;
const MESSAGE: u32 = 8192;
/// Bytes of a header.
const HEADER: usize = 7;
const TAG: u16 = 5;

fuzz_target!(|story: (bool, Vec<Step>)| {
    let (writable, steps) = story;
    let grounds = Grounds::new();
    let tree = Tree::open(&grounds.root(), TreeOptions { writable }).expect("the folder is there");
    let mut driver = Driver::new(NineP::new("share".try_into().expect("a tag"), Server::new(tree)));
    driver.start(0).expect("the rings are good");
    ask(&mut driver, &grounds, VERSION, &version());
    ask(&mut driver, &grounds, ATTACH, &attach());
    for step in &steps {
        match step {
            Step::Host(change) => grounds.change(change),
            Step::Ask(kind, fid, fields) => {
                let mut body = u32::from(fid % 8).to_le_bytes().to_vec();
                fields.iter().for_each(|field| field.put(&mut body, name));
                ask(&mut driver, &grounds, *kind, &body);
            }
        }
    }
    grounds.check();
});

fn name(body: &mut Vec<u8>, name: &str) {
    body.extend(u16::try_from(name.len()).expect("short").to_le_bytes());
    body.extend(name.as_bytes());
}

fn version() -> Vec<u8> {
    let mut body = MESSAGE.to_le_bytes().to_vec();
    name(&mut body, "9P2000.L");
    body
}

/// Attaches as root, to the root, at handle 0.
fn attach() -> Vec<u8> {
    let mut body = 0u32.to_le_bytes().to_vec();
    body.extend(u32::MAX.to_le_bytes());
    name(&mut body, "root");
    name(&mut body, "");
    body.extend(0u32.to_le_bytes());
    body
}

fn ask(driver: &mut Driver<NineP>, grounds: &Grounds, kind: u8, body: &[u8]) {
    let mut message = u32::try_from(HEADER + body.len()).expect("short").to_le_bytes().to_vec();
    message.push(kind);
    message.extend(TAG.to_le_bytes());
    message.extend(body);
    let used = driver.request(0, &[&message], &[MESSAGE]);
    let answer = used.written();
    let length = answer.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    assert_eq!(length, u32::try_from(answer.len()).ok(), "an answer of another length than it says");
    assert!(answer.len() >= HEADER && answer[5..7] == TAG.to_le_bytes(), "an answer to nothing");
    grounds.check_answer(answer);
}
