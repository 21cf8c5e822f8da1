use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{DeviceEnd, pair};

fn told(device: &DeviceEnd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

fn pattern(index: usize) -> u8 {
    u8::try_from(index % 251).unwrap()
}

fn past() -> Option<Instant> {
    Some(Instant::now())
}

#[test]
fn bytes_travel_both_ways_in_order() {
    let (host, device) = pair(8).unwrap();
    assert_eq!(host.write(b"abc", past()).unwrap(), 3);
    assert!(told(&device));
    device.drain();
    assert!(!told(&device));
    let mut sink = Vec::new();
    assert_eq!(device.read_to(&mut sink, 100).unwrap(), 3);
    assert_eq!(sink, b"abc");
    assert_eq!(device.write_from(&mut &b"0123456789"[..], 100).unwrap(), 8);
    let mut buffer = [0; 16];
    assert_eq!(host.read(&mut buffer, past()).unwrap(), 8);
    assert_eq!(&buffer[..8], b"01234567");
}

#[test]
fn waiting_ends_at_the_deadline() {
    let (host, device) = pair(2).unwrap();
    assert_eq!(host.read(&mut [0; 4], past()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(host.write(b"abc", past()).unwrap(), 2);
    assert_eq!(host.write(b"c", past()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(device.pending(), 2);
    assert_eq!(device.peek(), b"ab");
}

#[test]
fn room_is_reported_once_half_is_free_and_only_when_it_had_run_out() {
    let (host, device) = pair(8).unwrap();
    device.write_from(&mut &b"1234"[..], 4).unwrap();
    host.read(&mut [0; 8], past()).unwrap();
    assert!(!told(&device));
    device.write_from(&mut &b"123456789"[..], 9).unwrap();
    host.read(&mut [0; 3], past()).unwrap();
    assert!(!told(&device));
    host.read(&mut [0; 1], past()).unwrap();
    assert!(told(&device));
}

#[test]
fn each_end_learns_that_the_other_is_gone() {
    let (host, device) = pair(8).unwrap();
    device.write_from(&mut &b"bye"[..], 3).unwrap();
    drop(device);
    assert_eq!(host.write(b"x", None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(host.read(&mut [0; 8], None).unwrap(), 3);
    assert_eq!(host.read(&mut [0; 8], None).unwrap(), 0);

    let (host, device) = pair(2).unwrap();
    let other = host.clone();
    drop(host);
    assert!(device.is_open());
    drop(other);
    assert!(told(&device) && !device.is_open());
    assert_eq!(device.write_from(&mut &b"to nobody"[..], 9).unwrap(), 9);
}

#[test]
fn a_dropped_device_wakes_a_waiting_host() {
    let (host, device) = pair(2).unwrap();
    let reader = thread::spawn(move || host.read(&mut [0; 8], None));
    drop(device);
    assert_eq!(reader.join().unwrap().unwrap(), 0);
}

#[test]
fn many_bytes_cross_a_small_stream_intact() {
    const TOTAL: usize = 4 << 20;
    let (host, device) = pair(4096).unwrap();
    let writer = host.clone();
    let sent = thread::spawn(move || {
        let data: Vec<u8> = (0..TOTAL).map(pattern).collect();
        let mut rest = &data[..];
        while !rest.is_empty() {
            rest = &rest[writer.write(rest, None).unwrap()..];
        }
    });
    // The device echoes; it sleeps on its descriptor only, as an event loop does.
    let echo = thread::spawn(move || {
        let (mut held, mut moved) = (Vec::new(), 0);
        while moved < TOTAL {
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            let mut fds = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)];
            assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "the device was never woken");
            device.drain();
            loop {
                if held.is_empty() && device.read_to(&mut held, 3000).unwrap() == 0 {
                    break;
                }
                let taken = device.write_from(&mut &held[..], held.len()).unwrap();
                held.drain(..taken);
                moved += taken;
                if taken == 0 {
                    break;
                }
            }
        }
    });
    let (mut buffer, mut received) = (vec![0; 1000], 0);
    while received < TOTAL {
        let count = host.read(&mut buffer, Some(Instant::now() + Duration::from_secs(20))).unwrap();
        for (index, byte) in buffer[..count].iter().enumerate() {
            assert_eq!(*byte, pattern(received + index));
        }
        received += count;
    }
    sent.join().unwrap();
    echo.join().unwrap();
}

#[test]
fn the_first_output_is_told_once_also_when_nobody_reads_it() {
    for is_read in [true, false] {
        let (host, device) = pair(8).unwrap();
        let host = is_read.then_some(host);
        let (sender, told) = std::sync::mpsc::channel();
        let other = sender.clone();
        device.on_first_output(Box::new(move || sender.send(()).unwrap()));
        device.on_first_output(Box::new(move || other.send(()).unwrap()));
        device.write_from(&mut &b""[..], 8).unwrap();
        assert!(told.try_recv().is_err());
        device.write_from(&mut &b"a"[..], 8).unwrap();
        device.write_from(&mut &b"b"[..], 8).unwrap();
        assert_eq!(told.iter().count(), 2, "each hook once, read {is_read}");
        drop(host);
    }
}
