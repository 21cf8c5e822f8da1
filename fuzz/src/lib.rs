//! What the fuzz targets of shares have in common: a folder with a secret beside it, what happens on the host meanwhile, and
//! the fields of a message.
//!
//! A guest's messages, and changes on the host between them, must not lead out of the folder: nothing beside it changes,
//! and no answer has the secret in it.

pub mod machine;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

/// What no guest may read.
const SECRET: &[u8] = b"what a guest must not see";
/// Names of what is there, of what may be made, and of what leads out where it is followed.
const NAMES: &[&str] = &[
    "folder",
    "file",
    "out",
    "outside",
    "secret",
    "pipe",
    "new",
    "other",
    "user.name",
    "..",
    ".",
    "/",
    "",
    "../outside/secret",
    "folder/../../outside",
];
/// A request with more data than this finds nothing that a shorter one does not.
const MOST_DATA: usize = 256;

/// One thing that happens.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// The guest asks for something: a number that says what, a node or handle, and fields.
    Ask(u8, u8, Vec<Field>),
    /// Another program on the host changes the folder.
    Host(Change),
}

/// A field of a request.
#[derive(Arbitrary, Debug)]
pub enum Field {
    /// One of the first numbers, as nodes and handles are, in eight bytes.
    Handle(u8),
    /// The same in four bytes.
    Fid(u8),
    /// Any byte.
    Byte(u8),
    /// Any four bytes.
    Word(u32),
    /// Any eight bytes.
    Long(u64),
    /// One of the known names.
    Name(u8),
    /// Data.
    Bytes(Vec<u8>),
}

/// What another program on the host does.
#[derive(Arbitrary, Debug)]
pub enum Change {
    /// The folder and the link out of the share change places.
    Swap,
    /// A file becomes a link to the secret.
    Link,
    /// A file is removed.
    Remove,
    /// The folder leaves the share, and comes back at the next such change.
    MoveOut,
}

impl Field {
    /// Adds its bytes to a message; `name` writes a name as the protocol does.
    pub fn put(&self, message: &mut Vec<u8>, name: impl Fn(&mut Vec<u8>, &str)) {
        match self {
            Self::Handle(number) => message.extend(u64::from(number % 8).to_le_bytes()),
            Self::Fid(number) => message.extend(u32::from(number % 8).to_le_bytes()),
            Self::Byte(byte) => message.push(*byte),
            Self::Word(word) => message.extend(word.to_le_bytes()),
            Self::Long(long) => message.extend(long.to_le_bytes()),
            Self::Name(index) => name(message, NAMES[usize::from(*index) % NAMES.len()]),
            Self::Bytes(bytes) => message.extend(&bytes[..bytes.len().min(MOST_DATA)]),
        }
    }
}

/// A folder that is shared, and one beside it that is not.
#[derive(Debug)]
pub struct Grounds {
    place: TempDir,
}

impl Default for Grounds {
    fn default() -> Self {
        Self::new()
    }
}

impl Grounds {
    /// Makes them, in memory.
    #[must_use]
    pub fn new() -> Self {
        let place = tempfile::tempdir_in("/dev/shm").expect("no folder in memory");
        let grounds = Self { place };
        let (root, outside) = (grounds.root(), grounds.outside());
        fs::create_dir_all(root.join("folder/folder")).expect("no folder");
        fs::create_dir(&outside).expect("no folder");
        fs::write(root.join("file"), "content").expect("no file");
        fs::write(root.join("folder/secret"), "harmless").expect("no file");
        fs::write(outside.join("secret"), SECRET).expect("no file");
        symlink("../outside", root.join("out")).expect("no link");
        rustix::fs::mknodat(CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("no pipe");
        grounds
    }

    /// What is shared.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }

    fn away(&self) -> PathBuf {
        self.place.path().join("away")
    }

    /// Changes the folder, if it can be changed so.
    pub fn change(&self, change: &Change) {
        let root = self.root();
        let _ = match change {
            Change::Swap => swap(&root.join("folder"), &root.join("out")),
            Change::Link => {
                let _ = fs::remove_file(root.join("file"));
                symlink("../outside/secret", root.join("file"))
            }
            Change::Remove => fs::remove_file(root.join("file")),
            Change::MoveOut if self.away().exists() => fs::rename(self.away(), root.join("folder")),
            // Else the link would come with it, and lead somewhere else.
            Change::MoveOut if root.join("folder").is_symlink() => Ok(()),
            Change::MoveOut => fs::rename(root.join("folder"), self.away()),
        };
    }

    /// Checks that an answer tells no secret that its request did not.
    pub fn check_answer(&self, answer: &[u8]) {
        assert!(!answer.windows(SECRET.len()).any(|bytes| bytes == SECRET), "an answer tells the secret");
    }

    /// Checks that nothing changed outside.
    pub fn check(&self) {
        let outside = self.outside();
        assert_eq!(fs::read(outside.join("secret")).ok().as_deref(), Some(SECRET), "the secret changed");
        assert_eq!(count(&outside), 1, "something was made outside");
        assert_eq!(
            count(self.place.path()),
            2 + usize::from(self.away().exists()),
            "something was made outside"
        );
    }
}

fn swap(one: &Path, other: &Path) -> std::io::Result<()> {
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}
