//! A port of a `vde_switch`: a cable between a switch of this process and one of another program.
//!
//! VDE's plug protocol, version 3 (`libvdeplug` of vde-2, its `datasock.c` on the switch's side): on the stream socket `ctl` in
//! the switch's folder the plug says where its own datagram socket is; the answer is the address of the switch's. From then on
//! one datagram is one Ethernet frame, and the stream socket is the cable: whoever closes it has unplugged.
//!
//! # Invariants
//! * Frames that leave are finished: the port accepts no offloads.
//! * The file of the own socket goes away with the plug.

mod handshake;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use snowboot_network::{Accepts, Frame, Port};

use self::handshake::Cable;
use crate::pump::{Pump, Received, Wire, is_full};

pub use self::handshake::answered_address;

/// The longest frame that a `vde_switch` passes on: its buffers hold a header of 14 bytes and 1504 more, an MTU of 1500
/// with a VLAN tag (`switch.h`).
const LONGEST: usize = 1518;

/// Room for a frame of a peer's; what is longer than the switch of this process takes is refused there.
const ROOM: usize = 1 << 16;

/// The plug cannot be put in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The switch does not answer as one does.
    #[error("Cannot plug into the VDE switch {}: {what}: {source}", .switch.display())]
    Plug {
        /// The switch's folder.
        switch: PathBuf,
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A cable to a `vde_switch`. Dropping it unplugs.
#[derive(Debug)]
pub struct Plug {
    _pump: Pump,
}

impl Plug {
    /// Connects `port` with the switch whose control folder is `switch` (`vde_switch --sock`). `description` is what
    /// its management console shows.
    ///
    /// # Errors
    /// When there is no such switch, it answers nothing within 10 s or something else, or the host has no more descriptors or
    /// threads.
    pub fn connect(switch: &Path, description: &str, port: Port) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Plug { switch: switch.to_owned(), what, source };
        let cable = Cable::plug(switch, description).map_err(|(what, source)| failed(what)(source))?;
        let wire =
            VdeWire { cable, switch: switch.to_owned(), buffer: vec![0; ROOM], has_lost_long_ones: false };
        let pump = Pump::start(port, wire).map_err(failed("no descriptor or thread is left"))?;
        Ok(Self { _pump: pump })
    }
}

struct VdeWire {
    cable: Cable,
    switch: PathBuf,
    buffer: Vec<u8>,
    has_lost_long_ones: bool,
}

impl VdeWire {
    fn lose(&mut self, length: usize) {
        // Said once: a guest could send them without end.
        if !self.has_lost_long_ones {
            tracing::warn!(
                "a guest sends frames of {length} bytes to {}, which carries {LONGEST} at most: they are lost",
                self.name()
            );
        }
        self.has_lost_long_ones = true;
    }
}

impl Wire for VdeWire {
    fn name(&self) -> String {
        format!("the VDE switch {}", self.switch.display())
    }

    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    fn send(&mut self, _: Duration, frame: Frame) -> io::Result<Option<Frame>> {
        if frame.bytes.len() > LONGEST {
            self.lose(frame.bytes.len());
            return Ok(None);
        }
        match self.cable.data.send(&frame.bytes) {
            Ok(_) => Ok(None),
            Err(error) if is_full(&error) => Ok(Some(frame)),
            Err(error) => Err(error),
        }
    }

    fn receive(&mut self, _: Duration) -> io::Result<Received> {
        match self.cable.data.recv(&mut self.buffer) {
            Ok(length) => {
                let bytes = self.buffer.get(..length).unwrap_or_default().to_vec();
                Ok(Received::Frame(Frame::new(bytes)))
            }
            Err(error) if is_full(&error) => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    fn data(&self) -> BorrowedFd<'_> {
        self.cable.data.as_fd()
    }

    fn control(&self) -> Option<BorrowedFd<'_>> {
        Some(self.cable.control.as_fd())
    }

    fn check(&mut self) -> io::Result<()> {
        self.cable.check()
    }
}
