//! When a device's thread lets its guest go on, so that a turn serves many requests and not one.
//!
//! A thread that a doorbell wakes takes the vCPU's place at once where both share a host CPU: each request gets a turn, a
//! notification and an interrupt of its own, however many the guest would have made. As a batch thread (`sched(7)`,
//! `SCHED_BATCH`) it runs when the vCPU waits or its time is up, and finds all of them. A guest that makes one request at a
//! time loses by that: it halts before it is answered. Which kind a guest is shows in turns that were late, so some are.
//!
//! ```text
//!  eager ──(after a while, or a turn that served several)──► patient
//!    ▲                                                          │
//!    └───────────────(2 turns that served one)──────────────────┘
//! ```

/// Turns after which it is tried whether more requests come together: often enough to find out within milliseconds.
const FEW_TURNS: u16 = 64;
/// The same for a guest that made one at a time again and again, which must not feel it.
const MANY_TURNS: u16 = 1024;
/// Turns with one request each that end a patient time.
const LONELY_TURNS: u16 = 2;

/// What is known of the guest's requests. It starts eager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gathering {
    /// Runs when the vCPU lets it, and not when it is woken.
    is_patient: bool,
    /// Turns with one request that it takes until that changes.
    left: u16,
    /// How long it is eager the next time.
    pause: u16,
}

impl Gathering {
    pub(crate) const fn new() -> Self {
        Self { is_patient: false, left: FEW_TURNS, pause: FEW_TURNS }
    }

    pub(crate) fn is_patient(self) -> bool {
        self.is_patient
    }

    /// After a turn that answered `requests`.
    #[must_use]
    pub(crate) fn after(self, requests: u64) -> Self {
        let left = self.left.saturating_sub(1);
        match requests {
            0 => self,
            1 if left > 0 => Self { left, ..self },
            1 if self.is_patient => {
                let pause = self.pause.saturating_mul(2).min(MANY_TURNS);
                Self { is_patient: false, left: self.pause, pause }
            }
            1 => Self { is_patient: true, left: LONELY_TURNS, ..self },
            _ => Self { is_patient: true, left: LONELY_TURNS, pause: FEW_TURNS },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 10 000 turns are patient, for a guest that makes `depth` requests at once: those that come together are
    /// seen together only in patient turns.
    fn patient_turns(depth: u64) -> u32 {
        let mut gathering = Gathering::new();
        let mut patient = 0;
        for _ in 0..10_000 {
            let found = if gathering.is_patient() { depth } else { 1 };
            patient += u32::from(gathering.is_patient());
            gathering = gathering.after(found);
        }
        patient
    }

    #[test]
    fn one_request_at_a_time_is_served_at_once() {
        assert!(patient_turns(1) < 10_000 / 200);
    }

    #[test]
    fn requests_that_come_together_are_soon_served_together() {
        assert_eq!(patient_turns(2), 10_000 - u32::from(FEW_TURNS));
    }

    #[test]
    fn a_turn_without_a_request_says_nothing() {
        let patient = Gathering::new().after(2);
        assert_eq!(patient.after(0), patient);
        assert_eq!(Gathering::new().after(0), Gathering::new());
    }

    #[test]
    fn several_at_once_are_waited_for_from_then_on() {
        let patient = Gathering::new().after(2);
        assert!(patient.is_patient() && patient.after(1).is_patient());
        assert!(!patient.after(1).after(1).is_patient());
        assert_eq!(patient.after(1).after(7), patient);
    }
}
