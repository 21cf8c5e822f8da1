//! The networks between machines: a switch for each VLAN, and what a test does to it.
//!
//! [`Networks`] is what launchers plug machines into; [`Vlan`] is how a test sees one of them. A switch is told the time by the
//! cards that send through it, and by a thread of its own ([`pacer`]) once something may arrive later than it was sent.

mod capture;
mod chance;
mod pacer;
mod replay;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snowboot_config::{NamedNetworks, vlan_name};
use snowboot_network::{Capture, CaptureLimits, Counters, Impairment, Port, Switch};

pub use self::capture::FileCapture;
pub(crate) use self::chance::Chance;
use self::pacer::Pacer;
use crate::control::lock;
use crate::error::Error;
use crate::event::Level;
use crate::log::Logger;
use crate::machine::MachineHandle;
use crate::sinks::{Troubles, WholeFile};

/// The switches of a run, by the numbers of their VLANs. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Networks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    switches: Mutex<BTreeMap<u8, Network>>,
    /// Those of the VLANs that have a name.
    names: Mutex<BTreeMap<u8, String>>,
}

#[derive(Debug)]
struct Network {
    switch: Switch,
    /// The last frames, for a test that fails.
    ring: Capture,
    pacer: Option<Pacer>,
    /// Those that are being written to files, which the run's end completes.
    captures: Vec<FileCapture>,
    uplinks: Vec<Kept>,
}

/// What leads out of a switch, for as long as it is kept.
struct Kept(Box<dyn Any + Send>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept").field(&(*self.0).type_id()).finish()
    }
}

impl Network {
    fn new(name: String) -> Self {
        let switch = Switch::new();
        let ring = switch.capture(CaptureLimits::ring(), capture::epoch()).describe(name);
        Self { switch, ring, pacer: None, captures: Vec::new(), uplinks: Vec::new() }
    }
}

/// The name of the port behind a machine's card, which is `eth1` for the first of its VLANs.
#[must_use]
pub fn port_name(machine: &str, card: u32) -> String {
    format!("{machine}:eth{card}")
}

/// The host's monotonic clock, which all cards of a switch go by.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

impl Networks {
    /// Gives VLANs their names; before the first machine, so that captures know them from the beginning.
    pub(crate) fn set_names(&self, networks: &NamedNetworks) {
        let names = networks.iter().map(|(name, network)| (network.vlan, name.clone()));
        *lock(&self.0.names) = names.collect();
    }

    /// What scripts, logs and files call a VLAN: its name, or `vlan` and its number.
    #[must_use]
    pub fn name(&self, vlan: u8) -> String {
        lock(&self.0.names).get(&vlan).cloned().unwrap_or_else(|| vlan_name(vlan))
    }

    /// A VLAN as manifests write it.
    fn written(&self, vlan: u8) -> String {
        lock(&self.0.names).get(&vlan).map_or_else(|| vlan.to_string(), |name| format!("{name:?}"))
    }

    /// Looks at a VLAN, which is made if there is none yet.
    fn with<T>(&self, vlan: u8, look: impl FnOnce(&mut Network) -> T) -> T {
        let name = self.name(vlan);
        look(lock(&self.0.switches).entry(vlan).or_insert_with(|| Network::new(name)))
    }

    /// A port of a VLAN's switch, for the card of a machine.
    #[must_use]
    pub fn attach(&self, vlan: u8, name: &str) -> Port {
        self.switch(vlan).attach(name)
    }

    /// The switch of a VLAN. There is one for every number.
    #[must_use]
    pub fn switch(&self, vlan: u8) -> Switch {
        self.with(vlan, |network| network.switch.clone())
    }

    /// Keeps what leads out of a VLAN's switch until the run's end.
    pub fn keep(&self, vlan: u8, uplink: impl Any + Send) {
        self.with(vlan, |network| network.uplinks.push(Kept(Box::new(uplink))));
    }

    /// The same, with somebody who looks at the clock for it.
    fn paced(&self, vlan: u8) -> Result<Switch, Error> {
        let name = self.name(vlan);
        self.with(vlan, |network| {
            if network.pacer.is_none() {
                let pacer = Pacer::start(&name, network.switch.clone());
                network.pacer = Some(pacer.map_err(|error| {
                    Error::setup_because(format!("{name}: cannot start a thread for its faults"), error)
                })?);
            }
            Ok(network.switch.clone())
        })
    }

    /// Writes the last frames of each VLAN that had some to `NAME-last.pcapng` in a folder.
    pub(crate) fn save(&self, folder: &Path, troubles: &Troubles) -> Result<Vec<PathBuf>, Error> {
        let networks = lock(&self.0.switches);
        let used = networks.iter().filter(|(_, network)| network.ring.frames() > 0);
        let files: Vec<(u8, Vec<u8>)> = used.map(|(vlan, network)| (*vlan, network.ring.file())).collect();
        drop(networks);
        let mut saved = Vec::new();
        for (vlan, bytes) in files {
            let path = folder.join(format!("{}-last.pcapng", self.name(vlan)));
            let file = WholeFile::prepare("capture", &path, troubles.clone())?;
            file.write(|to| to.write_all(&bytes));
            saved.push(path);
        }
        Ok(saved)
    }

    /// Ends uplinks, and the threads that look at the clock and write captures. What is under way does not arrive any more.
    pub(crate) fn stop(&self) -> Vec<Error> {
        // Not under the lock: each one waits for its thread.
        let uplinks: Vec<Kept> = lock(&self.0.switches)
            .values_mut()
            .flat_map(|network| std::mem::take(&mut network.uplinks))
            .collect();
        drop(uplinks);
        let pacers: Vec<Pacer> =
            lock(&self.0.switches).values_mut().filter_map(|network| network.pacer.take()).collect();
        drop(pacers);
        let captures: Vec<FileCapture> = lock(&self.0.switches)
            .values_mut()
            .flat_map(|network| std::mem::take(&mut network.captures))
            .collect();
        captures.iter().filter_map(|capture| capture.stop().err()).collect()
    }
}

/// One network of a run: the switch that machines of a VLAN are plugged into, for a test to make worse.
///
/// Machines are named; a fault stays when a machine is reset, crashes or starts again. Every change is a line of the log, in the
/// form of the call in Python that makes it again, with its seed.
///
/// ```
/// use std::time::Duration;
///
/// use snowboot_driver::{Direction, Impairment};
/// # let driver = snowboot_driver::testing::driver(&["client", "server"])?;
/// let vlan = driver.vlan(1);
/// let slow = Impairment { delay: Duration::from_millis(20), loss: 0.1, seed: 7, ..Impairment::default() };
/// vlan.impair("client", "server", Direction::Both, &slow)?;
/// vlan.partition(&[&["client"], &["server"]])?;
/// vlan.heal();
/// # Ok::<(), snowboot_driver::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Vlan {
    number: u8,
    networks: Networks,
    machines: Arc<Mutex<Vec<MachineHandle>>>,
    log: Logger,
    chance: Arc<Chance>,
}

/// Which way between two machines is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first to the second.
    There,
    /// That, and back.
    Both,
}

impl Vlan {
    pub(crate) fn new(
        number: u8,
        networks: Networks,
        machines: Arc<Mutex<Vec<MachineHandle>>>,
        log: Logger,
        chance: Arc<Chance>,
    ) -> Self {
        Self { number, networks, machines, log, chance }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// What scripts, logs and files call it: its name in the manifest, or `vlan` and its number.
    #[must_use]
    pub fn name(&self) -> String {
        self.networks.name(self.number)
    }

    /// The machines that are plugged into it, by name.
    #[must_use]
    pub fn machines(&self) -> Vec<String> {
        let machines = lock(&self.machines);
        let here = machines.iter().filter(|machine| machine.node().vlans.contains(&self.number));
        let mut names: Vec<String> = here.map(|machine| machine.name().to_owned()).collect();
        names.sort();
        names
    }

    /// Name and counters of each port that is attached now, and of those of the machines that run.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, Counters)> {
        self.networks.switch(self.number).counters()
    }

    /// Makes the way from one machine to another worse, in place of former faults of that way. Both directions have the same values and
    /// seed, and their own dice.
    ///
    /// # Errors
    /// When a machine is not here, both are the same, a value is out of range, or there is no thread left.
    pub fn impair(
        &self,
        from: &str,
        to: &str,
        direction: Direction,
        impairment: &Impairment,
    ) -> Result<(), Error> {
        let ways = self.ways(from, to, direction)?;
        impairment.check().map_err(|wrong| self.wrong(&wrong))?;
        let switch = self.networks.paced(self.number)?;
        self.set(&switch, &ways, Some(impairment))?;
        self.tell(&replay::impair(&self.name(), from, to, direction, impairment));
        Ok(())
    }

    /// Takes away the faults of the way between two machines; a partition stays.
    ///
    /// # Errors
    /// When a machine is not here, or both are the same.
    pub fn repair(&self, from: &str, to: &str, direction: Direction) -> Result<(), Error> {
        let ways = self.ways(from, to, direction)?;
        self.set(&self.networks.switch(self.number), &ways, None)?;
        self.tell(&replay::repair(&self.name(), from, to, direction));
        Ok(())
    }

    /// Lets machines of different groups reach each other no more, in place of a former partition. A machine in no group reaches
    /// all. When this returns, nothing passes between groups any more, not even what was under way.
    ///
    /// # Errors
    /// When a machine is not here, or is named twice.
    pub fn partition(&self, groups: &[&[&str]]) -> Result<(), Error> {
        let mut seen: Vec<&str> = Vec::new();
        let mut ports = Vec::new();
        for group in groups {
            let mut members = Vec::new();
            for machine in *group {
                if seen.contains(machine) {
                    return Err(self.wrong(&format!(
                        "{machine} is named twice in a partition: it can be on one side only"
                    )));
                }
                seen.push(machine);
                members.extend(self.ports(machine)?);
            }
            ports.push(members);
        }
        self.networks.switch(self.number).partition(&ports);
        self.tell(&replay::partition(&self.name(), groups));
        Ok(())
    }

    /// Takes away all faults, and the partition. What is under way arrives.
    pub fn heal(&self) {
        self.networks.switch(self.number).heal();
        self.tell(&format!("{}.heal()", self.name()));
    }

    /// Writes all frames from now on to a file, in the format pcapng, until the capture is stopped or the run ends. An interface is a
    /// machine's card, as `client:eth1`, with this network's name as its description and times in nanoseconds. A frame is there once, as its sender handed it over; where a
    /// fault or a full queue took it, or a fault had a say in how it arrived, it is there once more on the receiver's interface,
    /// with a comment.
    ///
    /// # Errors
    /// When the file cannot be made, or there is no thread left.
    pub fn capture(&self, file: &Path) -> Result<FileCapture, Error> {
        let capture = FileCapture::start(&self.networks.switch(self.number), &self.name(), file)?;
        self.networks.with(self.number, |network| network.captures.push(capture.clone()));
        self.tell(&format!("{}.capture({:?})", self.name(), file.display().to_string()));
        Ok(capture)
    }

    /// A seed for the next fault of a way whose test gives none. It follows from the run's seed, this network, the two machines and how
    /// many were drawn for them before, so that a run with the same seed has the same ones. The first one that is drawn has the log tell
    /// the run's seed.
    #[must_use]
    pub fn draw_seed(&self, from: &str, to: &str) -> u64 {
        let (seed, is_first) = self.chance.draw(self.number, from, to);
        if is_first {
            let run = self.chance.seed();
            // No call, so not told as one.
            let line = format!(
                "faults draw their seeds from the run's, {run}: --seed {run} has the same ones again"
            );
            self.log.line(Level::Info, None, line);
        }
        seed
    }

    fn set(
        &self,
        switch: &Switch,
        ways: &[(String, String)],
        impairment: Option<&Impairment>,
    ) -> Result<(), Error> {
        for (from, to) in ways {
            let set = switch.impair(now(), from, to, impairment.cloned());
            set.map_err(|wrong| self.wrong(&wrong))?;
        }
        Ok(())
    }

    /// From each port of one machine to each of the other's.
    fn ways(&self, from: &str, to: &str, direction: Direction) -> Result<Vec<(String, String)>, Error> {
        if from == to {
            return Err(self.wrong(&format!("a fault is between two machines, and both are {from}")));
        }
        let (here, there) = (self.ports(from)?, self.ports(to)?);
        let mut ways = Vec::new();
        for (from, to) in here.iter().flat_map(|from| there.iter().map(move |to| (from, to))) {
            ways.push((from.clone(), to.clone()));
            if direction == Direction::Both {
                ways.push((to.clone(), from.clone()));
            }
        }
        Ok(ways)
    }

    /// The names of a machine's ports here.
    fn ports(&self, name: &str) -> Result<Vec<String>, Error> {
        let machines = lock(&self.machines);
        let Some(machine) = machines.iter().find(|machine| machine.name() == name) else {
            drop(machines);
            let here = self.machines().join(", ");
            return Err(self.wrong(&format!("there is no machine {name}; those on it are {here}")));
        };
        let vlans = &machine.node().vlans;
        let cards = (1..).zip(vlans).filter(|(_, vlan)| **vlan == self.number);
        let ports: Vec<String> = cards.map(|(card, _)| port_name(name, card)).collect();
        if ports.is_empty() {
            return Err(self.wrong(&format!(
                "{name} is not on it, but on [{}]: add {} to its `vlans`",
                vlans.iter().map(|vlan| self.networks.written(*vlan)).collect::<Vec<_>>().join(", "),
                self.networks.written(self.number)
            )));
        }
        Ok(ports)
    }

    fn wrong(&self, what: &impl ToString) -> Error {
        Error::setup(format!("{}: {}", self.name(), what.to_string()))
    }

    fn tell(&self, call: &str) {
        self.log.line(Level::Info, None, format!("network: {call}"));
    }
}
