//! When a driver is told that its frames are sent.

use super::*;

/// A card whose driver wants to hear of the next frame that is sent, as Linux does with nothing on its way.
fn bench_that_asks() -> Bench {
    let mut bench = bench(EVENT_IDX);
    bench.driver.set_used_event(TRANSMIT, 0);
    bench
}

/// Sends a frame without looking at what became of it.
fn send(bench: &mut Bench, length: usize) {
    bench.driver.add(TRANSMIT, &[&[0; HEADER], &frame(PEER, ADDRESS, length)], &[]);
    bench.driver.kick(TRANSMIT).unwrap();
    assert!(bench.peer.receive().is_some(), "the frame itself does not wait");
}

/// Lets time pass, and how often the driver has been told by then.
fn told_after(bench: &mut Bench, microseconds: u64) -> u64 {
    *bench.time.lock().unwrap() += Duration::from_micros(microseconds);
    bench.driver.source_ready(UNTOLD).unwrap();
    bench.driver.interrupts(TRANSMIT)
}

#[test]
fn a_driver_that_does_not_look_is_told_after_a_moment() {
    let mut bench = bench_that_asks();
    send(&mut bench, 60);
    assert_eq!((bench.driver.used_index(TRANSMIT), bench.driver.interrupts(TRANSMIT)), (1, 0));
    assert!(bench.driver.device().lets_others_go_first());
    assert_eq!(told_after(&mut bench, 49), 0);
    send(&mut bench, 60);
    assert_eq!(told_after(&mut bench, 1), 1, "the second does not begin the moment again");
    assert!(!bench.driver.device().lets_others_go_first());
    assert_eq!(told_after(&mut bench, 1000), 1);
}

#[test]
fn a_driver_that_has_looked_is_not_told() {
    let mut bench = bench_that_asks();
    send(&mut bench, 60);
    assert_eq!(bench.driver.used(TRANSMIT).len(), 1);
    bench.driver.set_used_event(TRANSMIT, 1);
    assert_eq!(told_after(&mut bench, 50), 0);
    send(&mut bench, 60);
    bench.driver.set_used_event(TRANSMIT, 2);
    *bench.time.lock().unwrap() += Duration::from_micros(49);
    send(&mut bench, 60);
    assert_eq!(told_after(&mut bench, 49), 0, "the third has a moment of its own");
    assert_eq!(told_after(&mut bench, 1), 1);
}

#[test]
fn much_is_told_at_once() {
    let mut bench = bench_that_asks();
    send(&mut bench, 9000);
    assert_eq!(bench.driver.interrupts(TRANSMIT), 1);
    bench.driver.set_used_event(TRANSMIT, 1);
    let sent = (1..=256).find(|_| {
        send(&mut bench, 60);
        bench.driver.interrupts(TRANSMIT) > 1
    });
    assert!(sent.is_some_and(|sent| (10..100).contains(&sent)), "{sent:?} frames");
    assert_eq!(told_after(&mut bench, 50), 2);
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none_and_is_not_waited_for() {
    let mut bench = bench(0);
    bench.driver.set_avail_flags(TRANSMIT, 1);
    send(&mut bench, 60);
    assert!(!bench.driver.device().lets_others_go_first());
    assert_eq!(told_after(&mut bench, 50), 0);
}

#[test]
fn nothing_stays_untold_in_a_pause_or_after_a_reset() {
    let mut bench = bench_that_asks();
    send(&mut bench, 60);
    bench.driver.pause();
    assert_eq!(bench.driver.interrupts(TRANSMIT), 1);
    bench.driver.resume().unwrap();
    assert_eq!(told_after(&mut bench, 50), 1);
    bench.driver.set_used_event(TRANSMIT, 1);
    send(&mut bench, 60);
    bench.driver.reset();
    assert!(!bench.driver.device().lets_others_go_first());
    bench.driver.source_ready(UNTOLD).unwrap();
}
