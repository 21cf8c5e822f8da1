//! Enabling rings before features are acknowledged.
//!
//! QEMU's network card does that as soon as it is there, and does it again when its driver has begun; the library takes the first
//! for a mistake, as by the letter it is one. So it is answered here.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::HEADER;

/// `VHOST_USER_SET_VRING_ENABLE`.
const SET_VRING_ENABLE: u32 = 18;
/// Version 1 in the flags of a header, the mark of an answer, and that one is wanted.
const VERSION: u32 = 1;
const IS_REPLY: u32 = 1 << 2;
const NEEDS_REPLY: u32 = 1 << 3;
/// Length of the state of a ring that follows: index and value.
const STATE: usize = 8;

/// A request to enable a ring, or to disable it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enable {
    pub(super) ring: u32,
    pub(super) value: u32,
    needs_reply: bool,
}

impl Enable {
    /// The message that begins with `bytes`, if it is such a one.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.get(..HEADER + STATE)?.chunks_exact(4);
        let mut word = || words.next()?.try_into().ok().map(u32::from_le_bytes);
        let (request, flags, size) = (word()?, word()?, word()?);
        let (ring, value) = (word()?, word()?);
        let is_one = request == SET_VRING_ENABLE && usize::try_from(size) == Ok(STATE);
        is_one.then_some(Self { ring, value, needs_reply: flags & NEEDS_REPLY != 0 })
    }

    /// Takes it off the connection, where all of it is.
    pub(super) fn take(mut stream: &UnixStream) -> io::Result<()> {
        stream.read_exact(&mut [0; HEADER + STATE])
    }

    /// Answers it, if an answer is wanted.
    pub(super) fn answer(self, mut stream: &UnixStream, is_done: bool) -> io::Result<()> {
        if !self.needs_reply {
            return Ok(());
        }
        let header = [SET_VRING_ENABLE, VERSION | IS_REPLY, 8].map(u32::to_le_bytes);
        let mut message = header.concat();
        message.extend(u64::from(!is_done).to_le_bytes());
        stream.write_all(&message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(request: u32, flags: u32, body: &[u32]) -> Vec<u8> {
        let size = u32::try_from(body.len() * 4).unwrap();
        [&[request, flags, size][..], body].concat().into_iter().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn only_the_one_request_is_meant() {
        let enable = Enable { ring: 1, value: 1, needs_reply: false };
        assert_eq!(Enable::of(&message(18, 1, &[1, 1])), Some(enable));
        let more = [message(18, 1 | 8, &[0, 7]), vec![9; 5]].concat();
        assert_eq!(Enable::of(&more), Some(Enable { ring: 0, value: 7, needs_reply: true }));
        for other in [message(2, 1, &[1, 1]), message(18, 1, &[1]), message(18, 1, &[1, 1, 1]), Vec::new()] {
            assert_eq!(Enable::of(&other), None, "{other:?}");
        }
    }
}
