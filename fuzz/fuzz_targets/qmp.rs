//! What clients of QMP may say: bytes, and messages made of what its commands know.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use snowboot_fuzz::machine::Machine;
use snowboot_qemu::qmp::Session;

const WORDS: &[&str] = &[
    "qmp_capabilities",
    "quit",
    "cont",
    "stop",
    "human-monitor-command",
    "query-commands",
    "query-cpus-fast",
    "query-status",
    "set_link",
    "system_reset",
    "device_add",
    "virtio-net-pci.1",
    "info network",
    "quit\nquit",
    "set_link virtio-net-pci.1 off",
    "",
];
const KEYS: &[&str] = &["execute", "arguments", "id", "name", "up", "command-line", "x", "oob"];
/// A message has 64 KiB at most, and each of its characters can be told back as an escape of ten.
const LONGEST_REPLY: usize = 1 << 20;

/// A bit more than a message may have.
const TOO_LONG: usize = (64 << 10) + 10;
/// A story of more bytes is made of repetitions.
const MOST_SAID: usize = 2 * TOO_LONG;

/// A value as clients have them.
#[derive(Arbitrary, Debug)]
enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Fraction(f64),
    Word(u8),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(u8, Json)>),
}

impl Json {
    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => (*bool).into(),
            Self::Number(number) => (*number).into(),
            Self::Fraction(number) => (*number).into(),
            Self::Word(index) => WORDS[usize::from(*index) % WORDS.len()].into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(list) => list.iter().map(Self::value).collect(),
            Self::Object(entries) => {
                let entry = |(key, value): &(u8, Self)| {
                    (KEYS[usize::from(*key) % KEYS.len()].to_owned(), value.value())
                };
                Value::Object(entries.iter().map(entry).collect::<Map<_, _>>())
            }
        }
    }
}

/// Something that is said.
#[derive(Arbitrary, Debug)]
enum Saying {
    Begin,
    Command(u8, Vec<(u8, Json)>),
    Message(Json),
    Bytes(Vec<u8>),
    Long,
}

impl Saying {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Begin => b"{\"execute\":\"qmp_capabilities\"}".to_vec(),
            Self::Command(name, arguments) => {
                let mut message = Map::new();
                message.insert("execute".to_owned(), Json::Word(*name).value());
                let arguments =
                    arguments.iter().map(|(key, value)| (KEYS[usize::from(*key) % KEYS.len()], value));
                let arguments = arguments.map(|(key, value)| (key.to_owned(), value.value()));
                message.insert("arguments".to_owned(), Value::Object(arguments.collect()));
                Value::Object(message).to_string().into_bytes()
            }
            Self::Message(json) => json.value().to_string().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Long => vec![b'['; TOO_LONG],
        }
    }
}

fuzz_target!(|sayings: Vec<Saying>| {
    let (machine, mut session) = (Machine::default(), Session::new());
    for byte in sayings.iter().flat_map(Saying::bytes).take(MOST_SAID) {
        let (before, had_begun) = (machine.done(), session.has_begun());
        let mut reply = None;
        session.feed(byte, &machine, |told, _| {
            reply = Some(told.clone());
            true
        });
        let done = machine.done();
        assert!(had_begun || done == before, "something was done before the session began");
        assert!(reply.is_some() || done == before, "something was done without a reply");
        assert!(done.deeds <= before.deeds + 1, "one message did more than one thing");
        if let Some(reply) = reply {
            check(&reply);
        }
    }
});

fn check(reply: &Value) {
    let class = &reply["error"]["class"];
    assert!(reply.get("return").is_some() != class.is_string(), "neither a return nor an error: {reply}");
    assert!(reply.to_string().len() <= LONGEST_REPLY, "a reply without bounds");
}
