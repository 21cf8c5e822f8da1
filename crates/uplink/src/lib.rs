//! Ports of a switch that lead out of the process.
//!
//! # Invariants
//! * Whatever a guest sends, nothing panics, and descriptors, threads and memory stay within the bounds of its uplink.
//! * Nothing waits for a guest or a peer but the uplink's own thread, and that one only in its poller.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod vde;
mod wake;
