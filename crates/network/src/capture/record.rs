//! Records in a flat buffer: a head of fixed length, then the bytes of the frame.

use std::collections::VecDeque;
use std::time::Duration;

use super::What;
use crate::faults::{Crossing, Reason};

/// Bytes of a head: time, two interfaces, kind, number, detail, missed, kept and whole length.
const HEAD: usize = KEPT_AT + 4 + 4;
/// Where a head says how much of the frame follows.
const KEPT_AT: usize = 8 + 2 + 2 + 1 + 8 + 8 + 4;

/// No bit was flipped.
const NONE: u64 = u64::MAX;

/// What is recorded of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) at: Duration,
    /// The interface that sent it, and the one that the record belongs to.
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) what: What,
    /// Frames before it that were not recorded.
    pub(super) missed: u32,
    pub(super) frame: &'a [u8],
}

/// One as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) at: Duration,
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) what: What,
    pub(super) missed: u32,
    pub(super) frame: Vec<u8>,
    /// The length of the whole frame.
    pub(super) length: u32,
}

/// Records in their order.
#[derive(Debug, Default)]
pub(super) struct Records {
    buffer: VecDeque<u8>,
    count: usize,
}

impl Records {
    /// Bytes that a record of so many of a frame takes.
    pub(super) fn size(kept: usize) -> usize {
        HEAD.saturating_add(kept)
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn push(&mut self, record: &Record<'_>, length: usize) {
        let (kind, number, detail) = encode(record.what);
        let at = u64::try_from(record.at.as_nanos()).unwrap_or(u64::MAX);
        let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.buffer.extend(&at.to_le_bytes());
        self.buffer.extend(&record.from.to_le_bytes());
        self.buffer.extend(&record.to.to_le_bytes());
        self.buffer.push_back(kind);
        self.buffer.extend(&number.to_le_bytes());
        self.buffer.extend(&detail.to_le_bytes());
        self.buffer.extend(&record.missed.to_le_bytes());
        self.buffer.extend(&size(record.frame.len()));
        self.buffer.extend(&size(length));
        self.buffer.extend(record.frame);
        self.count = self.count.saturating_add(1);
    }

    /// Throws the oldest away; whether there was one.
    pub(super) fn drop_first(&mut self) -> bool {
        let mut length = Reader { bytes: self.buffer.iter() };
        length.skip(KEPT_AT);
        let Some(kept) = length.size() else { return false };
        self.buffer.drain(..Self::size(kept).min(self.buffer.len()));
        self.count = self.count.saturating_sub(1);
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Kept> {
        let mut reader = Reader { bytes: self.buffer.iter() };
        std::iter::from_fn(move || reader.read())
    }
}

struct Reader<'a> {
    bytes: std::collections::vec_deque::Iter<'a, u8>,
}

impl Reader<'_> {
    fn read(&mut self) -> Option<Kept> {
        let at = Duration::from_nanos(u64::from_le_bytes(self.word()?));
        let (from, to) = (u16::from_le_bytes(self.word()?), u16::from_le_bytes(self.word()?));
        let [kind] = self.word()?;
        let (number, detail) = (u64::from_le_bytes(self.word()?), u64::from_le_bytes(self.word()?));
        let missed = u32::from_le_bytes(self.word()?);
        let kept = self.size()?;
        let length = u32::from_le_bytes(self.word()?);
        let frame: Vec<u8> = self.bytes.by_ref().take(kept).copied().collect();
        Some(Kept { at, from, to, what: decode(kind, number, detail)?, missed, frame, length })
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.word()?)).ok()
    }

    fn skip(&mut self, bytes: usize) {
        if let Some(last) = bytes.checked_sub(1) {
            self.bytes.nth(last);
        }
    }

    fn word<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut word = [0; N];
        for byte in &mut word {
            *byte = *self.bytes.next()?;
        }
        Some(word)
    }
}

const SENT: u8 = 0;
const ARRIVED: u8 = 1;
const DUPLICATE: u8 = 2;
const FULL: u8 = 3;
const LINK_DOWN: u8 = 4;
const REASONS: [(u8, Reason); 4] =
    [(16, Reason::Cut), (17, Reason::Flap), (18, Reason::Loss), (19, Reason::Queue)];

fn encode(what: What) -> (u8, u64, u64) {
    match what {
        What::Sent => (SENT, 0, 0),
        What::Arrived(Crossing { number, flipped, duplicate, .. }) => {
            let flipped = flipped.and_then(|bit| u64::try_from(bit).ok()).unwrap_or(NONE);
            (if duplicate { DUPLICATE } else { ARRIVED }, number, flipped)
        }
        What::Dropped(reason) => {
            let code = REASONS.iter().find(|(_, other)| *other == reason);
            (code.map_or(u8::MAX, |(code, _)| *code), 0, 0)
        }
        What::Full => (FULL, 0, 0),
        What::LinkDown => (LINK_DOWN, 0, 0),
    }
}

fn decode(kind: u8, number: u64, detail: u64) -> Option<What> {
    let flipped = if detail == NONE { None } else { usize::try_from(detail).ok() };
    let crossing = Crossing { number, due: Duration::ZERO, flipped, duplicate: kind == DUPLICATE };
    match kind {
        SENT => Some(What::Sent),
        ARRIVED | DUPLICATE => Some(What::Arrived(crossing)),
        FULL => Some(What::Full),
        LINK_DOWN => Some(What::LinkDown),
        _ => REASONS.iter().find(|(code, _)| *code == kind).map(|(_, reason)| What::Dropped(*reason)),
    }
}
