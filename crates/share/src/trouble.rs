//! What fails a guest's requests without its doing: the host's storage, limits and permissions, or a folder that is gone.
//! A guest sees bare errors; who runs it is to learn why.

use std::fmt;
use std::io;

use crate::{Errno, Tree};

/// The most that is told of one share: kinds of requests and of errors are few.
const MOST_TOLD: usize = 16;
/// Errors that no request of a guest has by itself. `ESTALE` is none of them: it is how a guest learns that the host has put another
/// file in the place of one.
const OF_THE_HOST: &[Errno] = &[
    Errno::IO,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOMEM,
    Errno::ACCESS,
    Errno::NOTCONN,
    Errno::REMOTEIO,
    Errno::TIMEDOUT,
    Errno::UCLEAN,
];

/// Why a guest's requests fail, as a line without the share's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The host refuses what a kind of request needs.
    Fails {
        /// What the request does.
        what: &'static str,
        /// What the host says, and the guest is told.
        error: Errno,
    },
    /// The shared folder was removed.
    Removed,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fails { what, error } => {
                write!(f, "{what} failed, and its guest sees that: {} (told once)", io::Error::from(*error))
            }
            Self::Removed => f.write_str(
                "the folder was removed on the host, and its guest finds nothing in it any more (told once)",
            ),
        }
    }
}

/// What was met, each kind once.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    met: Vec<Trouble>,
    told: usize,
}

impl Troubles {
    /// A request that does `what` has failed.
    pub(crate) fn note(&mut self, tree: &Tree, what: &'static str, error: Errno) {
        let trouble = match error {
            Errno::NOENT if !self.met.contains(&Trouble::Removed) && tree.is_removed() => Trouble::Removed,
            Errno::ROFS if tree.is_writable() => Trouble::Fails { what, error },
            error if OF_THE_HOST.contains(&error) => Trouble::Fails { what, error },
            _ => return,
        };
        if self.met.len() < MOST_TOLD && !self.met.contains(&trouble) {
            self.met.push(trouble);
        }
    }

    /// What was not told before.
    pub(crate) fn next(&mut self) -> Option<Trouble> {
        let trouble = self.met.get(self.told).copied()?;
        self.told = self.told.saturating_add(1);
        Some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TreeOptions;

    #[test]
    fn only_what_the_host_does_is_told_and_that_once() {
        let folder = tempfile::tempdir().unwrap();
        let writable = Tree::open(folder.path(), TreeOptions { writable: true }).unwrap();
        let fixed = Tree::open(folder.path(), TreeOptions { writable: false }).unwrap();
        let mut troubles = Troubles::default();
        for _ in 0..2 {
            for error in [Errno::NOENT, Errno::EXIST, Errno::STALE, Errno::INVAL, Errno::PERM] {
                troubles.note(&writable, "reading", error);
            }
            troubles.note(&fixed, "writing", Errno::ROFS);
            troubles.note(&writable, "writing", Errno::ROFS);
            troubles.note(&writable, "writing", Errno::NOSPC);
        }
        let told = std::iter::from_fn(|| troubles.next()).map(|it| it.to_string()).collect::<Vec<_>>();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("Read-only file system"), "{told:?}");
        assert_eq!(
            told[1],
            "writing failed, and its guest sees that: No space left on device (os error 28) (told once)"
        );
        troubles.note(&writable, "opening", Errno::NOSPC);
        assert_eq!(troubles.next(), Some(Trouble::Fails { what: "opening", error: Errno::NOSPC }));
        assert_eq!(troubles.next(), None);
    }

    #[test]
    fn the_lines_of_a_share_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::open(folder.path(), TreeOptions::default()).unwrap();
        let mut troubles = Troubles::default();
        for what in ["a", "b", "c"] {
            OF_THE_HOST.iter().for_each(|error| troubles.note(&tree, what, *error));
        }
        assert_eq!(std::iter::from_fn(|| troubles.next()).count(), MOST_TOLD);
    }
}
