//! Who gets a frame.

use std::time::Duration;

use super::{BROADCAST, START, address, bell, drain, frame, introduce, ports, rung};
use crate::{Checksum, Frame, Limits, Offload, Port, Switch};

#[test]
fn unknown_addresses_are_flooded_and_learnt_ones_are_not() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    ports[0].send(START, frame(address(1), address(0), b"who?")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 1]);
    ports[1].send(START, frame(address(0), address(1), b"me")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [1, 0, 0]);
    ports[0].send(START, frame(address(1), address(0), b"good")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn group_addresses_are_flooded_even_reserved_ones() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    let slow_protocols = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x02];
    let neighbours = [0x33, 0x33, 0, 0, 0, 1];
    for to in [BROADCAST, slow_protocols, neighbours] {
        ports[2].send(START, frame(to, address(2), b"all")).unwrap();
        assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [1, 1, 0], "{to:?}");
    }
}

#[test]
fn a_group_source_is_not_learnt() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    ports[0].send(START, frame(address(1), BROADCAST, b"")).unwrap();
    ports[1].send(START, frame(BROADCAST, address(1), b"")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [1, 1, 2]);
}

#[test]
fn nothing_leaves_where_it_came_from() {
    let switch = Switch::new();
    let ports = ports(&switch, 2);
    introduce(&ports, START);
    // Two stations behind one port, such as a guest that bridges, speaking with each other.
    ports[0].send(START, frame(BROADCAST, address(7), b"")).unwrap();
    drain(&ports[1]);
    ports[0].send(START, frame(address(7), address(0), b"")).unwrap();
    assert!(ports.iter().all(|port| drain(port).is_empty()));
    assert_eq!(ports[0].counters().refused.nowhere, 1);
    let alone = Switch::new().attach("alone");
    alone.send(START, frame(BROADCAST, address(0), b"")).unwrap();
    assert_eq!(alone.counters().refused.nowhere, 1);
}

#[test]
fn a_station_that_moves_is_found_again() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    ports[2].send(START, frame(BROADCAST, address(1), b"moved")).unwrap();
    ports.iter().for_each(|port| drop(drain(port)));
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 0, 1]);
}

#[test]
fn addresses_age_and_frames_refresh_them() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    let minutes = |number: u64| Duration::from_secs(60 * number);
    ports[1].send(minutes(4), frame(address(2), address(1), b"")).unwrap();
    drain(&ports[2]);
    ports[0].send(minutes(6), frame(address(1), address(0), b"known")).unwrap();
    ports[0].send(minutes(6), frame(address(2), address(0), b"aged")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 2, 1]);
}

#[test]
fn made_up_addresses_push_out_only_their_own_ports() {
    let switch = Switch::with_limits(Limits { learned: 4, ..Limits::default() });
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    for last in 100..200 {
        ports[2].send(START, frame(address(0), address(last), b"")).unwrap();
    }
    drain(&ports[0]);
    ports[0].send(START, frame(address(1), address(0), b"still known")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 0]);
    ports[0].send(START, frame(address(2), address(0), b"pushed out")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn at_a_hub_everybody_sees_what_others_say_to_each_other() {
    let switch = Switch::with_limits(Limits::hub());
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    ports[0].send(START, frame(address(1), address(0), b"question")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 1]);
    ports[1].send(START, frame(address(0), address(1), b"answer")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [1, 0, 1]);
    // Also what a station behind its own port hears.
    ports[0].send(START, frame(address(0), address(7), b"")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn a_hub_fills_whole_queues_and_makes_a_sender_wait_for_a_single_receiver() {
    let limits = Limits { queue_frames: 4, ..Limits::hub() };
    let send = |port: &Port| port.send(START, frame(address(1), address(0), b""));
    for count in [2, 3] {
        let switch = Switch::with_limits(limits);
        let ports = ports(&switch, count);
        introduce(&ports, START);
        for _ in 0..4 {
            send(&ports[0]).unwrap();
        }
        assert_eq!(send(&ports[0]).is_err(), count == 2);
        assert_eq!(ports[1].counters().lost.full, u64::from(count == 3));
        assert_eq!(drain(&ports[1]).len(), 4);
    }
}

#[test]
fn tags_pass_untouched() {
    let switch = Switch::new();
    let ports = ports(&switch, 2);
    introduce(&ports, START);
    let one: &[u8] = &[0x81, 0x00, 0x20, 0x05, 0x08, 0x00, 1, 2, 3];
    let two: &[u8] = &[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x05, 0x86, 0xdd, 4, 5];
    for tagged in [one, two] {
        let bytes = [&address(1)[..], &address(0), tagged].concat();
        ports[0].send(START, Frame::new(bytes.clone())).unwrap();
        assert_eq!(drain(&ports[1]), [bytes]);
    }
}

/// A frame of an experimental type behind a tag.
fn tagged(kind: u16, number: u16, to: [u8; 6], from: [u8; 6]) -> Frame {
    let tag = [kind.to_be_bytes(), number.to_be_bytes()].concat();
    Frame::new([&to[..], &from, &tag, &[0x88, 0xb5]].concat())
}

#[test]
fn a_guest_that_bridges_two_vlans_over_one_card_does_not_take_the_others_addresses() {
    for kind in [0x8100, 0x88a8] {
        let switch = Switch::new();
        let ports = ports(&switch, 3);
        let [station, peer, bridge] = &ports[..] else { panic!("there are three") };
        station.send(START, tagged(kind, 10, BROADCAST, address(0))).unwrap();
        bridge.send(START, tagged(kind, 20, BROADCAST, address(0))).unwrap();
        ports.iter().for_each(|port| drop(drain(port)));
        peer.send(START, tagged(kind, 10, address(0), address(1))).unwrap();
        assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [1, 0, 0]);
        peer.send(START, tagged(kind, 20, address(0), address(1))).unwrap();
        assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 0, 1]);
        // What it bridges back is not for a station behind its own port.
        bridge.send(START, tagged(kind, 10, address(0), address(1))).unwrap();
        assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [1, 0, 0]);
    }
}

#[test]
fn a_tag_that_only_carries_a_priority_is_none() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    ports[0].send(START, tagged(0x8100, 0xe000, address(1), address(0))).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 0]);
    // Drop-eligible and urgent, but in the same VLAN.
    ports[1].send(START, tagged(0x8100, 0x0005, BROADCAST, address(1))).unwrap();
    ports.iter().for_each(|port| drop(drain(port)));
    ports[0].send(START, tagged(0x8100, 0xf005, address(1), address(0))).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn two_ports_of_one_machine_are_two_stations() {
    let switch = Switch::new();
    let first = switch.attach("machine");
    let second = switch.attach("machine");
    first.send(START, frame(BROADCAST, address(1), b"")).unwrap();
    second.send(START, frame(address(1), address(2), b"")).unwrap();
    assert_eq!((drain(&first).len(), drain(&second).len()), (1, 1));
    let names: Vec<_> = switch.counters().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["machine", "machine"]);
}

#[test]
fn lengths_are_bounded() {
    let switch = Switch::new();
    let ports = ports(&switch, 2);
    let longest = 65_535 + 14 + 8;
    for (length, passes) in [(0, false), (13, false), (14, true), (longest, true), (longest + 1, false)] {
        let mut sent = frame(address(1), address(0), &[]);
        sent.bytes.resize(length, 0);
        ports[0].send(START, sent).unwrap();
        assert_eq!(drain(&ports[1]).len(), usize::from(passes), "{length} bytes");
    }
    assert_eq!(ports[0].counters().refused.length, 3);
    assert_eq!(ports[0].counters().forwarded_bytes, 14 + u64::try_from(longest).unwrap());
}

#[test]
fn an_unicast_frame_is_moved_not_copied() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    let sent = frame(address(1), address(0), &[7; 1000]);
    let place = sent.bytes.as_ptr();
    ports[0].send(START, sent).unwrap();
    assert_eq!(ports[1].receive().unwrap().bytes.as_ptr(), place);
}

#[test]
fn a_flooded_frame_is_copied_by_whoever_takes_it_but_the_last() {
    let switch = Switch::new();
    let ports = ports(&switch, 4);
    let sent = frame(BROADCAST, address(0), &[7; 1000]);
    let (bytes, place) = (sent.bytes.clone(), sent.bytes.as_ptr());
    ports[0].send(START, sent).unwrap();
    ports[3].set_ready(false);
    let second = ports[2].receive().unwrap();
    let first = ports[1].receive().unwrap();
    assert_eq!((&first.bytes, &second.bytes), (&bytes, &bytes));
    assert_eq!(first.bytes.as_ptr(), place);
}

#[test]
fn a_link_that_is_down_passes_nothing_either_way() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    introduce(&ports, START);
    ports[2].send(START, frame(address(1), address(2), b"queued")).unwrap();
    ports[1].set_link(false);
    assert!(!ports[1].link());
    assert!(!ports[1].waiting());
    ports[1].send(START, frame(BROADCAST, address(1), b"")).unwrap();
    ports[0].send(START, frame(BROADCAST, address(0), b"")).unwrap();
    assert_eq!(ports.iter().map(|port| drain(port).len()).collect::<Vec<_>>(), [0, 0, 1]);
    let counters = ports[1].counters();
    assert_eq!((counters.refused.link_down, counters.lost.link_down, counters.lost.flushed), (1, 1, 1));
    // Its station may be reached elsewhere now, so it is looked for.
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    assert_eq!(drain(&ports[2]).len(), 1);
    ports[1].set_link(true);
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    assert_eq!(drain(&ports[1]).len(), 1);
}

#[test]
fn an_owner_that_is_not_ready_gets_what_fits_and_loses_it_with_its_driver() {
    let switch = Switch::with_limits(Limits { queue_frames: 3, ..Limits::default() });
    let sender = switch.attach("sender");
    let receiver = switch.attach("receiver");
    for _ in 0..5 {
        sender.send(START, frame(address(1), address(0), b"")).unwrap();
    }
    assert_eq!(receiver.counters().lost.full, 2);
    receiver.set_ready(true);
    assert_eq!(drain(&receiver).len(), 3);
    sender.send(START, frame(address(1), address(0), b"")).unwrap();
    receiver.set_ready(false);
    assert!(!receiver.waiting());
    assert_eq!(receiver.counters().lost.flushed, 1);
}

#[test]
fn an_owner_is_woken_for_the_first_frame_only() {
    let switch = Switch::new();
    let ports = ports(&switch, 2);
    introduce(&ports, START);
    let bells: Vec<_> = ports.iter().map(bell).collect();
    for _ in 0..3 {
        ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    }
    assert_eq!((rung(&bells[0]), rung(&bells[1])), (0, 1));
    drain(&ports[1]);
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    assert_eq!(rung(&bells[1]), 1);
}

#[test]
fn a_port_that_is_dropped_is_forgotten() {
    let switch = Switch::new();
    let mut ports = ports(&switch, 3);
    introduce(&ports, START);
    drop(ports.remove(1));
    ports[0].send(START, frame(address(1), address(0), b"")).unwrap();
    assert_eq!(drain(&ports[1]).len(), 1);
    assert_eq!(switch.counters().len(), 2);
}

#[test]
fn a_port_outlives_the_handles() {
    let switch = Switch::new();
    let (left, right) = (switch.attach("left"), switch.attach("right"));
    drop(switch);
    left.send(START, frame(BROADCAST, address(0), b"")).unwrap();
    assert!(right.waiting());
}

#[test]
fn metadata_travels_with_every_copy() {
    let switch = Switch::new();
    let ports = ports(&switch, 3);
    let accepts = crate::Accepts { checksum: true, ..Default::default() };
    ports.iter().for_each(|port| port.set_accepts(accepts));
    let offload =
        Offload { checksum: Some(Checksum { start: 14, offset: 2 }), data_valid: true, segmentation: None };
    let sent = Frame { offload, ..frame(BROADCAST, address(0), &[0; 20]) };
    ports[0].send(START, sent.clone()).unwrap();
    assert_eq!(ports[1].receive().unwrap(), sent);
    assert_eq!(ports[2].receive().unwrap(), sent);
}
