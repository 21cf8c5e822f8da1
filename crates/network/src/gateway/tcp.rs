//! TCP: each connection of a guest ends here, in smoltcp's stack, and another one goes on from the host.
//!
//! ```text
//!  guest's SYN ──► Connecting ──the host connects──► Open ──both ended, or one was reset──► gone
//!                      │                              ▲
//!                      └─the host cannot─► RST        └── a connection to a host forward
//! ```
//! A SYN is held until the host has connected: then a socket listens for just that one, and it is handed to it. So a guest sees
//! of the host's end what it would see of a server, a refusal too. Flow control is that of the sockets' buffers: what the host does
//! not take is not acknowledged as room, and what the guest does not take is not read from the host.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpEndpoint, IpListenEndpoint};

use super::packet::Segment;
use super::wire::Wire;
use super::{Action, FlowId, Guest, Target, shares};

/// Connections of one gateway at once, those that are being opened too. Each costs a descriptor of the host's, of which a
/// process has 1024 as a rule, and up to two buffers.
pub(super) const MOST_FLOWS: usize = 256;
/// Connections that the host has not opened yet: a flood of SYNs gets no further.
pub(super) const MOST_CONNECTING: usize = 64;
/// Bytes of each connection's two buffers: two of the longest segments that a guest sends at once. All of a gateway's
/// together are 64 MiB at most, and only as much of it is touched as is used.
const BUFFER: usize = 128 * 1024;
/// A guest that acknowledges nothing for so long is gone; Linux gives up after about the same time (`tcp_retries2`).
const DEAD_AFTER: Duration = Duration::from_secs(15 * 60);
/// A connection on which nothing happens for so long is forgotten (RFC 5382, REQ-5).
const IDLE_AFTER: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// How long the guest may take to answer a connection to a host forward: as long as Linux tries it with its default of six
/// retries would be 127 s; BSD and slirp have 75.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);
/// When the table is full, one on which nothing happened for so long makes room.
const EXPENDABLE_AFTER: Duration = Duration::from_secs(5 * 60);
/// How often forgotten connections are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// The two ends as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    guest: SocketAddr,
    remote: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    ends: Ends,
    /// Whose share of the table it is of.
    guest: Guest,
    stage: Stage,
    active: Duration,
    /// The host has no more to send.
    host_done: bool,
    /// The host's side has let go of it, or was told to.
    detached: bool,
}

#[derive(Debug)]
enum Stage {
    /// The host is connecting; the SYN waits.
    Connecting(Vec<u8>),
    Open(SocketHandle),
}

/// How a connection stands, for the host's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowState {
    /// Bytes that wait for the host.
    pub for_host: usize,
    /// The guest has no more to send than those.
    pub guest_done: bool,
    /// Bytes that may be sent to the guest now.
    pub room: usize,
}

/// All connections of a gateway.
pub(super) struct Tcp {
    interface: Interface,
    pub(super) wire: Wire,
    sockets: SocketSet<'static>,
    flows: BTreeMap<FlowId, Flow>,
    by_ends: HashMap<Ends, FlowId>,
    connecting: usize,
    next: u64,
    swept: Duration,
}

impl Tcp {
    pub(super) fn new(seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        // It answers for every address that its caller lets through.
        interface.set_any_ip(true);
        Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            flows: BTreeMap::new(),
            by_ends: HashMap::new(),
            connecting: 0,
            next: 0,
            swept: Duration::ZERO,
        }
    }

    /// Takes a segment of the guest's. `target` is asked where a new connection is to go.
    pub(super) fn receive(
        &mut self,
        now: Duration,
        segment: Segment,
        packet: &[u8],
        target: impl FnOnce() -> Option<Target>,
        actions: &mut Vec<Action>,
    ) {
        let ends = Ends { guest: segment.guest, remote: segment.remote };
        if let Some(id) = self.by_ends.get(&ends).copied() {
            match self.flows.get_mut(&id) {
                Some(Flow { stage: Stage::Connecting(_), .. }) => {
                    if segment.resets {
                        actions.push(Action::Reset { flow: id });
                        self.forget(id);
                    }
                    return;
                }
                Some(Flow { stage: Stage::Open(socket), active, detached, .. }) => {
                    *active = now;
                    let state = self.sockets.get::<Socket<'_>>(*socket).state();
                    // The guest uses the same port again.
                    if segment.opens && matches!(state, State::TimeWait | State::Closed) {
                        if !*detached {
                            actions.push(Action::Reset { flow: id });
                        }
                        self.forget(id);
                    }
                }
                None => {}
            }
        }
        match (segment.opens && !self.by_ends.contains_key(&ends)).then(target) {
            Some(Some(target)) => self.open(now, (segment.sender, ends), packet, target, actions),
            // Nobody listens there: the stack answers with a reset.
            _ => self.feed(now, packet),
        }
    }

    fn open(
        &mut self,
        now: Duration,
        (guest, ends): (Guest, Ends),
        packet: &[u8],
        target: Target,
        actions: &mut Vec<Action>,
    ) {
        // No answer: the guest tries again in a second, when there may be room.
        if !self.make_room_to_connect(guest, actions) || !self.make_room(now, guest, actions) {
            return;
        }
        let flow = self.insert(now, (guest, ends), Stage::Connecting(packet.to_vec()));
        self.connecting += 1;
        actions.push(Action::Connect { flow, target });
    }

    fn insert(&mut self, now: Duration, (guest, ends): (Guest, Ends), stage: Stage) -> FlowId {
        let id = FlowId(self.next);
        self.next = self.next.wrapping_add(1);
        let flow = Flow { ends, guest, stage, active: now, host_done: false, detached: false };
        self.flows.insert(id, flow);
        self.by_ends.insert(ends, id);
        id
    }

    /// Whether the host may be asked to open one more, maybe in the place of one of a guest that has more of them.
    fn make_room_to_connect(&mut self, guest: Guest, actions: &mut Vec<Action>) -> bool {
        if self.connecting < MOST_CONNECTING {
            return true;
        }
        let connecting = || self.flows.iter().filter(|(_, flow)| matches!(flow.stage, Stage::Connecting(_)));
        let greedy = shares::greedier(connecting().map(|(_, flow)| flow.guest), guest);
        let first = connecting().find(|(_, flow)| Some(flow.guest) == greedy).map(|(id, _)| *id);
        let Some(id) = first else { return false };
        actions.push(Action::Reset { flow: id });
        self.forget(id);
        true
    }

    /// Whether one more fits, maybe in the place of one that is over, that nobody uses, or of a guest that has more.
    fn make_room(&mut self, now: Duration, guest: Guest, actions: &mut Vec<Action>) -> bool {
        if self.flows.len() < MOST_FLOWS {
            return true;
        }
        let waits = |flow: &Flow| match flow.stage {
            Stage::Open(socket) => self.sockets.get::<Socket<'_>>(socket).state() == State::TimeWait,
            Stage::Connecting(_) => false,
        };
        let over = self.flows.iter().filter(|(_, flow)| waits(flow));
        let idle = |flow: &Flow| now.saturating_sub(flow.active) >= EXPENDABLE_AFTER;
        let idle = self.flows.iter().filter(|(_, flow)| idle(flow)).min_by_key(|(_, flow)| flow.active);
        let greedy = || {
            let guest = shares::greedier(self.flows.values().map(|flow| flow.guest), guest)?;
            self.flows.iter().filter(|(_, flow)| flow.guest == guest).min_by_key(|(_, flow)| flow.active)
        };
        let victim = over.min_by_key(|(_, flow)| flow.active).or(idle).or_else(greedy);
        let victim = victim.map(|(id, flow)| (*id, flow.detached));
        let Some((id, detached)) = victim else { return false };
        if !detached {
            actions.push(Action::Reset { flow: id });
        }
        self.forget(id);
        true
    }

    /// The host has connected: the guest's SYN is answered.
    pub(super) fn connected(&mut self, now: Duration, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let Stage::Connecting(syn) = &mut flow.stage else { return };
        let (syn, remote) = (std::mem::take(syn), flow.ends.remote);
        let mut socket = socket();
        let listens = IpListenEndpoint { addr: Some(remote.ip().into()), port: remote.port() };
        if socket.listen(listens).is_err() {
            return self.forget(id);
        }
        flow.stage = Stage::Open(self.sockets.add(socket));
        flow.active = now;
        self.connecting = self.connecting.saturating_sub(1);
        self.feed(now, &syn);
    }

    /// The host could not connect: gives the guest's SYN back, and with `reset` answers it so.
    pub(super) fn refused(&mut self, now: Duration, id: FlowId, reset: bool) -> Option<Vec<u8>> {
        let Some(Flow { stage: Stage::Connecting(syn), .. }) = self.flows.get_mut(&id) else { return None };
        let syn = std::mem::take(syn);
        self.forget(id);
        if reset {
            self.feed(now, &syn);
        }
        Some(syn)
    }

    /// Opens a connection to `guest` for a peer that the guest sees at `remote`, or another port of it when that one is in
    /// use. `None`: there is no room.
    pub(super) fn connect(
        &mut self,
        now: Duration,
        (share, guest): (Guest, SocketAddr),
        remote: SocketAddr,
        actions: &mut Vec<Action>,
    ) -> Option<FlowId> {
        if !self.make_room(now, share, actions) {
            return None;
        }
        let ports = std::iter::once(remote.port()).chain((1024..=u16::MAX).rev());
        let ends = ports
            .map(|port| Ends { guest, remote: SocketAddr::new(remote.ip(), port) })
            .find(|ends| !self.by_ends.contains_key(ends))?;
        let mut socket = socket();
        let local = IpEndpoint::from(ends.remote);
        socket.connect(self.interface.context(), IpEndpoint::from(guest), local).ok()?;
        let socket = self.sockets.add(socket);
        Some(self.insert(now, (share, ends), Stage::Open(socket)))
    }

    /// Lets `take` have bytes for the host; it returns how many it took.
    pub(super) fn take(&mut self, now: Duration, id: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let Some((socket, active)) = self.socket(id) else { return 0 };
        let taken = socket.recv(|bytes| {
            let taken = take(bytes).min(bytes.len());
            (taken, taken)
        });
        let taken = taken.unwrap_or(0);
        if taken > 0 {
            *active = now;
        }
        taken
    }

    /// Lets `fill` put bytes for the guest into the room that there is; it returns how many it put there.
    pub(super) fn fill(&mut self, now: Duration, id: FlowId, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let Some((socket, active)) = self.socket(id) else { return 0 };
        let filled = socket.send(|room| {
            let filled = fill(room).min(room.len());
            (filled, filled)
        });
        let filled = filled.unwrap_or(0);
        if filled > 0 {
            *active = now;
        }
        filled
    }

    /// The host has no more to send.
    pub(super) fn host_done(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id)
            && let Stage::Open(socket) = flow.stage
        {
            flow.host_done = true;
            self.sockets.get_mut::<Socket<'_>>(socket).close();
        }
    }

    /// The host's connection is gone before its end.
    pub(super) fn host_reset(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.detached = true;
        match flow.stage {
            Stage::Open(socket) => self.sockets.get_mut::<Socket<'_>>(socket).abort(),
            Stage::Connecting(_) => self.forget(id),
        }
    }

    /// The host's connection has ended on both sides.
    pub(super) fn host_closed(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.detached = true;
        }
    }

    /// How a connection that is open stands.
    pub(super) fn state(&self, id: FlowId) -> Option<FlowState> {
        let Stage::Open(handle) = self.flows.get(&id)?.stage else { return None };
        let socket = self.sockets.get::<Socket<'_>>(handle);
        let for_host = if is_established(socket.state()) { socket.recv_queue() } else { 0 };
        let room =
            if socket.may_send() { socket.send_capacity().saturating_sub(socket.send_queue()) } else { 0 };
        let no_more =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        Some(FlowState { for_host, guest_done: for_host == 0 && no_more, room })
    }

    /// The connections that are open.
    pub(super) fn open_flows(&self) -> Vec<FlowId> {
        let open = |flow: &Flow| matches!(flow.stage, Stage::Open(_)) && !flow.detached;
        self.flows.iter().filter(|(_, flow)| open(flow)).map(|(id, _)| *id).collect()
    }

    /// Sends what is due and forgets what is over.
    pub(super) fn poll(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.set_timeouts();
        let instant = instant(now);
        while self.interface.poll_egress(instant, &mut self.wire, &mut self.sockets)
            == smoltcp::iface::PollResult::SocketStateChanged
        {}
        self.collect(actions);
        if now.saturating_sub(self.swept) >= SWEEP {
            self.swept = now;
            self.abort_idle(now);
        }
    }

    /// When to poll next, if not for another reason before.
    pub(super) fn deadline(&mut self, now: Duration) -> Option<Duration> {
        if self.flows.is_empty() {
            return None;
        }
        let due = self.interface.poll_at(instant(now), &self.sockets);
        let due = due.map(|due| Duration::from_micros(u64::try_from(due.total_micros()).unwrap_or(0)));
        Some(due.unwrap_or(Duration::MAX).min(self.swept.saturating_add(SWEEP)))
    }

    /// Ends all connections without a word to the guest, which is another one now.
    pub(super) fn clear(&mut self, actions: &mut Vec<Action>) {
        let ids: Vec<FlowId> = self.flows.keys().copied().collect();
        for id in ids {
            if self.flows.get(&id).is_some_and(|flow| !flow.detached) {
                actions.push(Action::Reset { flow: id });
            }
            self.forget(id);
        }
        self.wire.clear();
    }

    fn socket(&mut self, id: FlowId) -> Option<(&mut Socket<'static>, &mut Duration)> {
        let flow = self.flows.get_mut(&id)?;
        let Stage::Open(socket) = flow.stage else { return None };
        Some((self.sockets.get_mut::<Socket<'static>>(socket), &mut flow.active))
    }

    /// Hands a packet to the stack.
    fn feed(&mut self, now: Duration, packet: &[u8]) {
        self.wire.put(packet);
        self.interface.poll_ingress_single(instant(now), &mut self.wire, &mut self.sockets);
        self.wire.take_back();
    }

    fn forget(&mut self, id: FlowId) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.by_ends.remove(&flow.ends);
        match flow.stage {
            Stage::Open(socket) => drop(self.sockets.remove(socket)),
            Stage::Connecting(_) => self.connecting = self.connecting.saturating_sub(1),
        }
    }

    /// Forgets the connections that the stack has no more to do for, and has the host's side do so too.
    fn collect(&mut self, actions: &mut Vec<Action>) {
        let mut over = Vec::new();
        for (id, flow) in &self.flows {
            let Stage::Open(handle) = flow.stage else { continue };
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            if socket.state() != State::Closed {
                continue;
            }
            let orderly = flow.host_done && matches!(socket.peek(1), Ok(_) | Err(RecvError::Finished));
            // While a reset is to be sent, or the host is to have the last bytes, it is not over.
            if socket.remote_endpoint().is_none() && (flow.detached || !orderly || socket.recv_queue() == 0) {
                over.push((*id, flow.detached, orderly));
            }
        }
        for (flow, detached, orderly) in over {
            if !detached {
                actions.push(if orderly { Action::Close { flow } } else { Action::Reset { flow } });
            }
            self.forget(flow);
        }
    }

    /// The stack counts from the guest's last segment, whether or not there was anything to say since.
    fn set_timeouts(&mut self) {
        for flow in self.flows.values() {
            let Stage::Open(socket) = flow.stage else { continue };
            let socket = self.sockets.get_mut::<Socket<'_>>(socket);
            let patience = match is_established(socket.state()) {
                false => Some(ANSWER_WITHIN),
                true => (socket.send_queue() > 0).then_some(DEAD_AFTER),
            };
            socket.set_timeout(patience.map(span));
        }
    }

    fn abort_idle(&mut self, now: Duration) {
        for flow in self.flows.values() {
            // What the host is done with is only about the guest's last words.
            let most = if flow.detached { DEAD_AFTER } else { IDLE_AFTER };
            if let Stage::Open(socket) = flow.stage
                && now.saturating_sub(flow.active) >= most
            {
                self.sockets.get_mut::<Socket<'_>>(socket).abort();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.flows.len(), self.connecting)
    }
}

fn socket() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
    // Segments come in batches, after each of which the stack is polled: one acknowledgement for all of them.
    socket.set_ack_delay(None);
    // Whoever wrote it has a Nagle algorithm of their own.
    socket.set_nagle_enabled(false);
    socket
}

/// Whether the guest has confirmed the connection: what it sent with its SYN may not be believed before that.
fn is_established(state: State) -> bool {
    !matches!(state, State::Listen | State::SynSent | State::SynReceived)
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn span(duration: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
