//! The console's control messages and configuration space (virtio 1.2, 5.3.4 and 5.3.6.2).

use serde::{Deserialize, Serialize};

/// `VIRTIO_CONSOLE_F_SIZE`: the configuration space holds the size of port 0.
pub(super) const F_SIZE: u64 = 1 << 0;
/// `VIRTIO_CONSOLE_F_MULTIPORT`: there is a control queue, and maybe more ports.
pub(super) const F_MULTIPORT: u64 = 1 << 1;
/// `VIRTIO_CONSOLE_F_EMERG_WRITE`: a byte can be put out through the configuration space.
pub(super) const F_EMERG_WRITE: u64 = 1 << 2;

/// Offset of `emerg_wr` in the configuration space.
pub(super) const EMERGENCY_WRITE: u32 = 8;

/// Length of a control message without its payload.
pub(super) const MESSAGE: usize = 8;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// What the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromDriver {
    /// It is ready for control messages, or failed.
    DeviceReady(bool),
    /// It has set up a port, or failed.
    PortReady(u32, bool),
    /// A port was opened or closed in the guest.
    PortOpen(u32, bool),
    /// Nothing that a driver sends.
    Other,
}

impl FromDriver {
    pub(super) fn parse(message: [u8; MESSAGE]) -> Self {
        let [i0, i1, i2, i3, e0, e1, v0, v1] = message;
        let (id, value) = (u32::from_le_bytes([i0, i1, i2, i3]), u16::from_le_bytes([v0, v1]));
        match u16::from_le_bytes([e0, e1]) {
            DEVICE_READY => Self::DeviceReady(value == 1),
            PORT_READY => Self::PortReady(id, value == 1),
            PORT_OPEN => Self::PortOpen(id, value == 1),
            _ => Self::Other,
        }
    }
}

/// What the device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToDriver {
    /// There is a port.
    Add(u32),
    /// The port is a console.
    Console(u32),
    /// The port is open on the host's side.
    Open(u32),
    /// It is not any more.
    Close(u32),
    /// The port has a name.
    Name(u32),
    /// The port's size in characters.
    Resize(u32, Size),
}

impl ToDriver {
    pub(super) fn port(self) -> u32 {
        match self {
            Self::Add(id)
            | Self::Console(id)
            | Self::Open(id)
            | Self::Close(id)
            | Self::Name(id)
            | Self::Resize(id, _) => id,
        }
    }

    /// Its bytes; `name` is that of the port.
    pub(super) fn bytes(self, name: &str) -> Vec<u8> {
        let (event, value) = match self {
            Self::Add(_) => (DEVICE_ADD, 0u16),
            Self::Console(_) => (CONSOLE_PORT, 1),
            Self::Open(_) => (PORT_OPEN, 1),
            Self::Close(_) => (PORT_OPEN, 0),
            Self::Name(_) => (PORT_NAME, 1),
            Self::Resize(..) => (RESIZE, 0),
        };
        let mut bytes = self.port().to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        match self {
            Self::Resize(_, size) => bytes.extend(size.bytes()),
            // Linux adds the zero at its end itself.
            Self::Name(_) => bytes.extend(name.as_bytes()),
            _ => {}
        }
        bytes
    }
}

/// Columns and rows; zero is "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) columns: u16,
    pub(super) rows: u16,
}

impl Size {
    /// Columns first, in the configuration space as in a message. (Some Linux kernels read a *message* the other way
    /// round, against the specification; only the window size suffers.)
    pub(super) fn bytes(self) -> [u8; 4] {
        let ([c0, c1], [r0, r1]) = (self.columns.to_le_bytes(), self.rows.to_le_bytes());
        [c0, c1, r0, r1]
    }
}
