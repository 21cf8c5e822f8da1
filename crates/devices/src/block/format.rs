//! Formats of images, and what a content looks like.

/// How a disk's content lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's qcow2, versions 2 and 3.
    Qcow2,
}

/// What the start of a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    /// A format that is read.
    Like(Format),
    /// A format that is not.
    Foreign(&'static str),
}

/// Bytes that [`looks`] wants.
pub(super) const MAGIC: usize = 8;

/// What a file that starts like this was most likely meant as. A guest decides what is in a raw image, so this is only to
/// be asked where no guest can have written, or [refused](super::Disk) to.
pub(super) fn looks(start: &[u8]) -> Looks {
    match start {
        [b'Q', b'F', b'I', 0xfb, ..] => Looks::Like(Format::Qcow2),
        [b'K', b'D', b'M', b'V', ..] => Looks::Foreign("VMDK"),
        [b'v', b'h', b'd', b'x', b'f', b'i', b'l', b'e', ..] => Looks::Foreign("VHDX"),
        _ => Looks::Like(Format::Raw),
    }
}
