//! What an image is made of: a folder, and which of its entries.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use snowboot_config::StoreSource;

use crate::StoreError;

/// The list of paths in a folder that Nix's `closureInfo` makes.
const STORE_PATHS: &str = "store-paths";

/// A folder whose content is the image's.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) folder: PathBuf,
    /// The names of its entries that are in the image; `None` for all of them.
    pub(crate) names: Option<BTreeSet<OsString>>,
}

impl Source {
    pub(crate) fn read(source: &StoreSource) -> Result<Self, StoreError> {
        match source {
            StoreSource::Folder(path) => {
                let folder = fs::canonicalize(path).map_err(|error| StoreError::read(path, &error))?;
                if !folder.is_dir() {
                    return Err(wrong(path, "it is not a folder"));
                }
                Ok(Self { folder, names: None })
            }
            StoreSource::Closure(path) => {
                let list = if path.is_dir() { path.join(STORE_PATHS) } else { path.clone() };
                let text = fs::read_to_string(&list).map_err(|error| StoreError::read(&list, &error))?;
                of_list(&list, &text)
            }
        }
    }
}

/// From a list with one path on each line, all of one folder.
fn of_list(list: &Path, text: &str) -> Result<Source, StoreError> {
    let mut folder: Option<&Path> = None;
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let path = Path::new(line);
        let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), path.is_absolute()) else {
            return Err(wrong(list, &format!("`{line}` is not a whole path, such as /nix/store/HASH-NAME")));
        };
        if *folder.get_or_insert(parent) != parent {
            return Err(wrong(list, &format!("{line} is in another folder than the paths before it")));
        }
        if path.symlink_metadata().is_err() {
            return Err(wrong(list, &format!("{line} is not there")));
        }
        names.insert(name.to_owned());
    }
    match folder {
        Some(folder) => Ok(Source { folder: folder.to_owned(), names: Some(names) }),
        None => Err(wrong(list, "it names no path")),
    }
}

fn wrong(path: &Path, why: &str) -> StoreError {
    StoreError::Read { path: path.to_owned(), why: why.to_owned() }
}
