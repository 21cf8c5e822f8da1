use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Server;
use crate::control::Power;
use crate::testing::Recorder;

struct Fixture {
    server: Server,
    recorder: Arc<Recorder>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let (server, recorder) = (Server::new(), Arc::new(Recorder::default()));
        server.serve(Server::listen(&path).unwrap(), recorder.clone()).unwrap();
        Self { server, recorder, path, _folder: folder }
    }

    /// A client that has read its greeting.
    fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Client { lines: BufReader::new(stream.try_clone().unwrap()), stream };
        assert!(
            client.read().unwrap()["QMP"]["version"]["package"].as_str().unwrap().starts_with("snowboot ")
        );
        client
    }

    fn begin(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.ask(&json!({"execute": "qmp_capabilities"})), json!({"return": {}}));
        client
    }
}

struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).unwrap();
        (length > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    fn say(&mut self, text: &str) -> Value {
        self.stream.write_all(text.as_bytes()).unwrap();
        self.read().unwrap()
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.say(&request.to_string())
    }

    fn execute(&mut self, name: &str) -> Value {
        self.ask(&json!({"execute": name}))
    }
}

#[test]
fn a_session_begins_with_capabilities() {
    let fixture = Fixture::new();
    let mut client = fixture.connect();
    assert_eq!(client.execute("query-status")["error"]["class"], "CommandNotFound");
    assert_eq!(client.ask(&json!({"execute": "qmp_capabilities", "id": 7})), json!({"return": {}, "id": 7}));
    assert_eq!(client.execute("qmp_capabilities")["error"]["class"], "CommandNotFound");
    assert_eq!(client.execute("query-status"), json!({"return": {"status": "running", "running": true}}));
}

#[test]
fn commands_are_carried_out_and_others_are_not_found() {
    let fixture = Fixture::new();
    let mut client = fixture.begin();
    for name in ["stop", "cont", "system_powerdown", "system_reset"] {
        assert_eq!(client.execute(name), json!({"return": {}}), "{name}");
    }
    let link = |name: &str, up: Value| json!({"execute": "set_link", "arguments": {"name": name, "up": up}});
    assert_eq!(client.ask(&link("virtio-net-pci.1", json!(false))), json!({"return": {}}));
    assert_eq!(client.ask(&link("eth9", json!(true)))["error"]["class"], "DeviceNotFound");
    assert_eq!(client.ask(&link("virtio-net-pci.1", json!("on")))["error"]["class"], "GenericError");
    let line = json!({"execute": "human-monitor-command", "arguments": {"command-line": "info status"}});
    assert_eq!(client.ask(&line), json!({"return": "VM status: running\r\n"}));
    let unknown = client.execute("blockdev-add");
    assert_eq!(unknown["error"]["class"], "CommandNotFound");
    assert!(
        unknown["error"]["desc"].as_str().unwrap().contains("query-status, query-version, quit"),
        "{unknown}"
    );
    let names = client.execute("query-commands");
    assert!(names["return"].as_array().unwrap().contains(&json!({"name": "qmp_capabilities"})));
    assert_eq!(client.execute("query-cpus-fast")["return"].as_array().unwrap().len(), 2);
    let expected = ["pause", "resume", "powerdown", "reset", "link 1 false"];
    assert_eq!(fixture.recorder.done(), expected);
}

#[test]
fn what_is_no_request_is_told_and_the_session_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.begin();
    for text in [
        "hello\n",
        "{\"execute\"}",
        "{}",
        "{\"execute\": 1}",
        "{\"execute\": \"stop\", \"arguments\": []}",
        "{\"execute\": \"stop\", \"control\": {}}",
        &format!("{{\"execute\": \"{}\"}}", "x".repeat(100_000)),
        &format!("{}{}", "{\"a\":".repeat(1000), "}".repeat(1000)),
    ] {
        assert_eq!(client.say(text)["error"]["class"], "GenericError", "{text:.40}");
    }
    assert_eq!(client.execute("stop"), json!({"return": {}}));
}

#[test]
fn all_who_have_begun_hear_of_events_and_quit_is_answered_first() {
    let fixture = Fixture::new();
    let (mut first, mut second, mut silent) = (fixture.begin(), fixture.begin(), fixture.connect());
    fixture.server.tell(Power::Stop);
    for client in [&mut first, &mut second] {
        let event = client.read().unwrap();
        assert_eq!(event["event"], "STOP");
        assert!(event["timestamp"]["seconds"].as_u64().unwrap() > 0 && event.get("data").is_none());
    }
    assert_eq!(first.ask(&json!({"execute": "quit", "id": "a"})), json!({"return": {}, "id": "a"}));
    while fixture.recorder.done().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    fixture.server.tell(Power::Shutdown { guest: false, reason: "host-qmp-quit" });
    fixture.server.finish();
    for client in [&mut first, &mut second] {
        assert_eq!(client.read().unwrap()["data"], json!({"guest": false, "reason": "host-qmp-quit"}));
        assert_eq!(client.read(), None);
    }
    assert_eq!(silent.read(), None);
}

#[test]
fn an_event_right_after_the_answer_that_begins_a_session_is_heard() {
    let fixture = Fixture::new();
    for _ in 0..500 {
        let mut client = fixture.begin();
        fixture.server.tell(Power::Stop);
        assert_eq!(client.read().unwrap()["event"], "STOP");
        drop(client);
        while fixture.server.clients() > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn clients_are_counted_and_one_that_reads_nothing_is_cut_off() {
    let fixture = Fixture::new();
    let deaf = fixture.begin();
    let mut others: Vec<_> = (0..7).map(|_| fixture.begin()).collect();
    let ninth = UnixStream::connect(&fixture.path).unwrap();
    assert_eq!(BufReader::new(ninth).lines().count(), 0);
    // More than its socket and its queue hold; the others read along.
    for _ in 0..20_000 {
        fixture.server.tell(Power::Resume);
        for client in &mut others {
            assert_eq!(client.read().unwrap()["event"], "RESUME");
        }
    }
    let told = BufReader::new(&deaf.stream).lines().map_while(Result::ok).count();
    assert!(told < 20_000, "{told}");
    drop(others.pop());
    while fixture.server.clients() >= 7 {
        std::thread::sleep(Duration::from_millis(1));
    }
    fixture.begin();
}

#[test]
fn a_socket_that_is_left_behind_is_replaced_and_one_in_use_is_not() {
    let fixture = Fixture::new();
    assert!(Server::listen(&fixture.path).is_err());
    let left = fixture.path.with_extension("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    Server::listen(&left).unwrap();
}
