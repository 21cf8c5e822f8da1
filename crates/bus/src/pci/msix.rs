//! MSI-X (PCI Local Bus 3.0, section 6.8.2): the vector table, the pending bits and the control word of a function.
//!
//! Owns the vectors and what each source was last told to send. The function calls in with the guest's accesses to the
//! two structures and to message control; the device's threads call [`MsixTable::trigger`]. A vector is *live* while
//! MSI-X is enabled and neither the function nor the vector is masked:
//!
//! ```text
//!             unmask: program the route if the message changed, send if pending
//!   masked ─────────────────────────────────────────────────────────────────────► live
//!   trigger: set pending                                                          trigger: send
//!          ◄─────────────────────────────────────────────────────────────────────
//!             mask: nothing to do, the route stays
//! ```
//!
//! Programming a route rewrites the machine's whole routing table, so it happens only when a live vector's message is
//! another one than its source has. Masking needs no call at all, because a masked vector's source is not triggered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::PciError;
use crate::{Msi, MsiError, MsiSource};

/// Most vectors of a function: the table size field has 11 bits.
pub const MSIX_MAX_VECTORS: usize = 2048;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const CONTROL_WRITABLE: u16 = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;

/// Bytes of a table entry: address, upper address, data, vector control.
const ENTRY_SIZE: u64 = 16;
const DWORD: u64 = 4;
const VECTOR_MASKED: u32 = 1;
/// The low bits of a message address are zero: it names a dword.
const ADDRESS_LOW_BITS: u32 = 0b11;

/// A function's MSI-X vectors over as many interrupt sources.
#[derive(Debug)]
pub struct MsixTable {
    vectors: Vec<Vector>,
    control: u16,
    route_failures: u64,
    route_error: Option<MsiError>,
}

/// A [`MsixTable`] as plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    /// Message control, as [`MsixTable::control`].
    pub control: u16,
    /// The vectors in order.
    pub vectors: Vec<MsixVectorState>,
}

/// One vector of a [`MsixState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixVectorState {
    /// What it sends.
    pub message: Msi,
    /// Its own mask bit.
    pub masked: bool,
    /// Its pending bit.
    pub pending: bool,
}

#[derive(Debug)]
struct Vector {
    source: Arc<dyn MsiSource>,
    /// What the source sends when triggered; `None` when that is not known.
    programmed: Option<Msi>,
    state: MsixVectorState,
}

impl MsixVectorState {
    /// After a reset each vector is masked.
    const RESET: Self = Self { message: Msi { address: 0, data: 0 }, masked: true, pending: false };
}

impl MsixTable {
    /// A table with one vector for each source, at most [`MSIX_MAX_VECTORS`]; sources beyond are dropped.
    #[must_use]
    pub fn new(sources: Vec<Arc<dyn MsiSource>>) -> Self {
        let vectors = sources
            .into_iter()
            .take(MSIX_MAX_VECTORS)
            .map(|source| Vector { source, programmed: None, state: MsixVectorState::RESET })
            .collect();
        Self { vectors, control: 0, route_failures: 0, route_error: None }
    }

    /// Number of vectors.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        // The constructor has capped it.
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    /// Length of the vector table in bytes.
    #[must_use]
    pub fn table_size(&self) -> u64 {
        u64::from(self.vectors()) * ENTRY_SIZE
    }

    /// Length of the pending bit array in bytes: one bit per vector in whole qwords.
    #[must_use]
    pub fn pba_size(&self) -> u64 {
        u64::from(self.vectors().div_ceil(64)) * 8
    }

    /// Reads the vector table. Only aligned dwords and qwords are answered; the rest is all ones, as is what lies past
    /// the end.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        read_dwords(offset, data, |dword| self.table_dword(dword));
    }

    /// Writes the vector table. Only aligned dwords and qwords are taken. A qword counts as one write: a route is
    /// programmed once for both halves.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !is_aligned(offset, data.len()) {
            return;
        }
        for (index, bytes) in (offset / DWORD..).zip(data.chunks_exact(4)) {
            if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
                self.set_table_dword(index, u32::from_le_bytes(bytes));
            }
        }
        // An aligned access lies within one entry.
        if let Ok(vector) = usize::try_from(offset / ENTRY_SIZE) {
            self.settle(vector);
        }
    }

    /// Reads the pending bit array; widths as in [`Self::read_table`].
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        read_dwords(offset, data, |dword| self.pba_dword(dword));
    }

    /// Takes message control as the driver wrote it: bit 15 enables, bit 14 masks the function.
    pub fn set_control(&mut self, message_control: u16) {
        let was_live = self.delivers();
        self.control = message_control & CONTROL_WRITABLE;
        if self.delivers() && !was_live {
            self.settle_all();
        }
    }

    /// Message control as the driver reads it, with the table size in bits 10 to 0.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.control | self.vectors().saturating_sub(1)
    }

    /// Whether MSI-X is enabled.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.control & CONTROL_ENABLE != 0
    }

    /// Raises a vector: sends its message, or sets its pending bit when it is masked. Does nothing when MSI-X is
    /// disabled or there is no such vector.
    pub fn trigger(&mut self, vector: u16) {
        if !self.enabled() {
            return;
        }
        if let Some(entry) = self.vectors.get_mut(usize::from(vector)) {
            entry.state.pending = true;
            self.settle(usize::from(vector));
        }
    }

    /// Back to the state before the first access: disabled, all vectors masked, nothing pending. Routes stay as they
    /// are, unused, so a driver that asks for the same ones again costs nothing.
    pub fn reset(&mut self) {
        self.control = 0;
        for vector in &mut self.vectors {
            vector.state = MsixVectorState::RESET;
        }
    }

    /// The state as plain data.
    #[must_use]
    pub fn save(&self) -> MsixState {
        MsixState {
            control: self.control(),
            vectors: self.vectors.iter().map(|vector| vector.state).collect(),
        }
    }

    /// Takes over a saved state, which need not be trusted, and programs the routes of all live vectors anew. A route
    /// that is refused counts as in [`Self::route_failures`], as it would have when the driver asked for it.
    ///
    /// # Errors
    /// When the state is of a table of another size; nothing has changed then.
    pub fn restore(&mut self, state: MsixState) -> Result<(), PciError> {
        if state.vectors.len() != self.vectors.len() {
            return Err(PciError::State {
                what: "MSI-X table",
                expected: u64::from(self.vectors()),
                found: u64::try_from(state.vectors.len()).unwrap_or(u64::MAX),
            });
        }
        self.control = state.control & CONTROL_WRITABLE;
        for (vector, saved) in self.vectors.iter_mut().zip(&state.vectors) {
            let address = saved.message.address & !u64::from(ADDRESS_LOW_BITS);
            vector.state = MsixVectorState { message: Msi { address, ..saved.message }, ..*saved };
            vector.programmed = None;
        }
        self.settle_all();
        Ok(())
    }

    /// How often the interrupt controller has refused a route. The vector's interrupts stay pending and the route is
    /// tried again at the next occasion.
    #[must_use]
    pub fn route_failures(&self) -> u64 {
        self.route_failures
    }

    /// Why a route was refused last, once; for the log.
    pub fn take_route_error(&mut self) -> Option<MsiError> {
        self.route_error.take()
    }

    /// Enabled and not masked as a whole.
    fn delivers(&self) -> bool {
        self.control & CONTROL_WRITABLE == CONTROL_ENABLE
    }

    fn settle_all(&mut self) {
        for vector in 0..self.vectors.len() {
            self.settle(vector);
        }
    }

    /// Brings a vector's source in line with its entry: when it is live, with the right route and nothing pending.
    fn settle(&mut self, vector: usize) {
        let delivers = self.delivers();
        let Some(entry) = self.vectors.get_mut(vector).filter(|entry| delivers && !entry.state.masked) else {
            return;
        };
        match entry.program() {
            Ok(()) if entry.state.pending => {
                entry.state.pending = false;
                entry.source.trigger();
            }
            Ok(()) => {}
            Err(error) => {
                self.route_failures = self.route_failures.saturating_add(1);
                self.route_error = Some(error);
            }
        }
    }

    fn table_dword(&self, dword: u64) -> Option<u32> {
        let state = &self.vectors.get(usize::try_from(dword / DWORD).ok()?)?.state;
        let [low, high] = split(state.message.address);
        Some(match dword % DWORD {
            0 => low,
            1 => high,
            2 => state.message.data,
            _ => u32::from(state.masked),
        })
    }

    fn set_table_dword(&mut self, dword: u64, value: u32) {
        let Some(vector) = usize::try_from(dword / DWORD).ok().and_then(|index| self.vectors.get_mut(index))
        else {
            return;
        };
        let state = &mut vector.state;
        let [low, high] = split(state.message.address);
        match dword % DWORD {
            0 => state.message.address = join(value & !ADDRESS_LOW_BITS, high),
            1 => state.message.address = join(low, value),
            2 => state.message.data = value,
            _ => state.masked = value & VECTOR_MASKED != 0,
        }
    }

    fn pba_dword(&self, dword: u64) -> Option<u32> {
        let first = dword.checked_mul(32)?;
        if dword >= self.pba_size() / DWORD {
            return None;
        }
        let pending = self.vectors.iter().skip(usize::try_from(first).ok()?).take(32);
        Some(pending.enumerate().fold(0, |bits, (bit, vector)| bits | u32::from(vector.state.pending) << bit))
    }
}

impl Vector {
    /// Gives the source the vector's message, unless it has it.
    fn program(&mut self) -> Result<(), MsiError> {
        let message = self.state.message;
        if self.programmed != Some(message) {
            // Whatever a failure leaves behind is not this message.
            self.programmed = None;
            self.source.configure(Some(message))?;
            self.programmed = Some(message);
        }
        Ok(())
    }
}

/// Section 6.8.2: software uses aligned dwords and qwords, anything else has an undefined result.
fn is_aligned(offset: u64, width: usize) -> bool {
    match width {
        4 => offset.is_multiple_of(4),
        8 => offset.is_multiple_of(8),
        _ => false,
    }
}

fn read_dwords(offset: u64, data: &mut [u8], dword: impl Fn(u64) -> Option<u32>) {
    data.fill(0xff);
    if is_aligned(offset, data.len()) {
        for (index, bytes) in (offset / DWORD..).zip(data.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&dword(index).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
}

fn split(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
