//! The devices of a machine, as synchronous state machines: somebody else's thread calls them.
//!
//! # Invariants
//! * No device knows the configuration or the machine: it is handed open files, ports, streams, clocks.
//! * No device spawns a thread, sleeps, or reads a clock that was not handed in.
//! * Everything in guest memory and every register write is untrusted; so is a saved state.
//! * A request is answered as virtio 1.2 says or kept back whole; guest input never panics and never allocates without a
//!   named bound.
#![forbid(unsafe_code)]

pub mod block;
pub mod boot_marks;
mod config;
pub mod console;
pub mod entropy;
pub mod fs;
pub mod i8042;
pub mod net;
pub mod ninep;
pub mod pmem;
pub mod power;
pub mod rtc;
pub mod serial;
pub mod stream;
mod timer;
pub mod vhost_user;
mod wake;
pub mod warnings;
