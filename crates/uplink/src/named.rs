//! Unix sockets that are listened at by a name in the file system.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A socket that is listened at without waiting. Its name goes with it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that nobody else's file is removed.
    identity: (u64, u64),
}

/// Why there is none, what to do, and what the host says.
pub(crate) type Unnamed = (&'static str, io::Error);

impl Named {
    /// Listens at `path`. A socket that a program has left behind is replaced.
    ///
    /// # Errors
    /// When something else is there, somebody listens there, or the folder cannot be written.
    pub(crate) fn listen(path: &Path) -> Result<Self, Unnamed> {
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(|error| ("a socket cannot be made there", error))?;
        let identity = listener.set_nonblocking(true).and_then(|()| identity(path));
        let identity = identity.map_err(|error| ("its socket cannot be set up", error))?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|it| (it.dev(), it.ino()))
}

/// Removes a socket that nobody listens at.
fn clear(path: &Path) -> Result<(), Unnamed> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| ("its path cannot be looked at", error))?,
    };
    if !found.file_type().is_socket() {
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(("something is there that is no socket: choose another path", error));
    }
    match reach(path) {
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| ("a socket that was left there cannot be removed", error))
        }
        _ => {
            let error = io::Error::from(io::ErrorKind::AddrInUse);
            Err(("another program listens there: choose another path, or end it", error))
        }
    }
}

/// Connects to a socket by its name, at once or not at all: a listener whose queue is full says `EAGAIN`.
pub(crate) fn reach(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
