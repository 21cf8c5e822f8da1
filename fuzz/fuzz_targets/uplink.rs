//! What peers of uplinks say that no peer says: datagrams for an end of VXLAN, answers and frames of a `vde_switch`, packets of a
//! TAP interface. What the parsers make of it goes through the tables and a switch with two guests.
#![no_main]

use std::collections::HashSet;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snowboot_devices::net::{HEADER_LENGTH, parse_header};
use snowboot_network::{Accepts, Frame, Limits, Port, Station, Switch, Table};
use snowboot_uplink::{vde, vxlan};

const VNI: u32 = 42;
const PEERS: u8 = 3;
/// As few as can be of use, so that tables are full soon.
const LEARNED: usize = 3;
const AGEING: Duration = Duration::from_secs(300);
const LIMITS: Limits = Limits {
    learned: LEARNED,
    ageing: AGEING,
    queue_frames: 3,
    queue_bytes: 2_000,
    stalled_after: Duration::from_millis(100),
    patience: Duration::from_millis(400),
};
/// `struct sockaddr_un`, as a `vde_switch` answers with it.
const VDE_ANSWER: usize = 110;
const LONGEST_FRAME: usize = 65_535 + 14 + 8;

/// Something that comes in, or that happens here.
#[derive(Arbitrary, Debug)]
enum Step {
    /// Any datagram, from one of the peers.
    Datagram {
        peer: u8,
        bytes: Vec<u8>,
    },
    /// One with a header that is nearly right.
    Tunnelled {
        peer: u8,
        flip: Option<(u8, u8)>,
        to: u8,
        from: u8,
        body: Vec<u8>,
    },
    /// What a `vde_switch` says before its first frame.
    VdeAnswer(Vec<u8>),
    /// The same with a path in it, and something changed.
    VdePath {
        path: Vec<u8>,
        flip: Option<(u8, u8)>,
    },
    /// A frame of a `vde_switch`, which is a datagram.
    Frame {
        to: u8,
        from: u8,
        body: Vec<u8>,
        padding: u16,
    },
    /// A packet of a TAP interface: a header that says what is left to do, and a frame.
    Packet {
        bytes: Vec<u8>,
        takes_all: bool,
    },
    /// A guest says something, so that it is known.
    Guest {
        number: bool,
        to: u8,
        from: u8,
    },
    /// A guest takes what is there.
    Take(bool),
    Wait(u16),
}

struct Network {
    switch: Switch,
    uplink: Port,
    guests: [Port; 2],
    stations: Table<u8>,
    /// All that any peer ever said it was.
    seen: HashSet<Station>,
    now: Duration,
}

fuzz_target!(|steps: Vec<Step>| {
    let switch = Switch::with_limits(LIMITS);
    let uplink = switch.attach("uplink");
    let guests = ["one", "other"].map(|name| switch.attach(name));
    guests.iter().chain([&uplink]).for_each(|port| port.set_ready(true));
    let (stations, seen) = (Table::default(), HashSet::new());
    let mut network = Network { switch, uplink, guests, stations, seen, now: Duration::ZERO };
    steps.iter().for_each(|step| network.apply(step));
    network.settle();
});

impl Network {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Datagram { peer, bytes } => self.tunnelled(*peer, bytes),
            Step::Tunnelled { peer, flip, to, from, body } => {
                let mut bytes = [&vxlan::header(VNI)[..], &address(*to), &address(*from), body].concat();
                damage(&mut bytes, *flip);
                self.tunnelled(*peer, &bytes);
            }
            Step::VdeAnswer(bytes) => self.vde_answer(bytes),
            Step::VdePath { path, flip } => {
                let mut bytes = [&1u16.to_ne_bytes()[..], path].concat();
                bytes.resize(VDE_ANSWER, 0);
                damage(&mut bytes, *flip);
                self.vde_answer(&bytes);
            }
            Step::Frame { to, from, body, padding } => {
                let mut bytes = [&address(*to)[..], &address(*from), body].concat();
                bytes.resize(bytes.len() + usize::from(*padding), 0);
                self.carry(Frame::new(bytes));
            }
            Step::Packet { bytes, takes_all } => {
                self.guests.iter().for_each(|guest| guest.set_accepts(accepts(*takes_all)));
                if let Some((header, frame)) = bytes.split_first_chunk::<HEADER_LENGTH>()
                    && let Some(offload) = parse_header(*header, u64::MAX)
                {
                    self.carry(Frame { bytes: frame.to_vec(), offload });
                }
            }
            Step::Guest { number, to, from } => {
                let bytes = [&address(*to)[..], &address(*from), &[0x88, 0xb5]].concat();
                // A guest that has to wait gives up here.
                let _ = self.guests[usize::from(*number)].send(self.now, Frame::new(bytes));
                while let Some(frame) = self.uplink.receive() {
                    check(&frame);
                    // Whom a tunnel sends it to: a peer that there is, or all.
                    let (to, _) = Station::of(&frame.bytes).expect("a frame has addresses");
                    assert!(self.stations.find(to, self.now, AGEING).is_none_or(|peer| peer < PEERS));
                }
            }
            Step::Take(number) => self.take(usize::from(*number)),
            Step::Wait(milliseconds) => self.now += Duration::from_millis(u64::from(*milliseconds) * 8),
        }
    }

    fn tunnelled(&mut self, peer: u8, datagram: &[u8]) {
        let Ok(frame) = vxlan::frame_of(datagram, VNI) else { return };
        assert!(datagram.ends_with(frame) && frame.len() >= 14, "a frame that was not said");
        let (_, sender) = Station::of(frame).expect("a frame has addresses");
        self.stations.learn(sender, peer % PEERS, self.now, LEARNED);
        self.seen.insert(sender);
        self.carry(Frame::new(frame.to_vec()));
        let known =
            self.seen.iter().filter(|it| self.stations.find(**it, self.now, AGEING) == Some(peer % PEERS));
        assert!(known.count() <= LEARNED, "more stations than a peer may have");
    }

    fn vde_answer(&self, answer: &[u8]) {
        if let Ok(path) = vde::answered_address(answer) {
            assert!(
                !path.as_os_str().is_empty() && path.as_os_str().len() <= answer.len() - 2,
                "a path from nowhere"
            );
        }
    }

    /// As an uplink does it: what the switch has no room for is tried again, which must end in time.
    fn carry(&mut self, frame: Frame) {
        let began = self.now;
        let mut frame = frame;
        while let Err(full) = self.uplink.send(self.now, frame) {
            assert!(
                full.retry_at > self.now && full.retry_at <= began + LIMITS.patience,
                "a wait without end"
            );
            self.now = full.retry_at;
            frame = full.frame;
        }
    }

    fn take(&self, number: usize) {
        while let Some(frame) = self.guests[number].receive() {
            check(&frame);
        }
    }

    /// Takes all that is there, and checks that each frame was delivered or counted.
    fn settle(&self) {
        (0..2).for_each(|number| self.take(number));
        let (mut copies, mut settled) = (0, 0);
        for (name, it) in self.switch.counters() {
            assert_eq!(it.sent, it.forwarded + it.refused.total(), "{name}: {it:?}");
            copies += it.copies;
            settled += it.arrived + it.lost.full + it.lost.link_down;
        }
        assert_eq!(copies, settled, "{:?}", self.switch.counters());
    }
}

fn check(frame: &Frame) {
    assert!(Station::of(&frame.bytes).is_some() && frame.bytes.len() <= LONGEST_FRAME, "no frame");
    if let Some(checksum) = frame.offload.checksum {
        let end = usize::from(checksum.start) + usize::from(checksum.offset) + 2;
        assert!(end <= frame.bytes.len(), "a checksum behind its frame");
    }
}

fn damage(bytes: &mut [u8], flip: Option<(u8, u8)>) {
    if let Some((at, value)) = flip
        && let Some(byte) = bytes.get_mut(usize::from(at))
    {
        *byte ^= value;
    }
}

/// One of a few stations, of a group, or of all.
fn address(number: u8) -> [u8; 6] {
    match number % 8 {
        6 => [0xff; 6],
        7 => [1, 0, 0x5e, 0, 0, number],
        number => [0x52, 0x54, 0, 0x12, 1, number],
    }
}

fn accepts(all: bool) -> Accepts {
    Accepts { checksum: all, tcp4: all, tcp6: all, ecn: all, udp_segments: all }
}
