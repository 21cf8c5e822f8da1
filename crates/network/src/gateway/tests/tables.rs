//! What a guest can fill, and what happens then.

use super::super::{tcp, udp};
use super::*;

const GREEDY: Guest = Guest(1);
const MODEST: Guest = Guest(2);

/// A gateway of several guests, and a port of the one that is not greedy.
fn shared() -> (Gateway, impl Fn(u16) -> SocketAddr) {
    let modest = |port: u16| SocketAddr::from(([10, 0, 2, 16], port));
    (Gateway::new(Config { shared: true, ..Config::default() }, 1), modest)
}

#[test]
fn a_flood_of_syns_does_not_keep_other_guests_from_connecting() {
    let (mut gateway, modest) = shared();
    let to = address("10.0.2.2:80");
    let flood = |gateway: &mut Gateway| {
        for port in 1..2000 {
            gateway.receive_from(NOW, GREEDY, &tcp_frame(guest(port), to, (100, 0), SYN, b""));
        }
    };
    flood(&mut gateway);
    gateway.actions();
    // As many as there are, in one go, and each is asked of the host.
    for port in 1..=u16::try_from(tcp::MOST_CONNECTING / 2).unwrap() {
        gateway.receive_from(NOW, MODEST, &tcp_frame(modest(port), to, (100, 0), SYN, b""));
        let actions = gateway.actions();
        let [Action::Reset { .. }, Action::Connect { .. }] = actions.as_slice() else {
            panic!("{actions:?}")
        };
    }
    flood(&mut gateway);
    assert_eq!(
        (gateway.actions(), outgoing(&mut gateway)),
        (vec![], vec![]),
        "the modest one keeps what it has"
    );
    assert_eq!(gateway.tcp.counts(), (tcp::MOST_CONNECTING, tcp::MOST_CONNECTING));
}

#[test]
fn a_greedy_guest_loses_connections_to_others_until_each_has_its_part() {
    let (mut gateway, modest) = shared();
    let to = address("10.0.2.2:80");
    let connect = |gateway: &mut Gateway, who: Guest, from: SocketAddr| {
        gateway.receive_from(NOW, who, &tcp_frame(from, to, (100, 0), SYN, b""));
        let mut lost = 0;
        for action in gateway.actions() {
            match action {
                Action::Connect { flow, .. } => gateway.connected(NOW, flow),
                Action::Reset { .. } => lost += 1,
                other => panic!("{other:?}"),
            }
        }
        lost
    };
    let many = 1..=u16::try_from(tcp::MOST_FLOWS).unwrap();
    assert_eq!(many.clone().map(|port| connect(&mut gateway, GREEDY, guest(port))).sum::<usize>(), 0);
    let lost: usize = many.clone().map(|port| connect(&mut gateway, MODEST, modest(port))).sum();
    assert_eq!(lost, tcp::MOST_FLOWS / 2, "half of them");
    assert_eq!(many.map(|port| connect(&mut gateway, GREEDY, guest(1000 + port))).sum::<usize>(), 0);
    assert_eq!(gateway.tcp.counts().0, tcp::MOST_FLOWS);
}

#[test]
fn a_guest_that_makes_up_addresses_is_known_by_few_of_them() {
    let (mut gateway, _) = shared();
    let arp = |from: [u8; 4], mac: [u8; 6]| {
        let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &from, &[0; 6], &[10, 0, 2, 2]].concat();
        Frame::new(emit::frame([0xff; 6], mac, [8, 6], &body))
    };
    gateway.receive_from(NOW, MODEST, &arp([10, 0, 2, 16], [2, 0, 0, 0, 0, 2]));
    for number in 0..5000u16 {
        let [high, low] = number.to_be_bytes();
        gateway.receive_from(NOW, GREEDY, &arp([10, 0, 2, 20 + (low % 200)], [2, 0, 0, 1, high, low]));
        let from = format!("fec0::1:{number:x}");
        gateway.receive_from(NOW, GREEDY, &icmp_frame(&from, "fec0::2", [128, 0], [0; 4], b""));
        outgoing(&mut gateway);
    }
    assert_eq!(gateway.neighbors.find([10, 0, 2, 16].into()), Some([2, 0, 0, 0, 0, 2]));
    assert!(gateway.neighbors.count() <= 65, "{}", gateway.neighbors.count());
}

#[test]
fn a_guest_that_makes_up_addresses_stays_reachable_at_its_own() {
    let mut gateway = gateway();
    let ping = |from: &str| icmp_frame(from, "10.0.2.2", [8, 0], [0; 4], b"");
    for number in 0..5000u32 {
        if number % 1000 < 2 {
            gateway.receive_from(NOW, GREEDY, &ping("10.0.2.15"));
        }
        gateway.receive_from(NOW, GREEDY, &ping(&format!("10.0.2.{}", 20 + number % 200)));
        outgoing(&mut gateway);
        gateway.actions();
    }
    assert_eq!(gateway.neighbors.find("10.0.2.15".parse().unwrap()), Some(MAC));
    assert_eq!(gateway.neighbors.count(), neighbors::MOST_OF_GUEST);
}

#[test]
fn a_flood_of_syns_gets_no_further_than_its_table() {
    let mut gateway = gateway();
    let mut connects = 0;
    for port in 1..20_000 {
        gateway.receive(NOW, &tcp_frame(guest(port), address("10.0.2.2:80"), (100, 0), SYN, b""));
        connects += gateway.actions().len();
    }
    assert_eq!(
        (connects, gateway.tcp.counts()),
        (tcp::MOST_CONNECTING, (tcp::MOST_CONNECTING, tcp::MOST_CONNECTING))
    );
    assert_eq!(outgoing(&mut gateway), [], "and is not answered");
}

#[test]
fn a_full_table_takes_no_more_until_one_is_not_used() {
    let mut gateway = gateway();
    let to = address("10.0.2.2:80");
    let flows: Vec<FlowId> = (0..tcp::MOST_FLOWS)
        .map(|number| open(&mut gateway, guest(1000 + u16::try_from(number).unwrap()), to).0)
        .collect();
    outgoing(&mut gateway);
    gateway.receive(NOW, &tcp_frame(guest(9), to, (100, 0), SYN, b""));
    assert_eq!(gateway.accept(NOW, guest(80), address("127.0.0.1:1")), None);
    assert_eq!((gateway.actions(), outgoing(&mut gateway)), (vec![], vec![]));

    let later = NOW + Duration::from_secs(300);
    gateway.receive(later, &tcp_frame(guest(1000), to, (101, 0), ACK, b""));
    gateway.receive(later, &tcp_frame(guest(9), to, (100, 0), SYN, b""));
    let actions = gateway.actions();
    let [Action::Reset { flow }, Action::Connect { .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert!(*flow != flows[0] && flows.contains(flow), "one that is not used");
    assert_eq!(gateway.tcp.counts().0, tcp::MOST_FLOWS);
}

#[test]
fn connections_that_nobody_uses_are_reset_in_the_end() {
    let mut gateway = gateway();
    let (flow, _) = open(&mut gateway, guest(5000), address("10.0.2.2:80"));
    gateway.poll(NOW);
    outgoing(&mut gateway);
    let late = NOW + Duration::from_secs(2 * 3600 + 4 * 60);
    assert!(gateway.deadline(NOW).unwrap() <= NOW + Duration::from_secs(10));
    gateway.poll(late - Duration::from_secs(20));
    assert_eq!(gateway.actions(), []);
    gateway.poll(late);
    gateway.poll(late);
    assert_eq!(seen(&outgoing(&mut gateway).pop().unwrap()).0 & RST, RST);
    assert_eq!(gateway.actions(), [Action::Reset { flow }]);
    assert_eq!(gateway.deadline(late), None);
}

#[test]
fn a_guest_that_does_not_answer_is_waited_for_as_long_as_there_is_something_to_say() {
    let mut gateway = gateway();
    let (flow, _) = open(&mut gateway, guest(5000), address("10.0.2.2:80"));
    // Long silence is no reason.
    let later = NOW + Duration::from_secs(3600);
    gateway.poll(later);
    gateway.fill(later, flow, |room| room.len());
    let mut now = later;
    while now < later + Duration::from_secs(800) {
        gateway.poll(now);
        assert_eq!(gateway.actions(), []);
        outgoing(&mut gateway);
        now += Duration::from_secs(10);
    }
    for _ in 0..20 {
        gateway.poll(now);
        outgoing(&mut gateway);
        now += Duration::from_secs(10);
    }
    assert_eq!(gateway.actions(), [Action::Reset { flow }]);

    // One that a forward leads to has less time.
    gateway.accept(now, guest(80), address("127.0.0.1:5")).unwrap();
    gateway.poll(now);
    gateway.poll(now + Duration::from_secs(70));
    assert_eq!(gateway.actions(), []);
    gateway.poll(now + Duration::from_secs(80));
    gateway.poll(now + Duration::from_secs(80));
    assert!(matches!(gateway.actions().as_slice(), [Action::Reset { .. }]));
}

#[test]
fn sockets_for_datagrams_are_bounded_and_the_oldest_is_closed() {
    let mut gateway = gateway();
    let (mut sent, mut forgotten) = (0, 0);
    for port in 1..2000 {
        for frame in udp_frames(guest(port), address("10.0.2.2:7"), b"x") {
            gateway.receive(NOW, &frame);
        }
        for action in gateway.actions() {
            match action {
                Action::Send { .. } => sent += 1,
                Action::Forget { .. } => forgotten += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((sent, forgotten), (1999, 1999 - udp::MOST_FLOWS));
    let due = gateway.deadline(NOW).unwrap();
    assert_eq!(due, NOW + Duration::from_secs(120));
    gateway.poll(due);
    assert_eq!(gateway.actions().len(), udp::MOST_FLOWS);
}

#[test]
fn a_guest_that_takes_no_frames_fills_the_outbox_and_no_more() {
    let mut gateway = gateway();
    let ping = icmp_frame("10.0.2.15", "10.0.2.2", [8, 0], [0; 4], &[0; 1000]);
    let mut taken = 0;
    for _ in 0..5000 {
        taken += usize::from(gateway.wants_frames());
        gateway.receive(NOW, &ping);
    }
    assert!(taken < 300, "{taken}");
    let frames = outgoing(&mut gateway);
    assert!(frames.len() <= 512, "{}", frames.len());
    assert!(gateway.wants_frames());
    // A connection keeps what it has to send until there is room.
    let (flow, _) = open(&mut gateway, guest(5000), address("10.0.2.2:80"));
    gateway.fill(NOW, flow, |room| room.len());
    while gateway.wants_frames() {
        gateway.receive(NOW, &ping);
    }
    let before = outgoing(&mut gateway).len();
    assert!(before > 100);
}

#[test]
fn actions_that_the_host_does_not_do_are_bounded() {
    let mut gateway = gateway();
    for frame in udp_frames(guest(5000), address("10.0.2.2:7"), b"x") {
        for _ in 0..5000 {
            gateway.receive(NOW, &frame);
        }
    }
    assert!(!gateway.wants_frames());
    assert!(gateway.actions().len() <= MOST_ACTIONS + 1);
}

#[test]
fn another_guest_finds_nothing_of_the_former_one() {
    let mut gateway = gateway();
    let (flow, _) = open(&mut gateway, guest(5000), address("10.0.2.2:80"));
    for frame in udp_frames(guest(5000), address("10.0.2.2:7"), b"x") {
        gateway.receive(NOW, &frame);
    }
    gateway.actions();
    gateway.guest_gone();
    let actions = gateway.actions();
    assert!(
        matches!(actions.as_slice(), [Action::Reset { flow: gone }, Action::Forget { .. }] if *gone == flow),
        "{actions:?}"
    );
    assert_eq!((outgoing(&mut gateway), gateway.deadline(NOW)), (vec![], None));
}
