//! The one guest-memory type of the workspace, so that every crate of the virtio family agrees on it.

use std::any::Any;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

pub use vm_memory::GuestAddress;

/// Guest memory: mappings with a dirty bitmap of the VMM's own writes.
pub type GuestMemory = GuestMemoryMmap<Tracker>;

/// What belongs to a region of guest memory: which pages the VMM wrote, and what keeps the region mapped.
#[derive(Debug, Default)]
pub struct Tracker {
    dirty: AtomicBitmap,
    /// Dropped with the region. `vm-memory` unmaps only what it has mapped by itself.
    _mapping: Option<Arc<dyn Any + Send + Sync>>,
}

impl Tracker {
    /// For a region of `length` bytes that is mapped for as long as `mapping` lives.
    #[must_use]
    pub fn of_mapping(length: usize, mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self { dirty: AtomicBitmap::with_len(length), _mapping: Some(mapping) }
    }
}

impl<'a> WithBitmapSlice<'a> for Tracker {
    type S = RefSlice<'a, AtomicBitmap>;
}

impl Bitmap for Tracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.dirty.mark_dirty(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.dirty.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, AtomicBitmap> {
        self.dirty.slice_at(offset)
    }
}

impl NewBitmap for Tracker {
    fn with_len(length: usize) -> Self {
        Self { dirty: AtomicBitmap::with_len(length), _mapping: None }
    }
}
