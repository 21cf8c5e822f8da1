//! The one guest-memory type of the workspace, so that every crate of the virtio family agrees on it.

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::AtomicBitmap;

pub use vm_memory::GuestAddress;

/// Guest memory: mappings of memfds or files with a dirty bitmap of the VMM's own writes.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;
