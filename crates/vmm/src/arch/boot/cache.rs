//! Unpacked kernels, kept so that each is unpacked once: in this process for machines that are built at the same time,
//! and in a folder for later runs.
//!
//! A kernel is known by the hash of its packed payload. A file that was hashed once is known by where it is and when it
//! was last changed, so that it is not even read again. What is in the folder runs in guests, so nothing is believed that
//! another user could have put there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};
use snowboot_cache::{Bound, Folder};

use super::payload;

/// Kernels that a folder keeps. Each is 30 to 80 MB; who works on kernels makes many.
const KEPT: Bound = Bound { files: 8, bytes: u64::MAX };
/// How the names of our files end.
const SUFFIX: &str = "vmlinux";
/// How the names of files end that say what a packed kernel's key is.
const KNOWN_SUFFIX: &str = "known";
/// Packed kernels whose key a folder remembers. Each takes up one block.
const KNOWN_KEPT: Bound = Bound { files: 256, bytes: u64::MAX };
type Key = [u8; 32];

/// Where unpacked kernels are kept. One for a whole process serves all its machines.
#[derive(Debug, Default)]
pub struct KernelCache {
    folder: Option<Folder>,
    /// Held while a kernel is unpacked: who wants the same one waits for it instead of unpacking it as well.
    kernels: Mutex<Kernels>,
}

#[derive(Debug, Default)]
struct Kernels {
    unpacked: HashMap<Key, Weak<File>>,
    known: HashMap<Identity, Key>,
}

/// What tells a packed kernel from others without reading it: its file, the time of its last change, and where it is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity(Key);

impl Identity {
    /// `None` for a file that may still be in the making.
    fn of(file: &File, payload: &Range<u64>, now: SystemTime) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        // The time of the last change of the file or of what is told about it: nobody can set it back.
        if !snowboot_cache::is_settled(metadata.ctime(), now) {
            return None;
        }
        let mut hash = Sha256::new();
        for number in [metadata.dev(), metadata.ino(), metadata.len(), payload.start, payload.end] {
            hash.update(number.to_le_bytes());
        }
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        times.iter().for_each(|number| hash.update(number.to_le_bytes()));
        Some(Self(hash.finalize().into()))
    }
}

impl KernelCache {
    /// Keeps kernels in `folder`, which is made when the first one is kept. A folder that cannot be written costs time,
    /// and is no error.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(Folder::new(folder)), kernels: Mutex::default() }
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
        Self { folder: Folder::of_user("kernels"), kernels: Mutex::default() }
    }

    /// The unpacked form of the kernel that is packed in this part of `file`; the error says why there is none.
    pub(super) fn unpack(&self, file: &File, payload: &Range<u64>) -> Result<Arc<File>, String> {
        self.unpack_at(file, payload, SystemTime::now())
    }

    fn unpack_at(&self, file: &File, payload: &Range<u64>, now: SystemTime) -> Result<Arc<File>, String> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity::of(file, payload, now);
        let known =
            identity.as_ref().and_then(|it| kernels.known.get(it).copied().or_else(|| self.recall(it)));
        let (key, packed) = match known {
            Some(key) => (key, None),
            None => {
                let packed = read_part(file, payload).map_err(|error| error.to_string())?;
                (Sha256::digest(&packed).into(), Some(packed))
            }
        };
        let kept = kernels.unpacked.get(&key).and_then(Weak::upgrade);
        let kept = kept.or_else(|| Some(Arc::new(self.open(&key, announced_size(file, payload)?)?)));
        let kernel = match (kept, packed) {
            (Some(kernel), _) => kernel,
            (None, Some(packed)) => Arc::new(self.make(&key, &packed)?),
            (None, None) => {
                let packed = read_part(file, payload).map_err(|error| error.to_string())?;
                Arc::new(self.make(&key, &packed)?)
            }
        };
        kernels.unpacked.retain(|_, kernel| kernel.strong_count() > 0);
        kernels.unpacked.insert(key, Arc::downgrade(&kernel));
        if let Some(identity) = identity {
            if known.is_none() {
                self.remember(&identity, &key);
            }
            kernels.known.insert(identity, key);
        }
        Ok(kernel)
    }

    /// The key of a packed kernel that was hashed before.
    fn recall(&self, identity: &Identity) -> Option<Key> {
        let file = self.folder.as_ref()?.open(&file_name(&identity.0, KNOWN_SUFFIX))?;
        let mut key = Key::default();
        file.read_exact_at(&mut key, 0).ok()?;
        Some(key)
    }

    fn remember(&self, identity: &Identity, key: &Key) {
        if let Some(folder) = &self.folder
            && let Err(error) = folder.write(&file_name(&identity.0, KNOWN_SUFFIX), key)
        {
            tracing::debug!("the kernel will be hashed again: {error}");
        }
    }

    /// A kept kernel. A file of another size than announced is not ours, or was cut by a full disk.
    fn open(&self, key: &Key, size: u64) -> Option<File> {
        let file = self.folder.as_ref()?.open(&file_name(key, SUFFIX))?;
        snowboot_cache::mark_used(&file);
        (file.metadata().ok()?.len() == size).then_some(file)
    }

    /// Unpacks a kernel, and keeps it where that is possible.
    fn make(&self, key: &Key, packed: &[u8]) -> Result<File, String> {
        let kernel = payload::unpack(packed)?;
        if let Some(folder) = &self.folder {
            let name = file_name(key, SUFFIX);
            match folder.write(&name, &kernel).and_then(|()| File::open(folder.file(&name))) {
                Ok(file) => {
                    folder.make_room(SUFFIX, KEPT);
                    folder.make_room(KNOWN_SUFFIX, KNOWN_KEPT);
                    return Ok(file);
                }
                Err(error) => tracing::info!("the unpacked kernel is not kept: {error}"),
            }
        }
        in_memory(&kernel).map_err(|error| format!("the host has no room for it: {error}"))
    }
}

/// Half of the key is enough to tell files apart.
fn file_name(key: &Key, suffix: &str) -> String {
    let hash: String = key.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}.{suffix}")
}

/// What the payload says its size is when it is unpacked.
fn announced_size(file: &File, payload: &Range<u64>) -> Option<u64> {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, payload.start).ok()?;
    // An ELF image is not packed, and ends in nothing of the kind.
    if super::elf::is_elf(&magic) {
        return payload.end.checked_sub(payload.start);
    }
    let mut size = [0; 4];
    file.read_exact_at(&mut size, payload.end.checked_sub(4)?).ok()?;
    Some(u32::from_le_bytes(size).into())
}

fn read_part(file: &File, part: &Range<u64>) -> io::Result<Vec<u8>> {
    let length = part.end.saturating_sub(part.start);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, part.start)?;
    Ok(bytes)
}

fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("snowboot-kernel", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use snowboot_cache::SETTLED;

    use super::*;

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut payload = zstd::encode_all(content, 1).unwrap();
        payload.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        payload
    }

    fn file(content: &[u8]) -> (File, Range<u64>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        (file, 0..u64::try_from(content.len()).unwrap())
    }

    fn content(kernel: &File) -> Vec<u8> {
        read_part(kernel, &(0..kernel.metadata().unwrap().len())).unwrap()
    }

    /// Of a file that was made just now.
    fn unpack(cache: &KernelCache, packed: &[u8]) -> Result<Arc<File>, String> {
        let (file, payload) = file(packed);
        cache.unpack(&file, &payload)
    }

    fn unpacked(cache: &KernelCache, packed: &[u8]) -> Vec<u8> {
        content(&unpack(cache, packed).unwrap())
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_kernel_is_unpacked_once_and_then_read() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = packed(b"the kernel");
        assert_eq!(unpacked(&KernelCache::in_folder(folder.path()), &kernel), b"the kernel");
        let [file] = files(folder.path()).try_into().unwrap();
        // Of the right size, so it is believed; which shows that the second time reads and does not unpack.
        fs::write(&file, b"THE KERNEL").unwrap();
        assert_eq!(unpacked(&KernelCache::in_folder(folder.path()), &kernel), b"THE KERNEL");
        fs::write(&file, b"THE KERN").unwrap();
        assert_eq!(unpacked(&KernelCache::in_folder(folder.path()), &kernel), b"the kernel");
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = packed(b"the kernel");
        unpack(&KernelCache::in_folder(folder.path()), &kernel).unwrap();
        let [file] = files(folder.path()).try_into().unwrap();
        fs::write(&file, b"THE KERNEL").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for (path, bad, good) in [(file.as_path(), 0o620, 0o600), (folder.path(), 0o777, 0o700)] {
            set(path, bad);
            let unpacked = unpacked(&KernelCache::in_folder(folder.path()), &kernel);
            assert_eq!(unpacked, b"the kernel", "{} {bad:o}", path.display());
            set(path, good);
        }
    }

    #[test]
    fn machines_that_are_built_together_share_one_copy() {
        let cache = KernelCache::in_memory();
        let kernel = packed(b"x");
        let first = unpack(&cache, &kernel).unwrap();
        assert!(Arc::ptr_eq(&first, &unpack(&cache, &kernel).unwrap()));
        drop(first);
        unpack(&cache, &packed(b"y")).unwrap();
        assert_eq!(cache.kernels.lock().unwrap().unpacked.len(), 1);
    }

    #[test]
    fn a_folder_keeps_the_newest_and_one_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::in_folder(folder.path());
        for number in 0..=KEPT.files {
            unpack(&cache, &packed(&[u8::try_from(number).unwrap()])).unwrap();
        }
        assert_eq!(files(folder.path()).len(), KEPT.files);
        let file = tempfile::NamedTempFile::new().unwrap();
        unpack(&KernelCache::in_folder(file.path().join("x")), &packed(b"z")).unwrap();
        assert!(unpack(&KernelCache::in_memory(), b"....").is_err());
    }

    #[test]
    fn a_kernel_that_was_hashed_is_known_until_its_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut kernel, payload) = file(&packed(b"first"));
        let later = SystemTime::now() + 2 * SETTLED;
        let get = |kernel: &File, now| {
            content(&KernelCache::in_folder(folder.path()).unpack_at(kernel, &payload, now).unwrap())
        };
        assert_eq!(get(&kernel, later), b"first");
        let known: Vec<_> = files(folder.path());
        assert_eq!(known.len(), 2, "{known:?}");
        // What it says is believed: another kernel's key gives that kernel, and nothing was read or hashed.
        unpack(&KernelCache::in_folder(folder.path()), &packed(b"other")).unwrap();
        let key: Key = Sha256::digest(packed(b"other")).into();
        let known = known.iter().find(|path| path.extension().is_some_and(|it| it == KNOWN_SUFFIX)).unwrap();
        fs::write(known, key).unwrap();
        assert_eq!(get(&kernel, later), b"other");
        // One that may still be written to is not known, nor is one that was.
        assert_eq!(get(&kernel, SystemTime::now()), b"first");
        io::Seek::rewind(&mut kernel).unwrap();
        kernel.write_all(&packed(b"again")).unwrap();
        kernel.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(get(&kernel, later), b"again");
    }
}
