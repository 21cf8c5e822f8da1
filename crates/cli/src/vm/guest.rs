//! A machine that outlives its guest's resets: the VMM's machine is built anew, with the same consoles and networks.
//!
//! Locks are taken in this order: the one that is held while a machine is built, then that of the machine that there is. None is
//! held while a machine ends, since its threads may want them.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};
use snowboot_config::{NodeConfig, PortForward};
use snowboot_devices::warnings::Warnings;
use snowboot_driver::Workshop;
use snowboot_qemu::qmp::Server;
use snowboot_qemu::{Card, Control, Power, Refusal};
use snowboot_vmm::Machine;

use super::networks::Networks;
use super::on_end;
use super::shell::Shell;
use crate::run::Event;
use crate::run::console::GuestMaker;
use crate::run::input::TypedAt;
use crate::say;

/// What a machine is built of.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) node: NodeConfig,
    pub(super) workshop: Workshop,
}

pub(super) struct Guest {
    plan: Plan,
    networks: Arc<Networks>,
    shell: Option<Shell>,
    qmp: Server,
    console: GuestMaker,
    events: Sender<Event>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    machine: Option<Arc<Machine>>,
    is_paused: bool,
    was_reset_by_host: bool,
    has_ended: bool,
}

impl Guest {
    /// Builds it, ready to run.
    pub(super) fn new(
        plan: Plan,
        networks: Arc<Networks>,
        shell: Option<Shell>,
        qmp: Server,
        console: GuestMaker,
        events: Sender<Event>,
    ) -> Result<Arc<Self>> {
        let guest = Self { plan, networks, shell, qmp, console, events, life: Mutex::default() };
        let machine = guest.build()?;
        guest.lock().machine = Some(machine);
        Ok(Arc::new(guest))
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(&self) -> Result<Arc<Machine>> {
        let Plan { name, number, node, workshop } = &self.plan;
        let built = workshop.build(name, *number, node, |builder| {
            let warnings = Warnings::new(|line| say::line(&format!("snowboot: warning: {line}")));
            let builder = builder.warnings(warnings).serial_output(Box::new(self.console.guest_end()));
            let builder = match &self.shell {
                Some(shell) => builder.console(shell.next_machine()?),
                None => builder,
            };
            Ok(self.networks.plug_into(builder))
        });
        let machine = Arc::new(built.map_err(|error| anyhow!(error))?);
        machine.on_end(on_end(self.events.clone()));
        Ok(machine)
    }

    /// Lets it run.
    pub(super) fn start(&self) -> Result<()> {
        let machine = self.machine().map_err(|refusal| anyhow!(refusal))?;
        self.networks.set_links(&machine);
        Ok(machine.start()?)
    }

    /// Builds it anew after a reset, and lets it run.
    pub(super) fn restart(&self) -> Result<()> {
        let old = {
            let mut life = self.lock();
            life.is_paused = false;
            life.machine.take()
        };
        // Its disks and ports have to be free.
        drop(old);
        let machine = self.build()?;
        self.lock().machine = Some(machine);
        self.start()
    }

    /// Cuts its power.
    pub(super) fn stop(&self) {
        let machine = {
            let mut life = self.lock();
            life.has_ended = true;
            life.machine.take()
        };
        if let Some(machine) = machine {
            machine.stop();
        }
    }

    pub(super) fn tell(&self, power: Power) {
        self.qmp.tell(power);
    }

    /// Whether the reset that ended it was one by a monitor.
    pub(super) fn take_reset_by_host(&self) -> bool {
        std::mem::take(&mut self.lock().was_reset_by_host)
    }

    fn machine(&self) -> Result<Arc<Machine>, Refusal> {
        self.lock().machine.clone().ok_or_else(|| Refusal::new("The machine is not running"))
    }

    /// Pauses or resumes it; whether that changed anything.
    fn hold(&self, hold: bool) -> Result<bool, Refusal> {
        let machine = self.machine()?;
        let held = if hold { machine.pause() } else { machine.resume() };
        held.map_err(|error| Refusal::new(error.to_string()))?;
        Ok(std::mem::replace(&mut self.lock().is_paused, hold) != hold)
    }
}

impl Control for Guest {
    fn name(&self) -> String {
        self.plan.name.clone()
    }

    fn vcpus(&self) -> u8 {
        self.plan.node.vcpus.get()
    }

    fn is_paused(&self) -> bool {
        self.lock().is_paused
    }

    fn cards(&self) -> Vec<Card> {
        self.networks.cards()
    }

    fn set_link(&self, index: usize, up: bool) -> Result<(), Refusal> {
        self.networks.note_link(index, up);
        self.machine()?.set_link(index, up).map_err(|error| Refusal::new(error.to_string()))
    }

    fn forward(&self, forward: PortForward) -> Result<SocketAddr, Refusal> {
        let network = self.networks.user().ok_or_else(|| {
            Refusal::new("the machine has no network card that leads to the host (`user-network`)")
        })?;
        network.forward(forward).map_err(|error| Refusal::new(error.to_string()))
    }

    fn pause(&self) -> Result<(), Refusal> {
        if self.hold(true)? {
            self.tell(Power::Stop);
        }
        Ok(())
    }

    fn resume(&self) -> Result<(), Refusal> {
        if self.hold(false)? {
            self.tell(Power::Resume);
        }
        Ok(())
    }

    fn press_power_button(&self) {
        self.tell(Power::Powerdown);
        if let Ok(machine) = self.machine() {
            machine.press_power_button();
        }
    }

    fn reset(&self) {
        let machine = {
            let mut life = self.lock();
            life.was_reset_by_host = true;
            life.machine.clone()
        };
        let Some(machine) = machine else { return };
        // Whoever asked is answered before the machine ends.
        let reset = thread::Builder::new().name("reset".to_owned()).spawn(move || machine.reset());
        if let Err(error) = reset {
            tracing::error!("the machine cannot be reset: {error}");
        }
    }

    fn quit(&self) {
        let _ = self.events.send(Event::Quit);
    }

    fn ctrl_alt_delete(&self) -> Result<(), Refusal> {
        let no_shell =
            || Refusal::new("the machine has no keyboard, and no shell that could be told to reboot");
        self.shell.as_ref().ok_or_else(no_shell)?.reboot()
    }
}

impl TypedAt for Guest {
    fn serial_input(&self, bytes: &[u8]) -> usize {
        self.machine().map_or(0, |machine| machine.serial_input(bytes))
    }

    fn press_power_button(&self) {
        Control::press_power_button(self);
    }

    fn has_ended(&self) -> bool {
        self.lock().has_ended
    }
}
