//! `snowboot run`: one machine on this terminal.
//!
//! The main thread waits for one event after another; the threads that make them are the machine's own (its end), the
//! console's pump (output written, or not), the keyboard's (the escape) and the signals'.
//!
//! ```text
//!  guest ──ttyS0──► GuestEnd ─► pump ─► standard output
//!  guest ◄─ttyS0── Machine::serial_input ◄─ keyboard or pipe
//! ```

mod args;
pub(crate) mod console;
mod escape;
pub(crate) mod input;
pub(crate) mod signals;
pub(crate) mod terminal;
mod timeline;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use snowboot_network::Switch;
use snowboot_uplink::gateway::UserNetwork;
use snowboot_vmm::{Builder, KernelCache, Machine, Outcome, Timeline};

pub(crate) use self::args::{Args, boot_of_toplevel};
use self::console::Console;
use self::input::TypedAt;
use self::terminal::Terminal;
use crate::report::{Destination, Report};
use crate::{exit, say};

/// How long a machine that was stopped may take to show its last output, when whoever reads it is slow.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// What the main thread is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// The machine ended by itself.
    Ended(Outcome),
    /// The escape to stop the machine.
    Quit,
    /// A signal that asks this program to end.
    Signal(i32),
    /// This program was stopped (SIGSTOP) and goes on.
    Continued,
    /// All of the guest's output has been written.
    Drained,
    /// The standard output cannot be written to.
    OutputFailed(std::io::Error),
}

/// How a run went.
#[derive(Debug)]
struct End {
    outcome: Outcome,
    signal: Option<i32>,
    elapsed: Duration,
    timeline: Timeline,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let timeline = args.timeline.prepare()?;
    let destination = args.report.as_deref().map(Destination::prepare).transpose()?;
    if let Some(timeline) = &timeline {
        timeline.check_apart_from(destination.as_ref())?;
    }
    let result = run_machine(args);
    if let Some(destination) = destination {
        let written = destination.write(&report(&result));
        if result.is_ok() {
            written?;
        }
    }
    let end = result?;
    say::line(&format!("snowboot: {}", end.describe()));
    if let Some(wanted) = timeline {
        wanted.tell(&end.timeline)?;
    }
    Ok(end.status().into())
}

fn run_machine(args: &Args) -> Result<End> {
    let (sender, events) = mpsc::channel();
    let console = Console::to_stdout(sender.clone())?;
    // It ends with this function, after the machine.
    let network = args.net.as_ref().map(|config| UserNetwork::start("guest", config)).transpose()?;
    let (machine, switches) = build(args, &console, network.as_ref())?;
    let machine = Arc::new(machine);
    signals::watch(sender.clone())?;
    let terminal = Terminal::take()?;
    input::start(&typed_at(&machine), terminal.is_some(), sender.clone())?;
    let ended: Sender<Event> = sender;
    machine.on_end(Box::new(move |outcome| {
        let _ = ended.send(Event::Ended(outcome.clone()));
    }));
    tell_forwards(network.as_ref());
    let start = Instant::now();
    machine.start()?;
    snowboot_vmm::give_back_code();
    let (outcome, signal) = wait(&events, &machine, &console, terminal)?;
    if let Some(stats) = machine.stats() {
        say::line(stats.to_string().trim_end());
        for (port, counters) in switches.iter().flat_map(Switch::counters) {
            say::line(&format!("snowboot: {port}: {counters}"));
        }
    }
    Ok(End { outcome, signal, elapsed: start.elapsed(), timeline: machine.timeline().clone() })
}

fn typed_at(machine: &Arc<Machine>) -> Arc<dyn TypedAt> {
    Arc::clone(machine) as Arc<dyn TypedAt>
}

/// Says which ports were free, where any would do.
pub(crate) fn tell_forwards(network: Option<&UserNetwork>) {
    let forwards = network.map(UserNetwork::forwards).unwrap_or_default();
    for (asked, at) in forwards.iter().filter(|(asked, _)| asked.host.port() == 0) {
        say::line(&format!("snowboot: {at} of the host leads to port {} of the guest", asked.guest.port()));
    }
}

/// The machine, and what its cards are plugged into.
fn build(args: &Args, console: &Console, network: Option<&UserNetwork>) -> Result<(Machine, Vec<Switch>)> {
    let config = args.machine()?;
    let kernels = if args.no_cache { KernelCache::in_memory() } else { KernelCache::from_environment() };
    let mut builder = Builder::new(config)
        .kvm_device(args.kvm_device.path())
        .kernel_cache(Arc::new(kernels))
        .serial_output(Box::new(console.guest_end()));
    if args.stats {
        builder = builder.count_exits();
    }
    let mut switches = Vec::new();
    if let Some(network) = network {
        let switch = Switch::new();
        network.plug(switch.attach("user network"));
        builder = builder.plug(switch.attach("eth0"));
        switches.push(switch);
    }
    for vlan in &args.vlan {
        // One machine alone: each of its cards has a switch of its own.
        let switch = Switch::new();
        builder = builder.plug(switch.attach(&format!("vlan {vlan}")));
        switches.push(switch);
    }
    Ok((builder.build()?, switches))
}

/// Waits for the machine's end or a reason to stop it, and for its output. The terminal is restored on return.
fn wait(
    events: &Receiver<Event>,
    machine: &Machine,
    console: &Console,
    terminal: Option<Terminal>,
) -> Result<(Outcome, Option<i32>)> {
    let mut outcome = None;
    let event = loop {
        match events.recv().context("Nobody is left to wait for")? {
            Event::Ended(how) => {
                outcome = Some(how);
                console.close();
            }
            Event::Continued => {
                if let Some(terminal) = &terminal {
                    terminal.take_again();
                }
            }
            event => break event,
        }
    };
    // From here on a second signal ends the program at once, and must find the terminal as it was.
    let on_terminal = terminal.is_some();
    drop(terminal);
    console.close();
    machine.stop();
    if !matches!(event, Event::Drained | Event::OutputFailed(_)) {
        drain(events);
    }
    if on_terminal && !console.is_at_line_start() {
        say::line("");
    }
    match event {
        Event::OutputFailed(error) => {
            Err(error).context("The machine was stopped: cannot write its console to the standard output")
        }
        Event::Signal(signal) => Ok((outcome.unwrap_or(Outcome::Stopped), Some(signal))),
        _ => Ok((outcome.unwrap_or(Outcome::Stopped), None)),
    }
}

/// Waits a moment for the output to be written.
pub(crate) fn drain(events: &Receiver<Event>) {
    let deadline = Instant::now() + LAST_OUTPUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Drained | Event::OutputFailed(_)) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                return tracing::warn!("the end of the guest's output is lost: nobody reads it");
            }
            Ok(_) => {}
        }
    }
}

impl End {
    fn status(&self) -> u8 {
        match (&self.outcome, self.signal) {
            (_, Some(signal)) => exit::of_signal(signal),
            (Outcome::PowerOff | Outcome::Stopped, None) => 0,
            (Outcome::Reset, None) => exit::RESET,
            (Outcome::TripleFault, None) => exit::TRIPLE_FAULT,
            (Outcome::Fault(_), None) => exit::KVM_FAULT,
        }
    }

    fn describe(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let what = match (&self.outcome, self.signal) {
            (Outcome::Stopped, Some(signal)) => return stopped_by(signal, seconds),
            (Outcome::Stopped, None) => "you stopped the machine",
            (Outcome::PowerOff, _) => "the guest powered off",
            (Outcome::Reset, _) => {
                "the guest reset (a reboot, or a kernel panic where its command line has panic=1)"
            }
            (Outcome::TripleFault, _) => "the guest's CPU shut down (triple fault)",
            (Outcome::Fault(what), _) => {
                return format!("KVM could not go on with the guest after {seconds:.1} s: {what}");
            }
        };
        format!("{what} after {seconds:.1} s")
    }
}

fn stopped_by(signal: i32, seconds: f64) -> String {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    format!("{name} stopped the machine after {seconds:.1} s")
}

fn report(result: &Result<End>) -> Report<'static> {
    let version = env!("CARGO_PKG_VERSION");
    match result {
        Err(error) => Report {
            outcome: "error",
            detail: Some(say::one_line(error)),
            signal: None,
            seconds: 0.0,
            exit_status: exit::HOST_ERROR,
            version,
        },
        Ok(end) => {
            let (outcome, detail) = match &end.outcome {
                Outcome::PowerOff => ("power-off", None),
                Outcome::Reset => ("reset", None),
                Outcome::TripleFault => ("triple-fault", None),
                Outcome::Fault(what) => ("fault", Some(what.clone())),
                Outcome::Stopped => ("stopped", None),
            };
            let seconds = end.elapsed.as_secs_f64();
            Report { outcome, detail, signal: end.signal, seconds, exit_status: end.status(), version }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(outcome: Outcome, signal: Option<i32>) -> End {
        End { outcome, signal, elapsed: Duration::from_millis(1250), timeline: Timeline::default() }
    }

    #[test]
    fn every_end_has_its_status_and_words() {
        for (outcome, signal, status, words) in [
            (Outcome::PowerOff, None, 0, "powered off after 1.2 s"),
            (Outcome::Stopped, None, 0, "you stopped"),
            (Outcome::Reset, None, 3, "panic=1"),
            (Outcome::TripleFault, None, 4, "triple fault"),
            (Outcome::Fault("why".to_owned()), None, 5, "1.2 s: why"),
            (Outcome::Stopped, Some(15), 143, "SIGTERM stopped"),
            (Outcome::PowerOff, Some(2), 130, "powered off"),
        ] {
            let end = end(outcome, signal);
            assert_eq!(end.status(), status);
            assert!(end.describe().contains(words), "{}", end.describe());
        }
    }

    #[test]
    fn a_report_has_what_the_exit_status_says() {
        let report = report(&Ok(end(Outcome::Fault("why".to_owned()), None)));
        assert_eq!((report.outcome, report.exit_status, report.detail.as_deref()), ("fault", 5, Some("why")));
        let failed = super::report(&Err(anyhow::anyhow!("no KVM")));
        assert_eq!(
            (failed.outcome, failed.exit_status, failed.detail.as_deref()),
            ("error", 1, Some("no KVM"))
        );
    }
}
