//! From disk configurations to disks: which images are opened, which are made, and what outlives the machine.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use snowboot_config::{DiskConfig, DiskEngine, FileSystem, FlushPolicy, ImageFormat, MachineConfig};
use snowboot_devices::block::{Block, Changes, Disk, DiskError, Format, Options, SerialNumber};
use snowboot_devices::warnings::Warnings;

use super::helpers::Pool;
use super::platform::{Platform, Thread};
use crate::Error;
use crate::arch::layout::MIB;

/// Where files without a name are made when `TMPDIR` does not say: `/tmp` is in memory on many hosts.
const TEMPORARY: &str = "/var/tmp";
/// Where programs that only root needs are, which is not in the `PATH` of others everywhere.
const SYSTEM_PROGRAMS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What machines have written to their temporary disks. It is theirs by name: a machine that is built anew with the same
/// disks finds what it wrote before, as after a power cut. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TemporaryDisks(Arc<Mutex<HashMap<(String, usize), Temporary>>>);

impl TemporaryDisks {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, usize), Temporary>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a temporary disk is made of.
#[derive(Debug)]
enum Temporary {
    Whole(File),
    Changes(Arc<Changes>),
}

/// Puts all disks of a machine on its bus.
pub(super) fn attach(
    platform: &mut Platform,
    config: &MachineConfig,
    temporary: &TemporaryDisks,
    warnings: &Warnings,
) -> Result<(), Error> {
    for (index, disk) in config.disks.iter().enumerate() {
        let options = Options {
            serial: serial(disk)?,
            volatile: disk.flush == Some(FlushPolicy::Never),
            queues: config.vcpus.get().into(),
            ..Options::default()
        };
        let opened = Opener { config: disk, machine: &config.name, index, temporary }.open()?;
        let engine = disk.engine.unwrap_or(DiskEngine::IoUring);
        let helpers = Arc::new(Pool::new(format!("help{index}:{}", config.name), engine));
        let device = Block::new(opened, options).warn(warnings.clone());
        let device = device.help(helpers).map_err(Error::host("set up a disk"))?;
        platform.add_virtio(Box::new(device), Thread::Own("disk"))?;
    }
    Ok(())
}

fn serial(config: &DiskConfig) -> Result<SerialNumber, Error> {
    let serial = config.serial.as_deref().unwrap_or_default();
    SerialNumber::try_from(serial).map_err(|error| Error::Disk(error.to_string()))
}

/// Opens one disk.
struct Opener<'a> {
    config: &'a DiskConfig,
    machine: &'a str,
    index: usize,
    temporary: &'a TemporaryDisks,
}

impl Opener<'_> {
    fn open(&self) -> Result<Disk, Error> {
        self.config.check().map_err(|(key, why)| {
            Error::Disk(format!("Disk {} of {}: `{key}`: {why}", self.number(), self.machine))
        })?;
        let format = self.config.format.map(driver);
        let Some(path) = &self.config.path else { return self.open_temporary() };
        if self.config.snapshot {
            let changes = self.changes(path)?;
            return Disk::with_changes(path, format, changes).map_err(wrong);
        }
        match (&self.config.backing_file, self.config.create_mib) {
            (Some(backing), _) if path.exists() => Disk::open_over(path, backing).map_err(wrong),
            (Some(backing), mib) => {
                let format = self.config.backing_format.map(driver);
                Disk::create_over(path, backing, format, self.bytes(mib)?).map_err(wrong)
            }
            (None, Some(mib)) if !path.exists() => {
                let prepare = |draft: &Path| self.format(draft, path);
                Disk::create(path, self.bytes(Some(mib))?, format, prepare).map_err(wrong)
            }
            (None, _) => Disk::open(path, self.config.read_only, format).map_err(wrong),
        }
    }

    fn open_temporary(&self) -> Result<Disk, Error> {
        let name = PathBuf::from(format!("(temporary disk {} of {})", self.number(), self.machine));
        let key = (self.machine.to_owned(), self.index);
        let kept = match self.temporary.lock().get(&key) {
            Some(Temporary::Whole(file)) => Some(file.try_clone().map_err(self.cannot("keep"))?),
            _ => None,
        };
        let file = match kept {
            Some(file) => file,
            None => {
                // Without the lock, since other machines make theirs at the same time.
                let file = self.make_temporary(&name)?;
                let twin = file.try_clone().map_err(self.cannot("keep"))?;
                self.temporary.lock().insert(key, Temporary::Whole(twin));
                file
            }
        };
        Disk::of_nameless(file, &name).map_err(wrong)
    }

    fn make_temporary(&self, name: &Path) -> Result<File, Error> {
        let file = self.nameless()?;
        file.set_len(self.bytes(self.config.create_mib)?).map_err(self.cannot("make"))?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
        self.format(&path, name).map_err(wrong)?;
        Ok(file)
    }

    /// What was changed of an image that is not written.
    fn changes(&self, path: &Path) -> Result<Arc<Changes>, Error> {
        let mut kept = self.temporary.lock();
        let key = (self.machine.to_owned(), self.index);
        if let Some(Temporary::Changes(changes)) = kept.get(&key) {
            return Ok(Arc::clone(changes));
        }
        let name = format!("{} (temporary changes)", path.display());
        let changes = Changes::new(self.nameless()?, Path::new(&name)).map_err(wrong)?;
        kept.insert(key, Temporary::Changes(Arc::clone(&changes)));
        Ok(changes)
    }

    /// An empty file that goes away with the process.
    fn nameless(&self) -> Result<File, Error> {
        if self.config.memory {
            let file = memfd_create(format!("disk:{}", self.machine), MemfdFlags::CLOEXEC);
            return file.map(File::from).map_err(std::io::Error::from).map_err(self.cannot("make"));
        }
        let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
        let folder = folder.map_or_else(|| PathBuf::from(TEMPORARY), PathBuf::from);
        tempfile::tempfile_in(&folder).map_err(|source| Error::Host {
            what: format!(
                "make a file for disk {} of {} in {}",
                self.number(),
                self.machine,
                folder.display()
            ),
            source,
        })
    }

    /// Makes the file system that the configuration asks for; `draft` is where, `path` what the user calls it.
    fn format(&self, draft: &Path, path: &Path) -> Result<(), DiskError> {
        let Some(filesystem) = self.config.filesystem else { return Ok(()) };
        let unusable = |why: String| DiskError::Unusable { path: path.to_owned(), why };
        let program = format!("mkfs.{}", filesystem.name());
        let mut command = Command::new(find(&program));
        match filesystem {
            FileSystem::Ext4 => command.args(["-q", "-F"]),
            FileSystem::Xfs => command.args(["-q", "-f"]),
            FileSystem::Btrfs => command.args(["-q", "-f"]),
        };
        if let Some(label) = &self.config.label {
            command.arg("-L").arg(label);
        }
        let output = command.arg(draft).stdin(std::process::Stdio::null()).output().map_err(|error| {
            unusable(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    format!("there is no {program} to make its file system; install {}", package(filesystem))
                }
                _ => format!("{program}, which makes its file system, cannot be run: {error}"),
            })
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Err(unusable(format!("{program} made no file system there ({}): {said}", output.status)))
    }

    fn bytes(&self, mib: Option<u64>) -> Result<u64, Error> {
        let mib = mib.unwrap_or(0);
        mib.checked_mul(MIB).ok_or_else(|| {
            Error::Disk(format!(
                "A disk of {mib} MiB is too large: disk {} of {}",
                self.number(),
                self.machine
            ))
        })
    }

    /// As people count.
    fn number(&self) -> usize {
        self.index.saturating_add(1)
    }

    fn cannot(&self, what: &'static str) -> impl Fn(std::io::Error) -> Error {
        let what = format!("{what} temporary disk {} of {}", self.number(), self.machine);
        move |source| Error::Host { what: what.clone(), source }
    }
}

/// Where a program is, or its name alone when it is nowhere.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_PROGRAMS.map(PathBuf::from));
    folders
        .map(|folder| folder.join(program))
        .find(|it| it.is_file())
        .unwrap_or_else(|| PathBuf::from(program))
}

fn package(filesystem: FileSystem) -> &'static str {
    match filesystem {
        FileSystem::Ext4 => "e2fsprogs",
        FileSystem::Xfs => "xfsprogs",
        FileSystem::Btrfs => "btrfs-progs",
    }
}

fn driver(format: ImageFormat) -> Format {
    match format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
    }
}

/// With the cause, which the machine's error has no place for.
fn wrong(error: DiskError) -> Error {
    Error::Disk(match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn open(config: &DiskConfig, temporary: &TemporaryDisks) -> Result<Disk, String> {
        let opener = Opener { config, machine: "m", index: 0, temporary };
        opener.open().map_err(|error| error.to_string())
    }

    fn filesystem(path: &Path, config: DiskConfig) -> DiskConfig {
        let label = Some("nixos".to_owned());
        DiskConfig { path: Some(path.to_owned()), filesystem: Some(FileSystem::Ext4), label, ..config }
    }

    #[test]
    fn a_temporary_disk_is_there_again_for_the_next_machine_of_its_name() {
        for memory in [false, true] {
            let (config, kept) =
                (DiskConfig { memory, ..DiskConfig::temporary(8) }, TemporaryDisks::default());
            let disk = open(&config, &kept).unwrap();
            assert_eq!(disk.sectors(), 8 * 2048);
            drop(disk);
            let map = kept.0.lock().unwrap();
            let Some(Temporary::Whole(file)) = map.get(&("m".to_owned(), 0)) else { panic!("{map:?}") };
            assert_eq!((file.metadata().unwrap().nlink(), file.metadata().unwrap().blocks()), (0, 0));
            let first = file.metadata().unwrap().ino();
            drop(map);
            open(&config, &kept).unwrap();
            let map = kept.0.lock().unwrap();
            let Some(Temporary::Whole(file)) = map.get(&("m".to_owned(), 0)) else { panic!("{map:?}") };
            assert_eq!(file.metadata().unwrap().ino(), first);
        }
    }

    #[test]
    fn images_are_made_once_and_their_bases_are_shared() {
        let folder = tempfile::tempdir().unwrap();
        let (base, over) = (folder.path().join("base.img"), folder.path().join("over.qcow2"));
        std::fs::write(&base, vec![1; 1 << 20]).unwrap();
        let config = DiskConfig {
            backing_file: Some(base.clone()),
            create_mib: Some(3),
            ..DiskConfig::of_image(&over)
        };
        let kept = TemporaryDisks::default();
        for _ in 0..2 {
            assert_eq!(open(&config, &kept).unwrap().sectors(), 3 * 2048);
        }
        let snapshot = DiskConfig { snapshot: true, ..DiskConfig::of_image(&base) };
        let disks = [open(&snapshot, &kept).unwrap(), open(&snapshot, &kept).unwrap()];
        assert!(disks.iter().all(|disk| !disk.is_read_only()));
        drop(disks);
        let elsewhere = DiskConfig { backing_file: Some(over.clone()), ..config };
        assert!(open(&elsewhere, &kept).unwrap_err().contains("was not made over"));
    }

    #[test]
    fn a_file_system_is_made_or_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.img");
        let kept = TemporaryDisks::default();
        let config = filesystem(&path, DiskConfig { create_mib: Some(16), ..DiskConfig::default() });
        open(&config, &kept).unwrap();
        let content = std::fs::read(&path).unwrap();
        // ext4: the magic number and the label of its superblock, 1024 bytes in.
        assert_eq!((&content[1080..1082], &content[1144..1150]), (&[0x53, 0xef][..], &b"nixos\0"[..]));
        let small = folder.path().join("small.img");
        let xfs = DiskConfig {
            filesystem: Some(FileSystem::Xfs),
            ..filesystem(&small, DiskConfig { create_mib: Some(1), ..DiskConfig::default() })
        };
        // Too small, or there is no such program here.
        let error = open(&xfs, &kept).unwrap_err();
        assert!(error.contains("small.img") && error.contains("mkfs.xfs"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let temporary = DiskConfig { path: None, ..config };
        open(&temporary, &kept).unwrap();
    }

    #[test]
    fn what_cannot_be_is_said_with_the_disk_and_the_cause() {
        let kept = TemporaryDisks::default();
        let error = open(&DiskConfig::of_image("/none/such.img"), &kept).unwrap_err();
        assert!(error.contains("/none/such.img") && error.contains("No such file"), "{error}");
        let error = open(&DiskConfig::default(), &kept).unwrap_err();
        assert!(error.contains("Disk 1 of m: `path`"), "{error}");
    }
}
