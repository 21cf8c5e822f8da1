//! Interrupts as devices see them: a wire or a message, without a word on who delivers it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A message-signalled interrupt: what the function writes, and where (PCI Local Bus 3.0, section 6.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msi {
    /// Guest-physical address of the write.
    pub address: u64,
    /// The 32-bit value written.
    pub data: u32,
}

/// The interrupt controller refused a message.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {what} a message-signalled interrupt")]
pub struct MsiError {
    /// The operation that failed.
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// One source of message-signalled interrupts, for example an irqfd and its GSI route.
pub trait MsiSource: Send + Sync + fmt::Debug {
    /// Raises the interrupt with the message configured last; without one, does nothing.
    fn trigger(&self);

    /// Sets the message to send, or masks the source with `None`.
    ///
    /// The message is the guest's own and may be one that the interrupt controller refuses; a refusal must leave the
    /// routes of all other sources in force.
    ///
    /// # Errors
    /// When the interrupt controller refuses the route.
    fn configure(&self, message: Option<Msi>) -> Result<(), MsiError>;
}

/// Hands out interrupt sources; implemented by the machine.
pub trait MsiAllocator: Send + Sync {
    /// One more source, masked.
    ///
    /// # Errors
    /// When the interrupt controller has no more routes or event file descriptors.
    fn allocate(&self) -> Result<Arc<dyn MsiSource>, MsiError>;
}

/// An edge-triggered interrupt wire (ISA or ACPI GSI).
pub trait IrqLine: Send + Sync + fmt::Debug {
    /// Raises one edge.
    fn trigger(&self);
}
