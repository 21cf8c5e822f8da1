//! The store of a machine: what an image is made of, and how a guest has it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use crate::ValueError;

/// A read-only file system that a machine is given, made of files of the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoreConfig {
    /// What is in it.
    #[serde(flatten)]
    pub source: StoreSource,
    /// How the guest has it.
    #[serde(rename = "as")]
    pub device: StoreDevice,
}

/// What a store image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreSource {
    /// A file with one path on each line, all of one folder, or a folder with such a file `store-paths`: what Nix's
    /// `closureInfo` makes. The paths' names are at the image's top.
    Closure(PathBuf),
    /// A folder, whose content is the image's.
    Folder(PathBuf),
}

/// How a guest has a store image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreDevice {
    /// A read-only disk: every guest has a copy of the pages that it reads.
    #[default]
    Disk,
    /// Persistent memory: guests with `dax` in their mount options have the host's pages in place.
    Pmem,
}

impl StoreDevice {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Disk, Self::Pmem];

    /// As in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Pmem => "pmem",
        }
    }
}

impl fmt::Display for StoreDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StoreDevice {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|device| device.name() == text)
            .ok_or_else(|| ValueError(format!("a store is no `{text}`: choose disk or pmem")))
    }
}
