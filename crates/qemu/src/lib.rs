//! What programs that start QEMU say to it, as far as a machine of Snowboot has what it is about: command-line arguments,
//! QMP, and the monitor for people (HMP).
//!
//! ```text
//!  "$@" ──────────► Arguments
//!  QMP clients ═══► qmp::Server ─┐
//!  monitor ═══════► hmp ─────────┴─► Control (a machine)
//! ```
//! Names, answers and events are those of QEMU's documentation (`qemu-options.hx`, `hmp-commands.hx`, `qapi/*.json`).
//!
//! # Invariants
//! * Peers are not trusted with memory or time: messages, clients and what waits to be read by them are bounded, and nobody
//!   waits for a client but its own threads.
//! * What is not known or cannot be honoured is refused by name.
#![forbid(unsafe_code)]

pub mod arguments;
mod control;
pub mod hmp;
pub mod qmp;
#[cfg(test)]
mod testing;

pub use control::{Card, Control, Power, Refusal, Version};
