//! The user network with real sockets of the host's loopback, and a guest that is a TCP/IP stack behind a switch.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod guest;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use guest::Guest;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use smoltcp::socket::tcp::State;
use snowboot_config::{ForwardFrom, ForwardProtocol, PortForward, SocketForward, UserNetworkConfig};

/// More than all buffers on the way together.
const MUCH: usize = 4 << 20;

fn open() -> UserNetworkConfig {
    UserNetworkConfig::default()
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, gateway(port))
}

/// The host's loopback as the guest sees it.
fn gateway(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 2], port))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn read_to_end(stream: &mut (impl Read + AsFd)) -> Vec<u8> {
    set_socket_timeout(&*stream, Timeout::Recv, Some(Duration::from_secs(30))).unwrap();
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    data
}

#[test]
fn a_guest_gets_its_address_and_speaks_to_a_server_of_the_host() {
    let mut guest = Guest::without_address(&open());
    let (address, router, resolvers) = guest.ask_for_address();
    assert_eq!(address.to_string(), "10.0.2.15/24");
    assert_eq!((router, resolvers), (Some(Ipv4Addr::new(10, 0, 2, 2)), vec![Ipv4Addr::new(10, 0, 2, 3)]));
    let (listener, at) = listener();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let data = read_to_end(&mut stream);
        stream.write_all(&data).unwrap();
    });
    let socket = guest.connected(at);
    guest.send(socket, b"hello");
    guest.tcp(socket).close();
    assert_eq!(guest.read_to_end(socket), b"hello");
    server.join().unwrap();
}

#[test]
fn much_goes_both_ways_at_once_and_arrives_as_it_was() {
    let mut guest = Guest::new(&open());
    let (listener, at) = listener();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            writer.write_all(&pattern(MUCH)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut stream = stream;
        let data = read_to_end(&mut stream);
        sender.join().unwrap();
        data
    });
    let socket = guest.connected(at);
    let sent = pattern(MUCH);
    let (mut done, mut received) = (0, Vec::new());
    guest.until("both ways", |guest| {
        let socket = guest.tcp(socket);
        if done < sent.len() {
            done += socket.send_slice(&sent[done..]).unwrap();
            if done == sent.len() {
                socket.close();
            }
        }
        let result = socket.recv(|bytes| {
            received.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        (done == sent.len() && result.is_err()).then_some(())
    });
    // What the guest's stack still has to send goes out only while it takes turns.
    guest.until("the rest", |_| server.is_finished().then_some(()));
    assert!(received == pattern(MUCH), "{} bytes", received.len());
    assert!(server.join().unwrap() == sent);
}

#[test]
fn ipv6_reaches_the_loopback_too() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::new(&open());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&pattern(MUCH)).unwrap();
    });
    let socket = guest.connected(SocketAddr::new("fec0::2".parse().unwrap(), port));
    assert!(guest.read_to_end(socket) == pattern(MUCH));
    server.join().unwrap();
}

#[test]
fn a_refused_connection_is_refused_to_the_guest() {
    let mut guest = Guest::new(&open());
    let (listener, at) = listener();
    drop(listener);
    guest.tcp_is_refused(at);
}

#[test]
fn the_host_may_end_first_and_still_listen() {
    let mut guest = Guest::new(&open());
    let (listener, at) = listener();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream)
    });
    let socket = guest.connected(at);
    assert_eq!(guest.read_to_end(socket), b"question");
    guest.pass(Duration::from_millis(50));
    guest.send(socket, b"answer");
    guest.tcp(socket).close();
    guest.until("the end", |guest| (!guest.tcp(socket).is_open()).then_some(()));
    assert_eq!(server.join().unwrap(), b"answer");
}

#[test]
fn a_reset_goes_through_in_both_directions() {
    let mut guest = Guest::new(&open());
    let (listener, at) = listener();
    let socket = guest.connected(at);
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until("the host's reset", |guest| (guest.tcp(socket).state() == State::Closed).then_some(()));

    let socket = guest.connected(at);
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(socket).abort();
    guest.pass(Duration::from_millis(100));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn who_does_not_read_is_not_written_for() {
    let mut guest = Guest::new(&open());
    let (listener, at) = listener();
    let socket = guest.connected(at);
    let (mut stream, _) = listener.accept().unwrap();

    // The host does not read: the guest cannot send for ever.
    let sent = pattern(64 << 20);
    let mut done = 0;
    let mut quiet = std::time::Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        let more = guest.tcp(socket).send_slice(&sent[done..]).unwrap();
        if more > 0 {
            quiet = std::time::Instant::now();
        }
        done += more;
        guest.turn();
    }
    assert!(done < sent.len(), "a host that does not read took {done} bytes");

    // The guest does not read: neither can the host.
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    let mut quiet = std::time::Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        match stream.write(&sent[written..]) {
            Ok(more) => (written, quiet) = (written + more, std::time::Instant::now()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        guest.turn();
    }
    assert!(written < sent.len(), "a guest that does not read took {written} bytes");

    // Then both read, and all of it is there.
    stream.set_nonblocking(false).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let reader = thread::spawn(move || read_to_end(&mut stream));
    assert!(guest.read_to_end(socket) == sent[..written]);
    guest.tcp(socket).close();
    guest.until("the end", |guest| (!guest.tcp(socket).is_open()).then_some(()));
    assert!(reader.join().unwrap() == sent[..done]);
}

#[test]
fn a_port_of_the_host_leads_to_the_guest() {
    let mut guest = Guest::new(&open());
    let at = guest.network.forward(PortForward::from_host(ForwardProtocol::Tcp, 0, 80)).unwrap();
    assert!(at.ip().is_loopback() && at.port() != 0);
    let socket = guest.listen(80);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(b"GET").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream)
    });
    assert_eq!(guest.read_to_end(socket), b"GET");
    let peer = guest.tcp(socket).remote_endpoint().unwrap();
    assert_eq!(peer.addr.to_string(), "10.0.2.2");
    guest.send(socket, &pattern(MUCH));
    guest.tcp(socket).close();
    guest.until("the end", |guest| (!guest.tcp(socket).is_open()).then_some(()));
    assert!(client.join().unwrap() == pattern(MUCH));
}

#[test]
fn a_port_that_the_guest_does_not_listen_at_is_reset() {
    let mut guest = Guest::new(&open());
    let at = guest.network.forward(PortForward::from_host(ForwardProtocol::Tcp, 0, 81)).unwrap();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read(&mut [0; 8]).unwrap_err().kind()
    });
    guest.until("the reset", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn a_forward_that_cannot_be_says_so_and_one_that_is_there_is_not_made_twice() {
    let guest = Guest::new(&open());
    let (listener, _) = listener();
    let taken = listener.local_addr().unwrap().port();
    let error = guest.network.forward(PortForward::from_host(ForwardProtocol::Tcp, taken, 80)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("127.0.0.1:{taken}")) && text.contains("0 for a free one"), "{text}");
    drop(listener);
    let forward = PortForward::from_host(ForwardProtocol::Tcp, taken, 80);
    assert_eq!(guest.network.forward(forward).unwrap(), guest.network.forward(forward).unwrap());
    let config = UserNetworkConfig { forward_ports: vec![forward], ..open() };
    assert!(snowboot_uplink::gateway::UserNetwork::start("other", &config).is_err());
}

#[test]
fn a_socket_of_the_host_leads_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web");
    // What a program that was killed leaves behind.
    drop(UnixListener::bind(&path).unwrap());
    let config = with_socket(ForwardFrom::Host, &path, "10.0.2.15:80");
    let mut guest = Guest::new(&config);
    let socket = guest.listen(80);
    let there = path.clone();
    let client = thread::spawn(move || {
        let mut stream = UnixStream::connect(there).unwrap();
        stream.write_all(b"GET").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream)
    });
    assert_eq!(guest.read_to_end(socket), b"GET");
    guest.send(socket, &pattern(MUCH));
    guest.tcp(socket).close();
    guest.until("the end", |guest| (!guest.tcp(socket).is_open()).then_some(()));
    assert!(client.join().unwrap() == pattern(MUCH));
    // Somebody listens there now.
    let error = snowboot_uplink::gateway::UserNetwork::start("other", &config).unwrap_err().to_string();
    assert!(error.contains("web") && error.contains("choose another path"), "{error}");
    drop(guest);
    assert!(!path.exists());
}

#[test]
fn a_guest_reaches_a_socket_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let config =
        UserNetworkConfig { restrict: true, ..with_socket(ForwardFrom::Guest, &path, "10.0.2.100:7") };
    let mut guest = Guest::new(&config);
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let said = read_to_end(&mut stream);
        stream.write_all(&said).unwrap();
    });
    let at = "10.0.2.100:7".parse().unwrap();
    let socket = guest.connected(at);
    guest.send(socket, &pattern(MUCH));
    guest.tcp(socket).close();
    assert!(guest.read_to_end(socket) == pattern(MUCH));
    server.join().unwrap();
    // Nobody listens there any more, and then it is not there at all.
    guest.tcp_is_refused(at);
    std::fs::remove_file(&path).unwrap();
    guest.tcp_is_refused(at);
}

fn with_socket(from: ForwardFrom, path: &Path, guest: &str) -> UserNetworkConfig {
    let forward = SocketForward { from, host: path.to_owned(), guest: guest.parse().unwrap() };
    UserNetworkConfig { forward_sockets: vec![forward], ..open() }
}

#[test]
fn datagrams_find_their_way_back() {
    let mut guest = Guest::new(&open());
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let at = gateway(server.local_addr().unwrap().port());
    let socket = guest.udp(6000);
    guest.send_udp(socket, at, b"hello");
    let answer = server.try_clone().unwrap();
    let thread = thread::spawn(move || {
        let mut buffer = [0; 100];
        let (length, from) = answer.recv_from(&mut buffer).unwrap();
        answer.send_to(&buffer[..length], from).unwrap();
    });
    assert_eq!(guest.receive_udp(socket), (b"hello".to_vec(), at));
    thread.join().unwrap();
}

#[test]
fn the_resolver_is_asked_at_its_address_and_answers_from_the_one_that_was_asked() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = UserNetworkConfig { dns: Some(server.local_addr().unwrap()), ..open() };
    let thread = thread::spawn(move || {
        for _ in 0..2 {
            let mut buffer = [0; 100];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&[&buffer[..length], b"!"].concat(), from).unwrap();
        }
    });
    let mut guest = Guest::new(&config);
    let socket = guest.udp(6001);
    for resolver in ["10.0.2.3:53", "[fec0::3]:53"] {
        let resolver = resolver.parse().unwrap();
        guest.send_udp(socket, resolver, b"name?");
        assert_eq!(guest.receive_udp(socket), (b"name?!".to_vec(), resolver));
    }
    thread.join().unwrap();
}

#[test]
fn a_udp_port_of_the_host_leads_to_the_guest() {
    let mut guest = Guest::new(&open());
    let at = guest.network.forward(PortForward::from_host(ForwardProtocol::Udp, 0, 5000)).unwrap();
    let socket = guest.udp(5000);
    guest.pass(Duration::from_millis(20));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The first ones are lost while the gateway asks where the guest is.
    let (data, from) = guest.until("a datagram", |guest| {
        client.send_to(b"ping", at).unwrap();
        guest.pass(Duration::from_millis(20));
        let received = guest.sockets.get_mut::<smoltcp::socket::udp::Socket<'_>>(socket).recv().ok();
        received.map(|(data, from)| (data.to_vec(), from.endpoint))
    });
    assert_eq!((data.as_slice(), from.addr.to_string().as_str()), (&b"ping"[..], "10.0.2.2"));
    guest.send_udp(socket, SocketAddr::new(from.addr.into(), from.port), b"pong");
    guest.pass(Duration::from_millis(50));
    let mut buffer = [0; 10];
    assert_eq!(client.recv_from(&mut buffer).unwrap(), (4, at));
    assert_eq!(&buffer[..4], b"pong");
}

#[test]
fn a_restricted_guest_reaches_nobody_but_is_reached() {
    let (listener, at) = listener();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let forward = PortForward {
        from: ForwardFrom::Guest,
        protocol: ForwardProtocol::Tcp,
        host: listener.local_addr().unwrap(),
        guest: "10.0.2.100:7".parse().unwrap(),
    };
    let config = UserNetworkConfig {
        restrict: true,
        dns: datagrams.local_addr().ok(),
        forward_ports: vec![forward],
        ..UserNetworkConfig::default()
    };
    let mut guest = Guest::without_address(&config);
    assert_eq!(guest.ask_for_address().1, None, "a router that leads nowhere");
    guest.tcp_is_refused(at);
    let socket = guest.udp(6000);
    let port = datagrams.local_addr().unwrap().port();
    for to in [gateway(port), "10.0.2.3:53".parse().unwrap()] {
        guest.send_udp(socket, to, b"x");
    }
    guest.pass(Duration::from_millis(300));
    listener.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(datagrams.recv_from(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);

    // What it was given it reaches.
    guest.connected(forward.guest);
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap();

    // And it answers a forward.
    let at = guest.network.forward(PortForward::from_host(ForwardProtocol::Tcp, 0, 80)).unwrap();
    let socket = guest.listen(80);
    let client = thread::spawn(move || read_to_end(&mut TcpStream::connect(at).unwrap()));
    guest.until("a connection", |guest| guest.tcp(socket).may_send().then_some(()));
    guest.send(socket, b"here");
    guest.tcp(socket).close();
    guest.until("the end", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), b"here");
}

#[test]
fn many_connections_come_and_go() {
    let mut guest = Guest::new(&open());
    let (listener, at) = listener();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"x");
        }
    });
    // More than there may be at once.
    for _ in 0..400 {
        let socket = guest.connected(at);
        assert_eq!(guest.read_to_end(socket), b"x");
        guest.tcp(socket).close();
        guest.until("the end", |guest| (!guest.tcp(socket).is_open()).then_some(()));
        guest.sockets.remove(socket);
    }
}

#[test]
fn the_network_ends_with_its_sockets() {
    let guest = Guest::new(&open());
    let at = guest.network.forward(PortForward::from_host(ForwardProtocol::Tcp, 0, 80)).unwrap();
    drop(guest);
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
