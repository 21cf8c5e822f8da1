use std::sync::Mutex;

use proptest::prelude::*;
use snowboot_network::{Accepts, Checksum, Limits, Offload, Segmentation, SegmentationKind, Switch};
use snowboot_virtio::features::{EVENT_IDX, INDIRECT_DESC};
use snowboot_virtio::testing::{Descriptor, Driver, NEXT};

use super::wire::HEADER;
use super::*;

mod queues;

/// The queues of a card with one pair.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const CONTROL: u16 = 2;

const ADDRESS: [u8; 6] = [0x52, 0x54, 0, 0x12, 1, 1];
const PEER: [u8; 6] = [0x52, 0x54, 0, 0x12, 1, 2];

struct Bench {
    driver: Driver<Net>,
    control: NetControl,
    peer: Port,
    time: Arc<Mutex<Duration>>,
    switch: Switch,
}

fn card(switch: &Switch, time: &Arc<Mutex<Duration>>) -> (Net, NetControl) {
    let time = Arc::clone(time);
    Net::new(ADDRESS, switch.attach("guest"), Arc::new(move || *time.lock().unwrap())).unwrap()
}

fn bench_with(features: u64, limits: Limits) -> Bench {
    let switch = Switch::with_limits(limits);
    let time = Arc::new(Mutex::new(Duration::ZERO));
    let peer = switch.attach("peer");
    peer.set_ready(true);
    let (net, control) = card(&switch, &time);
    let mut driver = Driver::new(net);
    driver.start(features).unwrap();
    Bench { driver, control, peer, time, switch }
}

fn bench(features: u64) -> Bench {
    bench_with(features, Limits::default())
}

fn frame(to: [u8; 6], from: [u8; 6], length: usize) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend((bytes.len()..length).map(|index| u8::try_from(index % 251).unwrap()));
    bytes
}

impl Bench {
    fn transmit(&mut self, header: [u8; HEADER], bytes: &[u8]) {
        self.driver.request(TRANSMIT, &[&header, bytes], &[]);
    }

    fn deliver(&mut self, bytes: &[u8]) {
        self.peer.send(*self.time.lock().unwrap(), Frame::new(bytes.to_vec())).unwrap();
        self.driver.source_ready(PORT).unwrap();
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        self.driver.used(RECEIVE).iter().map(|used| used.written().to_vec()).collect()
    }

    fn command(&mut self, bytes: &[&[u8]]) -> u8 {
        self.driver.request(CONTROL, bytes, &[1]).data[0]
    }

    fn link(&self) -> u8 {
        self.driver.config::<1>(6)[0]
    }
}

#[test]
fn it_is_a_virtio_device() {
    let (switch, time) = (Switch::new(), Arc::default());
    let offloads = [[5, 0].as_slice(), &F_GUEST_CSUM.to_le_bytes()].concat();
    let commands: [(u16, &[u8]); 3] = [
        (CONTROL, &[1, 1, 2, 0, 0, 0, 0, 9]),
        (CONTROL, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (CONTROL, &offloads),
    ];
    snowboot_virtio::testing::conformance_with(&commands, || Box::new(card(&switch, &time).0));
}

#[test]
fn frames_leave_as_they_are_however_they_are_cut_up() {
    let mut bench = bench(0);
    let bytes = frame(PEER, ADDRESS, 100);
    bench.transmit([0; HEADER], &bytes);
    assert_eq!(bench.peer.receive().unwrap().bytes, bytes);
    let all = [&[0; HEADER][..], &bytes].concat();
    bench.driver.request(TRANSMIT, &[&all], &[]);
    assert_eq!(bench.peer.receive().unwrap().bytes, bytes);
    let pieces: Vec<&[u8]> = all.chunks(1).collect();
    bench.driver.request(TRANSMIT, &pieces, &[]);
    assert_eq!(bench.peer.receive().unwrap().bytes, bytes);
}

#[test]
fn what_is_no_frame_is_dropped_and_answered() {
    let mut bench = bench(0);
    bench.driver.request(TRANSMIT, &[&[0; HEADER - 1]], &[]);
    bench.driver.request(TRANSMIT, &[&[0; HEADER]], &[]);
    bench.driver.request(TRANSMIT, &[], &[64]);
    bench.transmit([1; HEADER], &frame(PEER, ADDRESS, 100)); // needs a checksum that was not negotiated
    bench.transmit([0; HEADER], &frame(PEER, ADDRESS, 70_000));
    assert!(bench.peer.receive().is_none());
}

#[test]
fn overlapping_descriptors_do_not_make_a_frame_of_gigabytes() {
    let mut bench = bench(0);
    let size = bench.driver.queue_config(TRANSMIT).size;
    let address = bench.driver.allocate(16 << 20);
    for index in 0..size {
        let flags = if index + 1 < size { NEXT } else { 0 };
        let descriptor = Descriptor { address, length: 15 << 20, flags, next: index + 1 };
        bench.driver.write_descriptor(TRANSMIT, index, descriptor);
    }
    bench.driver.offer(TRANSMIT, 0);
    bench.driver.notify(TRANSMIT).unwrap();
    assert_eq!(bench.driver.used_index(TRANSMIT), 1);
    assert!(bench.peer.receive().is_none());
}

#[test]
fn offload_requests_travel_with_the_frame() {
    let mut bench = bench(F_CSUM | F_HOST_TSO4);
    bench.peer.set_accepts(Accepts { checksum: true, tcp4: true, ..Accepts::default() });
    // Ethernet, IPv4 of 20 bytes, TCP of 20 bytes, 3000 bytes of data.
    let mut bytes = frame(PEER, ADDRESS, 14 + 40 + 3000);
    bytes[12..14].copy_from_slice(&[8, 0]);
    let mut ip = [0u8; 20];
    (ip[0], ip[8], ip[9]) = (0x45, 64, 6);
    ip[2..4].copy_from_slice(&3040u16.to_be_bytes());
    bytes[14..34].copy_from_slice(&ip);
    bytes[34 + 12] = 0x50;
    let header = [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0];
    bench.transmit(header, &bytes);
    let offload = bench.peer.receive().expect("it was taken").offload;
    assert_eq!(offload.checksum, Some(Checksum { start: 34, offset: 16 }));
    let segmentation = offload.segmentation.unwrap();
    assert_eq!((segmentation.kind, segmentation.size), (SegmentationKind::Tcp4, 1460));
}

#[test]
fn a_full_switch_holds_the_guest_back_and_wakes_it() {
    let limits = Limits { queue_frames: 4, ..Limits::default() };
    let mut bench = bench_with(0, limits);
    for _ in 0..10 {
        bench.driver.add(TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, 60)], &[]);
    }
    bench.driver.notify(TRANSMIT).unwrap();
    // Four in the switch, and one in the card.
    assert_eq!(bench.driver.used(TRANSMIT).len(), 5);
    let mut count = 0;
    while bench.peer.receive().is_some() {
        count += 1;
        bench.driver.source_ready(PORT).unwrap();
    }
    assert_eq!(count, 10);
    assert_eq!(bench.driver.used(TRANSMIT).len(), 5);
}

#[test]
fn a_peer_that_never_takes_anything_is_given_up() {
    let limits = Limits { queue_frames: 1, ..Limits::default() };
    let mut bench = bench_with(0, limits);
    for _ in 0..3 {
        bench.driver.add(TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, 60)], &[]);
    }
    bench.driver.notify(TRANSMIT).unwrap();
    assert_eq!(bench.driver.used(TRANSMIT).len(), 2);
    *bench.time.lock().unwrap() += Duration::from_secs(5);
    bench.driver.source_ready(RETRY).unwrap();
    assert_eq!(bench.driver.used(TRANSMIT).len(), 1);
}

#[test]
fn a_frame_is_received_in_one_buffer_without_merging() {
    let mut bench = bench(0);
    let bytes = frame(ADDRESS, PEER, 200);
    bench.deliver(&bytes);
    assert!(bench.received().is_empty());
    bench.driver.add(RECEIVE, &[], &[11, 1, 1514]);
    bench.driver.notify(RECEIVE).unwrap();
    let received = bench.received();
    assert_eq!(received[0][..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(received[0][HEADER..], bytes);
    assert_eq!(bench.driver.interrupts(RECEIVE), 1);
    // Too long for the buffer: lost, and the buffer is there for the next one.
    bench.driver.add(RECEIVE, &[], &[100]);
    bench.deliver(&frame(ADDRESS, PEER, 89));
    bench.deliver(&frame(ADDRESS, PEER, 88));
    assert_eq!(
        bench.received(),
        [[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &frame(ADDRESS, PEER, 88)[..]].concat()]
    );
}

#[test]
fn a_long_frame_is_spread_and_shown_all_at_once() {
    let mut bench = bench(F_MRG_RXBUF);
    let bytes = frame(ADDRESS, PEER, 4000);
    bench.driver.add(RECEIVE, &[], &[1526]);
    bench.driver.add(RECEIVE, &[], &[1300]);
    bench.deliver(&bytes);
    assert!(bench.received().is_empty());
    assert_eq!(bench.driver.interrupts(RECEIVE), 0);
    bench.driver.add(RECEIVE, &[], &[5]);
    bench.driver.add(RECEIVE, &[], &[1526]);
    bench.driver.notify(RECEIVE).unwrap();
    let received = bench.received();
    assert_eq!(received.iter().map(Vec::len).collect::<Vec<_>>(), [1526, 1300, 5, 4012 - 1526 - 1300 - 5]);
    assert_eq!(received[0][10..HEADER], [4, 0]);
    assert_eq!(received.concat()[HEADER..], bytes);
    assert_eq!(bench.driver.interrupts(RECEIVE), 1);
}

#[test]
fn a_frame_that_no_buffers_will_ever_hold_does_not_block_the_others() {
    let mut bench = bench(F_MRG_RXBUF);
    bench.driver.add(RECEIVE, &[], &[1000]);
    bench.deliver(&frame(ADDRESS, PEER, 2000));
    bench.deliver(&frame(ADDRESS, PEER, 60));
    bench.driver.source_ready(PATIENCE).unwrap();
    assert!(bench.received().is_empty());
    *bench.time.lock().unwrap() += Duration::from_millis(150);
    bench.driver.source_ready(PATIENCE).unwrap();
    assert_eq!(bench.received()[0].len(), 72);
}

#[test]
fn useless_buffers_go_back() {
    let mut bench = bench(F_MRG_RXBUF);
    bench.driver.add(RECEIVE, &[b"readable"], &[]);
    bench.driver.add(RECEIVE, &[], &[11]);
    bench.driver.add(RECEIVE, &[], &[100]);
    bench.deliver(&frame(ADDRESS, PEER, 60));
    assert_eq!(bench.received().iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 72]);
}

#[test]
fn the_link_is_shown_and_announced() {
    let mut bench = bench(F_STATUS);
    assert_eq!(bench.link(), 1);
    bench.control.set_link(false);
    bench.driver.source_ready(LINK).unwrap();
    assert_eq!((bench.link(), bench.driver.config_interrupts()), (0, 1));
    bench.transmit([0; HEADER], &frame(PEER, ADDRESS, 60));
    assert!(bench.peer.receive().is_none());
    bench.control.set_link(true);
    bench.transmit([0; HEADER], &frame(PEER, ADDRESS, 60));
    assert!(bench.peer.receive().is_some());
    assert_eq!(bench.driver.config::<6>(0), ADDRESS);
}

#[test]
fn a_cable_that_is_pulled_in_a_pause_is_told_afterwards() {
    let mut bench = bench(F_STATUS);
    for (link, shown) in [(false, 0), (true, 1)] {
        bench.driver.pause();
        bench.control.set_link(link);
        bench.driver.source_ready(LINK).unwrap();
        let told = bench.driver.config_interrupts();
        bench.driver.resume().unwrap();
        assert_eq!((bench.link(), bench.driver.config_interrupts()), (shown, told + 1));
    }
    // It came back before the guest could know.
    bench.driver.pause();
    bench.control.set_link(false);
    bench.control.set_link(true);
    let told = bench.driver.config_interrupts();
    bench.driver.resume().unwrap();
    assert_eq!((bench.link(), bench.driver.config_interrupts()), (1, told));
    // A machine that is restored elsewhere still has to be told.
    bench.driver.pause();
    bench.control.set_link(false);
    let saved = bench.driver.device().save().unwrap();
    let (mut other, _) = card(&bench.switch, &bench.time);
    other.restore(saved).unwrap();
    let mut driver = Driver::new(other);
    driver.start(F_STATUS).unwrap();
    assert_eq!((driver.config_interrupts(), driver.config::<1>(6)), (1, [0]));
}

#[test]
fn what_a_driver_has_set_ends_with_its_reset() {
    let all = F_CTRL_VQ | F_CTRL_MAC_ADDR | F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM;
    let mut bench = bench_with(all, Limits { queue_frames: 1, ..Limits::default() });
    let fresh = bench.driver.device().save().unwrap();
    assert_eq!(bench.command(&[&[1, 1, 2, 0, 0, 0, 0, 9]]), OK);
    assert_eq!(bench.command(&[&[5, 0], &[0; 8]]), OK);
    for _ in 0..3 {
        bench.driver.add(TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, 60)], &[]);
    }
    bench.driver.notify(TRANSMIT).unwrap();
    assert!(bench.driver.device().unsent.is_some());
    bench.driver.pause();
    assert_ne!(bench.driver.device().save().unwrap(), fresh);
    bench.driver.reset();
    assert_eq!(bench.driver.device().save().unwrap(), fresh);
    assert!(bench.driver.device().unsent.is_none());
    assert_eq!(bench.driver.config::<6>(0), ADDRESS);
}

#[test]
fn control_commands_are_answered() {
    let all = F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR | F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM;
    let mut bench = bench(all);
    assert_eq!(bench.command(&[&[0, 0], &[1]]), OK);
    assert_eq!(bench.command(&[&[1, 0], &[0; 4], &[0; 4]]), OK);
    assert_eq!(bench.command(&[&[1], &[1], &[2, 0, 0, 0, 0], &[9]]), OK);
    assert_eq!(bench.driver.config::<6>(0), [2, 0, 0, 0, 0, 9]);
    assert_eq!(bench.command(&[&[5, 0], &F_GUEST_CSUM.to_le_bytes()]), OK);
    assert_eq!(bench.command(&[&[5, 0], &F_GUEST_TSO4.to_le_bytes()]), ERROR);
    assert_eq!(bench.command(&[&[4, 0, 1, 0]]), ERROR);
    assert_eq!(bench.command(&[]), ERROR);
    assert_eq!(bench.driver.request(CONTROL, &[&[0, 0, 1]], &[]).length, 0);
}

#[test]
fn a_stopped_card_takes_nothing_and_starts_again() {
    let mut bench = bench(F_STATUS);
    bench.driver.pause();
    bench.driver.source_ready(PORT).unwrap();
    bench.driver.source_ready(RETRY).unwrap();
    bench.driver.source_ready(LINK).unwrap();
    bench.driver.add(RECEIVE, &[], &[1526]);
    bench.driver.resume().unwrap();
    bench.deliver(&frame(ADDRESS, PEER, 60));
    assert_eq!(bench.received().len(), 1);
    bench.driver.reset();
    bench.driver.start(F_STATUS).unwrap();
    bench.transmit([0; HEADER], &frame(PEER, ADDRESS, 60));
    assert!(bench.peer.receive().is_some());
}

#[test]
fn address_and_link_move_to_another_process() {
    let mut bench = bench(F_STATUS | F_CTRL_VQ | F_CTRL_MAC_ADDR);
    assert_eq!(bench.command(&[&[1, 1, 2, 0, 0, 0, 0, 9]]), OK);
    bench.control.set_link(false);
    bench.driver.source_ready(LINK).unwrap();
    let saved = bench.driver.device().save().unwrap();
    let (other, control) = card(&bench.switch, &bench.time);
    drop(bench.driver.move_to(other).unwrap());
    assert_eq!(bench.driver.device().save().unwrap(), saved);
    assert_eq!((bench.driver.config::<6>(0), bench.link()), ([2, 0, 0, 0, 0, 9], 0));
    control.set_link(true);
    bench.control.set_link(true); // of a card that is gone
    bench.driver.add(RECEIVE, &[], &[1526]);
    bench.deliver(&frame(ADDRESS, PEER, 60));
    assert_eq!(bench.received().len(), 1);
    let mut bad = saved;
    bad.body["offloads"] = serde_json::json!(u64::MAX);
    assert!(bench.driver.device_mut().restore(bad).is_err());
}

#[test]
fn a_header_to_the_driver_names_only_what_it_negotiated() {
    let checksum = Some(Checksum { start: 34, offset: 16 });
    let valid = Offload { data_valid: true, ..Offload::default() };
    assert_eq!(wire::header(&valid, F_GUEST_CSUM, 1)[0], 2);
    assert_eq!(wire::header(&valid, 0, 1)[0], 0);
    let kind = SegmentationKind::Tcp6;
    let segmentation = Some(Segmentation { kind, ecn: true, size: 1440, header_length: 74 });
    let offload = Offload { checksum, data_valid: true, segmentation };
    let expected = [1, 0x84, 74, 0, 0xa0, 5, 34, 0, 16, 0, 3, 0];
    assert_eq!(wire::header(&offload, F_GUEST_CSUM | F_GUEST_TSO6 | F_GUEST_ECN, 3), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a guest sends, in whatever pieces, it gets every buffer back and the card goes on.
    #[test]
    fn any_transmission_is_answered(
        header: [u8; HEADER],
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        cut in 0usize..312,
        features: u64,
    ) {
        let offered = bench(0).driver.device().identity().features;
        let mut bench = bench(features & offered | INDIRECT_DESC | EVENT_IDX);
        let all = [&header[..], &bytes].concat();
        let (first, second) = all.split_at(cut.min(all.len()));
        bench.driver.add_indirect(TRANSMIT, &[first, second], &[]);
        bench.driver.notify(TRANSMIT).unwrap();
        prop_assert_eq!(bench.driver.used(TRANSMIT).len(), 1);
        let good = frame(PEER, ADDRESS, 60);
        while bench.peer.receive().is_some() {}
        bench.transmit([0; HEADER], &good);
        prop_assert_eq!(bench.peer.receive().map(|frame| frame.bytes), Some(good));
    }

    /// Frames of any length come out of buffers of any length as they went in, or not at all.
    #[test]
    fn frames_are_whole_in_any_buffers(
        length in 14usize..9000,
        buffers in proptest::collection::vec(1u32..3000, 1..20),
    ) {
        let mut bench = bench(F_MRG_RXBUF);
        for buffer in &buffers {
            bench.driver.add(RECEIVE, &[], &[*buffer]);
        }
        let bytes = frame(ADDRESS, PEER, length);
        bench.deliver(&bytes);
        let used: Vec<Vec<u8>> = bench.received().into_iter().filter(|part| !part.is_empty()).collect();
        let whole = used.concat();
        if !whole.is_empty() {
            prop_assert_eq!(&whole[HEADER..], &bytes[..]);
            prop_assert_eq!(usize::from(u16::from_le_bytes([whole[10], whole[11]])), used.len());
        }
    }
}
