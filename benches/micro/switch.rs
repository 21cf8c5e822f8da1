//! The switch: a frame from one port to another, or to all others.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use snowboot_network::{CaptureLimits, Frame, Port, Switch};

/// From the shortest frame to the longest that a guest sends uncut.
const LENGTHS: [usize; 3] = [64, 1500, 65_536];
const PORTS: [u8; 2] = [2, 32];

/// A switch that has learnt an address behind each of its ports.
struct Bench {
    switch: Switch,
    ports: Vec<Port>,
}

fn address(port: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0x12, 1, port]
}

fn frame(to: [u8; 6], from: u8, length: usize) -> Frame {
    let mut bytes = [to, address(from)].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.resize(length, 0);
    Frame::new(bytes)
}

impl Bench {
    fn new(ports: u8) -> Self {
        let switch = Switch::new();
        let ports: Vec<Port> = (0..ports).map(|number| switch.attach(&number.to_string())).collect();
        let bench = Self { switch, ports };
        for (number, port) in (0..).zip(&bench.ports) {
            port.set_ready(true);
            port.send(Duration::ZERO, frame([0xff; 6], number, 64)).expect("nobody is behind");
            bench.receive();
        }
        bench
    }

    /// Takes all that waits; returns how many frames that was.
    fn receive(&self) -> usize {
        self.ports.iter().map(|port| std::iter::from_fn(|| port.receive()).map(black_box).count()).sum()
    }

    /// One frame from port 0 to port 1, with its bytes copied as a network card does.
    fn unicast(&self, frame: &Frame) {
        let [from, to, ..] = self.ports.as_slice() else { unreachable!("there are two ports") };
        from.send(Duration::ZERO, frame.clone()).expect("it has been taken");
        black_box(to.receive()).expect("the address has been learnt");
    }

    /// One frame from port 0 to all others.
    fn broadcast(&self, frame: &Frame) {
        let [from, others @ ..] = self.ports.as_slice() else { unreachable!("there are two ports") };
        from.send(Duration::ZERO, frame.clone()).expect("it has been taken");
        for port in others {
            black_box(port.receive()).expect("it is for everybody");
        }
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch");
    for ports in PORTS {
        for length in LENGTHS {
            let bench = Bench::new(ports);
            let parameter = format!("{ports}-ports/{length}");
            group.throughput(Throughput::Bytes(u64::try_from(length).expect("a short frame")));
            let unicast = frame(address(1), 0, length);
            group.bench_function(BenchmarkId::new("unicast", &parameter), |bencher| {
                bencher.iter(|| bench.unicast(&unicast));
            });
            let kept = bench.switch.capture(CaptureLimits::ring(), Duration::ZERO);
            group.bench_function(BenchmarkId::new("unicast-kept", &parameter), |bencher| {
                bencher.iter(|| bench.unicast(&unicast));
            });
            drop(kept);
            let broadcast = frame([0xff; 6], 0, length);
            group.bench_function(BenchmarkId::new("broadcast", &parameter), |bencher| {
                bencher.iter(|| bench.broadcast(&broadcast));
            });
        }
    }
    group.finish();
}
