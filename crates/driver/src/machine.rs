//! One machine of a test: its life, its shell, its console.

mod commands;
mod end;
mod files;
mod power;
mod shares;
mod trouble;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use snowboot_config::{NodeConfig, PortForward};

pub use self::commands::{Execute, Reply};
pub use self::power::{PowerEvent, PowerEventKind, Start};
pub use self::shares::find_paths;
pub(crate) use self::shares::uplinks_in_run;

use crate::console::{ConsoleLog, ConsoleWriter};
use crate::control::{Control, Turn, lock};
use crate::error::Error;
use crate::event::{Level, Step};
use crate::folders::Folders;
use crate::log::{Block, Logger};
use crate::report::MachineReport;
use crate::shell::{Link, Shell, ShellError};
use crate::timeline::Boot;
use crate::vm::{Channel, Launched, Launcher, Outcome, Port, Vm};

/// How long a machine may take from its start to its shell. Upstream allows ten times 30 s.
const CONNECT_LIMIT: Duration = Duration::from_secs(300);

/// How long typing waits for a guest whose input queue is full.
const TYPING_LIMIT: Duration = Duration::from_secs(30);

/// How long the end of a run waits for a start under way: kernels are unpacked in it. A file system that does not answer
/// must not keep the run from its end.
const STARTING_LIMIT: Duration = Duration::from_secs(20);

/// A machine. Clones are the same machine.
#[derive(Clone)]
pub struct MachineHandle(Arc<Inner>);

const NO_WAY_TO_HOST: &str =
    "it has no network card that leads to the host; give it `user-network = true` in the manifest";

/// What all machines of a run have in common.
#[derive(Clone)]
pub(crate) struct RunParts {
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) control: Arc<Control>,
    pub(crate) log: Logger,
    pub(crate) folders: Arc<Folders>,
    /// VLANs with a user network that their machines share.
    pub(crate) gateways: Arc<BTreeSet<u8>>,
}

struct Inner {
    name: Arc<str>,
    number: u8,
    node: NodeConfig,
    launcher: Arc<dyn Launcher>,
    control: Arc<Control>,
    log: Logger,
    folders: Arc<Folders>,
    gateways: Arc<BTreeSet<u8>>,
    console: Arc<ConsoleLog>,
    life: Mutex<Life>,
    /// Held while a command runs in the shell.
    turn: Turn,
    /// Held while the machine is being started.
    starting: Turn,
    power: power::Power,
}

#[derive(Default)]
struct Life {
    running: Option<Running>,
    connected: bool,
    starts: u32,
    started: Option<Instant>,
    shell_after: Option<Duration>,
    last_outcome: Option<Outcome>,
    /// How the boot of its last start went.
    boot: Option<Arc<Boot>>,
    /// How it was started.
    allow_reboot: bool,
    /// Why it did not come back from a reset.
    no_reboot: Option<String>,
}

/// What belongs to one start of a machine. Whoever saw its end acts on this one, not on a later start's.
#[derive(Clone)]
struct Running {
    vm: Arc<dyn Vm>,
    channel: Arc<dyn Channel>,
    shell: Arc<Mutex<Shell>>,
    files: Arc<dyn Port>,
    serial: ConsoleWriter,
    boot: Arc<Boot>,
    /// Whether its end is among the power events.
    end_told: Arc<AtomicBool>,
}

impl Life {
    fn is_now(&self, running: &Running) -> bool {
        self.running.as_ref().is_some_and(|now| Arc::ptr_eq(&now.vm, &running.vm))
    }
}

impl fmt::Debug for MachineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineHandle").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl MachineHandle {
    pub(crate) fn new(name: &str, number: u8, node: NodeConfig, run: RunParts) -> Self {
        let RunParts { launcher, control, log, folders, gateways } = run;
        Self(Arc::new(Inner {
            name: name.into(),
            number,
            node,
            launcher,
            control,
            log,
            folders,
            gateways,
            console: Arc::default(),
            life: Mutex::default(),
            turn: Turn::default(),
            starting: Turn::default(),
            power: power::Power::default(),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its node number ([`Manifest::numbered`](snowboot_config::Manifest::numbered)).
    #[must_use]
    pub fn number(&self) -> u8 {
        self.0.number
    }

    /// Its description.
    #[must_use]
    pub fn node(&self) -> &NodeConfig {
        &self.0.node
    }

    /// A folder on the host for this machine, which goes away with the run.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn state_folder(&self) -> Result<PathBuf, Error> {
        self.0
            .folders
            .of_machine(self.name())
            .map_err(|error| self.trouble_because("has no state folder", error.into()))
    }

    /// Removes what is in its state folder, and tells whether there was one.
    ///
    /// # Errors
    /// When something there cannot be removed.
    pub fn remove_state_folder(&self) -> Result<bool, Error> {
        let removed = self.0.folders.remove_of_machine(self.name());
        removed.map_err(|error| self.trouble_because("keeps its state folder", error.into()))
    }

    /// A folder on the host for all machines of the run, which goes away with it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn shared_folder(&self) -> Result<PathBuf, Error> {
        self.0.folders.shared().map_err(|error| self.trouble_because("has no shared folder", error.into()))
    }

    /// Its console.
    #[must_use]
    pub fn console(&self) -> &ConsoleLog {
        &self.0.console
    }

    pub(crate) fn control(&self) -> &Control {
        &self.0.control
    }

    /// Starts it and returns while it boots; nothing happens when it runs. A reset ends it.
    ///
    /// # Errors
    /// When it cannot be built: a missing kernel, a disk that cannot be opened, no KVM.
    pub fn start(&self) -> Result<(), Error> {
        self.start_with(Start::default())
    }

    /// As [`Self::start`], with options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(&self, how: Start) -> Result<(), Error> {
        // From now on the test decides itself what runs when.
        drop(self.0.control.take_first_use());
        let _one_at_a_time = self.0.starting.take(&self.0.control)?;
        if self.is_booted() {
            return Ok(());
        }
        self.0.control.check()?;
        let _block = self.nested(&format!("starting {}", self.name()));
        let began = Instant::now();
        let start = lock(&self.0.life).starts.saturating_add(1);
        self.note(Step::Starting { start });
        let not_started = |_: &Error| self.note(Step::Ended { outcome: "could not be started".to_owned() });
        let running = self.launch().inspect_err(not_started)?;
        {
            let mut life = lock(&self.0.life);
            life.starts = life.starts.saturating_add(1);
            life.started = Some(began);
            life.shell_after = None;
            life.connected = false;
            life.running = Some(running.clone());
            life.boot = Some(running.boot.clone());
            life.allow_reboot = how.allow_reboot;
            life.no_reboot = None;
        }
        self.0.power.begin();
        running.vm.start().map_err(|error| {
            self.forget(&running);
            self.trouble_because("cannot be started", error)
        })
    }

    /// How the boot of its last start went, if it was started.
    pub(crate) fn boot(&self) -> Option<Arc<Boot>> {
        lock(&self.0.life).boot.clone()
    }

    fn note(&self, step: Step) {
        self.0.log.step(&self.0.name, step);
    }

    /// Builds it, ready to run.
    fn launch(&self) -> Result<Running, Error> {
        let (console, log) = (self.0.console.clone(), self.0.log.clone());
        let generation = console.begin();
        self.launch_on(ConsoleWriter::new(console, generation, log, self.0.name.clone()))
    }

    /// The same with a console that may have been written to.
    fn launch_on(&self, serial: ConsoleWriter) -> Result<Running, Error> {
        let began = Instant::now();
        let node = self.node_in_run().inspect_err(|_| serial.end())?;
        let launched = self.0.launcher.launch(self.name(), self.0.number, &node, serial.clone());
        let Launched { vm, shell: channel, files, times } = launched.map_err(|error| {
            serial.end();
            self.trouble_because("cannot be started", error)
        })?;
        let last_words = serial.clone();
        let (log, name) = (self.0.log.clone(), self.0.name.clone());
        let (machine, ended) = (Arc::downgrade(&self.0), Arc::downgrade(&vm));
        vm.on_end(Box::new(move |outcome| {
            let machine = machine.upgrade().map(Self).zip(ended.upgrade());
            if !machine.is_some_and(|(machine, vm)| machine.vm_ended(&vm, outcome)) {
                last_words.end();
                log.step(&name, Step::Ended { outcome: outcome.to_string() });
            }
        }));
        // Building takes time, in which the run may have ended.
        self.0.control.check_ended()?;
        let shell = Shell::new();
        let boot = Arc::new(Boot::new(began, times, shell.first_answer()));
        Ok(Running {
            vm,
            channel,
            shell: Arc::new(Mutex::new(shell)),
            files,
            serial,
            boot,
            end_told: Arc::default(),
        })
    }

    /// Whether it was started and not yet seen to end.
    #[must_use]
    pub fn is_booted(&self) -> bool {
        lock(&self.0.life).running.is_some()
    }

    /// Whether it runs and its shell answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let life = lock(&self.0.life);
        life.connected && life.running.as_ref().is_some_and(|it| it.vm.outcome().is_none())
    }

    /// Starts it if need be, and waits for its shell. When that started all machines, it waits for the others' too, but
    /// no longer than this one took.
    ///
    /// # Errors
    /// When it cannot be started, ends, or its shell does not come up within 300 s.
    pub fn connect(&self) -> Result<(), Error> {
        if self.has_shell() {
            return Ok(());
        }
        self.use_first()?;
        let connected = self.connect_within(CONNECT_LIMIT)?;
        match connected.and_then(|took| self.0.control.take_first_shell().zip(Some(took))) {
            Some((first_shell, took)) => first_shell(took),
            None => Ok(()),
        }
    }

    /// Waits for the shell of a machine that was started; gives how long after the start it came, if it was not there.
    pub(crate) fn connect_within(&self, limit: Duration) -> Result<Option<Duration>, Error> {
        let _turn = self.0.turn.take(&self.0.control)?;
        if self.has_shell() {
            return Ok(None);
        }
        let _block = self.nested("waiting for the VM to finish booting");
        let (running, chatter) = self.shell_greeting(limit)?;
        let is_first = running.boot.shell_greeted(chatter.is_empty());
        for line in chatter {
            self.log(&format!("guest shell says: {line}"));
        }
        let took = {
            let mut life = lock(&self.0.life);
            life.connected = life.is_now(&running);
            let took = life.started.map(|started| started.elapsed()).unwrap_or_default();
            life.shell_after.get_or_insert(took);
            took
        };
        self.note(Step::Shell);
        if is_first {
            self.note(running.boot.step());
        }
        self.log(&format!("connected to its root shell {:.2} s after its start", took.as_secs_f64()));
        Ok(Some(took))
    }

    /// Whether its shell was connected to and is there. After a reset a machine that comes back has none.
    fn has_shell(&self) -> bool {
        let life = lock(&self.0.life);
        let outcome = life.running.as_ref().and_then(|running| running.vm.outcome());
        life.connected && !(life.allow_reboot && outcome.is_some_and(|outcome| outcome.is_reset()))
    }

    /// Waits for the greeting of its shell, also over resets; gives the lines before it.
    fn shell_greeting(&self, limit: Duration) -> Result<(Running, Vec<String>), Error> {
        let deadline = Instant::now() + limit;
        loop {
            self.check_reboot()?;
            let running = self.running("is not running")?;
            let left = deadline.saturating_duration_since(Instant::now());
            let greeted = lock(&running.shell).connect(&self.link(&running), left);
            let error = match greeted {
                Ok(chatter) => return Ok((running, chatter)),
                Err(ShellError::Gone) if self.wait_for_next(&running, deadline)? => continue,
                Err(ShellError::Late(_, cause)) => ShellError::Late(limit, cause),
                Err(error) => error,
            };
            return Err(self.shell_trouble(&running, "its shell did not come up", None, error));
        }
    }

    /// Starts it if need be, together with the others when the test leaves that to the driver.
    fn use_first(&self) -> Result<(), Error> {
        if !self.is_booted()
            && let Some(first_use) = self.0.control.take_first_use()
        {
            first_use()?;
        }
        self.start()
    }

    /// As [`Self::use_first`] for a machine that was never started.
    pub(crate) fn ensure_started_once(&self) -> Result<(), Error> {
        if lock(&self.0.life).starts > 0 { Ok(()) } else { self.use_first() }
    }

    /// Types at its serial port, as fast as the guest reads.
    ///
    /// # Errors
    /// When it does not run, ends, or does not read for 30 s.
    pub fn send_console(&self, text: &str) -> Result<(), Error> {
        let vm = self.running("cannot be typed at: it is not running")?.vm;
        let mut rest = text.as_bytes();
        let mut since = Instant::now();
        while !rest.is_empty() {
            let taken = vm.serial_input(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if taken > 0 {
                since = Instant::now();
            } else if since.elapsed() > TYPING_LIMIT || vm.outcome().is_some() {
                return Err(
                    self.trouble(&format!("does not read its serial port ({} bytes left)", rest.len()))
                );
            } else {
                self.0.control.pause(Duration::from_millis(1))?;
            }
        }
        Ok(())
    }

    /// Unplugs the cable of its first VLAN's network card.
    ///
    /// # Errors
    /// When it does not run or has no network card.
    pub fn block(&self) -> Result<(), Error> {
        self.set_link(0, false)
    }

    /// Plugs that cable back in.
    ///
    /// # Errors
    /// When it does not run or has no network card.
    pub fn unblock(&self) -> Result<(), Error> {
        self.set_link(0, true)
    }

    /// Plugs or unplugs the cable of its n-th VLAN's network card, from 0.
    ///
    /// # Errors
    /// When it does not run or has no such card.
    pub fn set_link(&self, card: usize, up: bool) -> Result<(), Error> {
        let first = usize::from(self.node().user_network.is_some());
        self.plug(first.saturating_add(card), up)?;
        if card == 0 {
            self.note(Step::Link { up });
        }
        Ok(())
    }

    /// Plugs or unplugs the cable of its card on the user network.
    ///
    /// # Errors
    /// When it does not run or has no such card.
    pub fn set_user_link(&self, up: bool) -> Result<(), Error> {
        if self.node().user_network.is_none() {
            return Err(self.trouble(&format!("has no link to change: {NO_WAY_TO_HOST}")));
        }
        self.plug(0, up)
    }

    /// Whether it has a user network, of its own or of one of its VLANs.
    #[must_use]
    pub fn reaches_host(&self) -> bool {
        let node = self.node();
        node.user_network.is_some() || node.vlans.iter().any(|vlan| self.0.gateways.contains(vlan))
    }

    /// Forwards a port of the host's to the guest, through its user network, or else the first one that it shares; the answer is
    /// where the host listens.
    ///
    /// # Errors
    /// When it does not run, has no user network, or the port cannot be had.
    pub fn forward(&self, forward: PortForward) -> Result<SocketAddr, Error> {
        if !self.reaches_host() {
            return Err(self.trouble(&format!("cannot forward a port: {NO_WAY_TO_HOST}")));
        }
        let vm = self.running("cannot forward a port: it is not running")?.vm;
        vm.forward(forward).map_err(|error| self.trouble_because("cannot forward a port", error))
    }

    fn plug(&self, card: usize, up: bool) -> Result<(), Error> {
        let vm = self.running("has no link to change: it is not running")?.vm;
        vm.set_link(card, up).map_err(|error| self.trouble_because("has no link to change", error))
    }

    /// Logs a line under the machine's name.
    pub fn log(&self, text: &str) {
        self.0.log.line(Level::Info, Some(&self.0.name), text);
    }

    /// Begins a block of the log under the machine's name.
    #[must_use]
    pub fn nested(&self, text: &str) -> Block {
        self.0.log.block(Some(&self.0.name), text)
    }

    /// What is to be told of it in a report.
    #[must_use]
    pub fn report(&self) -> MachineReport {
        let life = lock(&self.0.life);
        let console = self.0.console.first_line().zip(life.started);
        MachineReport {
            name: self.name().to_owned(),
            starts: life.starts,
            console_seconds: console.map(|(line, start)| line.saturating_duration_since(start).as_secs_f64()),
            shell_seconds: life.shell_after.map(|after| after.as_secs_f64()),
            outcome: life.last_outcome.as_ref().map(ToString::to_string),
        }
    }

    fn running(&self, otherwise: &str) -> Result<Running, Error> {
        let running = lock(&self.0.life).running.clone();
        running.ok_or_else(|| self.trouble(otherwise))
    }

    fn link<'a>(&'a self, running: &'a Running) -> Link<'a> {
        Link::new(running.channel.as_ref(), &self.0.console, &self.0.control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_one_start_is_not_that_of_the_next() {
        let (_driver, machine) = crate::tests::one();
        machine.connect().unwrap();
        let old = machine.running("is off").unwrap();
        machine.crash().unwrap();
        machine.connect().unwrap();
        machine.ended(&old, Outcome::PowerOff);
        machine.forget(&old);
        assert!(machine.is_up());
        assert_eq!(machine.report().outcome.as_deref(), Some("was stopped by the driver"));
        // Nor does the old one's console end the new one's.
        machine.send_console("new\n").unwrap();
        machine.wait_for_console_text("new", Some(Duration::from_secs(60))).unwrap();
        let error = machine.wait_for_console_text("more", Some(Duration::ZERO)).unwrap_err().to_string();
        assert!(error.contains("within 0 s"), "{error}");
    }
}
