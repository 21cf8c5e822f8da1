//! Devices that another process serves.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ValueError;

/// A device whose queues another process serves, over the vhost-user protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VhostUserConfig {
    /// The Unix socket that the process listens at.
    pub socket: PathBuf,
    /// What it serves.
    #[serde(flatten)]
    pub device: VhostUserDevice,
}

/// What a vhost-user back end serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VhostUserDevice {
    /// A file system, which guests mount by a tag, as virtiofsd does.
    Fs {
        /// The tag.
        tag: String,
    },
    /// A disk.
    Blk,
}

impl VhostUserDevice {
    /// The longest tag of a file system in bytes (virtio 1.2, 5.11.4).
    pub const MAX_TAG: usize = 36;

    /// From a kind, `fs` or `blk`, and the tag that file systems have.
    ///
    /// # Errors
    /// When there is no such kind, or the tag does not fit it.
    pub fn new(kind: &str, tag: Option<&str>) -> Result<Self, ValueError> {
        match (kind, tag) {
            ("fs", Some(tag)) if !tag.is_empty() && tag.len() <= Self::MAX_TAG && !tag.contains('\0') => {
                Ok(Self::Fs { tag: tag.to_owned() })
            }
            ("fs", Some(_)) => Err(ValueError(format!("a tag has 1 to {} bytes", Self::MAX_TAG))),
            ("fs", None) => {
                Err(ValueError("a file system needs a `tag`, which guests mount it by".to_owned()))
            }
            ("blk", None) => Ok(Self::Blk),
            ("blk", Some(_)) => Err(ValueError("a disk has no `tag`".to_owned())),
            _ => Err(ValueError(format!("there is no vhost-user device `{kind}`: choose fs or blk"))),
        }
    }
}
