//! Random use: the counters always add up, queues keep their bounds, and no wait is without end.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::{address, balanced};
use crate::{
    Accepts, Burst, Checksum, Counters, Flap, Frame, Full, Impairment, Limits, Offload, Port, Segmentation,
    SegmentationKind, Switch,
};

const PORTS: usize = 4;
const LIMITS: Limits = Limits {
    learned: 3,
    ageing: Duration::from_secs(3),
    queue_frames: 3,
    queue_bytes: 2_000,
    stalled_after: Duration::from_millis(100),
    patience: Duration::from_millis(400),
};

#[derive(Clone, Debug)]
enum Step {
    Send { port: usize, to: u8, from: u8, length: usize, offload: Offload },
    Receive { port: usize },
    Ready { port: usize, ready: bool },
    Link { port: usize, up: bool },
    Accepts { port: usize, checksum: bool },
    Replug { port: usize },
    Wait { milliseconds: u64 },
    Impair { from: usize, to: usize, impairment: Option<Impairment> },
    Partition { apart: [bool; PORTS] },
    Heal,
    Advance,
}

fn offload() -> impl Strategy<Value = Offload> {
    let checksum = prop::option::of((0..80u16, 0..20u16))
        .prop_map(|pair| pair.map(|(start, offset)| Checksum { start, offset }));
    let kind = prop_oneof![
        Just(SegmentationKind::Tcp4),
        Just(SegmentationKind::Tcp6),
        Just(SegmentationKind::Udp),
        Just(SegmentationKind::UdpSegment),
    ];
    let segmentation =
        prop::option::of((kind, any::<bool>(), any::<u16>(), any::<u16>())).prop_map(|parts| {
            parts.map(|(kind, ecn, size, header_length)| Segmentation { kind, ecn, size, header_length })
        });
    (checksum, any::<bool>(), segmentation).prop_map(|(checksum, data_valid, segmentation)| Offload {
        checksum,
        data_valid,
        segmentation,
    })
}

fn impairment() -> impl Strategy<Value = Impairment> {
    let chance = || prop_oneof![Just(0.0), 0.0..=1.0f64];
    let time = || prop_oneof![Just(Duration::ZERO), (1..500u64).prop_map(Duration::from_millis)];
    let chances = (chance(), chance(), chance(), chance(), prop::option::of((chance(), chance(), chance())));
    let times = (time(), time(), time(), prop::option::of((1..90u64, 1..90u64)));
    let queue = (prop::option::of(1000..1_000_000u64), 0..5000usize);
    (any::<(u64, bool)>(), chances, times, queue).prop_map(|((seed, cut), chances, times, (rate, queue))| {
        let (loss, duplicate, corrupt, reorder, burst) = chances;
        let (delay, jitter, reorder_by, flap) = times;
        let flap =
            flap.map(|(up, down)| Flap { up: Duration::from_millis(up), down: Duration::from_millis(down) });
        let burst = burst.map(|(enter, leave, loss)| Burst { enter, leave, loss });
        Impairment {
            seed,
            cut,
            flap,
            loss,
            burst,
            duplicate,
            corrupt,
            rate,
            queue,
            delay,
            jitter,
            reorder,
            reorder_by,
            ..Impairment::default()
        }
    })
}

fn fault() -> impl Strategy<Value = Step> {
    let port = 0..PORTS;
    prop_oneof![
        3 => (port.clone(), port, prop::option::of(impairment()))
            .prop_map(|(from, to, impairment)| Step::Impair { from, to, impairment }),
        1 => any::<[bool; PORTS]>().prop_map(|apart| Step::Partition { apart }),
        1 => Just(Step::Heal),
        4 => Just(Step::Advance),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let port = 0..PORTS;
    let length =
        prop_oneof![8 => 18..200usize, 2 => 18..3000usize, 1 => 0..18usize, 1 => 65_500..65_600usize];
    let offload = prop_oneof![4 => Just(Offload::default()), 1 => offload()];
    prop_oneof![
        12 => (port.clone(), 0..8u8, 0..6u8, length, offload)
            .prop_map(|(port, to, from, length, offload)| Step::Send { port, to, from, length, offload }),
        6 => port.clone().prop_map(|port| Step::Receive { port }),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, ready)| Step::Ready { port, ready }),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, up)| Step::Link { port, up }),
        1 => (port.clone(), any::<bool>()).prop_map(|(port, checksum)| Step::Accepts { port, checksum }),
        1 => port.prop_map(|port| Step::Replug { port }),
        2 => (0..2000u64).prop_map(|milliseconds| Step::Wait { milliseconds }),
    ]
}

struct Network {
    switch: Switch,
    ports: Vec<Port>,
    now: Duration,
    sequence: u32,
    /// Frames queued at each port as the test reckons, from what its counters say.
    gone: Vec<(Counters, usize)>,
    /// The last number that each port had from each other.
    last: HashMap<(usize, u8), u32>,
    /// Whether there were faults, which may change the order of frames.
    faulty: bool,
}

impl Network {
    fn new() -> Self {
        let switch = Switch::with_limits(LIMITS);
        let ports = super::ports(&switch, PORTS);
        Self {
            switch,
            ports,
            now: Duration::ZERO,
            sequence: 0,
            gone: Vec::new(),
            last: HashMap::new(),
            faulty: false,
        }
    }

    fn queued(&self, port: usize) -> usize {
        let counters = self.ports[port].counters();
        let left = counters.arrived - counters.received - counters.lost.flushed - counters.lost.unfinished;
        usize::try_from(left).unwrap()
    }

    /// A frame that names the port it is sent through, and its number, where no offload overwrites them.
    fn frame(&mut self, port: usize, addresses: (u8, u8), length: usize, offload: Offload) -> Frame {
        self.sequence += 1;
        let kind = if offload == Offload::default() { 0xb5 } else { 0xb6 };
        let to = if addresses.0 == 7 { super::BROADCAST } else { address(addresses.0) };
        let head = [&to[..], &address(addresses.1), &[0x88, kind]].concat();
        let mark = (u32::try_from(port).unwrap() << 24 | self.sequence).to_be_bytes();
        let mut bytes = [&head[..], &mark].concat();
        bytes.resize(length, 0);
        Frame { bytes, offload }
    }

    /// Sends, coming back as told when refused: that must end in time.
    fn send(&mut self, port: usize, frame: Frame) -> Result<(), TestCaseError> {
        let began = self.now;
        let mut frame = frame;
        while let Err(Full { frame: back, retry_at }) = self.ports[port].send(self.now, frame) {
            prop_assert!(retry_at > self.now);
            prop_assert!(retry_at <= began + LIMITS.patience);
            self.now = retry_at;
            frame = back;
        }
        Ok(())
    }

    fn receive(&mut self, port: usize) -> Result<(), TestCaseError> {
        let Some(frame) = self.ports[port].receive() else {
            prop_assert_eq!(self.queued(port), 0);
            return Ok(());
        };
        let Some(mark) = frame.bytes.get(14..18) else { return Ok(()) };
        if frame.bytes[12..14] == [0x88, 0xb5] {
            prop_assert!(self.faulty || usize::from(mark[0]) != port, "a frame came back to its sender");
            let number = u32::from_be_bytes([0, mark[1], mark[2], mark[3]]);
            let last = self.last.insert((port, mark[0]), number);
            prop_assert!(self.faulty || last.is_none_or(|last| last < number), "reordered or doubled");
        }
        Ok(())
    }

    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Send { port, to, from, length, offload } => {
                let frame = self.frame(port, (to, from), length, offload);
                self.send(port, frame)?;
            }
            Step::Receive { port } => self.receive(port)?,
            Step::Ready { port, ready } => self.ports[port].set_ready(ready),
            Step::Link { port, up } => self.ports[port].set_link(up),
            Step::Accepts { port, checksum } => {
                self.ports[port].set_accepts(Accepts { checksum, ..Accepts::default() });
            }
            Step::Replug { port } => {
                // What is under way to a port that goes is nobody's.
                self.switch.heal();
                self.switch.advance(Duration::MAX);
                self.gone.push((self.ports[port].counters(), self.queued(port)));
                self.ports[port] = self.switch.attach(&format!("port {port}"));
                self.ports[port].set_ready(true);
            }
            Step::Impair { from, to, impairment } => {
                self.faulty = true;
                let names = [from, to].map(|port| format!("port {port}"));
                self.switch.impair(self.now, &names[0], &names[1], impairment).unwrap();
            }
            Step::Partition { apart } => {
                self.faulty = true;
                let group = |side| {
                    (0..PORTS)
                        .filter(|port| apart[*port] == side)
                        .map(|port| format!("port {port}"))
                        .collect()
                };
                self.switch.partition(&[group(false), group(true)]);
            }
            Step::Heal => self.switch.heal(),
            Step::Advance => self.switch.advance(self.now),
            Step::Wait { milliseconds } => self.now += Duration::from_millis(milliseconds),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut all = self.gone.clone();
        for (port, end) in self.ports.iter().enumerate() {
            prop_assert!(self.queued(port) <= LIMITS.queue_frames);
            prop_assert!(end.waiting() || self.queued(port) == 0);
            all.push((end.counters(), self.queued(port)));
        }
        balanced(&all, self.switch.in_flight()).map_err(TestCaseError::fail)
    }
}

proptest! {
    #[test]
    fn with_faults_too(steps in prop::collection::vec(prop_oneof![4 => step(), 1 => fault()], 1..200)) {
        let mut network = Network::new();
        for step in steps {
            network.apply(step)?;
            network.check()?;
        }
        network.switch.advance(Duration::MAX);
        prop_assert_eq!((network.switch.in_flight(), network.switch.deadline()), (0, None));
    }

    #[test]
    fn whatever_happens_every_frame_is_accounted_for(steps in prop::collection::vec(step(), 1..200)) {
        let mut network = Network::new();
        for step in steps {
            network.apply(step)?;
            network.check()?;
        }
    }
}
