//! The test driver: machines that can be started, given commands, waited for and looked into.
//!
//! A [`Driver`] is made from a manifest, owns the machines, the switches between them and the global time limit. A [`MachineHandle`] is what a test works with; Rust tests and Python scripts are equals, and method
//! names are those of the NixOS test driver. The guest's side of the shell is the backdoor unit that NixOS test images
//! have.
//!
//! # A test in Rust
//! A manifest describes the machines, [`Driver::run`] is the frame around the test. An error and a panic both fail it, and
//! machines end with it:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use snowboot_driver::sinks::{Troubles, Wanted};
//! use snowboot_driver::{DEFAULT_TIMEOUT, Driver, Error, Options};
//!
//! # #[allow(clippy::needless_doctest_main)]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Reports are files; what cannot be written to them later does not fail the test.
//!     let troubles = Troubles::default();
//!     let reports = Wanted { junit: Some("junit.xml".into()), ..Wanted::default() };
//!     let options = Options::on_kvm("/dev/kvm").sinks(reports.open(&troubles)?);
//!     let test = Driver::from_file("ping.toml", options)?;
//!     test.run(|test| -> Result<(), Error> {
//!         let [client, server] = test.machines() else { panic!("two machines are needed") };
//!         test.start_all()?;
//!         test.in_subtest("they see each other", || {
//!             client.wait_until_succeeds("ping -c 1 server", DEFAULT_TIMEOUT)
//!         })?;
//!         test.in_subtest("a page is served", || {
//!             server.copy_from_host(Path::new("page.html"), Path::new("/srv/index.html"))?;
//!             server.wait_for_unit("nginx.service", None, DEFAULT_TIMEOUT)?;
//!             client.succeed(&["curl --fail http://server/"], None)
//!         })?;
//!         server.crash()?;
//!         client.wait_until_fails("ping -c 1 -W 1 server", DEFAULT_TIMEOUT)?;
//!         server.start()
//!     })?;
//!     for trouble in troubles.take() {
//!         eprintln!("{trouble}");
//!     }
//!     Ok(())
//! }
//! ```
//!
//! What a test is made of can be tried without machines. The feature `testing` has a bash of this host in the place of each:
//!
//! ```
//! use std::time::Duration;
//!
//! use snowboot_driver::{Error, Execute, testing};
//!
//! let output = testing::driver(&["web"])?.run(|test| -> Result<String, Error> {
//!     let web = &test.machines()[0];
//!     assert_eq!(web.execute("exit 3", Execute::default())?.status, 3);
//!     web.fail(&["false | true"], None)?;
//!     web.wait_until_succeeds("test -d /", Duration::from_secs(60))?;
//!     web.crash()?;
//!     assert!(!web.is_booted());
//!     // A command starts a machine that does not run.
//!     web.succeed(&["echo I am", "echo back"], None)
//! })?;
//! assert_eq!(output, "I am\nback\n");
//! # Ok::<(), Error>(())
//! ```
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

#[cfg(feature = "kvm")]
mod assembly;
mod backoff;
mod console;
mod control;
mod diagnosis;
mod driver;
mod error;
mod event;
mod expand;
mod folders;
#[cfg(feature = "kvm")]
mod kvm;
mod log;
mod machine;
mod memory;
mod networks;
mod options;
mod ports;
mod report;
mod script;
mod search;
mod shell;
pub mod sinks;
mod terminals;
mod timeline;
mod together;
mod units;
mod vm;
mod waits;
mod watch;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

#[cfg(feature = "kvm")]
pub use assembly::Workshop;
pub use backoff::Backoff;
pub use console::{ConsoleLog, LOG_CAP, QUEUE_CAP, TAIL_LINES};
pub use control::{CommandHook, InterruptHook, TICK};
pub use driver::Driver;
pub use error::{Error, ErrorKind, Failure};
pub use event::{BlockInfo, Event, Level, Record, RunError, Sink, Step};
#[cfg(feature = "kvm")]
pub use kvm::KvmLauncher;
pub use log::{Block, Logger};
pub use machine::{Execute, MachineHandle, PowerEvent, PowerEventKind, Reply, Start, find_paths};
pub use memory::MemoryUse;
pub use networks::{Direction, FileCapture, Networks, Vlan, port_name};
pub use options::Options;
pub use report::{MachineReport, Report};
pub use shell::{GREETING, quote};
pub use sinks::Terminal;
pub use snowboot_config::{Manifest, NodeConfig, Script};
pub use snowboot_network::{Burst, Counters, Flap, Impairment, Spread, WrongImpairment};
pub use timeline::{BootMark, BootTimeline, INITCALLS, Initcall};
pub use vm::{BoxError, Channel, EndCallback, Launched, Launcher, Outcome, Port, TellTimes, Vm, VmTimes};
pub use waits::DEFAULT_TIMEOUT;
