//! A user network that several guests share, each with a TCP/IP stack of its own behind one switch, and forwards over IPv6.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "a failed test may panic; not all of the guest is used here"
)]

mod guest;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use guest::Guest;
use snowboot_config::{UplinkKind, UserNetworkConfig};
use snowboot_network::Switch;
use snowboot_uplink::gateway::UserNetwork;
use snowboot_uplink::{Uplink, port_name};

const PATIENCE: Duration = Duration::from_secs(30);

/// The card of a machine with this number.
fn machine(number: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0x12, 1, number]
}

fn shared(config: UserNetworkConfig, cards: &[[u8; 6]]) -> Vec<Guest> {
    let switch = Switch::new();
    let kind = UplinkKind::UserNetwork(config);
    let uplink = Uplink::open(&kind, switch.attach(&port_name(&kind))).unwrap();
    let Uplink::UserNetwork(network) = uplink else { panic!("{uplink:?}") };
    assert_eq!(switch.counters()[0].0, "uplink:user network");
    cards.iter().map(|mac| Guest::behind(&switch, *mac, Arc::clone(&network))).collect()
}

fn lease(guest: &mut Guest) -> Ipv4Addr {
    guest.ask_for_address().0.address()
}

#[test]
fn several_guests_have_addresses_of_their_own_and_reach_the_host() {
    let others = [2, 0, 0, 0, 0, 9];
    let mut guests = shared(UserNetworkConfig::default(), &[machine(2), others, machine(1)]);
    let leases: Vec<String> = guests.iter_mut().map(|guest| lease(guest).to_string()).collect();
    assert_eq!(leases, ["10.0.2.16", "10.0.2.215", "10.0.2.15"]);
    // What manifests count on.
    let of_number = |number| UserNetworkConfig::shared_address(number).unwrap().to_string();
    assert_eq!((of_number(2), of_number(1)), (leases[0].clone(), leases[2].clone()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = |port| SocketAddr::from(([10, 0, 2, 2], port));
    let (tcp, udp) = (at(listener.local_addr().unwrap().port()), at(datagrams.local_addr().unwrap().port()));
    let count = guests.len();
    let echo = thread::spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 5];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        }
    });
    let reply = thread::spawn(move || {
        for _ in 0..count {
            let mut word = [0; 9];
            let (length, from) = datagrams.recv_from(&mut word).unwrap();
            datagrams.send_to(&word[..length], from).unwrap();
        }
    });
    // All of them open before any is done.
    let sockets: Vec<_> = guests.iter_mut().map(|guest| guest.connected(tcp)).collect();
    for (index, (guest, socket)) in guests.iter_mut().zip(sockets).enumerate() {
        let word = format!("word{index}").into_bytes();
        guest.send(socket, &word);
        guest.tcp(socket).close();
        assert_eq!(guest.read_to_end(socket), word);
        // The same port of each: they are told apart by their addresses.
        let socket = guest.udp(6000);
        guest.send_udp(socket, udp, &word);
        assert_eq!(guest.receive_udp(socket), (word, udp));
    }
    echo.join().unwrap();
    reply.join().unwrap();
}

#[test]
fn forwards_lead_to_the_guest_that_has_the_address() {
    let config = UserNetworkConfig {
        forward_ports: vec!["tcp::0-10.0.2.16:80".parse().unwrap()],
        ..UserNetworkConfig::default()
    };
    let mut guests = shared(config, &[machine(1), machine(2)]);
    guests.iter_mut().for_each(|guest| assert!(guest.ask_for_address().1.is_some()));
    let to_second = guests[0].network.forwards()[0].1;
    let to_first = guests[0].network.forward("tcp::0-10.0.2.15:80".parse().unwrap()).unwrap();
    let sockets: Vec<_> = guests.iter_mut().map(|guest| guest.listen(80)).collect();
    for ((guest, socket), (at, word)) in
        guests.iter_mut().zip(sockets).zip([(to_first, "first"), (to_second, "second")])
    {
        let client = thread::spawn(move || read_all(at));
        guest.until("a connection", |guest| guest.tcp(socket).may_send().then_some(()));
        guest.send(socket, word.as_bytes());
        guest.tcp(socket).close();
        guest.until("the end", |_| client.is_finished().then_some(()));
        assert_eq!(client.join().unwrap(), word);
    }
}

#[test]
fn restrict_holds_for_all() {
    let config = UserNetworkConfig { restrict: true, ..UserNetworkConfig::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = SocketAddr::from(([10, 0, 2, 2], listener.local_addr().unwrap().port()));
    for guest in &mut shared(config, &[machine(1), machine(2)]) {
        assert_eq!(guest.ask_for_address().1, None);
        guest.tcp_is_refused(at);
    }
    assert!(listener.accept().is_err());
}

/// What a server sends, in the time that anything here may take.
fn read_all(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A guest of its own network, at 10.0.2.15 and `fec0::15`.
fn alone() -> Guest {
    Guest::new(&UserNetworkConfig::default())
}

#[test]
fn tcp_is_forwarded_between_any_two_of_both_ips() {
    let mut guest = alone();
    for (rule, seen) in [
        ("tcp:[::1]:0-[fec0::15]:80", "fec0::2"),
        ("tcp:[::1]:0-:80", "10.0.2.2"),
        ("tcp::0-[fec0::15]:80", "fec0::2"),
        ("tcp::0-:80", "10.0.2.2"),
    ] {
        let at = guest.network.forward(rule.parse().unwrap()).unwrap();
        let socket = guest.listen(80);
        let client = thread::spawn(move || read_all(at));
        guest.until("a connection", |guest| guest.tcp(socket).may_send().then_some(()));
        assert_eq!(guest.tcp(socket).remote_endpoint().unwrap().addr.to_string(), seen, "{rule}");
        guest.send(socket, b"here");
        guest.tcp(socket).close();
        guest.until("the end", |_| client.is_finished().then_some(()));
        assert_eq!(client.join().unwrap(), "here", "{rule}");
        guest.sockets.remove(socket);
    }
}

#[test]
fn datagrams_are_forwarded_between_any_two_of_both_ips() {
    let mut guest = alone();
    let socket = guest.udp(5000);
    for (rule, client, seen) in [
        ("udp:[::1]:0-[fec0::15]:5000", "[::1]:0", "fec0::2"),
        ("udp:[::1]:0-:5000", "[::1]:0", "10.0.2.2"),
        ("udp::0-[fec0::15]:5000", "127.0.0.1:0", "fec0::2"),
    ] {
        let at = guest.network.forward(rule.parse().unwrap()).unwrap();
        let client = UdpSocket::bind(client).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        guest.pass(Duration::from_millis(20));
        // The first ones are lost while the gateway asks where the guest is.
        let from = guest.until("a datagram", |guest| {
            client.send_to(rule.as_bytes(), at).unwrap();
            guest.pass(Duration::from_millis(20));
            let received = guest.sockets.get_mut::<smoltcp::socket::udp::Socket<'_>>(socket).recv().ok()?;
            (received.0 == rule.as_bytes()).then_some(received.1.endpoint)
        });
        assert_eq!(from.addr.to_string(), seen, "{rule}");
        guest.send_udp(socket, SocketAddr::new(from.addr.into(), from.port), b"pong");
        guest.pass(Duration::from_millis(50));
        let mut buffer = [0; 10];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (4, at), "{rule}");
    }
}

#[test]
fn all_of_ipv6_is_not_all_of_ipv4() {
    let guest = alone();
    let at = guest.network.forward("tcp:[::]:0-:80".parse().unwrap()).unwrap();
    // The same port is free where IPv4 is listened at.
    let rule = format!("tcp:0.0.0.0:{}-:80", at.port());
    assert_eq!(guest.network.forward(rule.parse().unwrap()).unwrap().port(), at.port());
    let error = guest.network.forward("tcp:[2001:db8::1]:0-:80".parse().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("Cannot forward [2001:db8::1]:0 to port 10.0.2.15:80 of the guest"), "{error}");
    let own = UserNetwork::start("x", &UserNetworkConfig::default()).unwrap();
    assert!(own.forward(rule.parse().unwrap()).is_err(), "it is in use");
}
