//! The CMOS clock and memory of a PC: a Motorola MC146818 behind ports 0x70 (index) and 0x71 (data).
//!
//! The clock shows the time it is handed plus an offset that the guest changes by setting it. It has no interrupt: alarm
//! and periodic registers are memory, the update-ended flag can be polled. It owns the offset and 114 bytes of memory,
//! and must never fail: a date that does not exist leaves the clock as it was.

mod calendar;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use snowboot_bus::{Action, BusDevice, NotSaveable, RestoreError, Saved};

use self::calendar::Moment;

/// First I/O port.
pub const BASE: u64 = 0x70;
/// Number of I/O ports taken.
pub const PORTS: u64 = 2;
/// Register of the century, for the FADT's `CENTURY` field (ACPI 6.5, table 5.9).
pub const CENTURY: u8 = 0x32;

const INDEX: u64 = 0;
const DATA: u64 = 1;
/// The upper bit of the index port masks NMIs.
const INDEX_BITS: u8 = 0x7f;
const MEMORY: usize = 128;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;

/// Register A: an update is under way; the divider bits, of which the upper two hold the clock still.
const UPDATE_IN_PROGRESS: u8 = 0x80;
const DIVIDER_RESET: u8 = 0x60;
/// Register A after power-up: the divider for a 32768 Hz crystal, and the usual rate.
const STATUS_A_DEFAULT: u8 = 0x26;
/// Register B: the guest sets the clock; values are binary; hours count to 24.
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// Register C: the clock has advanced since the flag was read.
const UPDATE_ENDED: u8 = 0x10;
/// Register D: the battery is good.
const VALID: u8 = 0x80;
/// The afternoon, when hours count to 12.
const PM: u8 = 0x80;

const SECOND: i128 = 1_000_000_000;
/// How long before a new second `UPDATE_IN_PROGRESS` is set, in nanoseconds.
const UPDATE_LEAD: i128 = 244_000;
/// Twenty thousand years: what a saved offset cannot exceed, in seconds.
const MOST_OFFSET: i128 = 631_152_000_000;

const KIND: &str = "cmos-rtc";
const VERSION: u16 = 1;

/// What time it is on the host.
pub type WallClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The clock.
pub struct Rtc {
    clock: WallClock,
    index: u8,
    /// The memory behind all registers; those of the time are only current while the guest sets the clock.
    memory: [u8; MEMORY],
    /// What the guest's time is ahead of the host's, in nanoseconds.
    offset: i128,
    /// The last second, in guest time, in which register C was read.
    seen: i128,
}

impl Rtc {
    /// A clock that shows what `clock` does, in UTC.
    #[must_use]
    pub fn new(clock: WallClock) -> Self {
        let mut rtc = Self { clock, index: 0, memory: [0; MEMORY], offset: 0, seen: 0 };
        rtc.put(STATUS_A, STATUS_A_DEFAULT);
        rtc.put(STATUS_B, HOURS_24);
        rtc.seen = rtc.now().div_euclid(SECOND);
        rtc
    }

    /// The guest's time in nanoseconds since 1970.
    fn now(&self) -> i128 {
        let host = match (self.clock)().duration_since(UNIX_EPOCH) {
            Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(0),
            Err(before) => i128::try_from(before.duration().as_nanos()).unwrap_or(0).saturating_neg(),
        };
        host.saturating_add(self.offset)
    }

    fn get(&mut self, register: u8) -> u8 {
        match register {
            STATUS_A => {
                self.at(STATUS_A) & !UPDATE_IN_PROGRESS | if self.updating() { UPDATE_IN_PROGRESS } else { 0 }
            }
            STATUS_C => {
                let second = self.now().div_euclid(SECOND);
                let advanced = std::mem::replace(&mut self.seen, second) != second;
                if advanced && self.at(STATUS_B) & SET == 0 { UPDATE_ENDED } else { 0 }
            }
            STATUS_D => VALID,
            _ if is_time(register) => {
                self.refresh();
                self.at(register)
            }
            _ => self.at(register),
        }
    }

    fn set(&mut self, register: u8, value: u8) {
        match register {
            STATUS_A => {
                let was_reset = self.at(STATUS_A) & DIVIDER_RESET == DIVIDER_RESET;
                self.put(STATUS_A, value & !UPDATE_IN_PROGRESS);
                if was_reset && value & DIVIDER_RESET != DIVIDER_RESET {
                    // The first update comes half a second after the divider starts.
                    let now = self.now();
                    self.offset += SECOND / 2 - now.rem_euclid(SECOND);
                }
            }
            STATUS_B => {
                // The registers are brought up to date in the old format, and kept in the new one.
                self.refresh();
                let was_set = self.at(STATUS_B) & SET != 0;
                self.put(STATUS_B, value);
                if was_set && value & SET == 0 {
                    self.commit();
                }
            }
            STATUS_C | STATUS_D => {}
            _ if is_time(register) => {
                self.refresh();
                self.put(register, value);
                if self.at(STATUS_B) & SET == 0 {
                    self.commit();
                }
            }
            _ => self.put(register, value),
        }
    }

    fn updating(&self) -> bool {
        self.at(STATUS_B) & SET == 0 && self.now().rem_euclid(SECOND) >= SECOND - UPDATE_LEAD
    }

    /// Brings the time registers up to date, unless the guest is setting them.
    fn refresh(&mut self) {
        if self.at(STATUS_B) & SET != 0 {
            return;
        }
        let moment = Moment::from_seconds(i64::try_from(self.now().div_euclid(SECOND)).unwrap_or(0));
        let hour = if self.at(STATUS_B) & HOURS_24 != 0 {
            self.encode(moment.hour)
        } else {
            let of_twelve = if moment.hour % 12 == 0 { 12 } else { moment.hour % 12 };
            self.encode(of_twelve) | if moment.hour >= 12 { PM } else { 0 }
        };
        self.put(HOURS, hour);
        for (register, value) in [
            (SECONDS, moment.second),
            (MINUTES, moment.minute),
            (WEEKDAY, moment.weekday + 1),
            (DAY, moment.day),
            (MONTH, moment.month),
            (YEAR, moment.year.rem_euclid(100)),
            (CENTURY, moment.year.div_euclid(100)),
        ] {
            let value = self.encode(value);
            self.put(register, value);
        }
    }

    /// Moves the clock to what the registers say. The fraction of the running second goes on.
    fn commit(&mut self) {
        let hour = self.at(HOURS);
        let hour = if self.at(STATUS_B) & HOURS_24 != 0 {
            self.decode(hour)
        } else {
            self.decode(hour & !PM) % 12 + if hour & PM != 0 { 12 } else { 0 }
        };
        let moment = Moment {
            year: self.decode(self.at(CENTURY)) * 100 + self.decode(self.at(YEAR)),
            month: self.decode(self.at(MONTH)),
            day: self.decode(self.at(DAY)),
            weekday: 0,
            hour,
            minute: self.decode(self.at(MINUTES)),
            second: self.decode(self.at(SECONDS)),
        };
        if let Some(seconds) = moment.to_seconds() {
            self.offset += i128::from(seconds) * SECOND - (self.now() - self.now().rem_euclid(SECOND));
        }
    }

    fn encode(&self, value: i64) -> u8 {
        let value = u8::try_from(value.clamp(0, 99)).unwrap_or(0);
        if self.at(STATUS_B) & BINARY != 0 { value } else { value / 10 * 16 + value % 10 }
    }

    fn decode(&self, value: u8) -> i64 {
        let value = i64::from(value);
        if self.at(STATUS_B) & BINARY != 0 { value } else { value / 16 * 10 + value % 16 }
    }

    fn at(&self, register: u8) -> u8 {
        self.memory.get(usize::from(register)).copied().unwrap_or(0xff)
    }

    fn put(&mut self, register: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(register)) {
            *byte = value;
        }
    }
}

fn is_time(register: u8) -> bool {
    matches!(register, SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY)
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtc")
            .field("index", &self.index)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl BusDevice for Rtc {
    /// The index register is write-only.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..PORTS).zip(data) {
            if port == DATA {
                *byte = self.get(self.index);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        for (port, value) in (offset..PORTS).zip(data) {
            match port {
                INDEX => self.index = value & INDEX_BITS,
                _ => self.set(self.index, *value),
            }
        }
        Action::None
    }

    /// The memory, and by how much the guest has moved its clock.
    fn save(&self) -> Result<Option<Saved>, NotSaveable> {
        let state = State {
            index: self.index,
            memory: self.memory.to_vec(),
            offset_seconds: i64::try_from(self.offset.div_euclid(SECOND)).unwrap_or(0),
            offset_nanoseconds: u32::try_from(self.offset.rem_euclid(SECOND)).unwrap_or(0),
            seen: i64::try_from(self.seen).unwrap_or(0),
        };
        Saved::new(KIND, VERSION, &state).map(Some)
    }

    /// The clock then shows the time of now, as one with a battery does.
    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open(KIND, VERSION)?;
        let memory = <[u8; MEMORY]>::try_from(state.memory).map_err(|memory| {
            RestoreError(format!("a clock has 128 bytes of memory, not {}", memory.len()))
        })?;
        let seconds = i128::from(state.offset_seconds);
        if seconds.abs() > MOST_OFFSET || i128::from(state.offset_nanoseconds) >= SECOND {
            return Err(RestoreError("the clock is set to no year that it can show".into()));
        }
        self.memory = memory;
        self.put(STATUS_A, self.at(STATUS_A) & !UPDATE_IN_PROGRESS);
        self.index = state.index & INDEX_BITS;
        self.offset = seconds * SECOND + i128::from(state.offset_nanoseconds);
        self.seen = state.seen.into();
        Ok(())
    }
}

/// The saved form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    index: u8,
    memory: Vec<u8>,
    offset_seconds: i64,
    offset_nanoseconds: u32,
    seen: i64,
}

#[cfg(test)]
mod tests;
