//! A failure can be made again: guests that do the same have the same frames lost by the same seed.

use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::address;
use crate::{Burst, CaptureLimits, Frame, Impairment, Port, Switch};

const EPOCH: Duration = Duration::from_secs(1_700_000_000);
const TICK: Duration = Duration::from_micros(500);
/// How long a transfer may take, of its own time.
const LIMIT: Duration = Duration::from_secs(600);
const DATA: usize = 200_000;

/// A guest's card.
struct Card {
    port: Port,
    now: Duration,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a Card);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut bytes = vec![0; length];
        let result = f(&mut bytes);
        self.0.port.send(self.0.now, Frame::new(bytes)).unwrap();
        result
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let frame = self.port.receive()?;
        Some((Arrived(frame.bytes), Leaving(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest with one socket.
struct Guest {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Guest {
    fn new(switch: &Switch, number: u8) -> Self {
        let port = switch.attach(&format!("guest {number}"));
        port.set_ready(true);
        let mut card = Card { port, now: Duration::ZERO };
        let mut config = Config::new(EthernetAddress(address(number)).into());
        config.random_seed = number.into();
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        let own = IpCidr::new(IpAddress::v4(192, 168, 1, number), 24);
        interface.update_ip_addrs(|all| all.push(own).unwrap());
        let buffer = || tcp::SocketBuffer::new(vec![0; 16 << 10]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Self { card, interface, sockets, socket }
    }

    fn turn(&mut self, now: Duration) {
        self.card.now = now;
        let now = Instant::from_micros(i64::try_from(now.as_micros()).unwrap());
        self.interface.poll(now, &mut self.card, &mut self.sockets);
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

/// One guest sends the other some data on a bad way; gives what was captured, as a file.
fn transfer(seed: u64) -> Vec<u8> {
    let switch = Switch::new();
    let capture = switch.capture(CaptureLimits::whole(), EPOCH);
    let (mut client, mut server) = (Guest::new(&switch, 1), Guest::new(&switch, 2));
    for (from, to) in [("guest 1", "guest 2"), ("guest 2", "guest 1")] {
        let bad = Impairment {
            seed,
            loss: 0.02,
            burst: Some(Burst { enter: 0.01, leave: 0.3, loss: 0.7 }),
            duplicate: 0.02,
            corrupt: 0.02,
            delay: Duration::from_millis(3),
            jitter: Duration::from_millis(1),
            reorder: 0.05,
            ..Impairment::default()
        };
        switch.impair(Duration::ZERO, from, to, Some(bad)).unwrap();
    }
    server.socket().listen(9000).unwrap();
    let Guest { interface, sockets, socket, .. } = &mut client;
    let remote = (IpAddress::v4(192, 168, 1, 2), 9000);
    sockets.get_mut::<tcp::Socket<'_>>(*socket).connect(interface.context(), remote, 40_000).unwrap();
    let data: Vec<u8> = (0..DATA).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
    let (mut sent, mut got, mut now) = (0, Vec::<u8>::new(), Duration::ZERO);
    while got.len() < data.len() {
        assert!(now < LIMIT, "{} bytes arrived", got.len());
        now += TICK;
        switch.advance(now);
        client.turn(now);
        server.turn(now);
        if client.socket().can_send() {
            sent += client.socket().send_slice(&data[sent..]).unwrap();
        }
        if server.socket().can_recv() {
            server.socket().recv(|bytes| (bytes.len(), got.extend(&*bytes))).unwrap();
        }
    }
    assert_eq!(got, data);
    capture.file()
}

#[test]
fn the_same_seed_has_the_same_capture() {
    let first = transfer(7);
    let again = transfer(7);
    let other = transfer(8);
    assert!(first == again, "the files of two runs with one seed differ");
    assert!(first != other, "another seed loses the same frames");
    let comments = |what: &str| first.windows(what.len()).filter(|window| *window == what.as_bytes()).count();
    for what in ["dropped on its way from guest 1: loss", ", a duplicate", "flipped"] {
        assert!(comments(what) > 0, "nothing in {} bytes says `{what}`", first.len());
    }
}
