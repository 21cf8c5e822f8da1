//! A guest of the user network without a machine: smoltcp's stack behind a port of a switch.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr};
use snowboot_config::UserNetworkConfig;
use snowboot_network::{Frame, Full, Port, Switch};
use snowboot_uplink::gateway::UserNetwork;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const BUFFER: usize = 64 * 1024;

/// The guest, and the network that it is on.
pub(crate) struct Guest {
    wire: Wire,
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) network: Arc<UserNetwork>,
    next_port: u16,
}

impl Guest {
    /// With the address that it would get by DHCP.
    pub(crate) fn new(config: &UserNetworkConfig) -> Self {
        let mut guest = Self::without_address(config);
        guest.take_address(Ipv4Cidr::new(Ipv4Addr::new(10, 0, 2, 15), 24));
        guest
    }

    pub(crate) fn without_address(config: &UserNetworkConfig) -> Self {
        let network = UserNetwork::start("test", config).unwrap();
        let switch = Switch::new();
        network.plug(switch.attach("gateway"));
        Self::behind(&switch, MAC, Arc::new(network))
    }

    /// One that shares `network` with others of `switch`.
    pub(crate) fn behind(switch: &Switch, mac: [u8; 6], network: Arc<UserNetwork>) -> Self {
        let port = switch.attach("guest");
        port.set_ready(true);
        let mut wire = Wire { port };
        let mut settings = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        settings.random_seed = 1;
        let interface = Interface::new(settings, &mut wire, instant());
        Self { wire, interface, sockets: SocketSet::new(Vec::new()), network, next_port: 50000 }
    }

    fn take_address(&mut self, address: Ipv4Cidr) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(address)).unwrap();
            addresses.push("fec0::15/64".parse().unwrap()).unwrap();
        });
        let routes = self.interface.routes_mut();
        routes.add_default_ipv4_route(Ipv4Addr::new(10, 0, 2, 2)).unwrap();
        routes.add_default_ipv6_route("fec0::2".parse().unwrap()).unwrap();
    }

    /// Gets an address by DHCP; the answer has address, router and resolver.
    pub(crate) fn ask_for_address(&mut self) -> (Ipv4Cidr, Option<Ipv4Addr>, Vec<Ipv4Addr>) {
        let socket = self.sockets.add(dhcpv4::Socket::new());
        let end = Clock::now() + PATIENCE;
        loop {
            self.turn();
            if let Some(dhcpv4::Event::Configured(found)) =
                self.sockets.get_mut::<dhcpv4::Socket<'_>>(socket).poll()
            {
                let found = (found.address, found.router, found.dns_servers.to_vec());
                self.take_address(found.0);
                return found;
            }
            assert!(Clock::now() < end, "there is no address");
        }
    }

    /// One turn of the stack; it naps when there was nothing to do.
    pub(crate) fn turn(&mut self) {
        let result = self.interface.poll(instant(), &mut self.wire, &mut self.sockets);
        if result == smoltcp::iface::PollResult::None {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Takes turns until `done`.
    pub(crate) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Clock::now() + PATIENCE;
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Clock::now() < end, "{what} took too long");
            self.turn();
        }
    }

    pub(crate) fn tcp(&mut self, socket: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    /// Begins to connect to `to`.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let mut socket = tcp_socket();
        self.next_port += 1;
        socket.connect(self.interface.context(), to, self.next_port).unwrap();
        self.sockets.add(socket)
    }

    /// Connects to `to`.
    pub(crate) fn connected(&mut self, to: SocketAddr) -> SocketHandle {
        let socket = self.connect(to);
        self.until("connecting", |guest| guest.tcp(socket).may_send().then_some(()));
        socket
    }

    /// Sees `to` refuse a connection.
    pub(crate) fn tcp_is_refused(&mut self, to: SocketAddr) {
        let socket = self.connect(to);
        self.until("the refusal", |guest| (guest.tcp(socket).state() == tcp::State::Closed).then_some(()));
    }

    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; BUFFER]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn send_udp(&mut self, socket: SocketHandle, to: SocketAddr, data: &[u8]) {
        self.sockets.get_mut::<udp::Socket<'_>>(socket).send_slice(data, to).unwrap();
    }

    pub(crate) fn receive_udp(&mut self, socket: SocketHandle) -> (Vec<u8>, SocketAddr) {
        self.until("a datagram", |guest| {
            let received = guest.sockets.get_mut::<udp::Socket<'_>>(socket).recv().ok();
            received.map(|(data, from)| {
                let from = SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port);
                (data.to_vec(), from)
            })
        })
    }

    /// Sends all of it.
    pub(crate) fn send(&mut self, socket: SocketHandle, data: &[u8]) {
        let mut sent = 0;
        self.until("sending", |guest| {
            sent += guest.tcp(socket).send_slice(&data[sent..]).unwrap();
            (sent == data.len()).then_some(())
        });
    }

    /// Reads until the other side has no more.
    pub(crate) fn read_to_end(&mut self, socket: SocketHandle) -> Vec<u8> {
        let mut data = Vec::new();
        self.until("reading", |guest| {
            let result = guest.tcp(socket).recv(|bytes| {
                data.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            (result == Err(tcp::RecvError::Finished)).then_some(())
        });
        data
    }

    /// Takes turns for a while.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = Clock::now() + time;
        while Clock::now() < end {
            self.turn();
        }
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap())
}

fn instant() -> Instant {
    Instant::from_micros(i64::try_from(monotonic().as_micros()).unwrap())
}

struct Wire {
    port: Port,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.port.receive()?;
        Some((Received(frame), Sending(&self.port)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&self.port))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Frame);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0.bytes)
    }
}

struct Sending<'a>(&'a Port);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut bytes = vec![0; length];
        let result = fill(&mut bytes);
        let mut frame = Frame::new(bytes);
        while let Err(Full { frame: back, .. }) = self.0.send(monotonic(), frame) {
            frame = back;
            std::thread::sleep(Duration::from_micros(50));
        }
        result
    }
}
