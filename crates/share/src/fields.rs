//! Reading the fields of a request, which are little-endian in both protocols.

use crate::{Errno, Result};

/// The fields, from first to last.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    /// What a request that is too short is answered with.
    missing: Errno,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], missing: Errno) -> Self {
        Self { bytes, missing }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (first, rest) = self.bytes.split_at_checked(count).ok_or(self.missing)?;
        self.bytes = rest;
        Ok(first)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk().ok_or(self.missing)?;
        self.bytes = rest;
        Ok(*first)
    }
}
