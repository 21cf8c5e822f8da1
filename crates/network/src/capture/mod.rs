//! What passes a switch, kept for people to look at: records in memory, and files of them in the format pcapng.
//!
//! A frame is recorded where it enters the switch. Where something happens to it on its way to a receiver (it is dropped, or a
//! fault had a say in it), it is recorded there once more, with what happened as a comment. Records are in one flat buffer that
//! is bounded by its owner, so recording costs a copy and nothing else.

mod pcapng;
mod record;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::record::{Record, Records};
use crate::faults::{Crossing, Reason};
use crate::frame::Frame;
use crate::state::{PortId, Way};
use crate::switch::Shared;
use crate::{Switch, Waker};

/// What a capture keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureLimits {
    /// Bytes of a frame, from its beginning.
    pub of_frame: usize,
    /// Bytes of all records that wait to be taken.
    pub bytes: usize,
    /// What is lost when there are more.
    pub when_full: WhenFull,
}

/// What a full capture loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// What came first: the last frames are there at any time.
    Oldest,
    /// What comes now, until records have been taken. The next one tells how many were lost.
    Newest,
}

impl CaptureLimits {
    /// The last frames before a failure, always at hand: 160 bytes of each, which hold the headers of TCP and of most that is in
    /// it, and 256 KiB in all, for some 1300 frames.
    #[must_use]
    pub fn ring() -> Self {
        Self { of_frame: 160, bytes: 256 << 10, when_full: WhenFull::Oldest }
    }

    /// All frames whole, for somebody who writes them to a file: 16 MiB may wait, which a guest needs some milliseconds for.
    #[must_use]
    pub fn whole() -> Self {
        Self { of_frame: usize::MAX, bytes: 16 << 20, when_full: WhenFull::Newest }
    }
}

/// A capture of one switch, from its making until it is dropped.
pub struct Capture {
    switch: Arc<Shared>,
    id: u64,
    /// What is added to the times that the switch is given, to make times since 1970 of them.
    epoch: Duration,
    /// What the file says of every interface, besides its name.
    description: Option<String>,
}

impl Capture {
    /// Has the file say this of every interface, such as the name of the network that it is on: the option `if_description`.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The file so far, as pcapng: header, interfaces and all records, which stay.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let mut file = pcapng::header();
        self.with(|recorder, names| {
            names.iter().for_each(|name| self.interface(&mut file, name));
            recorder.records.iter().for_each(|record| pcapng::packet(&mut file, &record, names, self.epoch));
        });
        file
    }

    /// The next part of the file, which begins with the header; what it holds is not kept any more. Empty when there is nothing
    /// new.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        let mut part = Vec::new();
        self.with(|recorder, names| {
            if !recorder.begun {
                recorder.begun = true;
                part = pcapng::header();
            }
            names.iter().skip(recorder.told).for_each(|name| self.interface(&mut part, name));
            recorder.told = names.len();
            recorder.records.iter().for_each(|record| pcapng::packet(&mut part, &record, names, self.epoch));
            recorder.records.clear();
            recorder.called = false;
        });
        part
    }

    /// How many frames are recorded and not taken.
    #[must_use]
    pub fn frames(&self) -> usize {
        let mut frames = 0;
        self.with(|recorder, _| frames = recorder.records.len());
        frames
    }

    /// Sets who is told when half of the room is used up.
    pub fn set_waker(&self, waker: Waker) {
        let mut former = None;
        self.with(|recorder, _| former = recorder.waker.replace(waker));
        drop(former);
    }

    fn interface(&self, file: &mut Vec<u8>, name: &str) {
        pcapng::interface(file, name, self.description.as_deref());
    }

    fn with(&self, work: impl FnOnce(&mut Recorder, &[String])) {
        let mut state = self.switch.lock();
        if let Some(captures) = state.captures.as_mut()
            && let Some(recorder) = captures.recorders.iter_mut().find(|recorder| recorder.id == self.id)
        {
            work(recorder, &captures.names);
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let mut state = self.switch.lock();
        let Some(captures) = &mut state.captures else { return };
        let (mine, others) =
            std::mem::take(&mut captures.recorders).into_iter().partition(|it| it.id == self.id);
        captures.recorders = others;
        let idle = state.captures.take_if(|captures| captures.recorders.is_empty());
        drop(state);
        let mine: Vec<Recorder> = mine;
        drop((mine, idle));
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Switch {
    /// Records what passes from now on. `epoch` is added to the times that the switch is given: with the time since 1970 at
    /// their zero, the file has the time of day.
    #[must_use]
    pub fn capture(&self, limits: CaptureLimits, epoch: Duration) -> Capture {
        let id = self.lock().start_capture(limits);
        Capture { switch: self.shared(), id, epoch, description: None }
    }
}

/// All captures of a switch.
#[derive(Default)]
pub(crate) struct Captures {
    recorders: Vec<Recorder>,
    next: u64,
    /// The interfaces by their numbers: names of ports, each once.
    names: Vec<String>,
    /// The numbers of the ports that are attached.
    numbers: std::collections::BTreeMap<PortId, u16>,
}

struct Recorder {
    id: u64,
    limits: CaptureLimits,
    records: Records,
    /// Frames that found no room since the last record.
    missed: u32,
    /// The header was taken, and so many interfaces.
    begun: bool,
    told: usize,
    waker: Option<Waker>,
    /// The waker was called since the last taking.
    called: bool,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It entered the switch.
    Sent,
    /// A fault had a say in how it arrived.
    Arrived(Crossing),
    /// A fault dropped it.
    Dropped(Reason),
    /// Its receiver had no room.
    Full,
    /// Its receiver's link was down.
    LinkDown,
}

impl Captures {
    pub(crate) fn start(&mut self, limits: CaptureLimits) -> u64 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let records = Records::default();
        self.recorders.push(Recorder {
            id,
            limits,
            records,
            missed: 0,
            begun: false,
            told: 0,
            waker: None,
            called: false,
        });
        id
    }

    /// Makes a port an interface. One of the same name is the same interface.
    pub(crate) fn name(&mut self, id: PortId, name: &str) {
        let known = self.names.iter().position(|other| other == name);
        let at = known.unwrap_or(self.names.len());
        if known.is_none() {
            self.names.push(name.to_owned());
        }
        if let Ok(number) = u16::try_from(at) {
            self.numbers.insert(id, number);
        }
    }

    pub(crate) fn forget(&mut self, id: PortId) {
        self.numbers.remove(&id);
    }

    /// Records a frame that `port` has sent.
    pub(crate) fn sent(
        &mut self,
        now: Duration,
        port: PortId,
        frame: &Frame,
        wakes: &mut crate::switch::Wakes,
    ) {
        self.record(now, Way { from: port, to: port }, frame, What::Sent, wakes);
    }

    /// Records what happened to a frame on its way.
    pub(crate) fn record(
        &mut self,
        now: Duration,
        way: Way,
        frame: &Frame,
        what: What,
        wakes: &mut crate::switch::Wakes,
    ) {
        let (Some(from), Some(to)) = (self.numbers.get(&way.from), self.numbers.get(&way.to)) else { return };
        for recorder in &mut self.recorders {
            let record =
                Record { at: now, from: *from, to: *to, what, missed: recorder.missed, frame: &frame.bytes };
            recorder.add(&record, frame.bytes.len());
            if !recorder.called && recorder.records.bytes() > recorder.limits.bytes / 2 {
                recorder.called = true;
                wakes.add(recorder.waker.as_ref());
            }
        }
    }
}

impl Recorder {
    fn add(&mut self, record: &Record<'_>, length: usize) {
        let kept = record.frame.get(..self.limits.of_frame).unwrap_or(record.frame);
        let needed = Records::size(kept.len());
        if self.limits.when_full == WhenFull::Oldest {
            while self.records.bytes().saturating_add(needed) > self.limits.bytes && self.records.drop_first()
            {
            }
        } else if self.records.bytes().saturating_add(needed) > self.limits.bytes {
            self.missed = self.missed.saturating_add(1);
            return;
        }
        self.records.push(&Record { frame: kept, ..*record }, length);
        self.missed = 0;
    }
}
