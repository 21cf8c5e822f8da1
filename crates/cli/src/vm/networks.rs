//! A machine's network cards and what is behind them. All of it outlives the guest's resets.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use snowboot_config::{MacAddress, NodeConfig};
use snowboot_network::{Port, Switch};
use snowboot_qemu::Card;
use snowboot_uplink::gateway::UserNetwork;
use snowboot_uplink::vde::Plug;
use snowboot_vmm::{Builder, Machine};

use super::environment::Environment;
use crate::say;

pub(super) struct Networks {
    /// One per card.
    cables: Vec<Cable>,
    cards: Mutex<Vec<Card>>,
    user: Option<UserNetwork>,
    plugs: Mutex<Vec<Plug>>,
}

/// From a card to what is behind it: a switch of two ports.
struct Cable {
    switch: Switch,
    name: String,
}

impl Networks {
    /// Connects to all that is behind the cards of `node`.
    pub(super) fn connect(
        name: &str,
        number: u8,
        node: &NodeConfig,
        environment: &Environment,
    ) -> Result<Self> {
        let mut networks =
            Self { cables: Vec::new(), cards: Mutex::default(), user: None, plugs: Mutex::default() };
        if let Some(config) = &node.user_network {
            let network = UserNetwork::start(name, config)?;
            let switch = Switch::new();
            network.plug(switch.attach(&format!("{name}:user network")));
            networks.user = Some(network);
            networks.add(0, name, MacAddress::of_user_network(), "user network".to_owned(), switch);
        }
        for (index, vlan) in (1..).zip(&node.vlans) {
            let switch = Switch::new();
            let (plug, leads_to) = plug(name, index, *vlan, &switch, environment)?;
            networks.add(index, name, MacAddress::of_node(*vlan, number), leads_to, switch);
            networks.plugs.get_mut().unwrap_or_else(PoisonError::into_inner).extend(plug);
        }
        Ok(networks)
    }

    fn add(&mut self, number: usize, machine: &str, mac: MacAddress, leads_to: String, switch: Switch) {
        self.cables.push(Cable { switch, name: format!("{machine}:eth{number}") });
        let card = Card { name: Card::name(number), mac: mac.to_string(), leads_to, is_up: true };
        self.cards.get_mut().unwrap_or_else(PoisonError::into_inner).push(card);
    }

    /// Gives a machine that is being built a port for each card.
    pub(super) fn plug_into(&self, builder: Builder) -> Builder {
        let ports = self.cables.iter().map(|cable| -> Port { cable.switch.attach(&cable.name) });
        ports.fold(builder, Builder::plug)
    }

    pub(super) fn cards(&self) -> Vec<Card> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers whether a cable is in, also for the machine after a reset.
    pub(super) fn note_link(&self, index: usize, up: bool) {
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = cards.get_mut(index) {
            card.is_up = up;
        }
    }

    /// Gives a new machine the links of the former one.
    pub(super) fn set_links(&self, machine: &Machine) {
        for (index, _) in self.cards().iter().enumerate().filter(|(_, card)| !card.is_up) {
            // There is such a card: it has one for each cable.
            let _ = machine.set_link(index, false);
        }
    }

    /// Leaves the VLANs' switches, where nothing of the machine is to stay.
    pub(super) fn unplug(&self) {
        self.plugs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn user(&self) -> Option<&UserNetwork> {
        self.user.as_ref()
    }
}

/// Puts the VLAN's switch behind `switch`.
fn plug(
    name: &str,
    index: usize,
    vlan: u8,
    switch: &Switch,
    environment: &Environment,
) -> Result<(Option<Plug>, String)> {
    let Some(folder) = environment.vde_switch(vlan) else {
        say::line(&format!(
            "snowboot: warning: {} is not set: eth{index} of {name} has nobody behind it",
            Environment::vde_variable(vlan)
        ));
        return Ok((None, format!("vlan {vlan}, with nobody there")));
    };
    let port = switch.attach(&format!("{name}:vlan {vlan}"));
    let plug = Plug::connect(&folder, &format!("snowboot {name} eth{index}"), port)?;
    Ok((Some(plug), format!("vlan {vlan} by {}", folder.display())))
}
