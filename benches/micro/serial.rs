//! The serial port: a line of a kernel's log, byte by byte, with a look at the status before each as Linux takes it.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use snowboot_bus::{BusDevice, IrqLine};
use snowboot_devices::serial::Serial;

const LINE: &[u8] = b"[    0.000000] Command line: console=ttyS0 reboot=t panic=1 root=/dev/vda ro quiet\r\n";
/// The transmitter's data, and the line status.
const DATA: u64 = 0;
const STATUS: u64 = 5;

#[derive(Debug)]
struct NoLine;

impl IrqLine for NoLine {
    fn trigger(&self) {}
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("serial");
    group.throughput(Throughput::Bytes(u64::try_from(LINE.len()).expect("a short line")));
    let (mut serial, _input) = Serial::new(Arc::new(NoLine), Box::new(std::io::sink()));
    group.bench_function("line", |bencher| {
        bencher.iter(|| {
            for byte in LINE {
                let mut status = [0];
                serial.read(STATUS, &mut status);
                black_box(status);
                let _ = serial.write(DATA, &[black_box(*byte)]);
            }
        });
    });
    group.finish();
}
