//! The name of one thing in a folder.

use std::fmt;

use crate::{Errno, Result};

/// A name that can only mean something in the folder itself: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The longest name, in bytes (`NAME_MAX`, limits.h).
    pub const MAX: usize = 255;

    /// # Errors
    /// `ENAMETOOLONG`, `ENOENT` for the empty name, `EINVAL` for all others that are none.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        match bytes {
            [] => Err(Errno::NOENT),
            b"." | b".." => Err(Errno::INVAL),
            _ if bytes.len() > Self::MAX => Err(Errno::NAMETOOLONG),
            _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno::INVAL),
            _ => Ok(Self(bytes)),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.0), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_in_its_folder_is_a_name() {
        for good in [&b"a"[..], b"...", b".hidden", b"..x", b" ", b"\xff\n", &[b'x'; 255]] {
            assert_eq!(Name::new(good).unwrap().bytes(), good);
        }
        for (bad, errno) in [
            (&b""[..], Errno::NOENT),
            (b".", Errno::INVAL),
            (b"..", Errno::INVAL),
            (b"/", Errno::INVAL),
            (b"/etc/passwd", Errno::INVAL),
            (b"a/b", Errno::INVAL),
            (b"a/", Errno::INVAL),
            (b"a\0b", Errno::INVAL),
            (&[b'x'; 256], Errno::NAMETOOLONG),
        ] {
            assert_eq!(Name::new(bad), Err(errno), "{bad:?}");
        }
    }
}
