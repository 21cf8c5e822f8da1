//! I/O ports. IOPL is 3, so they are open to CPL 3.

use core::arch::asm;

/// Reads a byte.
pub(crate) fn read_u8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: no device here answers a port access by changing memory that Rust knows of.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads a dword.
pub(crate) fn read_u32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as for `read_u8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
pub(crate) fn write_u8(port: u16, value: u8) {
    // SAFETY: as for `read_u8`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes a word.
pub(crate) fn write_u16(port: u16, value: u16) {
    // SAFETY: as for `read_u8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes a dword.
pub(crate) fn write_u32(port: u16, value: u32) {
    // SAFETY: as for `read_u8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes bytes to one port with one string instruction.
pub(crate) fn write_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: the instruction reads exactly the slice; the boot protocol leaves the direction flag clear.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags, readonly));
    }
}
