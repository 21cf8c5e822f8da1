//! The test driver: machines that can be started, given commands, waited for and looked into.
//!
//! A [`Driver`] is made from a manifest, owns the machines, the switches between them and the global time limit. A [`MachineHandle`] is what a test works with; Rust tests and Python scripts are equals, and method
//! names are those of the NixOS test driver. The guest's side of the shell is the backdoor unit that NixOS test images
//! have.
//!
//! # The backdoor protocol
//! A root bash reads commands from `/dev/hvc0` and writes answers there; it announces itself with
//! `Spawning backdoor root shell...`. One command is one line, `timeout T bash -c 'set -euo pipefail; COMMAND' |
//! (base64 -w 0; echo)`; the answer is one line of base64. Then `echo ${PIPESTATUS[0]}` is asked and answered.
//!
//! # Invariants
//! * No call waits without a deadline of its own or the global one, and every wait looks at the interrupt hook, the global
//!   time limit and the machine's end at least every [`TICK`].
//! * Whatever a guest writes (console lines, shell answers) is bounded in memory and decoded without trust.
//! * After [`Driver::finish`] or drop no thread or process of the run is left; the only files are disk images that the
//!   manifest names.
//! * One machine's failure is reported by name and never stops another machine.
#![forbid(unsafe_code)]

mod backoff;
mod console;
mod control;
mod diagnosis;
mod driver;
mod error;
mod event;
#[cfg(feature = "kvm")]
mod kvm;
mod log;
mod machine;
mod memory;
mod ports;
mod report;
mod search;
mod shell;
pub mod sinks;
mod terminals;
mod units;
mod vm;
mod waits;
mod watch;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use console::{ConsoleLog, LOG_CAP, QUEUE_CAP, TAIL_LINES};
pub use control::{CommandHook, InterruptHook, TICK};
pub use driver::{Driver, Options};
pub use error::{Error, ErrorKind, Failure};
pub use event::{BlockInfo, Event, Level, Record, RunError, Sink, Step};
#[cfg(feature = "kvm")]
pub use kvm::KvmLauncher;
pub use log::{Block, Logger};
pub use machine::{Execute, MachineHandle, PowerEvent, PowerEventKind, Reply, Start};
pub use memory::MemoryUse;
pub use report::{MachineReport, Report};
pub use shell::{GREETING, quote};
pub use sinks::Terminal;
pub use vm::{BoxError, Channel, EndCallback, Launched, Launcher, Outcome, Port, Vm};
pub use waits::DEFAULT_TIMEOUT;
