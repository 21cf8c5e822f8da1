//! What everything that answers accesses must get right, for the tests of every device on a bus.
//!
//! Everything here panics when the device does something wrong, as tests should.

#[cfg(test)]
mod tests;

use crate::{Action, BusDevice, Saved};

const FUZZ_STEPS: u32 = 4000;
const FUZZ_SEEDS: u64 = 16;
/// What a read finds in its buffer: no device answers with a page of these by chance.
const UNTOUCHED: u8 = 0xa5;
const WIDTHS: [usize; 4] = [1, 2, 4, 8];

/// Runs a device through the rules that are the same for all devices on a bus: `make` returns a fresh one, always the same
/// kind; `length` is how long its range is, in bytes.
///
/// ```no_run
/// # fn clock() -> Box<dyn snowboot_bus::BusDevice> { unimplemented!() }
/// snowboot_bus::testing::conformance(2, clock);
/// ```
///
/// Checked are: accesses of every width at and past every offset, of which none panics and none reaches past the range;
/// random accesses; state that survives saving and restoring, into a fresh device and into itself; and that a state that is
/// not this device's, or malformed, is refused and changes nothing.
///
/// # Panics
/// When the device breaks a rule.
pub fn conformance(length: u64, make: impl Fn() -> Box<dyn BusDevice>) {
    every_access(length, make().as_mut());
    refused_states(&make, make().as_mut());
    for seed in 1..=FUZZ_SEEDS {
        let device = random_accesses(length, &make, seed);
        refused_states(&make, { device }.as_mut());
    }
}

/// A small generator, so that every run is the same (xorshift64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for a small `seed`, not zero.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end, and this does not")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number below `bound`.
    pub fn below_u16(&mut self, bound: u16) -> u16 {
        u16::try_from(self.below(bound.into())).expect("below a u16")
    }

    /// The bytes of an access: one of so many widths, from one byte on.
    pub fn access(&mut self, widths: u64) -> Vec<u8> {
        let width = 1 << self.below(widths);
        self.bytes(width)
    }

    /// Any bytes.
    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        // Small numbers are more often meant to be something.
        let small = self.below(2) == 0;
        (0..length).map(|_| self.next().to_le_bytes()[0] & if small { 3 } else { 0xff }).collect()
    }
}

/// The device's state, which it has to be able to save at any time.
fn save(device: &dyn BusDevice) -> Option<Saved> {
    device.save().expect("a device on a bus can be saved")
}

/// Reads `width` bytes; what lies past the device's end must be left alone.
fn read(device: &mut dyn BusDevice, length: u64, offset: u64, width: usize) {
    let mut data = vec![UNTOUCHED; width];
    device.read(offset, &mut data);
    let own = usize::try_from(length.saturating_sub(offset)).expect("a 64-bit host");
    let past = data.get(own..).unwrap_or_default();
    assert!(
        past.iter().all(|byte| *byte == UNTOUCHED),
        "{width} bytes at {offset:#x} of {length:#x} reach past the end: {data:x?}"
    );
}

fn every_access(length: u64, device: &mut dyn BusDevice) {
    let far = [0xffff, 0x1_0000, u64::from(u32::MAX), 1 << 32, u64::MAX >> 1];
    let offsets = (0..length + 9).chain(far).chain(u64::MAX - 8..=u64::MAX);
    for offset in offsets {
        for width in WIDTHS {
            read(device, length, offset, width);
            for value in [0, 0x5a, 0xff] {
                let before = save(device);
                let action = device.write(offset, &vec![value; width]);
                if offset >= length {
                    assert_eq!(action, Action::None, "a write past the end at {offset:#x} does something");
                    assert_eq!(save(device), before, "a write past the end at {offset:#x} changes something");
                }
            }
            read(device, length, offset, width);
        }
    }
}

/// Anything a guest can do to the device, which is saved and restored meanwhile. Returns it as it is at the end.
fn random_accesses(length: u64, make: &dyn Fn() -> Box<dyn BusDevice>, seed: u64) -> Box<dyn BusDevice> {
    let mut random = Random::new(seed);
    let mut device = make();
    for _ in 0..FUZZ_STEPS {
        let offset = match random.below(16) {
            0 => random.next(),
            1 => random.below(length + 8),
            _ => random.below(length),
        };
        if random.below(2) == 0 {
            read(device.as_mut(), length, offset, 1 << random.below(4));
        } else {
            let _ = device.write(offset, &random.access(4));
        }
        if random.below(32) == 0 {
            device = saved_and_restored(device, make, random.below(2) == 0);
        }
    }
    device
}

/// Goes on with another device, or with the same one, from what this one has saved. Only states are compared: to look at
/// registers is to change them.
fn saved_and_restored(
    mut device: Box<dyn BusDevice>,
    make: &dyn Fn() -> Box<dyn BusDevice>,
    moves: bool,
) -> Box<dyn BusDevice> {
    let Some(saved) = save(device.as_ref()) else { return device };
    if moves {
        device = make();
    }
    device.restore(saved.clone()).expect("a device's own state fits");
    assert_eq!(save(device.as_ref()), Some(saved), "saved, restored, saved: not the same");
    device
}

/// What is refused must be refused by a fresh device as by one in use.
fn refused_states(make: &dyn Fn() -> Box<dyn BusDevice>, device: &mut dyn BusDevice) {
    let states = save(device).map_or_else(any_states, |saved| foreign_states(&saved));
    let mut fresh = make();
    for state in states {
        for device in [&mut *device, fresh.as_mut()] {
            let before = save(device);
            device.restore(state.clone()).expect_err("a state that is not this device's was taken");
            assert_eq!(save(device), before, "{state:?} was refused, and changed something");
        }
    }
}

/// States for a device that has none.
fn any_states() -> Vec<Saved> {
    let empty = Saved { kind: String::new(), version: 0, body: serde_json::Value::Null };
    vec![empty.clone(), Saved { kind: "nothing".into(), version: 1, ..empty }]
}

/// States that are almost, but not, `own`.
fn foreign_states(own: &Saved) -> Vec<Saved> {
    let body = |body: serde_json::Value| Saved { body, ..own.clone() };
    let mut states = vec![
        Saved { kind: "nothing".into(), ..own.clone() },
        Saved { version: 0, ..own.clone() },
        Saved { version: own.version.wrapping_add(1), ..own.clone() },
        body("malformed".into()),
        body(serde_json::json!([{}])),
    ];
    if let Some(fields) = own.body.as_object() {
        let changed = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
            let mut fields = fields.clone();
            change(&mut fields);
            body(fields.into())
        };
        states.push(changed(&|fields| drop(fields.insert("unknown".into(), 0.into()))));
        for (name, value) in fields {
            states.push(changed(&|fields| drop(fields.remove(name))));
            // No type of a field is both what it is and a list of lists of that.
            states.push(changed(&|fields| drop(fields.insert(name.clone(), serde_json::json!([[value]])))));
        }
    }
    states
}
