//! Frames and offload requests that no network card hands in, to a switch whose ports come and go, with faults.
#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snowboot_network::{
    Accepts, Checksum, Frame, Impairment, Limits, Offload, Port, Segmentation, SegmentationKind, Switch,
};

const PORTS: usize = 3;
/// As small as they can be of use, so that all of them are reached.
const LIMITS: Limits = Limits {
    learned: 3,
    ageing: Duration::from_secs(3),
    queue_frames: 3,
    queue_bytes: 2_000,
    stalled_after: Duration::from_millis(100),
    patience: Duration::from_millis(400),
};
const KINDS: [SegmentationKind; 4] =
    [SegmentationKind::Tcp4, SegmentationKind::Tcp6, SegmentationKind::Udp, SegmentationKind::UdpSegment];
const ADDRESSES: u8 = 4;
/// The longest frame there is, by the switch's own limit, and some more.
const LENGTHS: usize = 66_000;

/// Something that happens.
#[derive(Arbitrary, Debug)]
enum Step {
    Send { port: u8, to: u8, from: u8, body: Vec<u8>, padding: u16, offload: Wanted },
    Receive(u8),
    Ready(u8, bool),
    Link(u8, bool),
    Accepts(u8, [bool; 5]),
    Impair { from: u8, to: u8, seed: u64, thousandths: [u16; 4], milliseconds: [u8; 3] },
    Partition(u8),
    Heal,
    Wait(u16),
}

/// What is left to do.
#[derive(Arbitrary, Debug)]
struct Wanted {
    checksum: Option<(u16, u16)>,
    data_valid: bool,
    cut: Option<(u8, bool, u16, u16)>,
}

impl Wanted {
    fn offload(&self) -> Offload {
        let segmentation = |(kind, ecn, size, header_length): (u8, bool, u16, u16)| Segmentation {
            kind: KINDS[usize::from(kind) % KINDS.len()],
            ecn,
            size,
            header_length,
        };
        Offload {
            checksum: self.checksum.map(|(start, offset)| Checksum { start, offset }),
            data_valid: self.data_valid,
            segmentation: self.cut.map(segmentation),
        }
    }
}

struct Network {
    switch: Switch,
    ports: Vec<Port>,
    now: Duration,
}

fuzz_target!(|steps: Vec<Step>| {
    let switch = Switch::with_limits(LIMITS);
    let ports: Vec<Port> = (0..PORTS).map(|number| switch.attach(&number.to_string())).collect();
    ports.iter().for_each(|port| port.set_ready(true));
    let mut network = Network { switch, ports, now: Duration::ZERO };
    steps.iter().for_each(|step| network.apply(step));
    network.settle();
});

impl Network {
    fn port(&self, port: u8) -> &Port {
        &self.ports[usize::from(port) % PORTS]
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Send { port, to, from, body, padding, offload } => {
                let mut bytes = [address(*to), address(*from)].concat();
                bytes.extend(body);
                let padded = bytes.len().saturating_add(usize::from(*padding)).min(LENGTHS);
                bytes.resize(padded.max(bytes.len()), 0);
                self.send(*port, Frame { bytes, offload: offload.offload() });
            }
            Step::Receive(port) => self.receive(*port),
            Step::Ready(port, ready) => self.port(*port).set_ready(*ready),
            Step::Link(port, up) => self.port(*port).set_link(*up),
            Step::Accepts(port, [checksum, tcp4, tcp6, ecn, udp_segments]) => {
                let (tcp4, tcp6, ecn, udp_segments) =
                    (*tcp4 && *checksum, *tcp6 && *checksum, *ecn && *checksum, *udp_segments && *checksum);
                self.port(*port).set_accepts(Accepts { checksum: *checksum, tcp4, tcp6, ecn, udp_segments });
            }
            Step::Impair { from, to, seed, thousandths, milliseconds } => {
                let [loss, duplicate, corrupt, reorder] = thousandths.map(|it| f64::from(it % 1001) / 1000.0);
                let [delay, jitter, reorder_by] = milliseconds.map(|it| Duration::from_millis(it.into()));
                let faults = Impairment {
                    seed: *seed,
                    loss,
                    duplicate,
                    corrupt,
                    reorder,
                    delay,
                    jitter,
                    reorder_by,
                    ..Impairment::default()
                };
                let names = [from, to].map(|port| (usize::from(*port) % PORTS).to_string());
                // What is out of range is refused.
                let _ = self.switch.impair(self.now, &names[0], &names[1], Some(faults));
            }
            Step::Partition(apart) => {
                let group = |side: bool| {
                    let there = (0..PORTS).filter(|port| (apart >> port & 1 == 1) == side);
                    there.map(|port| port.to_string()).collect::<Vec<_>>()
                };
                self.switch.partition(&[group(false), group(true)]);
            }
            Step::Heal => self.switch.heal(),
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(u64::from(*milliseconds));
                self.switch.advance(self.now);
            }
        }
    }

    /// Sends, coming back as told: that must end in time.
    fn send(&mut self, port: u8, frame: Frame) {
        let began = self.now;
        let mut frame = frame;
        while let Err(full) = self.port(port).send(self.now, frame) {
            assert!(
                full.retry_at > self.now && full.retry_at <= began + LIMITS.patience,
                "a wait without end"
            );
            self.now = full.retry_at;
            frame = full.frame;
        }
    }

    fn receive(&self, port: u8) {
        let Some(frame) = self.port(port).receive() else { return };
        let (length, offload) = (frame.bytes.len(), frame.offload);
        assert!(length <= LENGTHS, "a frame that is longer than any");
        if let Some(Checksum { start, offset }) = offload.checksum {
            assert!(usize::from(start) + usize::from(offset) + 2 <= length, "a checksum behind its frame");
        }
        if let Some(cut) = offload.segmentation {
            assert!(usize::from(cut.header_length) < length && cut.size > 0, "a frame that cannot be cut");
            assert!(offload.checksum.is_some(), "cut, but without a checksum");
        }
    }

    /// Takes all that is there, and checks that each frame was delivered or counted.
    fn settle(&mut self) {
        self.switch.heal();
        self.switch.advance(Duration::MAX);
        for port in &self.ports {
            while port.receive().is_some() {}
        }
        let (mut copies, mut settled) = (0, u64::try_from(self.switch.in_flight()).expect("few"));
        for (name, it) in self.switch.counters() {
            assert_eq!(it.sent, it.forwarded + it.refused.total(), "{name}: {it:?}");
            assert_eq!(it.arrived, it.received + it.lost.flushed + it.lost.unfinished, "{name}: {it:?}");
            copies += it.copies + it.added;
            settled += it.arrived + it.lost.full + it.lost.link_down + it.lost.faults;
        }
        assert_eq!(copies, settled, "{:?}", self.switch.counters());
    }
}

/// One of a few addresses, of a group, or of all.
fn address(number: u8) -> [u8; 6] {
    match number % (ADDRESSES + 2) {
        ADDRESSES => [0xff; 6],
        number if number > ADDRESSES => [1, 0, 0x5e, 0, 0, number],
        number => [0x52, 0x54, 0, 0x12, 1, number],
    }
}
