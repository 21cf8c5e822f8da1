//! One disk.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ValueError;

/// A virtio-blk disk. What goes together is [`DiskConfig::check`]ed by whoever reads one from a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct DiskConfig {
    /// The image. Without one the disk is temporary: of `create-mib`, and gone when the run is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The format of `path`; what its content looks like when it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Refuse writes, and open the file for reading only.
    pub read_only: bool,
    /// Never write `path`: changes are temporary, and gone when the run is over.
    pub snapshot: bool,
    /// Keep what is temporary in memory instead of in a file.
    pub memory: bool,
    /// Make `path` anew over this image when it is missing: a qcow2 image that holds what differs from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<PathBuf>,
    /// The format of `backing-file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_format: Option<ImageFormat>,
    /// Serial number (`/dev/disk/by-id/virtio-SERIAL`), at most 20 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Make a sparse image of this many MiB when the file is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_mib: Option<u64>,
    /// The file system that an image gets when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FileSystem>,
    /// That file system's label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What a flush of the guest does; without it `never` in tests and `always` elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush: Option<FlushPolicy>,
    /// Who reads and flushes a raw image where that has to wait for the host's storage; without it the host's ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<DiskEngine>,
}

/// A value that is one of some words.
macro_rules! words {
    ($(#[$about:meta])* $name:ident, $what:literal, { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Its name in manifests and on command lines.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, ValueError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    other => Err(ValueError(format!(
                        concat!("`{}` is not ", $what, ": choose one of {}"), other, [$($word),+].join(", ")
                    ))),
                }
            }
        }
    };
}

words! {
    /// How a disk's content lies in its file.
    ImageFormat, "an image format", {
        /// As it is.
        Raw = "raw",
        /// QEMU's, which grows with its content and can refer to other images.
        Qcow2 = "qcow2",
    }
}

words! {
    /// A file system that can be made.
    FileSystem, "a file system that can be made", {
        /// By `mkfs.ext4` of e2fsprogs.
        Ext4 = "ext4",
        /// By `mkfs.xfs` of xfsprogs.
        Xfs = "xfs",
        /// By `mkfs.btrfs` of btrfs-progs.
        Btrfs = "btrfs",
    }
}

words! {
    /// What a flush of the guest does.
    FlushPolicy, "a flush policy", {
        /// What was written is on the host's storage when the guest is told so.
        Always = "always",
        /// What was written is with the host's kernel: it outlives the guest and the VMM, but not the host.
        Never = "never",
    }
}

words! {
    /// Who reads and flushes a raw image where that has to wait for the host's storage.
    DiskEngine, "an engine of disks", {
        /// The host's kernel (`io_uring(7)`), and threads where it has none for us.
        IoUring = "io-uring",
        /// Threads of the VMM.
        Threads = "threads",
    }
}

impl FileSystem {
    /// The longest label that it takes, in bytes.
    #[must_use]
    pub fn longest_label(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 12,
            Self::Btrfs => 255,
        }
    }
}

impl DiskConfig {
    /// The longest serial number (virtio 1.2, 5.2.6: `VIRTIO_BLK_T_GET_ID`).
    pub const MAX_SERIAL: usize = 20;

    /// An image as it is, with all else as it is without being asked for.
    #[must_use]
    pub fn of_image(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// A temporary disk.
    #[must_use]
    pub fn temporary(mib: u64) -> Self {
        Self { create_mib: Some(mib), ..Self::default() }
    }

    /// Whether `serial` can be a disk's serial number.
    ///
    /// # Errors
    /// When it is empty, too long, or not printable ASCII.
    pub fn check_serial(serial: &str) -> Result<(), ValueError> {
        let printable = serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !serial.is_empty() && serial.len() <= Self::MAX_SERIAL && printable {
            return Ok(());
        }
        let text = serial.escape_debug();
        Err(ValueError(format!(
            "Disk serial `{text}` is not 1 to {} printable ASCII characters",
            Self::MAX_SERIAL
        )))
    }

    /// Whether its parts go together.
    ///
    /// # Errors
    /// The first key that does not go with the others, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(Err(error)) = self.serial.as_deref().map(Self::check_serial) {
            return Err(("serial", error.0));
        }
        self.check_source()?;
        self.check_making()
    }

    /// Where its content comes from.
    fn check_source(&self) -> Result<(), (&'static str, String)> {
        let no = |key, why: &str| Err((key, why.to_owned()));
        if self.path.is_none() {
            if self.create_mib.is_none() {
                return no("path", "name the disk's image, or give `create-mib` for a temporary disk");
            }
            if self.format.is_some() {
                return no("format", "a temporary disk has no format: give it a `path` or leave this out");
            }
            if self.snapshot {
                return no("snapshot", "a disk without a `path` is temporary anyway: leave this out");
            }
            if self.backing_file.is_some() {
                return no(
                    "backing-file",
                    "`path` is missing; for temporary changes give this as `path`, with `snapshot`",
                );
            }
        } else if self.memory && !self.snapshot {
            return no(
                "memory",
                "`path` is a file: give `snapshot` for changes in memory, or leave out `path`",
            );
        }
        if self.snapshot && self.read_only {
            return no("snapshot", "a read-only disk has no changes: keep one of the two");
        }
        if self.backing_format.is_some() && self.backing_file.is_none() {
            return no("backing-format", "there is no `backing-file` that it could be the format of");
        }
        if self.backing_file.is_some() && self.format == Some(ImageFormat::Raw) {
            return no("backing-file", "a raw image has none: leave out `format`");
        }
        Ok(())
    }

    /// What is made anew.
    fn check_making(&self) -> Result<(), (&'static str, String)> {
        let no = |key, why: &str| Err((key, why.to_owned()));
        let is_made = self.create_mib.is_some() || self.backing_file.is_some();
        if self.read_only && is_made {
            let key = if self.create_mib.is_some() { "create-mib" } else { "backing-file" };
            return no(key, "a disk that is made anew is of no use read-only: keep one of the two");
        }
        let Some(filesystem) = self.filesystem else {
            return match self.label {
                Some(_) => no("label", "there is no `filesystem` that it could be the label of"),
                None => Ok(()),
            };
        };
        if self.create_mib.is_none() || self.backing_file.is_some() {
            return no("filesystem", "only a new, empty image gets a file system: give `create-mib` alone");
        }
        if self.format == Some(ImageFormat::Qcow2) {
            return no("filesystem", "file systems are made in raw images: leave out `format`");
        }
        match &self.label {
            Some(label)
                if label.is_empty()
                    || label.len() > filesystem.longest_label()
                    || label.starts_with('-')
                    || label.chars().any(|char| char.is_control() || char == '/') =>
            {
                let (name, most) = (filesystem.name(), filesystem.longest_label());
                let text = label.escape_debug();
                Err((
                    "label",
                    format!(
                        "`{text}` is not a label for {name}: 1 to {most} bytes without `/` or a `-` first"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> DiskConfig {
        DiskConfig::of_image("x")
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let qcow2 = Some(ImageFormat::Qcow2);
        let backing_file = Some(PathBuf::from("base"));
        let made = || DiskConfig { create_mib: Some(1), ..image() };
        for (disk, expected) in [
            (DiskConfig::default(), "path"),
            (DiskConfig { format: qcow2, ..DiskConfig::temporary(1) }, "format"),
            (DiskConfig { snapshot: true, ..DiskConfig::temporary(1) }, "snapshot"),
            (DiskConfig { backing_file: backing_file.clone(), ..DiskConfig::temporary(1) }, "backing-file"),
            (DiskConfig { memory: true, ..image() }, "memory"),
            (DiskConfig { snapshot: true, read_only: true, ..image() }, "snapshot"),
            (DiskConfig { backing_format: qcow2, ..image() }, "backing-format"),
            (
                DiskConfig { backing_file: backing_file.clone(), format: Some(ImageFormat::Raw), ..image() },
                "backing-file",
            ),
            (DiskConfig { read_only: true, ..made() }, "create-mib"),
            (DiskConfig { read_only: true, backing_file, ..image() }, "backing-file"),
            (DiskConfig { label: Some("x".into()), ..made() }, "label"),
            (DiskConfig { filesystem: Some(FileSystem::Ext4), ..image() }, "filesystem"),
            (DiskConfig { filesystem: Some(FileSystem::Ext4), format: qcow2, ..made() }, "filesystem"),
            (DiskConfig { serial: Some(String::new()), ..image() }, "serial"),
        ] {
            assert_eq!(disk.check().map_err(|(key, _)| key), Err(expected), "{disk:?}");
        }
        for label in ["", "-L", "seventeen-letters", "a/b", "a\nb"] {
            let disk =
                DiskConfig { filesystem: Some(FileSystem::Ext4), label: Some(label.to_owned()), ..made() };
            assert_eq!(disk.check().map_err(|(key, _)| key), Err("label"), "{label}");
        }
    }

    #[test]
    fn what_goes_together_is_taken() {
        for disk in [
            image(),
            DiskConfig::temporary(64),
            DiskConfig { memory: true, ..DiskConfig::temporary(64) },
            DiskConfig { snapshot: true, memory: true, ..image() },
            DiskConfig { backing_file: Some("base".into()), create_mib: Some(64), ..image() },
            DiskConfig { format: Some(ImageFormat::Qcow2), create_mib: Some(64), ..image() },
            DiskConfig {
                filesystem: Some(FileSystem::Ext4),
                label: Some("nixos".into()),
                ..DiskConfig::temporary(64)
            },
        ] {
            assert_eq!(disk.check(), Ok(()), "{disk:?}");
        }
    }

    #[test]
    fn words_read_back_and_others_are_refused() {
        assert_eq!("qcow2".parse(), Ok(ImageFormat::Qcow2));
        assert_eq!(serde_json::to_value(FileSystem::Ext4).unwrap(), FileSystem::Ext4.name());
        let error = "sometimes".parse::<FlushPolicy>().unwrap_err();
        assert_eq!(error.0, "`sometimes` is not a flush policy: choose one of always, never");
        assert_eq!("threads".parse(), Ok(DiskEngine::Threads));
        let error = "aio".parse::<DiskEngine>().unwrap_err();
        assert_eq!(error.0, "`aio` is not an engine of disks: choose one of io-uring, threads");
    }
}
