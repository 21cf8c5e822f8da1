//! `snowboot vm`: what a NixOS machine's start script runs in the place of QEMU.
//!
//! The test driver of NixOS starts it, appends QEMU's options for the sockets of the machine, and waits for it at two of them.
//! So the order matters: QMP listens before anything is connected, and the sockets are connected before anything that can
//! fail, for a driver that waits for them waits for ever.
//!
//! ```text
//!  monitor, QMP ══► Guest ══► Machine ◄══ hvc0 ══► shell socket
//!                     │          ├─ ttyS0 ═ standard input and output
//!                     └─ resets  └─ network cards ═ Switch ═ vde_switch
//! ```

mod environment;
mod guest;
mod networks;
mod shell;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context, Result, anyhow};
use clap::builder::RangedU64ValueParser;
use snowboot_config::NodeConfig;
use snowboot_driver::{Workshop, find_paths};
use snowboot_qemu::arguments::Arguments;
use snowboot_qemu::qmp::{Listener, Server};
use snowboot_qemu::{Power, hmp};
use snowboot_vmm::Outcome;

use self::environment::{Environment, State};
use self::guest::{Guest, Plan};
use self::networks::Networks;
use self::shell::Shell;
use crate::kvm_device::KvmDevice;
use crate::run::console::Console;
use crate::run::input::{self, TypedAt};
use crate::run::terminal::Terminal;
use crate::run::{Event, drain, signals, tell_forwards};
use crate::{exit, say};

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The machine: a JSON or TOML file with what a manifest has below [machines.NAME]
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The machine's name
    #[arg(long)]
    name: String,
    /// The machine's number on its VLANs, 1 to 254 [default: that of its description]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u8>::new().range(1..=254))]
    number: Option<u8>,
    #[command(flatten)]
    kvm_device: KvmDevice,
    /// Options of QEMU's, as programs append them to a start script
    #[arg(value_name = "QEMU OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    qemu: Vec<String>,
}

const AFTER_HELP: &str = "\
This is the program of the start scripts that Snowboot's NixOS module makes; docs/vm.md has the options of QEMU's that it
understands, what it reads of the environment, and the commands of its monitors.

Exit status:
  0  the guest powered off, reset where it may not (-no-reboot), or was told to quit
  1  the host's side failed: the standard error says what, and what to do
  2  the command line is wrong, or QEMU_OPTS
  5  KVM could not go on with the guest
  129, 130, 131, 143  SIGHUP, SIGINT, SIGQUIT or SIGTERM stopped the machine

Examples:
  exec snowboot vm --config machine.json --name machine --number 1 \"$@\"
  snowboot vm --config machine.json --name machine --number 1 -m 2G -no-reboot";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let environment = Environment::read()?;
    // What the driver has appended is in the environment, too: the later ones win, and both are the same.
    let words = environment.options().chain(args.qemu.iter().map(String::as_str));
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            say::line(&format!("snowboot: error: {wrong}"));
            return Ok(exit::USAGE.into());
        }
    };
    for warning in &arguments.warnings {
        say::line(&format!("snowboot: warning: {warning}"));
    }
    let sockets = Sockets::open(&arguments)?;
    let machine = Machine::new(args, environment, &arguments)?;
    let end = machine.run(sockets, &arguments)?;
    Ok(end.status().into())
}

/// The sockets of a machine, in the order in which the test driver needs them.
struct Sockets {
    qmp: Vec<Listener>,
    monitors: Vec<UnixStream>,
    console: Option<UnixStream>,
}

impl Sockets {
    fn open(arguments: &Arguments) -> Result<Self> {
        let listen = |path: &PathBuf| {
            Server::listen(path).with_context(|| format!("Cannot listen for QMP at {}", path.display()))
        };
        let connect = |what: &'static str| {
            move |path: &PathBuf| {
                let connected = UnixStream::connect(path);
                connected.with_context(|| {
                    format!("Cannot connect {what} to {}; something has to listen there", path.display())
                })
            }
        };
        let qmp = arguments.qmp.iter().map(listen).collect::<Result<_>>()?;
        let monitors = arguments.monitors.iter().map(connect("the monitor")).collect::<Result<_>>()?;
        let console = arguments.console.as_ref().map(connect("the guest's /dev/hvc0")).transpose()?;
        Ok(Self { qmp, monitors, console })
    }
}

/// The machine that is to be.
struct Machine {
    plan: Plan,
    networks: Networks,
    /// Kept until the end: it may be a folder of this run's own.
    _state: State,
}

impl Machine {
    fn new(args: &Args, environment: Environment, arguments: &Arguments) -> Result<Self> {
        let mut node = read(&args.name, &args.config)?;
        let number = args.number.or(node.number).with_context(|| {
            format!("The machine has no number; give `--number N`, or `number` in {}", args.config.display())
        })?;
        let state = environment.state()?;
        environment.apply(&args.name, &mut node, state.path())?;
        find_paths(&args.name, &mut node, state.path(), &environment.shared(state.path()))?;
        node.memory = arguments.memory.unwrap_or(node.memory);
        node.vcpus = arguments.vcpus.unwrap_or(node.vcpus);
        let networks = Networks::connect(&args.name, number, &node, &environment)?;
        let workshop = Workshop::new(args.kvm_device.path());
        let plan = Plan { name: args.name.clone(), number, node, workshop };
        Ok(Self { plan, networks, _state: state })
    }

    fn run(self, sockets: Sockets, arguments: &Arguments) -> Result<End> {
        let (sender, events) = mpsc::channel();
        let console = Console::to_stdout(sender.clone())?;
        let shell = sockets.console.map(Shell::new).transpose()?;
        let qmp = Server::new();
        let networks = Arc::new(self.networks);
        let guest = Guest::new(
            self.plan,
            Arc::clone(&networks),
            shell,
            qmp.clone(),
            console.guest_maker(),
            sender.clone(),
        )?;
        for listener in sockets.qmp {
            qmp.serve(listener, guest.clone()).context("Cannot start a thread for QMP")?;
        }
        for monitor in sockets.monitors {
            serve_monitor(monitor, guest.clone())?;
        }
        signals::watch(sender.clone())?;
        let terminal = Terminal::take()?;
        let typed_at: Arc<dyn TypedAt> = guest.clone();
        input::start(&typed_at, terminal.is_some(), sender)?;
        tell_forwards(networks.user());
        if !arguments.is_paused {
            guest.start()?;
        }
        let outcome = wait(&events, &guest, &console, terminal, arguments.no_reboot);
        // Threads that wait for somebody's words keep the machine from being dropped.
        networks.unplug();
        qmp.finish();
        outcome
    }
}

fn read(name: &str, file: &Path) -> Result<NodeConfig> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("Cannot read the machine's description {}", file.display()))?;
    Ok(NodeConfig::parse(name, file, &text)?)
}

fn serve_monitor(stream: UnixStream, guest: Arc<Guest>) -> Result<()> {
    let input = stream.try_clone().context("Cannot serve the monitor")?;
    let serve = move || {
        if let Err(error) = hmp::serve(input, &stream, &*guest) {
            tracing::info!("the monitor's other end is gone: {error}");
        }
    };
    thread::Builder::new()
        .name("monitor".to_owned())
        .spawn(serve)
        .context("Cannot start the monitor's thread")?;
    Ok(())
}

/// How a machine ended for good.
#[derive(Debug)]
enum End {
    /// By itself.
    Guest(Outcome),
    /// It was told to.
    Quit,
    Signal(i32),
}

impl End {
    fn status(&self) -> u8 {
        match self {
            Self::Guest(Outcome::Fault(_)) => exit::KVM_FAULT,
            Self::Guest(_) | Self::Quit => 0,
            Self::Signal(signal) => exit::of_signal(*signal),
        }
    }

    /// What QMP clients hear of it.
    fn power(&self, was_reset_by_host: bool) -> Power {
        let (guest, reason) = match self {
            Self::Guest(Outcome::PowerOff) => (true, "guest-shutdown"),
            Self::Guest(Outcome::Reset | Outcome::TripleFault) => reset_cause(was_reset_by_host),
            Self::Guest(Outcome::Fault(_)) => (false, "host-error"),
            Self::Guest(Outcome::Stopped) | Self::Quit => (false, "host-qmp-quit"),
            Self::Signal(_) => (false, "host-signal"),
        };
        Power::Shutdown { guest, reason }
    }
}

fn reset_cause(by_host: bool) -> (bool, &'static str) {
    if by_host { (false, "host-qmp-system-reset") } else { (true, "guest-reset") }
}

/// Waits for the machine's end, starting it again after resets unless it may not be, and for its last output.
fn wait(
    events: &Receiver<Event>,
    guest: &Guest,
    console: &Console,
    terminal: Option<Terminal>,
    no_reboot: bool,
) -> Result<End> {
    let end = loop {
        match events.recv().context("Nobody is left to wait for")? {
            Event::Ended(Outcome::Reset | Outcome::TripleFault) if !no_reboot => {
                let (by_guest, reason) = reset_cause(guest.take_reset_by_host());
                guest.tell(Power::Reset { guest: by_guest, reason });
                guest.restart()?;
            }
            Event::Ended(outcome) => {
                explain(&outcome);
                break End::Guest(outcome);
            }
            Event::Quit => break End::Quit,
            Event::Signal(signal) => break End::Signal(signal),
            Event::Continued => {
                if let Some(terminal) = &terminal {
                    terminal.take_again();
                }
            }
            Event::OutputFailed(error) => {
                guest.stop();
                return Err(anyhow!(error)
                    .context("The machine was stopped: cannot write its console to the standard output"));
            }
            // Before the console is closed there is no such event.
            Event::Drained => {}
        }
    };
    drop(terminal);
    guest.tell(end.power(guest.take_reset_by_host()));
    console.close();
    guest.stop();
    drain(events);
    Ok(end)
}

/// Ends that a user of the start script may not understand are told.
fn explain(outcome: &Outcome) {
    match outcome {
        Outcome::TripleFault => say::line("snowboot: the guest's CPU shut down (triple fault)"),
        Outcome::Fault(what) => say::line(&format!("snowboot: KVM could not go on with the guest: {what}")),
        _ => {}
    }
}

/// What the guest's threads tell the main one.
fn on_end(events: Sender<Event>) -> snowboot_vmm::EndCallback {
    Box::new(move |outcome| {
        let _ = events.send(Event::Ended(outcome.clone()));
    })
}
