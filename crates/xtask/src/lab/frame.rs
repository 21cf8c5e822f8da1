//! The frames on the one virtio-serial port between the machine and the emulated host.
//!
//! One stream keeps the order of what the command wrote and its exit status: when the status arrives, all output has.
//! A frame is one byte of kind, four bytes of length (little-endian) and the payload.

use std::io::{self, Read, Write};

/// The largest payload: what virtio-console takes in one write, less the header.
pub(crate) const PAYLOAD_MAX: usize = 32 * 1024 - HEADER;
const HEADER: usize = 5;

/// What either side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Agent: the host is up and the command is about to run.
    Started,
    /// Agent: bytes of the command's standard output.
    Output(Vec<u8>),
    /// Agent: bytes of the command's standard error.
    Error(Vec<u8>),
    /// Agent: the command ended with this exit status (128 + N for signal N). Nothing follows.
    Exit(u8),
    /// Agent: the host cannot run the command, and why. Nothing follows.
    Failed(String),
    /// Machine: bytes for the command's standard input; none is its end.
    Input(Vec<u8>),
    /// Machine: the command's time is up.
    Terminate,
}

impl Frame {
    /// Write the frame in one go.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Started => (0, &[]),
            Self::Output(bytes) => (1, bytes),
            Self::Error(bytes) => (2, bytes),
            Self::Exit(status) => (3, std::slice::from_ref(status)),
            Self::Failed(reason) => (4, reason.as_bytes()),
            Self::Input(bytes) => (5, bytes),
            Self::Terminate => (6, &[]),
        };
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        to.write_all(&bytes)
    }

    /// Read one frame.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other side is gone, `InvalidData` when it does not speak this protocol.
    pub(crate) fn read(mut from: impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER];
        from.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > PAYLOAD_MAX {
            return Err(invalid("a frame is too long"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(match (kind, payload.as_slice()) {
            (0, []) => Self::Started,
            (1, _) => Self::Output(payload),
            (2, _) => Self::Error(payload),
            (3, [status]) => Self::Exit(*status),
            (4, _) => Self::Failed(String::from_utf8_lossy(&payload).into_owned()),
            (5, _) => Self::Input(payload),
            (6, []) => Self::Terminate,
            _ => return Err(invalid("a frame is of no known kind")),
        })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_arrives_unchanged() {
        let frames = [
            Frame::Started,
            Frame::Output(b"\0\r\n\xff".to_vec()),
            Frame::Error(vec![7; PAYLOAD_MAX]),
            Frame::Exit(143),
            Frame::Failed("no /dev/kvm".to_owned()),
            Frame::Input(Vec::new()),
            Frame::Terminate,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in &frames {
            assert_eq!(&Frame::read(&mut from).unwrap(), frame);
        }
        assert_eq!(Frame::read(from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [&[9, 0, 0, 0, 0][..], &[1, 0xff, 0xff, 0xff, 0xff], &[3, 2, 0, 0, 0, 1, 1]] {
            assert_eq!(Frame::read(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
