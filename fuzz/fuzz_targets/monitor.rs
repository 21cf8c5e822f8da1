//! What a monitor for people may be told, by programs that are none.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snowboot_fuzz::machine::Machine;
use snowboot_qemu::hmp::{PROMPT, serve};

const WORDS: &[&str] = &[
    "quit",
    "q",
    "stop",
    "cont",
    "sendkey",
    "ctrl-alt-delete",
    "set_link",
    "virtio-net-pci.1",
    "virtio-net-pci.9",
    "on",
    "off",
    "hostfwd_add",
    "net0",
    "tcp::8080-:80",
    "udp:127.0.0.1:53-10.0.2.15:53",
    "tcp:",
    "info",
    "network",
    "status",
    "system_reset",
    "system_powerdown",
    "screendump",
    "help",
];

/// A bit more than a command may have.
const TOO_LONG: usize = 4096 + 10;
/// A story of more bytes is made of repetitions.
const MOST_SAID: usize = 8 * TOO_LONG;

/// Something that is said.
#[derive(Arbitrary, Debug)]
enum Saying {
    Word(u8),
    End,
    Bytes(Vec<u8>),
    Long,
}

impl Saying {
    fn put(&self, said: &mut Vec<u8>) {
        match self {
            Self::Word(index) => {
                said.extend(WORDS[usize::from(*index) % WORDS.len()].as_bytes());
                said.push(b' ');
            }
            Self::End => said.push(b'\n'),
            Self::Bytes(bytes) => said.extend(bytes),
            Self::Long => said.resize(said.len() + TOO_LONG, b'x'),
        }
    }
}

fuzz_target!(|sayings: Vec<Saying>| {
    let mut said = Vec::new();
    sayings.iter().for_each(|saying| saying.put(&mut said));
    said.truncate(MOST_SAID);
    let machine = Machine::default();
    let mut output = Vec::new();
    serve(said.as_slice(), &mut output, &machine).expect("nothing fails in memory");
    let text = String::from_utf8(output).expect("a text");
    let done = machine.done();
    assert!(done.quits <= 1, "somebody was heard after the last word");
    assert_eq!(text.ends_with(PROMPT), done.quits == 0, "no prompt, or one after the end");
    let lines = said.iter().filter(|byte| **byte == b'\n').count();
    assert!(usize::try_from(done.deeds).is_ok_and(|deeds| deeds <= lines), "more was done than was said");
});
