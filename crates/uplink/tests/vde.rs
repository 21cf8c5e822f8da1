//! Plugs in a real `vde_switch`, and in sockets that only pretend to be one.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use snowboot_network::{Frame, Port, Switch};
use snowboot_uplink::vde::Plug;

const SOON: Duration = Duration::from_secs(20);

/// A frame to everybody, of this length.
fn frame(from: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([0x52, 0x54, 0, 0x12, 1, from, 0x88, 0xb5]);
    bytes.resize(length, from);
    bytes
}

fn receive(port: &Port) -> Vec<u8> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(frame) = port.receive() {
            return frame.bytes;
        }
        assert!(Instant::now() < deadline, "no frame came");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A guest's port with a plug behind it.
fn plugged(folder: &Path, name: &str) -> (Port, Plug) {
    let switch = Switch::new();
    let guest = switch.attach(name);
    guest.set_ready(true);
    let plug = Plug::connect(folder, name, switch.attach("vde")).unwrap();
    (guest, plug)
}

struct VdeSwitch(Child);

impl VdeSwitch {
    /// None where there is no such program.
    fn start(folder: &Path) -> Option<Self> {
        let mut command = Command::new("vde_switch");
        command.arg("--sock").arg(folder).args(["--dirmode", "0700", "--hub"]);
        let child = match command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            other => other.unwrap(),
        };
        let switch = Self(child);
        let deadline = Instant::now() + SOON;
        while !folder.join("ctl").exists() {
            assert!(Instant::now() < deadline, "vde_switch does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Some(switch)
    }
}

impl Drop for VdeSwitch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn frames_pass_a_real_switch_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("vde1.ctl");
    let Some(vde) = VdeSwitch::start(&folder) else { return eprintln!("skipped: there is no vde_switch") };
    let (alice, plug_of_alice) = plugged(&folder, "alice");
    let (bob, plug_of_bob) = plugged(&folder, "bob");
    let length = |number: u8| 60 + usize::from(number) * 5;
    let sending = thread::spawn(move || {
        for number in 0..=255 {
            let mut next = Frame::new(frame(number, length(number)));
            while let Err(full) = alice.send(now(), next) {
                next = full.frame;
                thread::sleep(Duration::from_millis(1));
            }
            // A full queue of a port that is flooded to loses frames, as on a wire.
            if number % 32 == 31 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        alice
    });
    for number in 0..=255 {
        assert_eq!(receive(&bob), frame(number, length(number)));
    }
    let alice = sending.join().unwrap();
    // The longest that it carries, and one that is lost.
    bob.send(now(), Frame::new(frame(7, 1519))).unwrap();
    bob.send(now(), Frame::new(frame(8, 1518))).unwrap();
    assert_eq!(receive(&alice), frame(8, 1518));
    let own_sockets =
        || fs::read_dir(&folder).unwrap().filter(|entry| is_own(&entry.as_ref().unwrap().path())).count();
    assert_eq!(own_sockets(), 2);
    drop((plug_of_alice, plug_of_bob));
    assert_eq!(own_sockets(), 0);
    drop(vde);
}

fn is_own(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with(&format!(".{}-", std::process::id()))
}

/// A clock that a test's ports agree on.
fn now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[test]
fn a_switch_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let port = Switch::new().attach("vde");
    let error = Plug::connect(&folder.path().join("none"), "x", port).unwrap_err().to_string();
    assert!(error.contains("none: is it running?"), "{error}");
}

/// Answers one plug with `answer`; gives what it said.
fn pretend(folder: &Path, answer: Vec<u8>) -> thread::JoinHandle<Vec<u8>> {
    let listener = UnixListener::bind(folder.join("ctl")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 122];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&answer).unwrap();
        // Until the plug is out.
        let _ = stream.read_to_end(&mut request);
        request
    })
}

fn address(path: &Path) -> Vec<u8> {
    let mut address = 1u16.to_ne_bytes().to_vec();
    address.extend(path.to_str().unwrap().as_bytes());
    address.resize(110, 0);
    address
}

#[test]
fn what_does_not_answer_as_a_switch_is_refused() {
    for answer in [vec![], vec![0; 110], b"hello".to_vec(), vec![0xff; 110]] {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("ctl")).unwrap();
        let answered = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read_exact(&mut [0; 122]);
            let _ = stream.write_all(&answer);
        });
        let port = Switch::new().attach("vde");
        let error = Plug::connect(folder.path(), "x", port).unwrap_err().to_string();
        assert!(error.contains("does not answer as a switch does"), "{error}");
        answered.join().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only `ctl` is left");
    }
}

#[test]
fn a_peer_that_reads_nothing_holds_up_only_what_is_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let peer = UnixDatagram::bind(&data).unwrap();
    let asked = pretend(folder.path(), address(&data));
    let (guest, plug) = plugged(folder.path(), "guest");
    for number in 0..=255 {
        let _ = guest.send(now(), Frame::new(frame(number, 1000)));
    }
    // It reads again: what waited comes in order, beginning with the first.
    let mut buffer = [0; 2048];
    peer.set_read_timeout(Some(SOON)).unwrap();
    for number in 0..20 {
        let length = peer.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length], frame(number, 1000));
    }
    // Runts and giants of the peer's are not passed on.
    let own: PathBuf =
        fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path()).find(|it| is_own(it)).unwrap();
    for length in [1, 13, 60] {
        peer.send_to(&frame(9, 60)[..length], &own).unwrap();
    }
    assert_eq!(receive(&guest), frame(9, 60));
    drop(plug);
    assert_eq!(asked.join().unwrap()[..4], 0xfeed_face_u32.to_ne_bytes());
}
