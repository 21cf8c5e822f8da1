//! Cards with several pairs of data queues.

use super::*;

/// A card for two vCPUs, and its queues where the driver knows of them.
const SECOND_RECEIVE: u16 = 2;
const SECOND_TRANSMIT: u16 = 3;
const LAST_CONTROL: u16 = 4;

fn bench_for_two(features: u64) -> Bench {
    let (switch, time) = (Switch::new(), Arc::default());
    let peer = switch.attach("peer");
    peer.set_ready(true);
    let (net, control) = card(&switch, &time);
    let mut driver = Driver::new(net.for_vcpus(2));
    driver.start(features).unwrap();
    Bench { driver, control, peer, time, switch }
}

/// A card whose driver uses both pairs.
fn both() -> Bench {
    let mut bench = bench_for_two(F_MQ | F_CTRL_VQ);
    assert_eq!(set_pairs(&mut bench, 2), OK);
    bench
}

fn set_pairs(bench: &mut Bench, pairs: u16) -> u8 {
    bench.driver.request(LAST_CONTROL, &[&[4, 0], &pairs.to_le_bytes()], &[1]).data[0]
}

/// A UDP datagram over IPv4 between port 9 of the peer and a port of the guest.
fn datagram(to: [u8; 6], from: [u8; 6], guest_port: u16) -> Vec<u8> {
    let is_to_guest = to == ADDRESS;
    let mut bytes = [to, from].concat();
    bytes.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0]);
    let (guest, peer) = ([192, 168, 1, 1], [192, 168, 1, 2]);
    bytes.extend(if is_to_guest { [peer, guest].concat() } else { [guest, peer].concat() });
    let ports = if is_to_guest { [9, guest_port] } else { [guest_port, 9] };
    bytes.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    bytes.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    bytes
}

/// How many buffers each receive queue of the guest has got back.
fn received_on(bench: &mut Bench) -> [usize; 2] {
    [RECEIVE, SECOND_RECEIVE].map(|queue| bench.driver.used(queue).len())
}

fn add_buffers(bench: &mut Bench, count: usize) {
    for _ in 0..count {
        bench.driver.add(RECEIVE, &[], &[1526]);
        bench.driver.add(SECOND_RECEIVE, &[], &[1526]);
    }
}

#[test]
fn it_is_a_virtio_device() {
    let (switch, time) = (Switch::new(), Arc::default());
    let commands: [(u16, &[u8]); 2] =
        [(LAST_CONTROL, &[4, 0, 2, 0]), (LAST_CONTROL, &[1, 1, 2, 0, 0, 0, 0, 9])];
    let make = || -> Box<dyn Device> { Box::new(card(&switch, &time).0.for_vcpus(2)) };
    snowboot_virtio::testing::conformance_with(&commands, make);
}

#[test]
fn a_card_has_a_pair_for_each_vcpu_up_to_four() {
    let (switch, time) = (Switch::new(), Arc::default());
    for (vcpus, pairs) in [(0, 1), (1, 1), (3, 3), (32, 4)] {
        let net = card(&switch, &time).0.for_vcpus(vcpus);
        let identity = net.identity();
        assert_eq!(identity.queue_sizes.len(), usize::from(2 * pairs + 1u8));
        assert_eq!(identity.features & F_MQ != 0, pairs > 1);
        let mut shown = [0; 2];
        net.read_config(8, &mut shown);
        assert_eq!(shown, [pairs, 0]);
    }
}

#[test]
fn a_driver_that_knows_of_one_pair_finds_its_control_queue_behind_it() {
    let mut bench = bench_for_two(F_CTRL_VQ | F_CTRL_MAC_ADDR);
    assert_eq!(bench.command(&[&[1, 1, 2, 0, 0, 0, 0, 9]]), OK);
    assert_eq!(bench.driver.config::<6>(0), [2, 0, 0, 0, 0, 9]);
    bench.transmit([0; HEADER], &frame(PEER, ADDRESS, 60));
    assert!(bench.peer.receive().is_some());
}

#[test]
fn only_pairs_that_are_there_can_be_used() {
    let mut bench = bench_for_two(F_MQ | F_CTRL_VQ);
    bench.driver.add(SECOND_TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, 60)], &[]);
    bench.driver.notify(SECOND_TRANSMIT).unwrap();
    assert!(bench.peer.receive().is_none(), "the driver has not said that it uses it");
    assert_eq!([0, 3, u16::MAX].map(|pairs| set_pairs(&mut bench, pairs)), [ERROR; 3]);
    assert_eq!(set_pairs(&mut bench, 2), OK);
    bench.driver.notify(SECOND_TRANSMIT).unwrap();
    assert!(bench.peer.receive().is_some());
    bench.driver.reset();
    bench.driver.start(F_MQ | F_CTRL_VQ).unwrap();
    bench.driver.add(SECOND_TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, 60)], &[]);
    bench.driver.notify(SECOND_TRANSMIT).unwrap();
    assert!(bench.peer.receive().is_none(), "nor has the next one");
}

#[test]
fn answers_come_to_the_queue_beside_the_one_of_the_question() {
    let mut bench = both();
    for (guest_port, transmit, expected) in
        [(1000, TRANSMIT, [1, 0]), (1001, SECOND_TRANSMIT, [0, 1]), (1000, SECOND_TRANSMIT, [0, 1])]
    {
        bench.driver.request(transmit, &[&[0; HEADER], &datagram(PEER, ADDRESS, guest_port)], &[]);
        assert!(bench.peer.receive().is_some());
        add_buffers(&mut bench, 1);
        bench.deliver(&datagram(ADDRESS, PEER, guest_port));
        assert_eq!(received_on(&mut bench), expected, "port {guest_port}");
    }
}

#[test]
fn unknown_flows_are_spread_and_what_is_none_comes_to_the_first() {
    let mut bench = both();
    add_buffers(&mut bench, 60);
    for guest_port in 2000..2050 {
        bench.deliver(&datagram(ADDRESS, PEER, guest_port));
    }
    let [first, second] = received_on(&mut bench);
    assert!(first > 5 && second > 5 && first + second == 50, "{first} and {second}");
    bench.deliver(&frame(ADDRESS, PEER, 60));
    assert_eq!(received_on(&mut bench), [1, 0]);
    assert_eq!(set_pairs(&mut bench, 1), OK);
    for guest_port in 2000..2005 {
        bench.deliver(&datagram(ADDRESS, PEER, guest_port));
    }
    assert_eq!(received_on(&mut bench), [5, 0]);
}

#[test]
fn a_queue_that_the_driver_left_disabled_gets_nothing() {
    let (switch, time) = (Switch::new(), Arc::default());
    let peer = switch.attach("peer");
    let (net, control) = card(&switch, &time);
    let mut driver = Driver::new(net.for_vcpus(2));
    driver.start_queues(F_MQ | F_CTRL_VQ, &[RECEIVE, TRANSMIT, LAST_CONTROL]).unwrap();
    let mut bench = Bench { driver, control, peer, time, switch };
    assert_eq!(set_pairs(&mut bench, 2), OK);
    for guest_port in 2000..2020 {
        bench.driver.add(RECEIVE, &[], &[1526]);
        bench.deliver(&datagram(ADDRESS, PEER, guest_port));
    }
    assert_eq!(bench.driver.used(RECEIVE).len(), 20);
}

#[test]
fn a_queue_without_buffers_holds_up_the_others_for_a_moment_only() {
    let mut bench = both();
    for (transmit, guest_port) in [(TRANSMIT, 1000), (SECOND_TRANSMIT, 1001)] {
        bench.driver.request(transmit, &[&[0; HEADER], &datagram(PEER, ADDRESS, guest_port)], &[]);
        assert!(bench.peer.receive().is_some());
    }
    for _ in 0..10 {
        bench.driver.add(RECEIVE, &[], &[1526]);
    }
    for guest_port in [1001, 1000, 1001] {
        bench.deliver(&datagram(ADDRESS, PEER, guest_port));
    }
    assert_eq!(received_on(&mut bench), [0, 0], "it may have some soon");
    let pass = |bench: &mut Bench, milliseconds| {
        *bench.time.lock().unwrap() += Duration::from_millis(milliseconds);
        bench.driver.source_ready(PATIENCE).unwrap();
        received_on(bench)
    };
    assert_eq!(pass(&mut bench, 99), [0, 0]);
    assert_eq!(pass(&mut bench, 1), [3, 0]);
    bench.deliver(&datagram(ADDRESS, PEER, 1001));
    assert_eq!(received_on(&mut bench), [1, 0], "without waiting again");
    bench.driver.add(SECOND_RECEIVE, &[], &[1526]);
    bench.deliver(&datagram(ADDRESS, PEER, 1001));
    assert_eq!(received_on(&mut bench), [0, 1]);
    bench.deliver(&datagram(ADDRESS, PEER, 1001));
    assert_eq!(received_on(&mut bench), [0, 0], "it had some: it is waited for");
}

#[test]
fn each_ring_is_the_first_in_its_turn_when_the_switch_has_room_again() {
    let (switch, time) =
        (Switch::with_limits(Limits { queue_frames: 2, ..Limits::default() }), Arc::default());
    let peer = switch.attach("peer");
    peer.set_ready(true);
    let (net, control) = card(&switch, &time);
    let mut driver = Driver::new(net.for_vcpus(2));
    driver.start(F_MQ | F_CTRL_VQ).unwrap();
    let mut bench = Bench { driver, control, peer, time, switch };
    assert_eq!(set_pairs(&mut bench, 2), OK);
    for _ in 0..20 {
        bench.driver.add(TRANSMIT, &[&[0; HEADER], &datagram(PEER, ADDRESS, 1)], &[]);
        bench.driver.add(SECOND_TRANSMIT, &[&[0; HEADER], &datagram(PEER, ADDRESS, 2)], &[]);
    }
    bench.driver.notify(TRANSMIT).unwrap();
    bench.driver.notify(SECOND_TRANSMIT).unwrap();
    let mut ports = Vec::new();
    for _ in 0..10 {
        while let Some(frame) = bench.peer.receive() {
            ports.push(frame.bytes[35]);
        }
        bench.driver.source_ready(PORT).unwrap();
    }
    let second = ports.iter().filter(|port| **port == 2).count();
    assert!(ports.len() >= 16 && second * 3 > ports.len() && second * 3 < 2 * ports.len(), "{ports:?}");
}

#[test]
fn the_number_of_pairs_moves_to_another_process() {
    let mut bench = both();
    let other = card(&bench.switch, &bench.time).0.for_vcpus(2);
    drop(bench.driver.move_to(other).unwrap());
    bench.driver.request(SECOND_TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, 60)], &[]);
    assert!(bench.peer.receive().is_some());
    bench.driver.pause();
    let saved = bench.driver.device().save().unwrap();
    let mut smaller = card(&bench.switch, &bench.time).0;
    assert!(smaller.restore(saved).is_err());
}

#[test]
fn a_saved_state_cannot_make_the_control_queue_one_for_frames() {
    let mut bench = both();
    bench.driver.pause();
    let saved = bench.driver.device().save().unwrap();
    let mut other = card(&bench.switch, &bench.time).0.for_vcpus(2);
    other.restore(saved).unwrap();
    let mut driver = Driver::new(other);
    driver.start(F_CTRL_VQ | F_CTRL_MAC_ADDR).unwrap();
    driver.add(CONTROL, &[&[1, 1, 2, 0, 0, 0, 0, 9]], &[1]);
    driver.add(RECEIVE, &[], &[1526]);
    for guest_port in 2000..2020 {
        bench.peer.send(Duration::ZERO, Frame::new(datagram(ADDRESS, PEER, guest_port))).unwrap();
        driver.add(RECEIVE, &[], &[1526]);
    }
    driver.source_ready(PORT).unwrap();
    assert_eq!((driver.used(RECEIVE).len(), driver.used(CONTROL).len()), (20, 0));
    driver.notify(CONTROL).unwrap();
    assert_eq!((driver.used(CONTROL).len(), driver.config::<6>(0)), (1, [2, 0, 0, 0, 0, 9]));
}
