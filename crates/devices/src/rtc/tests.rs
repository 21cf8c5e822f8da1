use std::sync::Mutex;
use std::time::Duration;

use super::*;

/// 2026-11-23 20:45:07, a Monday.
const START: u64 = 1_795_466_707;

fn clock() -> (Rtc, Arc<Mutex<Duration>>) {
    let time = Arc::new(Mutex::new(Duration::from_secs(START)));
    let source = Arc::clone(&time);
    (Rtc::new(Arc::new(move || UNIX_EPOCH + *source.lock().unwrap())), time)
}

fn read(rtc: &mut Rtc, register: u8) -> u8 {
    assert_eq!(rtc.write(INDEX, &[register | 0x80]), Action::None);
    let mut byte = [0xff];
    rtc.read(DATA, &mut byte);
    byte[0]
}

fn write(rtc: &mut Rtc, register: u8, value: u8) {
    assert_eq!(rtc.write(INDEX, &[register]), Action::None);
    assert_eq!(rtc.write(DATA, &[value]), Action::None);
}

fn time(rtc: &mut Rtc) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|register| read(rtc, register))
}

#[test]
fn it_is_a_bus_device() {
    snowboot_bus::testing::conformance(PORTS, || Box::new(clock().0));
    // A guest may also be busy while an update is announced and its time goes on.
    let time = Arc::new(Mutex::new(Duration::ZERO));
    snowboot_bus::testing::conformance(PORTS, || {
        let time = Arc::clone(&time);
        let now = move || {
            let mut time = time.lock().unwrap();
            *time += Duration::from_micros(100_123);
            UNIX_EPOCH + *time
        };
        Box::new(Rtc::new(Arc::new(now)))
    });
}

#[test]
fn the_time_is_shown_in_every_format() {
    let (mut rtc, _) = clock();
    assert_eq!(time(&mut rtc), [0x20, 0x26, 0x11, 0x23, 0x02, 0x20, 0x45, 0x07]);
    write(&mut rtc, STATUS_B, HOURS_24 | BINARY);
    assert_eq!(time(&mut rtc), [20, 26, 11, 23, 2, 20, 45, 7]);
    write(&mut rtc, STATUS_B, 0);
    assert_eq!(read(&mut rtc, HOURS), 0x88);
    write(&mut rtc, STATUS_B, BINARY);
    assert_eq!(read(&mut rtc, HOURS), 8 | PM);
}

#[test]
fn the_guest_sets_the_clock_and_it_goes_on_from_there() {
    let (mut rtc, time_source) = clock();
    write(&mut rtc, STATUS_B, SET | HOURS_24);
    for (register, value) in [
        (CENTURY, 0x20),
        (YEAR, 0x00),
        (MONTH, 0x02),
        (DAY, 0x29),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ] {
        write(&mut rtc, register, value);
    }
    *time_source.lock().unwrap() += Duration::from_secs(100); // held still while it is set
    write(&mut rtc, STATUS_B, HOURS_24);
    assert_eq!(time(&mut rtc), [0x20, 0x00, 0x02, 0x29, 0x03, 0x23, 0x59, 0x59]);
    *time_source.lock().unwrap() += Duration::from_secs(1);
    assert_eq!(time(&mut rtc), [0x20, 0x00, 0x03, 0x01, 0x04, 0x00, 0x00, 0x00]);
    write(&mut rtc, MINUTES, 0x30); // without stopping it
    assert_eq!(read(&mut rtc, MINUTES), 0x30);
}

#[test]
fn a_date_that_does_not_exist_changes_nothing() {
    let (mut rtc, _) = clock();
    write(&mut rtc, DAY, 0x31); // of November
    write(&mut rtc, MONTH, 0xff);
    write(&mut rtc, HOURS, 0x99);
    assert_eq!(time(&mut rtc), [0x20, 0x26, 0x11, 0x23, 0x02, 0x20, 0x45, 0x07]);
}

#[test]
fn a_second_starts_half_a_second_after_the_divider() {
    let (mut rtc, time_source) = clock();
    *time_source.lock().unwrap() += Duration::from_millis(900);
    write(&mut rtc, STATUS_A, 0x70);
    write(&mut rtc, STATUS_A, 0x26);
    assert_eq!(read(&mut rtc, SECONDS), 0x07);
    *time_source.lock().unwrap() += Duration::from_millis(499);
    assert_eq!(read(&mut rtc, SECONDS), 0x07);
    *time_source.lock().unwrap() += Duration::from_millis(1);
    assert_eq!(read(&mut rtc, SECONDS), 0x08);
}

#[test]
fn updates_are_announced_and_flagged() {
    let (mut rtc, time_source) = clock();
    assert_eq!(read(&mut rtc, STATUS_A), 0x26);
    assert_eq!(read(&mut rtc, STATUS_C), 0);
    *time_source.lock().unwrap() += Duration::from_micros(999_800);
    assert_eq!(read(&mut rtc, STATUS_A), 0xa6);
    *time_source.lock().unwrap() += Duration::from_micros(200);
    assert_eq!(read(&mut rtc, STATUS_A), 0x26);
    assert_eq!(read(&mut rtc, STATUS_C), UPDATE_ENDED);
    assert_eq!(read(&mut rtc, STATUS_C), 0);
    assert_eq!(read(&mut rtc, STATUS_D), VALID);
}

#[test]
fn memory_and_offset_are_saved() {
    let (mut rtc, _) = clock();
    write(&mut rtc, 0x50, 0xa5);
    write(&mut rtc, YEAR, 0x99);
    assert_eq!(read(&mut rtc, STATUS_C), UPDATE_ENDED);
    let saved = rtc.save().unwrap().unwrap();
    let (mut other, _) = clock();
    other.restore(saved.clone()).unwrap();
    assert_eq!(other.save().unwrap().as_ref(), Some(&saved));
    assert_eq!(read(&mut other, STATUS_C), 0, "no second has gone by");
    assert_eq!((read(&mut other, 0x50), read(&mut other, YEAR)), (0xa5, 0x99));
    for (field, value) in
        [("memory", serde_json::json!([1])), ("offset_seconds", serde_json::json!(i64::MAX))]
    {
        let mut bad = saved.clone();
        bad.body[field] = value;
        assert!(other.restore(bad).is_err(), "{field}");
    }
}

#[test]
fn any_access_is_answered() {
    let (mut rtc, _) = clock();
    for register in 0..=255 {
        for value in [0, 0x5a, 0x7f, 0x80, 0xff] {
            write(&mut rtc, register, value);
            let _ = time(&mut rtc);
        }
    }
    let mut wide = [0xff; 4];
    rtc.read(INDEX, &mut wide);
    assert_eq!((wide[0], wide[2], wide[3]), (0xff, 0xff, 0xff));
}
