//! What tells one source's image from another's, without reading the files.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::source::Source;
use crate::{StoreError, mkfs};

/// Letters of the hash that a path of a Nix store begins with.
const NIX_HASH: usize = 32;
/// Base 32 as Nix writes it.
const NIX_LETTERS: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The key of a source as it is `now`, as text.
pub(crate) fn of(source: &Source, now: SystemTime) -> Result<String, StoreError> {
    let mut walk = Walk { hash: Sha256::new(), now, is_settled: true };
    walk.text(mkfs::FORMAT.as_bytes());
    match &source.names {
        None => walk.folder(&source.folder)?,
        Some(names) => {
            for name in names {
                walk.text(name.as_bytes());
                if !is_immutable(name) {
                    walk.entry(&source.folder.join(name))?;
                }
            }
        }
    }
    if !walk.is_settled {
        // What was changed just now may change again and look the same: nobody is to find its image.
        let age = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        walk.text(format!("{age:?} {}", std::process::id()).as_bytes());
    }
    Ok(walk.hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a path of this name has the same content wherever it is found.
fn is_immutable(name: &OsStr) -> bool {
    let Some((hash, rest)) = name.as_bytes().split_at_checked(NIX_HASH) else { return false };
    hash.iter().all(|letter| NIX_LETTERS.contains(letter)) && rest.len() > 1 && rest.starts_with(b"-")
}

struct Walk {
    hash: Sha256,
    now: SystemTime,
    is_settled: bool,
}

impl Walk {
    fn text(&mut self, text: &[u8]) {
        self.hash.update(text.len().to_le_bytes());
        self.hash.update(text);
    }

    fn entry(&mut self, path: &Path) -> Result<(), StoreError> {
        let failed = |error: io::Error| StoreError::read(path, &error);
        let metadata = path.symlink_metadata().map_err(failed)?;
        self.metadata(&metadata);
        if metadata.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            self.text(target.as_os_str().as_bytes());
        } else if metadata.is_dir() {
            self.folder(path)?;
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> Result<(), StoreError> {
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(|error: io::Error| StoreError::read(path, &error))?;
        entries.sort();
        self.hash.update(entries.len().to_le_bytes());
        for entry in entries {
            self.text(entry.file_name().unwrap_or_default().as_bytes());
            self.entry(&entry)?;
        }
        Ok(())
    }

    /// Everything that shows a change. The time of the last change of a file or of what is told about it cannot be set back.
    fn metadata(&mut self, metadata: &Metadata) {
        self.is_settled &= snowboot_cache::is_settled(metadata.ctime(), self.now);
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        for number in [u64::from(metadata.mode()), size, metadata.dev(), metadata.ino()] {
            self.hash.update(number.to_le_bytes());
        }
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        times.iter().for_each(|number| self.hash.update(number.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_nix_store_stand_for_their_content() {
        let is = |name: &str| is_immutable(OsStr::new(name));
        assert!(is("0c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q-hello-2.12"));
        for name in [
            "0c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q-",
            "0c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q",
            "0c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3e-hello",
            "0c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q_hello",
            "hello",
            "",
        ] {
            assert!(!is(name), "{name}");
        }
    }
}
