//! A port at a TAP interface of the host: the host's own stack, a bridge, or whatever else has that interface.
//!
//! Each frame has a `virtio_net_hdr` before it (`IFF_VNET_HDR`, Linux `tuntap.rst`), so that segments of 64 KiB cross in both
//! directions as one and without checksums.
//!
//! # Invariants
//! * An interface that was there before stays as it is, and stays there; one that was not goes away with the port.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use snowboot_config::InterfaceName;
use snowboot_devices::net::{HEADER_LENGTH, LONGEST_FRAME, parse_header, write_header};
use snowboot_network::{Accepts, Frame, Port};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::losses::{Losses, Teller};
use crate::pump::{Pump, Received, Wire};

const DEVICE: &str = "/dev/net/tun";

/// The lengths that a header may have: as the kernel makes it first, and with the number of buffers behind it, which QEMU leaves
/// set on an interface that stays (`TUNSETVNETHDRSZ`).
const HEADER_LENGTHS: [usize; 2] = [10, HEADER_LENGTH];

/// All features of headers: the host's kernel is asked for what the port accepts.
const ALL_FEATURES: u64 = u64::MAX;
/// `VIRTIO_NET_HDR_F_DATA_VALID` (virtio 1.2, 5.1.6): the checksum was checked, or never computed since it never left the host.
const DATA_VALID: u8 = 2;

/// A frame that asks where a header ends: none that anybody would take (no sender, and to an address that bridges keep to
/// themselves, IEEE 802.1Q 8.6.3).
const PROBE: [u8; 14] = [0x01, 0x80, 0xc2, 0, 0, 0x0f, 0, 0, 0, 0, 0, 0, 0x88, 0xb5];

const REASONS: &[&str] = &["the interface is down", "refused by the host's kernel", "cannot be understood"];
const DOWN: usize = 0;
const REFUSED: usize = 1;
const STRANGE: usize = 2;

/// A TAP interface cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("Cannot open the TAP interface {interface}: {why}: {source}")]
pub struct Error {
    /// Its name.
    pub interface: InterfaceName,
    /// What is wrong, and what to do.
    pub why: String,
    /// Why.
    pub source: io::Error,
}

/// A port at a TAP interface. Dropping it lets go of the interface.
#[derive(Debug)]
pub struct Tap {
    _pump: Pump,
    losses: Losses,
}

impl Tap {
    /// Connects `port` with the TAP interface of this name in the network namespace of the calling thread. Where there is none it is
    /// made, and brought up, which needs `CAP_NET_ADMIN`; one that is there must be the user's (`ip tuntap add NAME mode tap
    /// user USER`) or needs that, too.
    ///
    /// # Errors
    /// When there is no `/dev/net/tun`, no permission, somebody else has the interface, it is of another kind, or the host has no
    /// more descriptors or threads.
    pub fn open(interface: &InterfaceName, port: Port) -> Result<Self, Error> {
        let failed = |why: String, source| Error { interface: interface.clone(), why, source };
        let other = |why: &'static str| move |source| failed(why.to_owned(), source);
        let is_there = exists(interface).map_err(other("the host's interfaces cannot be looked at"))?;
        let device = attach(interface, is_there)
            .map_err(|source| failed(advice(interface, is_there, &source), source))?;
        let header = header_length(&device).map_err(other(
            "another program has set an unknown length of headers for it: delete the interface and make it again",
        ))?;
        let is_segmenting_udp = device.udp_gso();
        let losses = Losses::new(REASONS);
        let teller = Teller::new(losses.clone());
        let buffer = vec![0; HEADER_LENGTH + LONGEST_FRAME];
        let wire = TapWire {
            device,
            interface: interface.clone(),
            header,
            is_segmenting_udp,
            buffer,
            losses: losses.clone(),
            teller,
        };
        let pump = Pump::start(port, wire).map_err(other("no descriptor or thread is left"))?;
        Ok(Self { _pump: pump, losses })
    }

    /// How many frames were dropped here, and why.
    #[must_use]
    pub fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.losses.all()
    }
}

fn exists(interface: &InterfaceName) -> io::Result<bool> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    match name_to_index(&any, interface.as_str()) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens the interface, or makes it.
fn attach(interface: &InterfaceName, is_there: bool) -> io::Result<SyncDevice> {
    // The library would try to make the device file of a host that has none.
    std::fs::metadata(DEVICE)?;
    let builder = DeviceBuilder::new().name(interface.as_str()).layer(Layer::L2).offload(true);
    let device = if is_there { builder.inherit_enable_state() } else { builder.enable(true) }.build_sync()?;
    fcntl_setfl(&device, fcntl_getfl(&device)? | OFlags::NONBLOCK)?;
    Ok(device)
}

/// What to do about an interface that cannot be had.
fn advice(interface: &InterfaceName, is_there: bool, error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        _ if !Path::new(DEVICE).exists() => {
            format!("there is no {DEVICE}: load the kernel's module tun (`modprobe tun`)")
        }
        Some(Errno::BUSY) => "another program has it: choose another one, or end that program".to_owned(),
        Some(Errno::ACCESS) => format!("{DEVICE} may not be opened: its group may be one to join"),
        Some(Errno::PERM) if is_there => format!(
            "it is not this user's: as root, `ip tuntap del {interface} mode tap` and \
             `ip tuntap add {interface} mode tap user USER`"
        ),
        Some(Errno::PERM) => {
            format!(
                "it is not there, and only root may make it: `ip tuntap add {interface} mode tap user USER`"
            )
        }
        Some(Errno::INVAL) if is_there => {
            "it is no TAP interface of one queue: choose another name, or make it again".to_owned()
        }
        _ => "the host's kernel refuses it".to_owned(),
    }
}

/// The length of headers. It belongs to the interface, and may be what its former user has set.
fn header_length(device: &SyncDevice) -> io::Result<usize> {
    let mut last = io::Error::from(io::ErrorKind::InvalidData);
    for length in HEADER_LENGTHS {
        let header = [0; HEADER_LENGTH];
        let header = IoSlice::new(header.get(..length).unwrap_or_default());
        // With a longer header this were less than a frame. One that is down says so only after it has looked at that.
        match rustix::io::writev(device, &[header, IoSlice::new(&PROBE)]) {
            Ok(_) | Err(Errno::IO) => return Ok(length),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

struct TapWire {
    device: SyncDevice,
    interface: InterfaceName,
    /// The length of headers.
    header: usize,
    /// Whether the kernel takes UDP datagrams to be cut (Linux 6.2).
    is_segmenting_udp: bool,
    buffer: Vec<u8>,
    losses: Losses,
    teller: Teller,
}

impl Wire for TapWire {
    fn name(&self) -> String {
        format!("the TAP interface {}", self.interface)
    }

    fn accepts(&self) -> Accepts {
        Accepts { checksum: true, tcp4: true, tcp6: true, ecn: true, udp_segments: self.is_segmenting_udp }
    }

    fn send(&mut self, _: Duration, frame: Frame) -> io::Result<Option<Frame>> {
        let header = write_header(&frame.offload, ALL_FEATURES, 0);
        let header = IoSlice::new(header.get(..self.header).unwrap_or_default());
        match rustix::io::writev(&self.device, &[header, IoSlice::new(&frame.bytes)]) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Some(frame)),
            Err(gone @ (Errno::BADFD | Errno::NODEV)) => return Err(gone.into()),
            Err(Errno::IO) => self.losses.count(DOWN),
            Err(_) => self.losses.count(REFUSED),
        }
        Ok(None)
    }

    fn receive(&mut self, _: Duration) -> io::Result<Received> {
        let length = match rustix::io::read(&self.device, &mut self.buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
            Err(gone) => return Err(gone.into()),
        };
        let read = self.buffer.get(..length).unwrap_or_default();
        let frame = frame(read, self.header);
        Ok(frame.map_or_else(
            || {
                self.losses.count(STRANGE);
                Received::Dropped
            },
            Received::Frame,
        ))
    }

    fn data(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn tell(&mut self, now: Duration) {
        if let Some(line) = self.teller.line(now) {
            tracing::warn!("{}: {line}", self.name());
        }
    }
}

/// A frame with a header of `length` bytes before it.
fn frame(read: &[u8], length: usize) -> Option<Frame> {
    let (first, bytes) = read.split_at_checked(length)?;
    let mut header = [0; HEADER_LENGTH];
    for (to, from) in header.iter_mut().zip(first) {
        *to = *from;
    }
    let mut offload = parse_header(header, ALL_FEATURES)?;
    offload.data_valid = header.first().is_some_and(|flags| flags & DATA_VALID != 0);
    Some(Frame { bytes: bytes.to_vec(), offload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_is_read_is_a_frame_without_its_header_or_none(
            read in proptest::collection::vec(any::<u8>(), 0..200),
            length in proptest::sample::select(&HEADER_LENGTHS[..]),
        ) {
            match frame(&read, length) {
                Some(frame) => prop_assert_eq!(frame.bytes, &read[length..]),
                None => prop_assert!(read.len() < length || read[1] != 0),
            }
        }
    }
}
