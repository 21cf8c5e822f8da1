//! Blocks of the PCAP Next Generation file format (IETF, draft-ietf-opsawg-pcapng), little-endian.
//!
//! One section with one interface for each port: its name is that of the port, its description that of the capture, and it is seen from the machine's side, so that what the
//! machine sends is outbound.

use std::time::Duration;

use super::What;
use super::record::Kept;
use crate::faults::{Crossing, Reason};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;

const END: u16 = 0;
const COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION: u16 = 3;
const INTERFACE_RESOLUTION: u16 = 9;
/// Times are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;
const PACKET_FLAGS: u16 = 2;
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// The beginning of a file.
pub(super) fn header() -> Vec<u8> {
    let mut body = BYTE_ORDER.to_le_bytes().to_vec();
    body.extend(1u16.to_le_bytes()); // version 1.0
    body.extend(0u16.to_le_bytes());
    body.extend(u64::MAX.to_le_bytes()); // a section of unknown length
    option(&mut body, SECTION_APPLICATION, concat!("Snowboot ", env!("CARGO_PKG_VERSION")).as_bytes());
    option(&mut body, END, &[]);
    let mut file = Vec::new();
    block(&mut file, SECTION, &body);
    file
}

/// The next interface. Frames of any length may come.
pub(super) fn interface(file: &mut Vec<u8>, name: &str, description: Option<&str>) {
    let mut body = ETHERNET.to_le_bytes().to_vec();
    body.extend(0u16.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    option(&mut body, INTERFACE_NAME, name.as_bytes());
    if let Some(description) = description {
        option(&mut body, INTERFACE_DESCRIPTION, description.as_bytes());
    }
    option(&mut body, INTERFACE_RESOLUTION, &[NANOSECONDS]);
    option(&mut body, END, &[]);
    block(file, INTERFACE, &body);
}

/// A frame.
pub(super) fn packet(file: &mut Vec<u8>, record: &Kept, names: &[String], epoch: Duration) {
    let at = u64::try_from(epoch.saturating_add(record.at).as_nanos()).unwrap_or(u64::MAX);
    let [a, b, c, d, e, f, g, h] = at.to_le_bytes();
    let mut body = u32::from(record.to).to_le_bytes().to_vec();
    // The upper half first.
    body.extend([e, f, g, h, a, b, c, d]);
    body.extend(u32::try_from(record.frame.len()).unwrap_or(u32::MAX).to_le_bytes());
    body.extend(record.length.to_le_bytes());
    body.extend(&record.frame);
    pad(&mut body);
    let direction = if record.what == What::Sent { OUTBOUND } else { INBOUND };
    option(&mut body, PACKET_FLAGS, &direction.to_le_bytes());
    let sender = names.get(usize::from(record.from)).map_or("a port", String::as_str);
    if let Some(comment) = comment(record.what, sender) {
        option(&mut body, COMMENT, comment.as_bytes());
    }
    if record.missed > 0 {
        let missed =
            format!("{} frames before this one were not captured: they came too fast", record.missed);
        option(&mut body, COMMENT, missed.as_bytes());
    }
    option(&mut body, END, &[]);
    block(file, PACKET, &body);
}

/// What happened to a frame from `sender`.
fn comment(what: What, sender: &str) -> Option<String> {
    let dropped = |why: &str| Some(format!("dropped on its way from {sender}: {why}"));
    match what {
        What::Sent => None,
        What::Arrived(crossing) => Some(arrived(crossing, sender)),
        What::Full => dropped("the receiver's queue is full"),
        What::LinkDown => dropped("the receiver's link is down"),
        What::Dropped(Reason::Cut) => dropped("the way is cut"),
        What::Dropped(Reason::Flap) => dropped("the link is down as it flaps"),
        What::Dropped(Reason::Loss) => dropped("loss"),
        What::Dropped(Reason::Queue) => dropped("the queue of the way is full"),
    }
}

fn arrived(crossing: Crossing, sender: &str) -> String {
    let duplicate = if crossing.duplicate { ", a duplicate" } else { "" };
    let flipped = crossing.flipped.map(|bit| format!(", bit {} of byte {} flipped", bit % 8, bit / 8));
    format!("arrived as frame {} from {sender}{duplicate}{}", crossing.number, flipped.unwrap_or_default())
}

/// An option: code, length, value. Values are names and sentences, far below 64 KiB.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(value.len()) else { return };
    body.extend(code.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(value);
    pad(body);
}

/// Fills up to a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A block: type, length, body, length again.
fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = u32::try_from(body.len().saturating_add(12)).unwrap_or(u32::MAX);
    file.extend(kind.to_le_bytes());
    file.extend(length.to_le_bytes());
    file.extend(body);
    file.extend(length.to_le_bytes());
}
