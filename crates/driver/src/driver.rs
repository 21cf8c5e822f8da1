//! The run: all machines of a test, and its end.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use snowboot_config::{Manifest, NamedNetworks, NodeConfig, Topology, UplinkConfig, UplinkKind};

use crate::backoff::Backoff;
use crate::control::{CommandHook, Control, Ended, InterruptHook, lock};
use crate::error::Error;
use crate::event::{Event, Level, RunError};
use crate::folders::Folders;
use crate::log::{Block, Logger};
use crate::machine::{MachineHandle, RunParts, uplinks_in_run};
use crate::memory::{self, MemoryUse};
use crate::networks::{Chance, Networks, Vlan};
use crate::options::Options;
use crate::report::Report;
use crate::sinks::Troubles;
use crate::together;
use crate::vm::Launcher;

/// All machines of a test. Dropping it ends them.
pub struct Driver {
    name: String,
    machines: Vec<MachineHandle>,
    /// These and those that were made while the run was under way: all that its end has to stop.
    all: Arc<Mutex<Vec<MachineHandle>>>,
    launcher: Arc<dyn Launcher>,
    networks: Networks,
    /// Those of the networks that have names.
    named_networks: NamedNetworks,
    uplinks: Vec<UplinkConfig>,
    gateways: Arc<BTreeSet<u8>>,
    chance: Arc<Chance>,
    control: Arc<Control>,
    log: Logger,
    folders: Arc<Folders>,
    began: Instant,
    /// What this process held before any machine.
    base_resident: u64,
    /// The global time limit, and what is called when it is over.
    limit: Duration,
    on_global_timeout: AtTheEnd,
    timer: Mutex<Option<Timer>>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Driver {
    /// The machines of a manifest, none of them started, its uplinks open, and the global time limit running.
    ///
    /// # Errors
    /// When an uplink cannot be opened, or the timer's thread cannot be started.
    pub fn new(manifest: &Manifest, options: Options) -> Result<Self, Error> {
        let control = Arc::new(Control::default());
        let log = Logger::new(options.sinks);
        let folders = Arc::new(Folders::default());
        let launcher = options.launcher;
        let networks = launcher.networks();
        networks.set_names(&manifest.networks);
        let uplinks = uplinks_in_run(&manifest.uplinks, &folders)?;
        launcher
            .open_uplinks(&uplinks)
            .map_err(|error| Error::setup_because("an uplink of the networks cannot be opened", error))?;
        let gateways = uplinks.iter().filter(|uplink| matches!(uplink.leads_to, UplinkKind::UserNetwork(_)));
        let gateways = Arc::new(gateways.map(|uplink| uplink.network).collect());
        let run = RunParts {
            launcher: launcher.clone(),
            control: control.clone(),
            log: log.clone(),
            folders: folders.clone(),
            gateways: Arc::clone(&gateways),
        };
        let machines: Vec<MachineHandle> = manifest
            .numbered()
            .map(|(number, name, node)| MachineHandle::new(name, number, node.clone(), run.clone()))
            .collect();
        let limit = Duration::from_secs(manifest.global_timeout);
        let chance = Arc::new(Chance::new(options.seed.or(manifest.seed)));
        log.event(Event::RunBegin {
            seed: Some(chance.seed()),
            name: Some(manifest.name.clone()),
            machines: machines.iter().map(|machine| Arc::from(machine.name())).collect(),
            topology: Some(Arc::new(manifest.topology())),
        });
        let driver = Self {
            name: manifest.name.clone(),
            all: Arc::new(Mutex::new(machines.clone())),
            machines,
            networks,
            named_networks: manifest.networks.clone(),
            uplinks: manifest.uplinks.clone(),
            gateways,
            chance,
            launcher,
            control,
            log,
            folders,
            began: Instant::now(),
            base_resident: memory::resident().unwrap_or_default(),
            limit,
            on_global_timeout: Arc::new(Mutex::new(options.on_global_timeout)),
            timer: Mutex::new(None),
        };
        driver.start_timer()?;
        Ok(driver)
    }

    /// Lets the global time limit count, from now on. Where it counts already, it begins anew.
    ///
    /// # Errors
    /// When the timer's thread cannot be started.
    pub fn start_timer(&self) -> Result<(), Error> {
        self.stop_timer();
        let then = self.on_global_timeout.clone();
        let timer = Timer::start(self.limit, self.control.clone(), self.all.clone(), self.log.clone(), then)?;
        *lock(&self.timer) = Some(timer);
        Ok(())
    }

    /// Lets the global time limit count no longer, until [`Driver::start_timer`].
    pub fn stop_timer(&self) {
        let timer = lock(&self.timer).take();
        drop(timer);
    }

    /// The test's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machines, sorted by name.
    #[must_use]
    pub fn machines(&self) -> &[MachineHandle] {
        &self.machines
    }

    /// A machine by its name.
    #[must_use]
    pub fn machine(&self, name: &str) -> Option<&MachineHandle> {
        self.machines.iter().find(|machine| machine.name() == name)
    }

    /// Makes one more machine, which is none of [`Self::machines`]: the test starts it itself. Its number is that of its
    /// description, or the next free one. The run's end stops it, too.
    ///
    /// # Errors
    /// When there is a machine of that name or number, or there are 254 already.
    pub fn create_machine(&self, name: &str, node: NodeConfig) -> Result<MachineHandle, Error> {
        let mut all = lock(&self.all);
        if all.iter().any(|machine| machine.name() == name) {
            return Err(Error::setup(format!(
                "{name}: there is a machine of this name already; give another one"
            )));
        }
        let number = free_number(&all, name, node.number)?;
        let run = RunParts {
            launcher: self.launcher.clone(),
            control: self.control.clone(),
            log: self.log.clone(),
            folders: self.folders.clone(),
            gateways: self.gateways.clone(),
        };
        let machine = MachineHandle::new(name, number, node, run);
        all.push(machine.clone());
        Ok(machine)
    }

    /// The VLANs that machines or uplinks are plugged into, and those that the manifest names, sorted.
    #[must_use]
    pub fn vlans(&self) -> BTreeSet<u8> {
        let used = self.machines.iter().flat_map(|machine| machine.node().vlans.iter().copied());
        let used = used.chain(self.uplinks.iter().map(|uplink| uplink.network));
        used.chain(self.named_networks.values().map(|network| network.vlan)).collect()
    }

    /// The networks that the manifest names: what [`NodeConfig::parse_within`] needs to read one more machine of this test.
    #[must_use]
    pub fn named_networks(&self) -> &NamedNetworks {
        &self.named_networks
    }

    /// What faults without a seed of their own draw theirs from: that of the options, of the manifest, or one of this run alone.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.chance.seed()
    }

    /// Whether a fault has drawn from [`Self::seed`]: then it takes that number to run the test again as it was.
    #[must_use]
    pub fn is_seed_used(&self) -> bool {
        self.chance.is_used()
    }

    /// How the machines are connected, also those that were made while the run was under way.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let all = self.all();
        let machines = all.iter().map(|machine| (machine.number(), machine.name(), machine.node()));
        Topology::new(&self.named_networks, machines, &self.uplinks)
    }

    /// One of the networks between the machines, by its number. There is one for every number.
    #[must_use]
    pub fn vlan(&self, number: u8) -> Vlan {
        Vlan::new(number, self.networks.clone(), self.all.clone(), self.log.clone(), self.chance.clone())
    }

    /// Partitions all VLANs at the same time: [`Vlan::partition`] of each that has machines of several groups.
    ///
    /// # Errors
    /// When there is no such machine, or one is named twice.
    pub fn partition(&self, groups: &[&[&str]]) -> Result<(), Error> {
        let all = self.all();
        let unknown = groups.iter().copied().flatten().find(|name| all.iter().all(|it| it.name() != **name));
        if let Some(name) = unknown {
            return Err(Error::setup(format!("network: there is no machine {name}")));
        }
        for vlan in self.vlans().into_iter().map(|number| self.vlan(number)) {
            let here = vlan.machines();
            let is_here = |name: &&str| here.iter().any(|other| other == name);
            let sides =
                groups.iter().map(|group| group.iter().copied().filter(is_here).collect::<Vec<&str>>());
            let sides: Vec<Vec<&str>> = sides.filter(|side| !side.is_empty()).collect();
            if sides.len() > 1 {
                vlan.partition(&sides.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// Takes away all faults of all VLANs.
    pub fn heal(&self) {
        self.vlans().into_iter().for_each(|number| self.vlan(number).heal());
    }

    /// Writes the last frames of each VLAN that had some, as they are always kept (256 KiB of each VLAN), to `NAME-last.pcapng` in a
    /// folder (`vlanN-last.pcapng` where it has no name): for a test that has failed. Returns the files.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn save_last_frames(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let troubles = Troubles::default();
        let saved = self.networks.save(folder, &troubles)?;
        match troubles.take().into_iter().next() {
            Some(trouble) => Err(Error::setup(trouble)),
            None => Ok(saved),
        }
    }

    /// The run's log.
    #[must_use]
    pub fn log(&self) -> &Logger {
        &self.log
    }

    /// Asks `hook` during every wait whether to stop.
    pub fn set_interrupt_hook(&self, hook: Option<InterruptHook>) {
        self.control.set_hook(hook);
    }

    /// Calls `hook` before every command of any machine, those that waits give included: what must hold during a test can
    /// be looked at there.
    pub fn set_command_hook(&self, hook: Option<CommandHook>) {
        self.control.set_before_command(hook);
    }

    /// Begins a subtest, which ends when the returned value is dropped. [`Self::in_subtest`] is the same around a function.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    /// let mut subtest = driver.subtest("greeting");
    /// if web.succeed(&["echo hi"], None)? != "hi\n" {
    ///     subtest.fail("it is rude");
    /// }
    /// drop(subtest);
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    #[must_use]
    pub fn subtest(&self, name: &str) -> Block {
        self.log.subtest(name)
    }

    /// Starts all machines at the same time.
    ///
    /// ```
    /// # let driver = snowboot_driver::testing::driver(&["client", "server"])?;
    /// driver.start_all()?;
    /// assert!(driver.machines().iter().all(|machine| machine.is_booted()));
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// Names every machine that cannot be started; the others run.
    pub fn start_all(&self) -> Result<(), Error> {
        let _block = self.log.block(None, "start all VMs");
        together::start_all(&self.machines)
    }

    /// Lets the first use of any machine start all of them at the same time, unless something was started before. The
    /// first command waits for the others' shells, too, but no longer than the shell of its own machine took. For tests
    /// that start nothing themselves.
    pub fn start_together(&self) {
        together::arrange(&self.control, &self.machines, &self.log);
    }

    /// Waits for every machine's end; the global time limit no longer counts after that.
    ///
    /// # Errors
    /// When the run is interrupted or its time is over.
    pub fn join_all(&self) -> Result<(), Error> {
        let _block = self.log.block(None, "wait for all VMs to finish");
        for machine in &self.machines {
            machine.wait_for_shutdown(None)?;
        }
        self.stop_timer();
        Ok(())
    }

    /// Calls `check(false)` until it is true; after the time is up once more with true.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use snowboot_driver::Execute;
    /// # let driver = snowboot_driver::testing::driver(&["web"])?;
    /// # let web = &driver.machines()[0];
    ///
    /// let is_there = |is_last: bool| {
    ///     let reply = web.execute("ls -d /tmp", Execute::default())?;
    ///     if is_last {
    ///         println!("the last look gave {reply:?}");
    ///     }
    ///     Ok(reply.status == 0)
    /// };
    /// driver.retry(Duration::from_secs(60), is_there)?;
    /// # Ok::<(), snowboot_driver::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `check`, and a failed check when it was never true.
    pub fn retry(
        &self,
        timeout: Duration,
        mut check: impl FnMut(bool) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(timeout);
        let mut backoff = Backoff::new();
        while deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let began = Instant::now();
            if check(false)? {
                return Ok(());
            }
            let pause = backoff.pause(began.elapsed());
            let left = deadline.map_or(pause, |deadline| deadline.saturating_duration_since(Instant::now()));
            self.control.pause(pause.min(left))?;
        }
        if check(true)? {
            return Ok(());
        }
        let seconds = timeout.as_secs_f64();
        Err(Error::Assertion(format!("The condition that was retried for {seconds} s never became true")))
    }

    /// Memory that the VMM adds to its machines, as it is now.
    #[must_use]
    pub fn memory_use(&self) -> Option<MemoryUse> {
        let running = self.all().iter().filter(|machine| machine.is_booted()).count();
        let guest = self.launcher.guest_resident()?;
        Some(MemoryUse::new(memory::resident()?, self.base_resident, guest, running))
    }

    /// All machines, also those that were made during the run.
    fn all(&self) -> Vec<MachineHandle> {
        lock(&self.all).clone()
    }

    /// What is to be told of the run.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            name: self.name.clone(),
            seed: self.seed(),
            seconds: self.began.elapsed().as_secs_f64(),
            machines: self.all().iter().map(MachineHandle::report).collect(),
            memory: self.memory_use(),
            topology: self.topology(),
        }
    }

    /// Ends all machines. Every call to a machine fails after this.
    pub fn finish(&self) {
        self.stop_timer();
        // Before the machines: none can be started any more when it is stopped.
        self.control.end(Ended::Finished);
        let block = self.all().iter().any(MachineHandle::is_booted).then(|| self.log.block(None, "cleanup"));
        stop_all(&self.all);
        self.all().iter().for_each(MachineHandle::join_reboots);
        drop(block);
        for error in self.networks.stop() {
            self.log.line(Level::Error, None, error.chain());
        }
        self.folders.remove();
        self.log.flush();
    }

    /// Tells reports how the script ended; the machines' end follows.
    pub fn script_ended(&self, error: Option<RunError>) {
        self.log.event(Event::ScriptEnd { error: error.map(Arc::new) });
        self.log.flush();
    }

    /// Tells reports how the run ended: its exit status, and what made it fail. Nothing may be logged after this.
    pub fn run_ended(&self, status: i32, error: Option<RunError>) {
        self.log.event(Event::RunEnd { status, error: error.map(Arc::new) });
        self.log.flush();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop_timer();
        together::forget(&self.control);
        self.control.end(Ended::Finished);
        stop_all(&self.all);
        self.all().iter().for_each(MachineHandle::join_reboots);
        drop(self.networks.stop());
    }
}

/// Stops them at the same time, after the run has ended.
fn stop_all(machines: &Mutex<Vec<MachineHandle>>) {
    let machines = lock(machines).clone();
    std::thread::scope(|scope| {
        for machine in &machines {
            let thread = std::thread::Builder::new().name("snowboot-stop".into());
            // A process without room for a thread still has to stop its machines.
            if thread.spawn_scoped(scope, || machine.stop_for_good()).is_err() {
                machine.stop_for_good();
            }
        }
    });
}

/// The number that a machine asks for, or without a wish the first that nobody has.
fn free_number(machines: &[MachineHandle], name: &str, wish: Option<u8>) -> Result<u8, Error> {
    let owner = |number: u8| machines.iter().find(|machine| machine.number() == number);
    match wish {
        Some(number) => match owner(number) {
            None => Ok(number),
            Some(other) => Err(Error::setup(format!(
                "{name}: {} has the number {number} already; give another one, or none",
                other.name()
            ))),
        },
        None => {
            (1..=u8::MAX).take(Manifest::MAX_MACHINES).find(|number| owner(*number).is_none()).ok_or_else(
                || Error::setup(format!("{name}: a test has at most {} machines", Manifest::MAX_MACHINES)),
            )
        }
    }
}

/// What is called once when the global time limit is over.
type AtTheEnd = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// The global time limit, on a thread of its own. Dropping it cancels it.
struct Timer {
    cancelled: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Timer {
    fn start(
        limit: Duration,
        control: Arc<Control>,
        machines: Arc<Mutex<Vec<MachineHandle>>>,
        log: Logger,
        then: AtTheEnd,
    ) -> Result<Self, Error> {
        let cancelled = Arc::new((Mutex::new(false), Condvar::new()));
        let watch = cancelled.clone();
        let body = move || {
            let guard = lock(&watch.0);
            let (guard, _) = watch
                .1
                .wait_timeout_while(guard, limit, |cancelled| !*cancelled)
                .unwrap_or_else(PoisonError::into_inner);
            if *guard {
                return;
            }
            drop(guard);
            control.end(Ended::GlobalTimeout(limit));
            // Before the log, which may have to wait.
            stop_all(&machines);
            let seconds = limit.as_secs();
            log.line(
                Level::Error,
                None,
                format!("the global time limit of {seconds} s is over: all machines were stopped"),
            );
            let then = lock(&then).take();
            if let Some(then) = then {
                then();
            }
        };
        let thread =
            std::thread::Builder::new().name("snowboot-timer".into()).spawn(body).map_err(|error| {
                Error::setup_because("Cannot start a thread for the global time limit", error)
            })?;
        Ok(Self { cancelled, thread: Some(thread) })
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        *lock(&self.cancelled.0) = true;
        self.cancelled.1.notify_all();
        // What runs at the time's end may itself end the driver.
        if let Some(thread) = self.thread.take().filter(|it| it.thread().id() != std::thread::current().id())
        {
            drop(thread.join());
        }
    }
}
