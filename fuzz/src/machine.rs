//! A machine for monitors, which only counts what is done to it.

use std::net::SocketAddr;
use std::sync::Mutex;

use snowboot_config::PortForward;
use snowboot_qemu::{Card, Control, Refusal};

/// What monitors have done to a machine.
#[derive(Debug, Default)]
pub struct Machine(Mutex<Done>);

/// The deeds, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// All that change anything.
    pub deeds: u32,
    /// The power was cut.
    pub quits: u32,
    /// It is held.
    pub is_paused: bool,
}

/// How many cards it has.
const CARDS: usize = 3;

impl Machine {
    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> Done {
        *self.0.lock().expect("nothing panics here")
    }

    fn note(&self, change: impl FnOnce(&mut Done)) {
        let mut done = self.0.lock().expect("nothing panics here");
        done.deeds += 1;
        change(&mut done);
    }
}

impl Control for Machine {
    fn name(&self) -> String {
        "machine".to_owned()
    }

    fn vcpus(&self) -> u8 {
        32
    }

    fn is_paused(&self) -> bool {
        self.done().is_paused
    }

    fn cards(&self) -> Vec<Card> {
        let card = |number| Card {
            name: Card::name(number),
            mac: "52:54:00:12:01:01".to_owned(),
            leads_to: "somewhere".to_owned(),
            is_up: true,
        };
        (0..CARDS).map(card).collect()
    }

    fn set_link(&self, index: usize, _: bool) -> Result<(), Refusal> {
        assert!(index < CARDS, "there is no such card");
        self.note(|_| ());
        Ok(())
    }

    fn forward(&self, forward: PortForward) -> Result<SocketAddr, Refusal> {
        self.note(|_| ());
        if forward.host.port() % 2 == 0 { Ok(forward.host) } else { Err(Refusal::new("it is in use")) }
    }

    fn pause(&self) -> Result<(), Refusal> {
        self.note(|done| done.is_paused = true);
        Ok(())
    }

    fn resume(&self) -> Result<(), Refusal> {
        self.note(|done| done.is_paused = false);
        Ok(())
    }

    fn press_power_button(&self) {
        self.note(|_| ());
    }

    fn reset(&self) {
        self.note(|_| ());
    }

    fn quit(&self) {
        self.note(|done| done.quits += 1);
    }

    fn ctrl_alt_delete(&self) -> Result<(), Refusal> {
        self.note(|_| ());
        Err(Refusal::new("its shell has not spoken yet"))
    }
}
