//! The gateway's thread.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use snowboot_network::gateway::{Action, Gateway, Guest, Target};
use snowboot_network::{Frame, Full, Port};

use super::events::{Events, Source};
use super::forwards::Forwards;
use super::resolver::Resolver;
use super::sockets::{LONGEST, Sockets};
use super::streams::{Place, Streams};
use super::{Command, Shared};
use crate::wake::now;

/// Frames of the guest's that are taken in one turn.
const FRAMES_AT_ONCE: usize = 128;

/// All that the thread has.
pub(super) struct Turns {
    shared: Arc<Shared>,
    gateway: Gateway,
    port: Option<Port>,
    /// A frame that the switch has no room for, and when to try again.
    held: Option<(Frame, Duration)>,
    resolver: Resolver,
    /// The Unix sockets that guest forwards lead to.
    guest_sockets: Vec<PathBuf>,
    events: Events,
    streams: Streams,
    sockets: Sockets,
    forwards: Forwards,
    /// For one datagram.
    buffer: Vec<u8>,
}

impl Turns {
    pub(super) fn new(
        gateway: Gateway,
        dns: Option<SocketAddr>,
        guest_sockets: Vec<PathBuf>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        Ok(Self {
            gateway,
            port: None,
            held: None,
            resolver: Resolver::new(dns),
            guest_sockets,
            events: Events::new(&shared.bell)?,
            shared,
            streams: Streams::default(),
            sockets: Sockets::default(),
            forwards: Forwards::default(),
            buffer: vec![0; LONGEST],
        })
    }

    /// Takes turns until it is told to stop.
    pub(super) fn run(&mut self) {
        loop {
            let now = now();
            let busy = self.turn(now);
            if self.obey() {
                return;
            }
            let timeout = if busy { Some(Duration::ZERO) } else { self.rest(now) };
            match self.events.wait(timeout) {
                Ok(happened) => self.note(&happened),
                Err(error) => {
                    return tracing::error!("the user network ends: cannot wait for its sockets: {error}");
                }
            }
        }
    }

    /// Does what there is to do; whether there may be more.
    fn turn(&mut self, now: Duration) -> bool {
        let mut moved = self.frames_in(now);
        let Self { gateway, streams, sockets, forwards, events, buffer, .. } = self;
        moved |= forwards.serve(now, buffer, gateway, streams, events);
        moved |= sockets.receive(now, buffer, gateway);
        moved |= streams.pump(now, gateway);
        gateway.poll(now);
        self.act(now);
        moved | self.frames_out(now)
    }

    fn frames_in(&mut self, now: Duration) -> bool {
        for count in 0..FRAMES_AT_ONCE {
            if !self.gateway.wants_frames() {
                return count > 0;
            }
            let Some(port) = &self.port else { return count > 0 };
            let Some(frame) = port.receive() else { return count > 0 };
            // By the switch's own port: a guest may make up all else.
            let guest = port.origin(now, &frame).map_or(Guest::UNKNOWN, Guest);
            self.gateway.receive_from(now, guest, &frame);
            self.act(now);
        }
        true
    }

    fn frames_out(&mut self, now: Duration) -> bool {
        let mut moved = false;
        let Some(port) = &self.port else {
            while self.gateway.next_frame().is_some() {}
            return false;
        };
        while let Some(frame) = self.held.take().map(|(frame, _)| frame).or_else(|| self.gateway.next_frame())
        {
            match port.send(now, frame) {
                Ok(()) => moved = true,
                Err(Full { frame, retry_at }) => {
                    self.held = Some((frame, retry_at));
                    break;
                }
            }
        }
        moved
    }

    fn act(&mut self, now: Duration) {
        for action in self.gateway.actions() {
            self.carry_out(now, action);
        }
    }

    fn carry_out(&mut self, now: Duration, action: Action) {
        let Self { gateway, streams, sockets, forwards, events, resolver, guest_sockets, .. } = self;
        match action {
            Action::Connect { flow, target } => {
                let to = match target {
                    Target::Address(address) => Some(Place::Address(address)),
                    Target::Resolver => resolver.address(now).map(Place::Address),
                    Target::Socket(number) => guest_sockets.get(number).cloned().map(Place::Path),
                };
                streams.connect(now, flow, to.as_ref(), events, gateway);
            }
            Action::Reset { flow } => streams.reset(flow),
            Action::Close { flow } => streams.close(flow),
            Action::Send { socket, target: Target::Address(to), data } => {
                sockets.send(socket, to, &data, events);
            }
            Action::Send { socket, target: Target::Resolver, data } => {
                sockets.ask(now, socket, resolver.address(now), &data, events, gateway);
            }
            // Guest forwards carry no datagrams.
            Action::Send { target: Target::Socket(_), .. } => {}
            Action::Ping { socket, to, sequence, data } => sockets.ping(socket, to, sequence, &data, events),
            Action::Answer { forward, peer, data } => forwards.answer(forward, peer, &data),
            Action::Forget { socket } => sockets.forget(socket),
        }
    }

    /// Does what its owner has told it; whether that is to stop.
    fn obey(&mut self) -> bool {
        let (commands, stop) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.commands), state.stop)
        };
        for command in commands {
            match command {
                Command::Plug(port) => self.plug(port),
                Command::Forward(door, guest) => {
                    if let Err(error) = self.forwards.add(door, guest, &self.events) {
                        tracing::error!("port {} of the guest is not forwarded: {error}", guest.port());
                    }
                }
            }
        }
        stop
    }

    fn plug(&mut self, port: Port) {
        if self.port.is_some() {
            self.gateway.guest_gone();
            self.act(now());
            self.held = None;
        }
        let shared = Arc::downgrade(&self.shared);
        port.set_waker(Arc::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.bell.ring();
            }
        }));
        port.set_accepts(Gateway::ACCEPTS);
        port.set_ready(true);
        self.port = Some(port);
        // What has come before the bell was there.
        self.shared.bell.ring();
    }

    /// How long there is nothing to do if nothing happens.
    fn rest(&mut self, now: Duration) -> Option<Duration> {
        let retry = self.held.as_ref().map(|(_, retry_at)| *retry_at);
        let due = [self.gateway.deadline(now), retry].into_iter().flatten().min()?;
        Some(due.saturating_sub(now))
    }

    fn note(&mut self, happened: &[super::events::Happened]) {
        let now = now();
        for what in happened {
            match what.source {
                Source::Bell => self.shared.bell.quiet(),
                Source::Stream(number) => self.streams.happened(now, number, *what, &mut self.gateway),
                Source::Socket(number) => self.sockets.happened(number),
                Source::Forward(number) => self.forwards.happened(number),
            }
        }
    }
}
