//! What peers of uplinks say that no peer says, through the parsers and a switch.

use std::time::Duration;

use proptest::prelude::*;
use snowboot_devices::net::{HEADER_LENGTH, parse_header};
use snowboot_network::{Accepts, Frame, Port, Station, Switch, Table};
use snowboot_uplink::{vde, vxlan};

/// Stations that a table has room for.
const LEARNED: usize = 4;
const VNI: u32 = 42;

proptest! {
    #[test]
    fn whatever_peers_say_nothing_panics(
        said in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
    ) {
        tell(said);
    }
}

fn tell(said: Vec<(u8, Vec<u8>)>) {
    let switch = Switch::new();
    let (from, to) = (switch.attach("from"), switch.attach("to"));
    to.set_ready(true);
    let mut stations = Table::default();
    for (time, (kind, bytes)) in (0u64..).zip(said) {
        let now = Duration::from_millis(time);
        match kind % 4 {
            0 => {
                // Half of them with a header that is right, which the fuzzer would find late.
                let datagram = if kind < 128 { [&vxlan::header(VNI)[..], &bytes].concat() } else { bytes };
                if let Ok(frame) = vxlan::frame_of(&datagram, VNI) {
                    let (_, sender) = Station::of(frame).expect("a frame has addresses");
                    stations.learn(sender, usize::from(kind), now, LEARNED);
                    carry(&from, &to, now, Frame::new(frame.to_vec()));
                }
            }
            1 => {
                if let Ok(path) = vde::answered_address(&bytes) {
                    assert!(!path.as_os_str().is_empty());
                }
            }
            2 => carry(&from, &to, now, Frame::new(bytes)),
            _ => {
                if let Some((header, frame)) = bytes.split_first_chunk::<HEADER_LENGTH>()
                    && let Some(offload) = parse_header(*header, u64::MAX)
                {
                    to.set_accepts(if kind < 128 { Accepts::default() } else { all() });
                    carry(&from, &to, now, Frame { bytes: frame.to_vec(), offload });
                }
            }
        }
    }
}

/// A frame that is taken arrives, if any of it does.
fn carry(from: &Port, to: &Port, now: Duration, frame: Frame) {
    from.send(now, frame).expect("the receiver's queue is empty");
    while let Some(frame) = to.receive() {
        assert!(Station::of(&frame.bytes).is_some());
    }
}

fn all() -> Accepts {
    Accepts { checksum: true, tcp4: true, tcp6: true, ecn: true, udp_segments: true }
}
