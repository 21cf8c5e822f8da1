//! The conformance test finds what it looks for: each rule is broken once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

use super::*;
use crate::{NotSaveable, RestoreError};

const LENGTH: u64 = 4;

/// One thing that a device gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    ReadPanics,
    WritePanics,
    ReadsPastEnd,
    WritesPastEnd,
    ActsPastEnd,
    IsNotSaved,
    ForgetsAByte,
    SavesAnother,
    TakesAnyKind,
    TakesAnyVersion,
    TakesUnknownFields,
    TakesHalf,
}

/// Four bytes that can be read and written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    bytes: [u8; 4],
    writes: u32,
}

/// As [`State`], for one who does not look too closely.
#[derive(Deserialize)]
struct Loose {
    bytes: [u8; 4],
    writes: u32,
}

struct Broken {
    state: State,
    flaw: Flaw,
}

impl BusDevice for Broken {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        assert!(self.flaw != Flaw::ReadPanics || offset != u64::MAX, "out of bounds");
        if self.flaw == Flaw::ReadsPastEnd && offset < LENGTH {
            data.fill(0);
        }
        let bytes = self.state.bytes.iter().skip(usize::try_from(offset).unwrap());
        for (byte, value) in data.iter_mut().zip(bytes) {
            *byte = *value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        assert!(self.flaw != Flaw::WritePanics || data.len() < 8, "too wide");
        if self.flaw == Flaw::ActsPastEnd && offset == LENGTH {
            return Action::Reset;
        }
        if offset < LENGTH || self.flaw == Flaw::WritesPastEnd {
            self.state.writes = self.state.writes.wrapping_add(1);
        }
        let bytes = self.state.bytes.iter_mut().skip(usize::try_from(offset).unwrap());
        for (byte, value) in bytes.zip(data) {
            *byte = *value;
        }
        Action::None
    }

    fn save(&self) -> Result<Option<Saved>, NotSaveable> {
        let mut state = self.state.clone();
        match self.flaw {
            Flaw::IsNotSaved => return Err(NotSaveable { reason: "it does not want to".into() }),
            Flaw::SavesAnother => state.writes = state.writes.wrapping_mul(2),
            _ => {}
        }
        Saved::new("broken", 1, &state).map(Some)
    }

    fn restore(&mut self, mut saved: Saved) -> Result<(), RestoreError> {
        match self.flaw {
            Flaw::TakesAnyKind => saved.kind = "broken".into(),
            Flaw::TakesAnyVersion => saved.version = 1,
            Flaw::TakesHalf => self.state.writes = self.state.writes.wrapping_add(7),
            _ => {}
        }
        self.state = if self.flaw == Flaw::TakesUnknownFields {
            let Loose { bytes, writes } = saved.open("broken", 1)?;
            State { bytes, writes }
        } else {
            saved.open("broken", 1)?
        };
        if self.flaw == Flaw::ForgetsAByte {
            self.state.bytes[3] = 0;
        }
        Ok(())
    }
}

fn passes(make: impl Fn() -> Box<dyn BusDevice>) -> bool {
    catch_unwind(AssertUnwindSafe(|| conformance(LENGTH, make))).is_ok()
}

#[test]
fn each_flaw_is_found() {
    let broken = |flaw| {
        move || -> Box<dyn BusDevice> { Box::new(Broken { state: State { bytes: [0; 4], writes: 0 }, flaw }) }
    };
    assert!(passes(broken(Flaw::None)));
    let flaws = [
        Flaw::ReadPanics,
        Flaw::WritePanics,
        Flaw::ReadsPastEnd,
        Flaw::WritesPastEnd,
        Flaw::ActsPastEnd,
        Flaw::IsNotSaved,
        Flaw::ForgetsAByte,
        Flaw::SavesAnother,
        Flaw::TakesAnyKind,
        Flaw::TakesAnyVersion,
        Flaw::TakesUnknownFields,
        Flaw::TakesHalf,
    ];
    for flaw in flaws {
        assert!(!passes(broken(flaw)), "{flaw:?} goes unnoticed");
    }
}

/// Says that it keeps nothing.
struct Stateless {
    takes_states: bool,
}

impl BusDevice for Stateless {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, _offset: u64, _data: &[u8]) -> Action {
        Action::None
    }

    fn restore(&mut self, _saved: Saved) -> Result<(), RestoreError> {
        if self.takes_states { Ok(()) } else { Err(RestoreError("it keeps none".into())) }
    }
}

#[test]
fn a_device_without_state_takes_none() {
    assert!(passes(|| Box::new(Stateless { takes_states: false })));
    assert!(!passes(|| Box::new(Stateless { takes_states: true })));
}
