//! vCPU threads, and the one place that starts, pauses and ends them.
//!
//! ```text
//!              resume()            pause()
//!  Paused ───────────────► Running ───────────► Paused
//!     │                      │
//!     └── end(outcome) ──────┴──► Ended (for good; the first outcome counts)
//! ```
//!
//! A machine begins paused, so that nothing runs in its guest before all of its threads are there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use snowboot_bus::{Access, Action, Op, Space};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::Error;
use crate::kvm::{Exit, Kick, Vcpu};
use crate::machine::{Outcome, Platform};
use crate::stats::{ExitKind, VcpuCounter};
use crate::timeline::{Phase, Timeline};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Running,
    Paused,
    Ended,
}

/// What all vCPUs of a machine should do, and how the machine ended.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether anything but running is wanted: the only thing that a vCPU looks at between two entries.
    attention: AtomicBool,
    /// Written once, when the machine ends.
    ended: EventFd,
    timeline: Timeline,
}

struct State {
    wanted: Wanted,
    parked: usize,
    /// One per vCPU thread that may be inside the guest.
    seats: Vec<Seat>,
    outcome: Option<Outcome>,
}

/// A vCPU's thread.
struct Seat {
    index: u8,
    kick: Kick,
    thread: ThreadId,
}

impl Control {
    pub(crate) fn new(timeline: Timeline) -> Result<Self, Error> {
        Ok(Self {
            state: Mutex::new(State { wanted: Wanted::Paused, parked: 0, seats: Vec::new(), outcome: None }),
            changed: Condvar::new(),
            attention: AtomicBool::new(true),
            ended: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(Error::host("create an event file descriptor"))?,
            timeline,
        })
    }

    /// Ends the machine. The first outcome counts.
    pub(crate) fn end(&self, outcome: Outcome) {
        let mut state = self.lock();
        if state.wanted == Wanted::Ended {
            return;
        }
        state.outcome = Some(outcome);
        self.want(&mut state, Wanted::Ended);
        // Only ever written here; a full counter would mean that it has been.
        let _ = self.ended.write(1);
    }

    /// Stops all vCPUs at a point where no access is half done. Returns whether the machine is still there. Not to be
    /// called on a vCPU's thread, which would wait for itself.
    pub(crate) fn pause(&self) -> bool {
        let mut state = self.lock();
        if state.wanted == Wanted::Running {
            self.want(&mut state, Wanted::Paused);
        }
        while state.wanted == Wanted::Paused && state.parked < state.seats.len() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted == Wanted::Paused
    }

    /// Lets paused vCPUs go on.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Paused {
            self.want(&mut state, Wanted::Running);
        }
    }

    /// Whether the caller is a vCPU's thread: a device's method, or a writer of the serial port's output.
    pub(crate) fn is_vcpu_thread(&self) -> bool {
        let current = thread::current().id();
        self.lock().seats.iter().any(|seat| seat.thread == current)
    }

    /// Becomes readable when the machine ends.
    pub(crate) fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// How the machine ended; `Stopped` while nothing has said otherwise.
    pub(crate) fn outcome(&self) -> Outcome {
        self.lock().outcome.clone().unwrap_or(Outcome::Stopped)
    }

    fn want(&self, state: &mut State, wanted: Wanted) {
        state.wanted = wanted;
        self.attention.store(wanted != Wanted::Running, Ordering::Release);
        for seat in &state.seats {
            seat.kick.kick();
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sit_down(&self, index: u8, kick: Kick) {
        self.lock().seats.push(Seat { index, kick, thread: thread::current().id() });
    }

    fn get_up(&self, index: u8) {
        self.lock().seats.retain(|seat| seat.index != index);
        self.changed.notify_all();
    }

    /// Waits while the machine is paused; whether to go on.
    fn park(&self) -> bool {
        let mut state = self.lock();
        state.parked = state.parked.saturating_add(1);
        self.changed.notify_all();
        while state.wanted == Wanted::Paused {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked = state.parked.saturating_sub(1);
        state.wanted == Wanted::Running
    }
}

/// A vCPU with what is counted of it.
pub(crate) struct Processor {
    pub(crate) vcpu: Vcpu,
    pub(crate) counter: Option<Arc<VcpuCounter>>,
}

/// The body of a vCPU's thread: enter the guest, serve what it comes out for, until the machine ends.
pub(crate) fn run(index: u8, processor: Processor, platform: &Arc<Platform>, control: &Arc<Control>) {
    let Processor { mut vcpu, counter } = processor;
    // After the vCPU, so that it is dropped before: nobody may reach into a run page that is gone.
    let _occupied = match vcpu.adopt_thread() {
        Ok(kick) => Occupied::new(index, kick, control),
        Err(error) => return control.end(Outcome::Fault(error.to_string())),
    };
    // Every machine begins paused.
    if !control.park() {
        return;
    }
    control.timeline.reached(Phase::GuestEntered);
    loop {
        if control.attention.load(Ordering::Acquire) {
            if let Some(outcome) = come_to_rest(&mut vcpu, platform) {
                control.end(outcome);
            }
            if !control.park() {
                break;
            }
        }
        let exit = vcpu.run();
        if let Some(counter) = &counter {
            count(counter, &exit);
        }
        match serve(exit, platform) {
            Next::Enter => {}
            Next::LookUp => vcpu.clear_kick(),
            Next::End(outcome) => control.end(outcome),
        }
    }
}

fn count(counter: &VcpuCounter, exit: &Exit<'_>) {
    match exit {
        Exit::Access(access) => counter.count_access(access),
        Exit::PortString { port, op: Op::Read(_), .. } => counter.count(ExitKind::PortRead, u64::from(*port)),
        Exit::PortString { port, op: Op::Write(_), .. } => {
            counter.count(ExitKind::PortWrite, u64::from(*port))
        }
        // The last of a vCPU, or next to it; the outcome tells of them.
        Exit::Interrupted | Exit::TripleFault | Exit::MissingPage | Exit::Fault(_) => {
            counter.count(ExitKind::Interrupted, 0);
        }
    }
}

/// A thread's time as a vCPU, which also ends with a panic: then the machine is at its end, too.
struct Occupied<'a> {
    index: u8,
    control: &'a Control,
}

impl<'a> Occupied<'a> {
    fn new(index: u8, kick: Kick, control: &'a Control) -> Self {
        control.sit_down(index, kick);
        Self { index, control }
    }
}

impl Drop for Occupied<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.control.end(Outcome::Fault(format!("the thread of vCPU {} panicked", self.index)));
        }
        self.control.get_up(self.index);
        Vcpu::release_thread();
    }
}

/// Accesses that one instruction may still have to make before it is done. The longest are of AVX registers, in pieces
/// of eight bytes, with as many again where an address crosses a page; string instructions come out after each piece.
const PENDING_MAX: usize = 64;

/// Finishes the instruction that the last exit is part of, which may take more accesses, and tells the guest's clock
/// that the time from here on is not its own. Returns the machine's outcome if that was it.
fn come_to_rest(vcpu: &mut Vcpu, platform: &Platform) -> Option<Outcome> {
    for _ in 0..PENDING_MAX {
        match serve(vcpu.complete_pending(), platform) {
            Next::Enter => {}
            Next::LookUp => break,
            Next::End(outcome) => return Some(outcome),
        }
    }
    vcpu.announce_pause();
    None
}

enum Next {
    Enter,
    LookUp,
    End(Outcome),
}

fn serve(exit: Exit<'_>, platform: &Platform) -> Next {
    match exit {
        Exit::Access(access) => carry_out(platform.serve(access), platform),
        Exit::PortString { port, width, op } => serve_string(port, width, op, platform),
        Exit::Interrupted => Next::LookUp,
        Exit::TripleFault => Next::End(Outcome::TripleFault),
        Exit::MissingPage => Next::End(Outcome::Fault(platform.explain_missing_page())),
        Exit::Fault(what) => Next::End(Outcome::Fault(what)),
    }
}

fn carry_out(action: Action, platform: &Platform) -> Next {
    match action {
        Action::None => Next::Enter,
        Action::Reset => Next::End(Outcome::Reset),
        Action::Shutdown => Next::End(Outcome::PowerOff),
        Action::MoveBar(movement) => {
            platform.move_bar(&movement);
            Next::Enter
        }
    }
}

/// A string instruction is that many accesses to the one port, up to one that ends the machine.
fn serve_string(port: u16, width: usize, op: Op<'_>, platform: &Platform) -> Next {
    let one = |op: Op<'_>| {
        let access = Access { space: Space::Port, addr: u64::from(port), op };
        carry_out(platform.serve(access), platform)
    };
    let is_end = |next: &Next| matches!(next, Next::End(_));
    let width = width.max(1);
    let end = match op {
        Op::Read(data) => data.chunks_mut(width).map(|part| one(Op::Read(part))).find(is_end),
        Op::Write(data) => data.chunks(width).map(|part| one(Op::Write(part))).find(is_end),
    };
    end.unwrap_or(Next::Enter)
}
