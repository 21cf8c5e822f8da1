//! What a monitor can do to a machine.

use std::net::SocketAddr;

use snowboot_config::PortForward;

/// A machine, as its monitors have it. Methods may be called on several threads.
pub trait Control: Send + Sync {
    /// Its name.
    fn name(&self) -> String;
    /// The number of its vCPUs.
    fn vcpus(&self) -> u8;
    /// Whether it is held by [`Control::pause`].
    fn is_paused(&self) -> bool;
    /// Its network cards.
    fn cards(&self) -> Vec<Card>;
    /// Plugs or unplugs the cable of the card at `index` of [`Control::cards`].
    ///
    /// # Errors
    /// When it does not run.
    fn set_link(&self, index: usize, up: bool) -> Result<(), Refusal>;
    /// Forwards a port of the host's; the answer is where the host listens.
    ///
    /// # Errors
    /// When it has no user network, or the port cannot be had.
    fn forward(&self, forward: PortForward) -> Result<SocketAddr, Refusal>;
    /// Holds it.
    ///
    /// # Errors
    /// When it does not run.
    fn pause(&self) -> Result<(), Refusal>;
    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    fn resume(&self) -> Result<(), Refusal>;
    /// Presses its power button.
    fn press_power_button(&self);
    /// Presses its reset button.
    fn reset(&self);
    /// Cuts its power, which ends the program.
    fn quit(&self);
    /// Does what its kernel does at ctrl-alt-delete.
    ///
    /// # Errors
    /// When it cannot.
    fn ctrl_alt_delete(&self) -> Result<(), Refusal>;
}

/// Why something is not done, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// For this reason.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// As QEMU's start script has it: `virtio-net-pci.0` leads to the host, `virtio-net-pci.1` to the first VLAN ...
    pub name: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Where it leads, for people.
    pub leads_to: String,
    /// Whether its cable is plugged in.
    pub is_up: bool,
}

impl Card {
    /// What the name of a card begins with.
    const PREFIX: &str = "virtio-net-pci.";

    /// QEMU's name of a card; number 0 leads to the host.
    #[must_use]
    pub fn name(number: usize) -> String {
        format!("{}{number}", Self::PREFIX)
    }

    /// The place of the card with this name.
    ///
    /// # Errors
    /// Says which cards there are.
    pub fn find(cards: &[Self], name: &str) -> Result<usize, Refusal> {
        let found = cards.iter().position(|card| card.name == name);
        found.ok_or_else(|| {
            let names: Vec<_> = cards.iter().map(|card| card.name.as_str()).collect();
            let have = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Refusal(format!("Device '{name}' not found; the machine has these network cards: {have}"))
        })
    }
}

/// What happened to a machine's power. Reasons are those of QEMU's `ShutdownCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It is off, and the program ends.
    Shutdown {
        /// Whether the guest did it.
        guest: bool,
        /// Why.
        reason: &'static str,
    },
    /// It was reset and starts again.
    Reset {
        /// Whether the guest did it.
        guest: bool,
        /// Why.
        reason: &'static str,
    },
    /// Its power button was pressed.
    Powerdown,
    /// It was paused.
    Stop,
    /// It goes on.
    Resume,
}

/// The version that is told. It is none of QEMU's, so that nobody takes it for one.
#[derive(Clone, Copy, Debug)]
pub struct Version;

impl Version {
    /// Of this program.
    pub const PACKAGE: &str = concat!("snowboot ", env!("CARGO_PKG_VERSION"));
}
