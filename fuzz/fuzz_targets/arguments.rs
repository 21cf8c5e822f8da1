//! Arguments of a start script, as no driver appends them.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snowboot_qemu::arguments::Arguments;

const WORDS: &[&str] = &[
    "-qmp",
    "-monitor",
    "-chardev",
    "-device",
    "-m",
    "-smp",
    "-name",
    "-action",
    "-serial",
    "-display",
    "-cpu",
    "-accel",
    "-no-reboot",
    "-nographic",
    "-S",
    "--S",
    "-",
    "--",
    "",
    "stdio",
    "none",
    "virtio-serial",
    "virtio-rng-pci",
    "reboot=shutdown",
];
/// Parts of values.
const PARTS: &[&str] = &[
    "unix:",
    "/tmp/x",
    "socket",
    "virtconsole",
    "vhost-user-vsock-pci",
    ",",
    ",,",
    "=",
    "id=shell",
    "chardev=shell",
    "path=/p",
    "server=on",
    "server",
    "wait=off",
    "nowait",
    "size=",
    "cpus=",
    "4",
    "4096",
    "K",
    "M",
    "G",
    "99999999999999999999",
    "reboot=",
];

/// A word.
#[derive(Arbitrary, Debug)]
enum Word {
    Known(u8),
    Parts(Vec<u8>),
    Text(String),
}

impl Word {
    fn text(&self) -> String {
        let pick = |list: &[&'static str], index: u8| list[usize::from(index) % list.len()];
        match self {
            Self::Known(index) => pick(WORDS, *index).to_owned(),
            Self::Parts(parts) => parts.iter().map(|part| pick(PARTS, *part)).collect(),
            Self::Text(text) => text.clone(),
        }
    }
}

fuzz_target!(|words: Vec<Word>| {
    let words: Vec<String> = words.iter().map(Word::text).collect();
    match Arguments::parse(&words) {
        Err(wrong) => assert!(!wrong.0.is_empty(), "an error without words"),
        // As where they come by the environment, too.
        Ok(once) => {
            let mut twice = Arguments::parse(words.iter().chain(&words)).expect("what is good once");
            twice.warnings = once.warnings.clone();
            assert_eq!(once, twice, "to be told twice is something else");
        }
    }
});
