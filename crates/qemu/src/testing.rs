//! A machine that only remembers what was done to it.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use snowboot_config::PortForward;

use crate::control::{Card, Control, Refusal};

#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    pub(crate) fn done(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
    }

    fn noted(&self, what: &str) -> Result<(), Refusal> {
        self.note(what);
        Ok(())
    }
}

impl Control for Recorder {
    fn name(&self) -> String {
        "machine".to_owned()
    }

    fn vcpus(&self) -> u8 {
        2
    }

    fn is_paused(&self) -> bool {
        self.done()
            .iter()
            .rfind(|what| ["pause", "resume"].contains(&what.as_str()))
            .is_some_and(|it| it == "pause")
    }

    fn cards(&self) -> Vec<Card> {
        let card = |number, mac: &str, leads_to: &str| Card {
            name: Card::name(number),
            mac: mac.to_owned(),
            leads_to: leads_to.to_owned(),
            is_up: true,
        };
        vec![card(0, "52:54:00:12:34:56", "user network"), card(1, "52:54:00:12:01:01", "vlan 1")]
    }

    fn set_link(&self, index: usize, up: bool) -> Result<(), Refusal> {
        self.noted(&format!("link {index} {up}"))
    }

    fn forward(&self, forward: PortForward) -> Result<SocketAddr, Refusal> {
        self.note(format!("forward {} to {}", forward.host, forward.guest));
        Ok(forward.host)
    }

    fn pause(&self) -> Result<(), Refusal> {
        self.noted("pause")
    }

    fn resume(&self) -> Result<(), Refusal> {
        self.noted("resume")
    }

    fn press_power_button(&self) {
        self.note("powerdown");
    }

    fn reset(&self) {
        self.note("reset");
    }

    fn quit(&self) {
        self.note("quit");
    }

    fn ctrl_alt_delete(&self) -> Result<(), Refusal> {
        self.noted("ctrl-alt-delete")
    }
}
