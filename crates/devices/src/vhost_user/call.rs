//! How a back end says that it has answered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// An event descriptor that another process writes to.
pub(super) struct Call {
    event: EventFd,
    /// The same one, in the form that can be watched.
    watched: OwnedFd,
}

impl Call {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let watched = second_descriptor(&event)?;
        Ok(Self { event, watched })
    }

    /// What the back end gets.
    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Whether the back end has written to it since the last time.
    pub(super) fn take(&self) -> bool {
        self.event.read().is_ok()
    }
}

impl AsFd for Call {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

/// `EventFd` lends no descriptor, and to make one of its number is not safe; but a socket hands one over.
fn second_descriptor(event: &EventFd) -> io::Result<OwnedFd> {
    let (from, to) = UnixStream::pair()?;
    let failed = |error: vmm_sys_util::errno::Error| io::Error::from_raw_os_error(error.errno());
    from.send_with_fd([0u8].as_slice(), event.as_raw_fd()).map_err(failed)?;
    let (_, file) = to.recv_with_fd(&mut [0u8]).map_err(failed)?;
    Ok(file.ok_or(io::ErrorKind::UnexpectedEof)?.into())
}
