//! The user-mode network: a gateway of [`snowboot_network::gateway`] with the host's sockets, on a thread of its own.
//!
//! ```text
//!  guest's card ─ Port ═ Switch ═ Port ─ Gateway ─┬─ streams, sockets ─ whom the guest speaks to
//!                                                 └─ forwards ───────── who speaks to the guest
//! ```
//! The thread takes turns: frames, connections, datagrams, bytes, frames again. Between turns in which nothing moved it sleeps in
//! one poller. No socket ever waits. A machine has a gateway of its own, as in NixOS tests, where each one is 10.0.2.15, or the machines
//! of a switch share one ([`UserNetwork::share`]).

mod events;
mod forwards;
mod resolver;
mod sockets;
mod streams;
mod turns;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use snowboot_config::{ForwardFrom, PortForward, SocketForward, UserNetworkConfig};
use snowboot_network::Port;
use snowboot_network::gateway::{Config, Gateway, GuestForward, Target};

use self::forwards::Door;
use self::turns::Turns;
use crate::wake::Bell;

/// Forwards of one gateway at once: each costs a descriptor of the host's.
const MOST_FORWARDS: usize = 64;

/// The user-mode network of a machine, or of all that a switch joins. Its thread and its sockets end with it.
#[derive(Debug)]
pub struct UserNetwork {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The user-mode network cannot be as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port of the host's cannot be listened at.
    #[error(
        "Cannot forward {from} to port {to} of the guest: {why}; choose another host port, or 0 for a free one"
    )]
    Forward {
        /// The host's address.
        from: SocketAddr,
        /// The guest's.
        to: SocketAddr,
        /// Why not.
        why: io::Error,
    },
    /// A Unix socket cannot be made.
    #[error("Cannot forward the socket {path} to port {to} of the guest: {why}: {source}", path = .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The guest's address.
        to: SocketAddr,
        /// What is wrong, and what to do.
        why: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// There are too many forwards.
    #[error("Cannot forward one more port: a user network has {MOST_FORWARDS} forwards at most")]
    TooMany,
    /// The forward cannot be.
    #[error("Cannot forward: {0}")]
    Wrong(#[from] snowboot_config::ValueError),
    /// The host has no more of what it takes.
    #[error("Cannot set up the user network: {0}")]
    Host(#[from] io::Error),
}

/// What the thread and its owner share.
#[derive(Debug)]
struct Shared {
    bell: Bell,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    commands: Vec<Command>,
    stop: bool,
    /// What was asked for, and where it is.
    forwards: Vec<(PortForward, SocketAddr)>,
}

#[derive(Debug)]
enum Command {
    /// Somebody is behind this port from now on.
    Plug(Port),
    /// There is one more forward.
    Forward(Door, SocketAddr),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, command: Command) {
        self.lock().commands.push(command);
        self.bell.ring();
    }
}

impl UserNetwork {
    /// Opens the forwards and starts the thread. Nobody is behind it until [`UserNetwork::plug`]. `name` is for people.
    ///
    /// # Errors
    /// When a port or a socket of the host's cannot be listened at, or the host has no more descriptors or threads.
    pub fn start(name: &str, config: &UserNetworkConfig) -> Result<Self, Error> {
        Self::begin(name, config, false)
    }

    /// The same for all guests that `port`'s switch joins it with. A machine of Snowboot's with number N gets 10.0.2.(14+N) by DHCP, up
    /// to number 200 ([`UserNetworkConfig::shared_address`]), others what is free from 10.0.2.215 on. Who is behind one port of the
    /// switch is one guest, whatever addresses it makes up, and keeps its part of the gateway's tables whatever the others do.
    ///
    /// ```
    /// use snowboot_config::{PortForward, UserNetworkConfig};
    /// use snowboot_network::Switch;
    /// use snowboot_uplink::gateway::UserNetwork;
    ///
    /// let switch = Switch::new();
    /// let network = UserNetwork::share(&UserNetworkConfig::default(), switch.attach("gateway"))?;
    /// // To the second machine, by its address.
    /// let at = network.forward("tcp:[::1]:0-10.0.2.16:80".parse()?)?;
    /// assert!(at.ip().is_loopback() && at.port() != 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As those of [`UserNetwork::start`].
    pub fn share(config: &UserNetworkConfig, port: Port) -> Result<Self, Error> {
        let network = Self::begin("shared", config, true)?;
        network.plug(port);
        Ok(network)
    }

    fn begin(name: &str, config: &UserNetworkConfig, shared: bool) -> Result<Self, Error> {
        let (doors, guest_sockets) = sockets(config)?;
        let guest_forwards = guest_forwards(config, &guest_sockets);
        let rules = Config { restrict: config.restrict, shared, guest_forwards };
        let gateway = Gateway::new(rules, seed());
        let shared = Arc::new(Shared { bell: Bell::new()?, state: Mutex::default() });
        let guest_sockets = guest_sockets.into_iter().map(|forward| forward.host).collect();
        let mut turns = Turns::new(gateway, config.dns, guest_sockets, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name(format!("net:{name}")).spawn(move || turns.run())?;
        let network = Self { shared, thread: Some(thread) };
        for forward in config.forward_ports.iter().filter(|forward| forward.from == ForwardFrom::Host) {
            network.forward(*forward)?;
        }
        doors.into_iter().for_each(|door| network.shared.tell(door));
        Ok(network)
    }

    /// Puts the gateway behind `port`. Who was there before is gone, with all connections; the forwards stay.
    pub fn plug(&self, port: Port) {
        self.shared.tell(Command::Plug(port));
    }

    /// Forwards one more port of the host's; the answer is where it listens. A forward that is there already is not made
    /// again.
    ///
    /// # Errors
    /// When the port cannot be listened at, or there are too many.
    pub fn forward(&self, forward: PortForward) -> Result<SocketAddr, Error> {
        let forward = forward.check()?;
        let mut state = self.shared.lock();
        let same = |it: &&(PortForward, SocketAddr)| it.0 == forward && forward.host.port() != 0;
        if let Some((_, at)) = state.forwards.iter().find(same) {
            return Ok(*at);
        }
        if state.forwards.len() >= MOST_FORWARDS {
            return Err(Error::TooMany);
        }
        let opened = Door::open(&forward);
        let (door, at) =
            opened.map_err(|why| Error::Forward { from: forward.host, to: forward.guest, why })?;
        state.forwards.push((forward, at));
        drop(state);
        self.shared.tell(Command::Forward(door, forward.guest));
        Ok(at)
    }

    /// Where the host listens for the guest, in the order that was asked for.
    #[must_use]
    pub fn forwards(&self) -> Vec<(PortForward, SocketAddr)> {
        self.shared.lock().forwards.clone()
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Forwards of sockets: those from the host, listened at, with where they lead, and those from the guest.
fn sockets(config: &UserNetworkConfig) -> Result<(Vec<Command>, Vec<SocketForward>), Error> {
    if config.forward_sockets.len() > MOST_FORWARDS {
        return Err(Error::TooMany);
    }
    let (mut doors, mut from_guest) = (Vec::new(), Vec::new());
    for forward in &config.forward_sockets {
        let SocketForward { from, host, guest } = forward.clone().check()?;
        SocketForward::check_path(&host)?;
        match from {
            ForwardFrom::Guest => from_guest.push(forward.clone()),
            ForwardFrom::Host => {
                let opened = Door::open_socket(&host);
                let door =
                    opened.map_err(|(why, source)| Error::Socket { path: host, to: guest, why, source })?;
                doors.push(Command::Forward(door, guest));
            }
        }
    }
    Ok((doors, from_guest))
}

/// What a guest reaches at addresses of its own; sockets go by their place in `sockets`.
fn guest_forwards(config: &UserNetworkConfig, sockets: &[SocketForward]) -> Vec<GuestForward> {
    let ports = config.forward_ports.iter().filter(|forward| forward.from == ForwardFrom::Guest);
    let ports =
        ports.map(|forward| GuestForward { guest: forward.guest, host: Target::Address(forward.host) });
    let sockets = sockets.iter().enumerate();
    let sockets = sockets.map(|(number, it)| GuestForward { guest: it.guest, host: Target::Socket(number) });
    ports.chain(sockets).collect()
}

/// A number that nobody can guess: the standard library's hasher begins with one of the kernel's.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
