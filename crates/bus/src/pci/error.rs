//! What can go wrong when a machine puts its PCI functions together or restores them. Guests never cause these.

/// A function, a slot or a saved state does not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    /// The BAR is not one of 0 to 4 (a 64-bit BAR takes two registers), or one of its registers is taken.
    #[error("BAR {index} is taken or leaves no room for a 64-bit memory BAR")]
    BarIndex {
        /// The index asked for.
        index: u8,
    },
    /// The size is not a power of two of at least 16 bytes (PCI Local Bus 3.0, section 6.2.5.1).
    #[error("BAR {index} cannot be {size:#x} bytes long: the size must be a power of two and at least 16")]
    BarSize {
        /// The index asked for.
        index: u8,
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The address is not a multiple of the size, or the BAR would run over the end of the address space.
    #[error("BAR {index} of {size:#x} bytes cannot be at address {address:#x}")]
    BarAddress {
        /// The index asked for.
        index: u8,
        /// The size in bytes.
        size: u64,
        /// The address asked for.
        address: u64,
    },
    /// The capability does not fit into the first 256 bytes.
    #[error("Capability {id:#x} with {length} bytes does not fit into configuration space")]
    CapabilityRoom {
        /// Capability ID.
        id: u8,
        /// Length of its body in bytes.
        length: usize,
    },
    /// The write mask is neither empty nor as long as the body.
    #[error("Capability {id:#x} has {length} bytes and a write mask of {mask}")]
    CapabilityMask {
        /// Capability ID.
        id: u8,
        /// Length of its body in bytes.
        length: usize,
        /// Length of the mask in bytes.
        mask: usize,
    },
    /// Bus 0 has no such slot for a function: 0 is the host bridge, 31 the last.
    #[error("PCI device number {number} is not one of 1 to 31")]
    NoSlot {
        /// Device number.
        number: u8,
    },
    /// A function is there already.
    #[error("PCI slot {number} is taken")]
    SlotTaken {
        /// Device number.
        number: u8,
    },
    /// No function is there.
    #[error("PCI slot {number} is empty")]
    SlotEmpty {
        /// Device number.
        number: u8,
    },
    /// A saved state is of another function, or damaged.
    #[error("The saved {what} does not fit: this function has {expected}, the state {found}")]
    State {
        /// What was saved.
        what: &'static str,
        /// What this function has.
        expected: u64,
        /// What the state has.
        found: u64,
    },
}
