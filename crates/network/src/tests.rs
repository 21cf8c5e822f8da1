//! Tests of the switch through its public interface.

mod faults;
mod hammer;
mod hostile;
mod offload;
mod patience;
mod properties;
mod replay;
mod switching;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::{Counters, Frame, Port, Switch};

pub(crate) const START: Duration = Duration::ZERO;
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

/// The address of station number `last`.
pub(crate) fn address(last: u8) -> [u8; 6] {
    [0x52, 0x54, 0x00, 0x12, 0x01, last]
}

/// A frame of an experimental type (IEEE 802, 88b5).
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], payload: &[u8]) -> Frame {
    Frame::new([&to[..], &from, &[0x88, 0xb5], payload].concat())
}

/// `count` ready ports.
pub(crate) fn ports(switch: &Switch, count: usize) -> Vec<Port> {
    let port = |number| {
        let port = switch.attach(&format!("port {number}"));
        port.set_ready(true);
        port
    };
    (0..count).map(port).collect()
}

/// Makes the address of station `number` known behind `ports[number]`, for all of them.
pub(crate) fn introduce(ports: &[Port], now: Duration) {
    for (number, port) in ports.iter().enumerate() {
        let from = address(u8::try_from(number).unwrap());
        port.send(now, frame(BROADCAST, from, b"hello")).unwrap();
    }
    for port in ports {
        while port.receive().is_some() {}
    }
}

/// Everything that waits at the port.
pub(crate) fn drain(port: &Port) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| port.receive()).map(|frame| frame.bytes).collect()
}

/// Counts how often the port's owner is woken.
fn bell(port: &Port) -> Arc<AtomicUsize> {
    let rung = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&rung);
    port.set_waker(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    rung
}

fn rung(bell: &AtomicUsize) -> usize {
    bell.swap(0, Ordering::SeqCst)
}

/// What [`Counters`] promises to add up, for all ports that were ever attached, with what still waits at each, and what is
/// under way.
fn balanced(all: &[(Counters, usize)], in_flight: usize) -> Result<(), String> {
    let mut copies = 0;
    let mut settled = u64::try_from(in_flight).unwrap();
    for (counters, queued) in all {
        if counters.sent != counters.forwarded + counters.refused.total() {
            return Err(format!("sent: {counters:?}"));
        }
        let gone = counters.received + counters.lost.flushed + counters.lost.unfinished;
        if counters.arrived != gone + u64::try_from(*queued).unwrap() {
            return Err(format!("arrived, with {queued} waiting: {counters:?}"));
        }
        copies += counters.copies + counters.added;
        settled += counters.arrived + counters.lost.full + counters.lost.link_down + counters.lost.faults;
    }
    if copies == settled { Ok(()) } else { Err(format!("{copies} copies, {settled} settled: {all:?}")) }
}
