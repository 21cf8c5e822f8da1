//! The words that a plug and a `vde_switch` exchange before the first frame.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{UnixDatagram, UnixStream};

/// `SWITCH_MAGIC` and the version of the protocol.
const MAGIC: u32 = 0xfeed_face;
const VERSION: u32 = 3;
/// `REQ_NEW_CONTROL` with port 0 in its upper bytes: any free port.
const ANY_PORT: u32 = 0;
/// `struct sockaddr_un`: the family, and 108 bytes of path that end in a zero.
const FAMILY: usize = 2;
const PATH: usize = 108;
const AF_UNIX: u16 = 1;
/// `MAXDESCR`, with the zero at its end.
const DESCRIPTION: usize = 128;
/// How long a switch may take to answer; a running one does so at once.
const ANSWER: Duration = Duration::from_secs(10);

/// Tells the sockets of this process apart.
static PLUGS: AtomicU32 = AtomicU32::new(0);

/// A plug that is in.
#[derive(Debug)]
pub(super) struct Cable {
    /// Open as long as the plug is in.
    pub(super) control: UnixStream,
    pub(super) data: UnixDatagram,
    /// Where `data` is bound.
    own: PathBuf,
}

/// What failed, and why.
type Failure = (&'static str, io::Error);

impl Cable {
    pub(super) fn plug(switch: &Path, description: &str) -> Result<Self, Failure> {
        let control = UnixStream::connect(switch.join("ctl"))
            .map_err(|error| ("is it running? Its control socket cannot be reached", error))?;
        let (data, own) = bind(switch).map_err(|error| ("a socket cannot be made in its folder", error))?;
        let cable = Self { control, data, own };
        let answer =
            cable.ask(description).map_err(|error| ("it does not answer as a switch does", error))?;
        cable.data.connect(&answer).map_err(|error| ("its data socket cannot be reached", error))?;
        let ready = cable.data.set_nonblocking(true).and_then(|()| cable.control.set_nonblocking(true));
        ready.map_err(|error| ("its sockets cannot be polled", error))?;
        Ok(cable)
    }

    /// Tells the switch about the own socket; where its is.
    fn ask(&self, description: &str) -> io::Result<PathBuf> {
        self.control.set_read_timeout(Some(ANSWER))?;
        self.control.set_write_timeout(Some(ANSWER))?;
        let mut control = &self.control;
        control.write_all(&request(&self.own, description)?)?;
        let mut answer = [0; FAMILY + PATH];
        control.read_exact(&mut answer)?;
        answered_address(&answer)
    }

    /// The control socket has something to say: nothing, and it is the end.
    pub(super) fn check(&self) -> io::Result<()> {
        let mut control = &self.control;
        match control.read(&mut [0; 64]) {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.own);
    }
}

/// A socket in the switch's folder, which the switch can reach as it reaches its own.
fn bind(switch: &Path) -> io::Result<(UnixDatagram, PathBuf)> {
    let number = PLUGS.fetch_add(1, Ordering::Relaxed);
    let own = switch.join(format!(".{}-{number}", std::process::id()));
    // What a process with our number left behind when it was killed.
    let _ = fs::remove_file(&own);
    Ok((UnixDatagram::bind(&own)?, own))
}

/// `struct request_v3`: in the host's byte order and without gaps.
fn request(own: &Path, description: &str) -> io::Result<Vec<u8>> {
    let path = own.as_os_str().as_bytes();
    if path.len() >= PATH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is longer than the {} bytes of a socket's path", own.display(), PATH - 1),
        ));
    }
    let mut request = Vec::with_capacity(256);
    for word in [MAGIC, VERSION, ANY_PORT] {
        request.extend(word.to_ne_bytes());
    }
    request.extend(AF_UNIX.to_ne_bytes());
    request.extend(path);
    request.resize(3 * 4 + FAMILY + PATH, 0);
    let plain = description.bytes().filter(|byte| byte.is_ascii_graphic() || *byte == b' ');
    request.extend(plain.take(DESCRIPTION - 1));
    request.push(0);
    Ok(request)
}

/// Where a switch says that its data socket is: the path in a `struct sockaddr_un`.
///
/// # Errors
/// When there is none in it.
pub fn answered_address(answer: &[u8]) -> io::Result<PathBuf> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it names no socket");
    let (family, path) = answer.split_at_checked(FAMILY).ok_or_else(wrong)?;
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    if family != AF_UNIX.to_ne_bytes() || path.is_empty() {
        return Err(wrong());
    }
    Ok(PathBuf::from(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_has_its_fields_where_the_switch_looks() {
        let request = request(Path::new("/s/.1-0"), "machine\n eth1").unwrap();
        assert_eq!(request[..4], MAGIC.to_ne_bytes());
        assert_eq!(request[4..8], 3u32.to_ne_bytes());
        assert_eq!(request[12..14], AF_UNIX.to_ne_bytes());
        assert_eq!(answered_address(&request[12..122]).unwrap(), Path::new("/s/.1-0"));
        assert_eq!(&request[122..], b"machine eth1\0");
        let long = "x".repeat(200);
        assert_eq!(super::request(Path::new("/s"), &long).unwrap().len(), 122 + DESCRIPTION);
        assert!(super::request(Path::new(&long), "").is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_a_path_or_refused(answer in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(path) = answered_address(&answer) {
                prop_assert!(!path.as_os_str().is_empty());
            }
        }
    }
}
