//! TAP interfaces and VXLAN with the host's own kernel at their other ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test may panic")]

mod namespace;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use namespace::{Elsewhere, SOON, ip, is_inside, ping, wait};
use snowboot_config::{InterfaceName, VxlanConfig};
use snowboot_network::{Frame, Port, Switch};
use snowboot_uplink::tap::Tap;
use snowboot_uplink::vxlan::{Tunnel, header};

fn name(name: &str) -> InterfaceName {
    name.parse().unwrap()
}

/// Sends so many bytes to an echo server, and compares what comes back.
fn echo(address: &str, length: usize) {
    let address: SocketAddr = format!("{address}:7").parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, SOON).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let data: Vec<u8> = (0..length).map(|index| u8::try_from(index * 7 % 251).unwrap()).collect();
    let mut sending = stream.try_clone().unwrap();
    let sent = data.clone();
    let sender = thread::spawn(move || {
        sending.write_all(&sent).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    sender.join().unwrap();
    assert!(answer == data, "{} of {length} bytes came back, or others", answer.len());
}

/// The mean length of the frames that a port has sent, in bytes.
fn mean_length(switch: &Switch, port: &str) -> u64 {
    let counters = switch.counters();
    let (_, counters) = counters.iter().find(|(name, _)| name == port).unwrap();
    counters.forwarded_bytes / counters.forwarded.max(1)
}

#[test]
fn tap_carries_pings_and_whole_segments_of_tcp() {
    if !is_inside("tap_carries_pings_and_whole_segments_of_tcp") {
        return;
    }
    ip("tuntap add tap1 mode tap");
    let switch = Switch::new();
    // One that is made, and one that was there.
    let made = Tap::open(&name("tap0"), switch.attach("tap0")).unwrap();
    let found = Tap::open(&name("tap1"), switch.attach("tap1")).unwrap();
    let elsewhere = Elsewhere::new();
    ip(&format!("link set tap1 netns {}", elsewhere.process()));
    elsewhere.ip("addr add 10.9.0.2/24 dev tap1");
    elsewhere.ip("link set tap1 up");
    ip("addr add 10.9.0.1/24 dev tap0");
    for size in [0, 56, 1472, 20_000] {
        ping("10.9.0.2", size);
    }
    let server = elsewhere.echo("10.9.0.2");
    echo("10.9.0.2", 16 << 20);
    drop(server);
    for port in ["tap0", "tap1"] {
        let mean = mean_length(&switch, port);
        assert!(mean > 4096, "{port}: frames of {mean} bytes");
    }
    // The other one was down until it had an address.
    assert_eq!(made.dropped(), []);
    drop((made, found));
    elsewhere.ip("link show tap1");
    let gone = Command::new("ip").args(["link", "show", "tap0"]).output().unwrap();
    assert!(!gone.status.success(), "an interface that was made stays");
}

#[test]
fn tap_takes_headers_as_another_program_has_left_them() {
    if !is_inside("tap_takes_headers_as_another_program_has_left_them") {
        return;
    }
    let set = "import fcntl, os, struct, sys
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'tap0', 0x5002))
fcntl.ioctl(tap, 0x400454d8, struct.pack('i', int(sys.argv[1])))
";
    let headers = |length: &str| {
        let status = Command::new("python3").args(["-c", set, length]).status().unwrap();
        assert!(status.success());
    };
    ip("tuntap add tap0 mode tap");
    ip("link set tap0 up");
    let elsewhere = Elsewhere::new();
    let switch = Switch::new();
    let other = Tap::open(&name("tap1"), switch.attach("tap1")).unwrap();
    ip(&format!("link set tap1 netns {}", elsewhere.process()));
    elsewhere.ip("addr add 10.9.0.2/24 dev tap1");
    elsewhere.ip("link set tap1 up");
    ip("addr add 10.9.0.1/24 dev tap0");
    for length in ["12", "10"] {
        headers(length);
        let tap = Tap::open(&name("tap0"), switch.attach("tap0")).unwrap();
        ping("10.9.0.2", 1000);
        assert_eq!(tap.dropped(), []);
    }
    drop(other);
    headers("40");
    let error = Tap::open(&name("tap0"), switch.attach("tap0")).unwrap_err().to_string();
    assert!(error.contains("unknown length of headers"), "{error}");
}

#[test]
fn tap_interfaces_that_cannot_be_had_are_named_with_the_reason() {
    if !is_inside("tap_interfaces_that_cannot_be_had_are_named_with_the_reason") {
        return;
    }
    let switch = Switch::new();
    let open = |interface: &str| Tap::open(&name(interface), switch.attach(interface));
    let refused = |interface: &str| open(interface).unwrap_err().to_string();
    let tap = open("tap0").unwrap();
    let error = refused("tap0");
    assert!(error.contains("the TAP interface tap0: another program has it"), "{error}");
    ip("link add veth0 type veth peer name veth1");
    let error = refused("veth0");
    assert!(error.contains("veth0: it is no TAP interface of one queue"), "{error}");
    // It is deleted while it is used: the switch goes on without it.
    ip("link del tap0");
    let other = switch.attach("other");
    wait(|| {
        let _ = other.send(Duration::ZERO, Frame::new(frame(1, 60)));
        switch.counters().iter().all(|(name, _)| name != "tap0").then_some(())
    });
    drop(tap);
}

/// A frame to everybody, of this length.
fn frame(from: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([0x52, 0x54, 0, 0x12, 1, from, 0x88, 0xb5]);
    bytes.resize(length, from);
    bytes
}

fn vxlan(vni: u32, local: &str, peers: &[&str]) -> VxlanConfig {
    let address = |text: &str| VxlanConfig::parse_address(text).unwrap();
    VxlanConfig::new(vni, address(local), peers.iter().map(|peer| address(peer)).collect()).unwrap()
}

#[test]
fn vxlan_works_with_the_kernels() {
    if !is_inside("vxlan_works_with_the_kernels") {
        return;
    }
    ip("link set lo up");
    let elsewhere = Elsewhere::new();
    ip(&format!("link add eth0 type veth peer name eth0 netns {}", elsewhere.process()));
    ip("addr add 192.0.2.1/24 dev eth0");
    ip("link set eth0 up");
    elsewhere.ip("addr add 192.0.2.2/24 dev eth0");
    elsewhere.ip("link set eth0 up");
    elsewhere.complete_checksums("eth0");
    elsewhere.ip("link add vx0 type vxlan id 42 local 192.0.2.2 remote 192.0.2.1 dstport 4789");
    elsewhere.ip("addr add 10.9.0.2/24 dev vx0");
    elsewhere.ip("link set vx0 up");
    let switch = Switch::new();
    let tunnel = Tunnel::open(&vxlan(42, "192.0.2.1", &["192.0.2.2"]), switch.attach("vxlan")).unwrap();
    let tap = Tap::open(&name("tap0"), switch.attach("tap0")).unwrap();
    ip("addr add 10.9.0.1/24 dev tap0");
    // The last ones make datagrams longer than the way between the hosts takes, and packets than the network itself.
    for size in [0, 56, 1400, 1472, 20_000] {
        ping("10.9.0.2", size);
    }
    let server = elsewhere.echo("10.9.0.2");
    echo("10.9.0.2", 4 << 20);
    drop(server);
    assert_eq!((tunnel.dropped(), tap.dropped()), (vec![], vec![]));
    // What is not from a peer, or not of this network.
    let stranger = UdpSocket::bind("192.0.2.1:0").unwrap();
    stranger.send_to(&[&header(42)[..], &frame(1, 60)].concat(), "192.0.2.1:4789").unwrap();
    wait(|| tunnel.dropped().contains(&("from an address that is no peer's", 1)).then_some(()));
}

/// Hosts on the loopback: addresses of one network each, and the switch there.
struct Host {
    switch: Switch,
    tunnel: Tunnel,
    guest: Port,
}

fn receive(port: &Port) -> Vec<u8> {
    wait(|| port.receive()).bytes
}

#[test]
fn vxlan_joins_hosts_and_learns_where_stations_are() {
    if !is_inside("vxlan_joins_hosts_and_learns_where_stations_are") {
        return;
    }
    ip("link set lo up");
    let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let host = |index: usize| {
        let mut peers = addresses.to_vec();
        let own = peers.remove(index);
        let switch = Switch::new();
        let tunnel = Tunnel::open(&vxlan(7, own, &peers), switch.attach("vxlan")).unwrap();
        let guest = switch.attach("guest");
        guest.set_ready(true);
        Host { switch, tunnel, guest }
    };
    let hosts = [host(0), host(1), host(2)];
    let station = |last: u8| [0x52, 0x54, 0, 0x12, 1, last];
    let to = |to: u8, from: u8| [&station(to)[..], &station(from), &[0x88, 0xb5], &[from; 50]].concat();
    let send = |host: &Host, bytes: Vec<u8>| host.guest.send(Duration::ZERO, Frame::new(bytes)).unwrap();
    send(&hosts[0], frame(1, 1514));
    assert_eq!((receive(&hosts[1].guest), receive(&hosts[2].guest)), (frame(1, 1514), frame(1, 1514)));
    // The second is known to nobody, and the first to all; then the first knows the second.
    send(&hosts[1], to(1, 2));
    assert_eq!(receive(&hosts[0].guest), to(1, 2));
    send(&hosts[0], to(2, 1));
    assert_eq!(receive(&hosts[1].guest), to(2, 1));
    // Had the third got one of these, it would be before this.
    send(&hosts[0], frame(3, 60));
    assert_eq!(receive(&hosts[2].guest), frame(3, 60));
    let datagrams = [
        (vec![8, 0, 0, 0, 0, 0, 7], "too short"),
        ([&header(7)[..], &[0; 13]].concat(), "too short"),
        ([&header(8)[..], &frame(4, 60)].concat(), "of another network"),
        ([&[0x0c, 0, 0, 0, 0, 0, 7, 0][..], &frame(4, 60)].concat(), "not VXLAN"),
    ];
    let peer = UdpSocket::bind("127.0.0.2:0").unwrap();
    for (datagram, reason) in datagrams {
        let count = || hosts[0].tunnel.dropped().iter().find(|it| it.0 == reason).map_or(0, |it| it.1);
        let before = count();
        peer.send_to(&datagram, "127.0.0.1:4789").unwrap();
        wait(|| (count() == before + 1).then_some(()));
    }
    assert!(hosts[0].guest.receive().is_none());
    assert_eq!(hosts[2].switch.counters().len(), 2);
    let taken = Tunnel::open(&vxlan(7, "127.0.0.1", &["127.0.0.2"]), Switch::new().attach("x")).unwrap_err();
    assert!(
        taken.to_string().contains("VXLAN 7 at 127.0.0.1:4789: another program has that port"),
        "{taken}"
    );
    let nowhere =
        Tunnel::open(&vxlan(7, "192.0.2.9", &["192.0.2.8"]), Switch::new().attach("x")).unwrap_err();
    assert!(nowhere.to_string().contains("this host has no such address"), "{nowhere}");
}
