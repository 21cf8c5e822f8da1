//! An image that is being made: nobody sees it by its name before it is complete, and nothing is left when it is given up.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

/// An image without a name yet, or with a temporary one that goes away with it.
pub(super) struct Draft {
    pub(super) file: File,
    pub(super) temporary: PathBuf,
}

impl Draft {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // Other processes have another number, and within one the name is held for as long as the draft.
        for attempt in 0..100u32 {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{attempt}.new", std::process::id()));
            let temporary = path.with_file_name(hidden);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { file, temporary }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Gives it its name, unless that is taken.
    pub(super) fn publish(self, path: &Path) -> io::Result<File> {
        let file = self.file.try_clone()?;
        let here = rustix::fs::CWD;
        match renameat_with(here, &self.temporary, here, path, RenameFlags::NOREPLACE) {
            // Some network file systems cannot rename without replacing; a second name is as safe.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => std::fs::hard_link(&self.temporary, path)?,
            outcome => outcome?,
        }
        Ok(file)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary); // Gone already once published by renaming.
    }
}
