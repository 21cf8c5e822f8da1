//! Folders of a run on the host, as test scripts know them: one per machine, and one for all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::control::lock;

/// Where they are made, unless it is unset.
const RUNTIME_FOLDER: &str = "XDG_RUNTIME_DIR";
/// The one for all machines, by the name that the NixOS test driver has for it.
const SHARED: &str = "shared-xchg";

/// The folders of a run. They are below one that is made when the first of them is asked for, for this user only, and go away
/// with the run.
#[derive(Debug, Default)]
pub(crate) struct Folders {
    root: Mutex<Option<Root>>,
}

#[derive(Debug)]
struct Root {
    folder: TempDir,
    /// The process that made it: a fork of that one leaves it alone.
    process: u32,
}

impl Folders {
    /// The folder of a machine.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn of_machine(&self, name: &str) -> io::Result<PathBuf> {
        self.below(&state_name(name))
    }

    /// The folder of all machines.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn shared(&self) -> io::Result<PathBuf> {
        self.below(SHARED)
    }

    /// Removes the folder of a machine, and tells whether there was one.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub(crate) fn remove_of_machine(&self, name: &str) -> io::Result<bool> {
        let root = lock(&self.root);
        let Some(root) = root.as_ref() else { return Ok(false) };
        match std::fs::remove_dir_all(root.folder.path().join(state_name(name))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all of them.
    pub(crate) fn remove(&self) {
        drop(lock(&self.root).take());
    }

    fn below(&self, name: &str) -> io::Result<PathBuf> {
        let mut root = lock(&self.root);
        let root = match &mut *root {
            Some(root) => root,
            none => none.insert(Root::new()?),
        };
        let path = root.folder.path().join(name);
        make(&path)?;
        Ok(path)
    }
}

impl Root {
    fn new() -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("snowboot-");
        let parent = std::env::var_os(RUNTIME_FOLDER).filter(|folder| !folder.is_empty());
        let folder = match parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }?;
        Ok(Self { folder, process: std::process::id() })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.folder.disable_cleanup(self.process != std::process::id());
    }
}

fn state_name(machine: &str) -> String {
    format!("vm-state-{machine}")
}

fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn they_are_made_when_asked_for_and_go_away() {
        let folders = Folders::default();
        assert!(lock(&folders.root).is_none());
        let (state, shared) = (folders.of_machine("m").unwrap(), folders.shared().unwrap());
        assert_eq!(state.parent(), shared.parent());
        assert!(state.ends_with("vm-state-m") && shared.ends_with("shared-xchg"));
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(state.join("x"), "y").unwrap();
        assert!(folders.remove_of_machine("m").unwrap());
        assert!(!folders.remove_of_machine("m").unwrap());
        assert_eq!(folders.of_machine("m").unwrap(), state);
        let root = state.parent().unwrap().to_owned();
        folders.remove();
        assert!(!root.exists());
    }
}
