//! Ethernet between the machines of one process: a learning switch whose ports are the peers of network cards.
//!
//! The switch performs no input or output: it has no threads, files or clocks. Whoever owns a [`Port`] sends to it and
//! receives from it, on whatever thread; time is an argument, a [`Duration`](std::time::Duration) since any start the
//! callers agree on. A whole network can so be run without waiting.
//!
//! # Example
//! ```
//! use std::time::Duration;
//! use snowboot_network::{Frame, Switch};
//!
//! let switch = Switch::new();
//! let (alice, bob) = (switch.attach("alice eth1"), switch.attach("bob eth1"));
//! let mut bytes = vec![0xff; 6]; // to everybody
//! bytes.extend([0x52, 0x54, 0x00, 0x12, 0x01, 0x01, 0x88, 0xb5]);
//! alice.send(Duration::ZERO, Frame::new(bytes.clone())).expect("nobody is behind");
//! assert_eq!(bob.receive().expect("it was flooded").bytes, bytes);
//! assert!(alice.receive().is_none());
//! ```
//!
//! # Invariants
//! * Every frame and every offload request is untrusted: whatever a guest hands in, nothing panics, and memory is
//!   bounded by [`Limits`] times the number of ports.
//! * A frame that [`Port::send`] took is delivered or counted, at every port it was meant for, exactly once.
//! * What reaches an owner has been checked: offload metadata lies within its frame and names what is there.
//! * No port can hold up others for ever: a sender waits for a receiver only as long as that keeps taking frames, with a
//!   bounded time for doubt, and only with a frame that has a single receiver.
//! * No waker is called while a lock of the switch is held.
#![forbid(unsafe_code)]

mod buffers;
mod capture;
mod checksum;
mod counters;
mod faults;
mod finish;
mod flow;
mod frame;
pub mod gateway;
mod headers;
mod inbox;
mod patience;
mod port;
mod state;
mod switch;
mod table;
#[cfg(test)]
mod tests;

pub use capture::{Capture, CaptureLimits, WhenFull};
pub use counters::{Counters, Lost, Refused};
pub use faults::{Burst, Flap, Impairment, LONGEST, LONGEST_QUEUE, SLOWEST, Spread, WrongImpairment};
pub use flow::flow;
pub use frame::{Accepts, Checksum, Frame, Offload, Segmentation, SegmentationKind};
pub use port::{Batch, Full, Port, Waker};
pub use switch::{Limits, Switch};
pub use table::{Station, Table};
