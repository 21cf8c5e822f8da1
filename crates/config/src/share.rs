//! Folders of the host that a machine can mount.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ValueError;

/// A folder of the host, given to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShareConfig {
    /// What the guest mounts it by, 1 to 36 bytes.
    pub tag: String,
    /// The folder. A test's may be given by variables; see [`Self::has_variables`].
    pub path: PathBuf,
    /// Whether the guest can change it.
    #[serde(default)]
    pub writable: bool,
    /// What the guest may remember of it. With 9P the guest says that itself when it mounts.
    #[serde(default)]
    pub cache: ShareCache,
    /// How it is served.
    #[serde(default)]
    pub protocol: ShareProtocol,
}

/// What a guest may remember of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareCache {
    /// All that it has seen: what others change may never be seen.
    #[default]
    Always,
    /// Names and attributes for a second, content while a file is open.
    Auto,
    /// Nothing.
    Never,
}

/// How a share is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareProtocol {
    /// virtio-fs: `mount -t virtiofs TAG FOLDER`.
    #[default]
    Virtiofs,
    /// 9P2000.L: `mount -t 9p -o trans=virtio,version=9p2000.L TAG FOLDER`.
    #[serde(rename = "9p")]
    NineP,
}

impl ShareConfig {
    /// The longest tag (virtio 1.2, 5.11.4).
    pub const MAX_TAG: usize = 36;

    /// Whether the path is a word of a shell script, as NixOS gives the sources of its shares
    /// (`virtualisation.sharedDirectories`): `"$TMPDIR"/xchg` is in the machine's own folder of the run, and
    /// `"${SHARED_DIR:-$TMPDIR/xchg}"` the one for all machines.
    #[must_use]
    pub fn has_variables(&self) -> bool {
        has_variables(&self.path)
    }

    /// Whether `tag` can be a share's tag.
    ///
    /// # Errors
    /// When it is empty, too long, or has characters that no `mount` takes.
    pub fn check_tag(tag: &str) -> Result<(), ValueError> {
        let is_plain = !tag.chars().any(|it| it.is_control() || it.is_whitespace());
        if !tag.is_empty() && tag.len() <= Self::MAX_TAG && is_plain {
            return Ok(());
        }
        Err(ValueError(format!(
            "Share tag `{}` is not 1 to {} bytes without spaces",
            tag.escape_debug(),
            Self::MAX_TAG
        )))
    }

    /// Whether every share of a machine has a tag of its own.
    ///
    /// # Errors
    /// When two have the same one.
    pub fn check_all(shares: &[Self]) -> Result<(), ValueError> {
        for (index, share) in shares.iter().enumerate() {
            if shares.iter().take(index).any(|other| other.tag == share.tag) {
                return Err(ValueError(format!(
                    "Two shares have the tag `{}`; give each its own, for the guest mounts them by it",
                    share.tag
                )));
            }
        }
        Ok(())
    }
}

impl ShareCache {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Always, Self::Auto, Self::Never];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Auto => "auto",
            Self::Never => "never",
        }
    }
}

impl FromStr for ShareCache {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| ValueError(format!("`{text}` is no cache policy: choose always, auto or never")))
    }
}

impl fmt::Display for ShareCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ShareProtocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "virtiofs" => Ok(Self::Virtiofs),
            "9p" => Ok(Self::NineP),
            other => Err(ValueError(format!("`{other}` is no protocol for shares: choose virtiofs or 9p"))),
        }
    }
}

/// Whether a path is a word of a shell script with variables in it.
pub(crate) fn has_variables(path: &std::path::Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b'$' | b'"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_short_plain_and_different() {
        for good in ["shared", "nix-store", &"x".repeat(36)] {
            assert!(ShareConfig::check_tag(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\n", &"x".repeat(37)] {
            assert!(ShareConfig::check_tag(bad).is_err(), "{bad}");
        }
        let share = |tag: &str| ShareConfig {
            tag: tag.to_owned(),
            path: PathBuf::from("/x"),
            writable: false,
            cache: ShareCache::default(),
            protocol: ShareProtocol::default(),
        };
        assert!(ShareConfig::check_all(&[share("a"), share("b")]).is_ok());
        let error = ShareConfig::check_all(&[share("a"), share("b"), share("a")]).unwrap_err();
        assert!(error.to_string().contains("`a`"), "{error}");
    }

    #[test]
    fn protocols_have_names() {
        assert_eq!("virtiofs".parse(), Ok(ShareProtocol::Virtiofs));
        assert_eq!("9p".parse(), Ok(ShareProtocol::NineP));
        let error = "9p2000.L".parse::<ShareProtocol>().unwrap_err().to_string();
        assert!(error.contains("choose virtiofs or 9p"), "{error}");
    }

    #[test]
    fn policies_have_names() {
        for policy in ShareCache::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("loose".parse::<ShareCache>().is_err());
    }
}
