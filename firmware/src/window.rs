//! Registers in memory.

/// A range of device registers, accessed in the width that is asked for and never beyond its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    base: usize,
    length: usize,
}

/// What a register can be read and written as.
pub(crate) trait Value: Copy {}
impl Value for u8 {}
impl Value for u16 {}
impl Value for u32 {}
impl Value for u64 {}

impl Window {
    /// # Safety
    /// All of the range must be device registers, or memory that nothing else in the payload uses.
    pub(crate) unsafe fn at(base: usize, length: usize) -> Self {
        Self { base, length }
    }

    pub(crate) fn address(&self) -> usize {
        self.base
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// A part of it.
    pub(crate) fn part(&self, offset: usize, length: usize) -> Self {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.length), "a part beyond the window");
        Self { base: self.base + offset, length }
    }

    pub(crate) fn read<T: Value>(&self, offset: usize) -> T {
        // SAFETY: `place` has checked bounds and alignment; `at`'s caller vouches for the range.
        unsafe { self.place::<T>(offset).read_volatile() }
    }

    pub(crate) fn write<T: Value>(&self, offset: usize, value: T) {
        // SAFETY: as for `read`.
        unsafe { self.place::<T>(offset).write_volatile(value) }
    }

    fn place<T>(&self, offset: usize) -> *mut T {
        let fits = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.length);
        assert!(fits, "an access at {offset:#x} of a window of {:#x} bytes", self.length);
        let place = core::ptr::with_exposed_provenance_mut::<T>(self.base + offset);
        assert!(place.is_aligned(), "a misaligned access at {offset:#x}");
        place
    }
}
