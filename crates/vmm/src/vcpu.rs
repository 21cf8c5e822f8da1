//! vCPU threads, and the one place that starts, pauses and ends them.
//!
//! ```text
//!             pause()              resume()
//!  Running ───────────► Paused ───────────────► Running
//!     │                    │
//!     └── end(outcome) ────┴──► Ended (for good; the first outcome counts)
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use snowboot_bus::{Access, Action, Op, Space};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;
use crate::kvm::{Exit, Kick, Vcpu};
use crate::machine::{Outcome, Platform};

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
}

struct State {
    wanted: Wanted,
    parked: usize,
    /// One per vCPU thread that may be inside the guest.
    kicks: Vec<(u8, Kick)>,
    outcome: Option<Outcome>,
}

impl Control {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            state: Mutex::new(State { wanted: Wanted::Running, parked: 0, kicks: Vec::new(), outcome: None }),
            changed: Condvar::new(),
            attention: AtomicBool::new(false),
            ended: EventFd::new(EFD_NONBLOCK).map_err(Error::host("create an event file descriptor"))?,
        })
    }

    /// Ends the machine. The first outcome counts.
    pub(crate) fn end(&self, outcome: Outcome) {
        let mut state = self.lock();
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
        }
        self.want(&mut state, Wanted::Ended);
        // Only ever written here; a full counter would mean that it has been.
        let _ = self.ended.write(1);
    }

    /// Stops all vCPUs at a point where no access is half done. Returns whether the machine is still there.
    pub(crate) fn pause(&self) -> bool {
        let mut state = self.lock();
        if state.wanted == Wanted::Running {
            self.want(&mut state, Wanted::Paused);
        }
        while state.wanted == Wanted::Paused && state.parked < state.kicks.len() {
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
        for (_, kick) in &state.kicks {
            kick.kick();
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, index: u8, kick: Kick) {
        self.lock().kicks.push((index, kick));
    }

    fn leave(&self, index: u8) {
        self.lock().kicks.retain(|(other, _)| *other != index);
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

/// The body of a vCPU's thread: enter the guest, serve what it comes out for, until the machine ends.
pub(crate) fn run(index: u8, mut vcpu: Vcpu, platform: &Arc<Platform>, control: &Arc<Control>) {
    match vcpu.adopt_thread() {
        Ok(kick) => control.join(index, kick),
        Err(error) => return control.end(Outcome::Fault(error.to_string())),
    }
    loop {
        if control.attention.load(Ordering::Acquire) {
            vcpu.complete_pending();
            if !control.park() {
                break;
            }
        }
        match serve(vcpu.run(), platform) {
            Next::Enter => {}
            Next::LookUp => vcpu.clear_kick(),
            Next::End(outcome) => control.end(outcome),
        }
    }
    control.leave(index);
    vcpu.release_thread();
}

enum Next {
    Enter,
    LookUp,
    End(Outcome),
}

fn serve(exit: Exit<'_>, platform: &Platform) -> Next {
    let action = match exit {
        Exit::Access(access) => platform.serve(access),
        Exit::PortString { port, width, op } => serve_string(port, width, op, platform),
        Exit::Interrupted => return Next::LookUp,
        Exit::TripleFault => return Next::End(Outcome::TripleFault),
        Exit::Fault(what) => return Next::End(Outcome::Fault(what)),
    };
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

/// A string instruction is that many accesses to the one port.
fn serve_string(port: u16, width: usize, op: Op<'_>, platform: &Platform) -> Action {
    let one = |op: Op<'_>| platform.serve(Access { space: Space::Port, addr: u64::from(port), op });
    let mut actions = match op {
        Op::Read(data) => data.chunks_mut(width.max(1)).map(|part| one(Op::Read(part))).collect::<Vec<_>>(),
        Op::Write(data) => data.chunks(width.max(1)).map(|part| one(Op::Write(part))).collect(),
    };
    actions.retain(|action| *action != Action::None);
    actions.pop().unwrap_or_default()
}
