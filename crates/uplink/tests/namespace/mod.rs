//! Network namespaces that tests make for themselves. They need no privilege where users may have namespaces, and root elsewhere.

use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const SOON: Duration = Duration::from_secs(30);
const INSIDE: &str = "SNOWBOOT_TEST_NAMESPACE";

/// Runs the test of this name in a network namespace of its own: whether this is there. Outside, it has passed there when this
/// returns.
pub(crate) fn is_inside(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let status = command.env(INSIDE, "1").status().expect("unshare, of util-linux, runs");
    assert!(status.success(), "{test} has failed in a network namespace of its own");
    false
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) {
    run(Command::new("ip").args(words.split_whitespace()));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Another network namespace: another host, for all that it knows.
pub(crate) struct Elsewhere(Child);

impl Elsewhere {
    pub(crate) fn new() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let elsewhere = Self(child);
        let net = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
        wait(|| (net(&elsewhere.process()) != net("self")).then_some(()));
        elsewhere.ip("link set lo up");
        elsewhere
    }

    /// Its process, which `ip link set ... netns` takes.
    pub(crate) fn process(&self) -> String {
        self.0.id().to_string()
    }

    pub(crate) fn ip(&self, words: &str) {
        run(self.command("ip").args(words.split_whitespace()));
    }

    /// A program that runs there.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.process()).args(["--net", "--", program]);
        command
    }

    /// Has an interface send nothing that is unfinished, as one of hardware without offloads: what goes through a pair of virtual
    /// ones to a socket else has no checksums within tunnels, since the kernel takes it for never having left the host.
    pub(crate) fn complete_checksums(&self, interface: &str) {
        run(self.command("python3").args(["-c", COMPLETE, interface]));
    }

    /// A server that sends back whatever it gets, to the first one who connects.
    pub(crate) fn echo(&self, address: &str) -> Server {
        let mut command = self.command("python3");
        command.args(["-c", ECHO, address]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        Server(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that ends with this.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `ethtool -K INTERFACE tx off`.
const COMPLETE: &str = "
import array, fcntl, socket, struct, sys
value = array.array('I', [0x17, 0])
request = struct.pack('16sP16x', sys.argv[1].encode(), value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
";

const ECHO: &str = "
import socket, sys
listener = socket.create_server((sys.argv[1], 7))
print('ready', flush=True)
peer, _ = listener.accept()
data = bytearray()
while chunk := peer.recv(1 << 16):
    data += chunk
peer.sendall(data)
peer.close()
";

const PING: &str = "
import os, socket, struct, sys, time
host, size = sys.argv[1], int(sys.argv[2])
pinger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
pinger.settimeout(0.5)
def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
payload = bytes(index % 251 for index in range(size))
for number in range(40):
    header = struct.pack('!BBHHH', 8, 0, 0, os.getpid() & 0xffff, number)
    header = header[:2] + struct.pack('!H', checksum(header + payload)) + header[4:]
    try:
        pinger.sendto(header + payload, (host, 0))
        while True:
            answer = pinger.recv(1 << 16)[20:]
            if answer[0] == 0 and answer[4:] == header[4:] + payload:
                sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit(f'{host} does not answer pings of {size} bytes')
";

/// Pings a host with so many bytes until it answers with the same.
pub(crate) fn ping(address: &str, size: usize) {
    run(Command::new("python3").args(["-c", PING, address, &size.to_string()]));
}

/// Waits until there is something.
pub(crate) fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came");
        thread::sleep(Duration::from_millis(2));
    }
}
