//! The host's resolver, as `/etc/resolv.conf` names it (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

/// How long what the file says is believed: the host may change its network while a guest runs.
const BELIEVED: Duration = Duration::from_secs(5);
/// Bytes of the file that are read; three resolvers and a search list take less than one of it.
const LONGEST: usize = 64 * 1024;
const PORT: u16 = 53;

/// Where guests' questions go.
#[derive(Debug)]
pub(super) struct Resolver {
    fixed: Option<SocketAddr>,
    file: PathBuf,
    read: Option<(Duration, Option<SocketAddr>)>,
}

impl Resolver {
    /// The one at `fixed`, or else the first one of `/etc/resolv.conf`.
    pub(super) fn new(fixed: Option<SocketAddr>) -> Self {
        Self { fixed, file: PathBuf::from("/etc/resolv.conf"), read: None }
    }

    /// Its address, if the host has one.
    pub(super) fn address(&mut self, now: Duration) -> Option<SocketAddr> {
        if self.fixed.is_some() {
            return self.fixed;
        }
        if let Some((at, address)) = self.read
            && now.saturating_sub(at) < BELIEVED
        {
            return address;
        }
        let address = first(&self.text());
        self.read = Some((now, address));
        address
    }

    fn text(&self) -> String {
        let open =
            rustix::fs::open(&self.file, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
        let Ok(file) = open else { return String::new() };
        let mut bytes = vec![0; LONGEST];
        let length = rustix::io::read(&file, bytes.as_mut_slice()).unwrap_or(0);
        bytes.truncate(length);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The first name server of a file. One with a zone (`fe80::1%eth0`) is passed over.
fn first(text: &str) -> Option<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    servers
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, PORT))
        .next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_server_that_can_be_reached_counts() {
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver fe80::1%eth0\n nameserver\t192.0.2.1 # x\nnameserver ::1";
        assert_eq!(first(text), Some("192.0.2.1:53".parse().unwrap()));
        assert_eq!(first("nameserver ::1"), Some("[::1]:53".parse().unwrap()));
        assert_eq!(first("nameserver\nnameserver x\nnameservers 192.0.2.1"), None);
    }

    #[test]
    fn the_file_is_read_again_after_a_while_and_need_not_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut resolver = Resolver::new(None);
        resolver.file = folder.path().join("resolv.conf");
        assert_eq!(resolver.address(Duration::ZERO), None);
        std::fs::write(&resolver.file, "nameserver 192.0.2.1").unwrap();
        assert_eq!(resolver.address(Duration::from_secs(1)), None);
        assert_eq!(resolver.address(BELIEVED), Some("192.0.2.1:53".parse().unwrap()));
        let fixed = "127.0.0.1:5353".parse().unwrap();
        assert_eq!(Resolver::new(Some(fixed)).address(Duration::ZERO), Some(fixed));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(nameserver|[ -~]|\\PC|\\n){0,80}") {
            let _ = first(&text);
        }
    }
}
