//! Unpacked kernels, kept so that each is unpacked once: in this process for machines that are built at the same time,
//! and in a folder for later runs.
//!
//! A kernel is known by the hash of its packed payload. A file of the folder appears whole or not at all, by a rename;
//! processes may share a folder. What is in it runs in guests, so nothing is believed that another user could have put
//! there.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::payload;

/// Kernels that a folder keeps. Each is 30 to 80 MB; who works on kernels makes many.
const KEPT: usize = 8;
/// How the names of our files end.
const SUFFIX: &str = "vmlinux";
/// How the names of files begin that are being written.
const UNFINISHED: &str = ".unpacking-";
/// Nobody takes that long to write one: whoever began it was killed.
const ABANDONED: Duration = Duration::from_secs(3600);
/// What others than the owner must not do with a kernel that is to run in our guests.
const WRITABLE_BY_OTHERS: u32 = 0o022;

type Key = [u8; 32];

/// Where unpacked kernels are kept. One for a whole process serves all its machines.
#[derive(Debug, Default)]
pub struct KernelCache {
    folder: Option<PathBuf>,
    /// Held while a kernel is unpacked: who wants the same one waits for it instead of unpacking it as well.
    unpacked: Mutex<HashMap<Key, Weak<Vec<u8>>>>,
}

impl KernelCache {
    /// Keeps kernels in `folder`, which is made when the first one is kept. A folder that cannot be written costs time,
    /// and is no error.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), unpacked: Mutex::default() }
    }

    /// Keeps kernels only while a machine is being built from them.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// The folder that the environment names: `SNOWBOOT_CACHE_DIR`, or `snowboot` in `XDG_CACHE_HOME` or `~/.cache`.
    /// Without any of them kernels are kept in memory only.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("SNOWBOOT_CACHE_DIR")
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("snowboot")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/snowboot")));
        Self { folder: folder.map(|folder| folder.join("kernels")), unpacked: Mutex::default() }
    }

    /// The unpacked form of a bzImage's payload; the error says why there is none.
    pub(super) fn unpack(&self, packed: &[u8]) -> Result<Arc<Vec<u8>>, String> {
        let key: Key = Sha256::digest(packed).into();
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = unpacked.get(&key).and_then(Weak::upgrade) {
            return Ok(kernel);
        }
        let kernel = Arc::new(match self.read(&key, payload::announced_size(packed)) {
            Some(kernel) => kernel,
            None => {
                let kernel = payload::unpack(packed)?;
                self.keep(&key, &kernel);
                kernel
            }
        });
        unpacked.retain(|_, kernel| kernel.strong_count() > 0);
        unpacked.insert(key, Arc::downgrade(&kernel));
        Ok(kernel)
    }

    fn file(&self, key: &Key) -> Option<PathBuf> {
        let name: String = key.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(format!("{name}.{SUFFIX}")))
    }

    /// A file of another size than announced is not ours, or was cut by a full disk.
    fn read(&self, key: &Key, size: Option<usize>) -> Option<Vec<u8>> {
        let path = self.file(key)?;
        let mut file = fs::File::open(&path).ok()?;
        if !is_trusted(&file, path.parent()?) {
            tracing::info!("{} is not used: others than you can write there", path.display());
            return None;
        }
        let mut kernel = Vec::with_capacity(size?);
        file.read_to_end(&mut kernel).ok()?;
        // What is used stays; where the clock cannot be set, the oldest file goes first.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(kernel).filter(|kernel| Some(kernel.len()) == size)
    }

    fn keep(&self, key: &Key, kernel: &[u8]) {
        let Some(path) = self.file(key) else { return };
        let Some(folder) = path.parent() else { return };
        let kept = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder))
            .and_then(|mut file| file.write_all(kernel).map(|()| file))
            .and_then(|file| file.persist(&path).map_err(|error| error.error));
        match kept {
            Ok(_) => self.make_room(),
            Err(error) => tracing::info!("the unpacked kernel is not kept in {}: {error}", folder.display()),
        }
    }

    /// Removes the kernels that were not used for the longest time, and what was never finished.
    fn make_room(&self) {
        let Some(entries) = self.folder.as_ref().and_then(|folder| fs::read_dir(folder).ok()) else { return };
        let files: Vec<(SystemTime, PathBuf)> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter_map(|path| Some((fs::metadata(&path).and_then(|it| it.modified()).ok()?, path)))
            .collect();
        let is_kernel = |path: &Path| path.extension().is_some_and(|suffix| suffix == SUFFIX);
        let (mut kernels, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(_, path)| is_kernel(path));
        kernels.sort();
        kernels.truncate(kernels.len().saturating_sub(KEPT));
        let abandoned = others.into_iter().filter(|(changed, path)| {
            let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
            is_ours && changed.elapsed().is_ok_and(|age| age > ABANDONED)
        });
        for (_, path) in kernels.into_iter().chain(abandoned) {
            // Another process may have been quicker.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether only this user, or the one whose folder the administrator names, can have written the file.
fn is_trusted(file: &fs::File, folder: &Path) -> bool {
    let (Ok(file), Ok(folder)) = (file.metadata(), fs::metadata(folder)) else { return false };
    let me = rustix::process::geteuid();
    let is_mine = folder.uid() == me.as_raw() || me.is_root();
    is_mine && file.uid() == folder.uid() && (file.mode() | folder.mode()) & WRITABLE_BY_OTHERS == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut payload = zstd::encode_all(content, 1).unwrap();
        payload.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        payload
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_kernel_is_unpacked_once_and_then_read() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = packed(b"the kernel");
        assert_eq!(KernelCache::in_folder(folder.path()).unpack(&kernel).unwrap().as_slice(), b"the kernel");
        let [file] = files(folder.path()).try_into().unwrap();
        // Of the right size, so it is believed; which shows that the second time reads and does not unpack.
        fs::write(&file, b"THE KERNEL").unwrap();
        assert_eq!(KernelCache::in_folder(folder.path()).unpack(&kernel).unwrap().as_slice(), b"THE KERNEL");
        fs::write(&file, b"THE KERN").unwrap();
        assert_eq!(KernelCache::in_folder(folder.path()).unpack(&kernel).unwrap().as_slice(), b"the kernel");
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = packed(b"the kernel");
        KernelCache::in_folder(folder.path()).unpack(&kernel).unwrap();
        let [file] = files(folder.path()).try_into().unwrap();
        fs::write(&file, b"THE KERNEL").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for (path, bad, good) in [(file.as_path(), 0o620, 0o600), (folder.path(), 0o777, 0o700)] {
            set(path, bad);
            let unpacked = KernelCache::in_folder(folder.path()).unpack(&kernel).unwrap();
            assert_eq!(unpacked.as_slice(), b"the kernel", "{} {bad:o}", path.display());
            set(path, good);
        }
    }

    #[test]
    fn what_was_never_finished_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join(".unpacking-old"), folder.path().join(".unpacking-new"));
        fs::write(&old, "").unwrap();
        fs::write(&new, "").unwrap();
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        KernelCache::in_folder(folder.path()).unpack(&packed(b"x")).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn machines_that_are_built_together_share_one_copy() {
        let cache = KernelCache::in_memory();
        let kernel = packed(b"x");
        let first = cache.unpack(&kernel).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.unpack(&kernel).unwrap()));
        drop(first);
        cache.unpack(&packed(b"y")).unwrap();
        assert_eq!(cache.unpacked.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_folder_keeps_the_newest_and_one_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::in_folder(folder.path());
        for number in 0..=KEPT {
            cache.unpack(&packed(&[u8::try_from(number).unwrap()])).unwrap();
        }
        assert_eq!(files(folder.path()).len(), KEPT);
        let file = tempfile::NamedTempFile::new().unwrap();
        KernelCache::in_folder(file.path().join("x")).unpack(&packed(b"z")).unwrap();
        assert!(KernelCache::in_memory().unpack(b"....").is_err());
    }
}
