//! The user's cache folder: files of Snowboot's own making that later runs find again.
//!
//! A file of it appears whole or not at all, by a rename, so that processes may share the folder. What is in it reaches
//! guests, so nothing is believed that another user could have put there. Knows nothing of what the files are.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

/// How the names of files begin that are being written.
const UNFINISHED: &str = ".making-";
/// Nobody takes that long to write one: whoever began it was killed.
const ABANDONED: Duration = Duration::from_secs(3600);
/// What others than the owner must not do with a file that is to be believed.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A file that was changed so short a time ago may change again without a new time stamp: the kernel's are as coarse as its
/// timer, some file systems' as a second or two.
pub const SETTLED: Duration = Duration::from_secs(3);

/// A folder of cached files, which is made when the first one is kept.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// How much of a kind of files a folder keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// At most so many.
    pub files: usize,
    /// At most so many bytes in all, as far as the disk has them, but at least the newest.
    pub bytes: u64,
}

impl Folder {
    /// At `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder for one `kind` of files below the one that the environment names: `SNOWBOOT_CACHE_DIR`, or `snowboot` in
    /// `XDG_CACHE_HOME` or `~/.cache`. `None` without any of them.
    #[must_use]
    pub fn of_user(kind: &str) -> Option<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("SNOWBOOT_CACHE_DIR")
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("snowboot")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/snowboot")))
            .map(|folder| Self::new(folder.join(kind)))
    }

    /// Where a file of this name is, or would be.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file, if only this user, or the one whose folder the administrator names, can have written it. A warning says when
    /// one is there that is not believed.
    #[must_use]
    pub fn open(&self, name: &str) -> Option<File> {
        let path = self.file(name);
        let file = File::open(&path).ok()?;
        let is_trusted = is_trusted(&file, &self.path);
        if !is_trusted {
            tracing::warn!(
                path = %path.display(),
                "a cached file is not used: it or its folder is another user's, or others can write to it"
            );
        }
        is_trusted.then_some(file)
    }

    /// Makes a file that is there whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut draft = self.draft()?;
        draft.write_all(content)?;
        draft.persist(self.file(name))?;
        Ok(())
    }

    /// A file under way, which goes away unless it is given a name ([`NamedTempFile::persist`]).
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn draft(&self) -> io::Result<NamedTempFile> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.path)
    }

    /// Keeps other processes from doing the same until it is dropped, and waits for those that do.
    ///
    /// # Errors
    /// When the folder cannot be made. Where its file system has no locks, nobody is waited for.
    pub fn lock(&self) -> io::Result<Lock> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let folder = File::open(&self.path)?;
        let _ = folder.lock();
        Ok(Lock { _folder: folder })
    }

    /// Removes, of the files whose names end in `suffix`, what was changed the longest time ago and is beyond the bound, and
    /// what was never finished.
    pub fn make_room(&self, suffix: &str, bound: Bound) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        let mut ours = Vec::new();
        for entry in entries.filter_map(Result::ok) {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            let Ok(changed) = metadata.modified() else { continue };
            if path.extension().is_some_and(|it| it == suffix) {
                ours.push((changed, path, metadata.blocks().saturating_mul(512)));
            } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && changed.elapsed().is_ok_and(|age| age > ABANDONED)
            {
                let _ = fs::remove_file(path);
            }
        }
        ours.sort();
        let mut bytes: u64 = 0;
        for (index, (_, path, size)) in ours.iter().rev().enumerate() {
            bytes = bytes.saturating_add(*size);
            if index >= bound.files || index > 0 && bytes > bound.bytes {
                // Another process may have been quicker.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// See [`Folder::lock`].
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// Has a file that was used stay longer. Where its clock cannot be set, the oldest goes first.
pub fn mark_used(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// Whether a file or folder that last changed at `seconds` and `now` can change no more without showing it.
#[must_use]
pub fn is_settled(seconds: i64, now: SystemTime) -> bool {
    let changed = u64::try_from(seconds)
        .ok()
        .and_then(|it| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(it)));
    // One from the future cannot be told from one that is being written.
    changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age >= SETTLED)
}

fn is_trusted(file: &File, folder: &Path) -> bool {
    let (Ok(file), Ok(folder)) = (file.metadata(), fs::metadata(folder)) else { return false };
    let me = rustix::process::geteuid();
    let is_mine = folder.uid() == me.as_raw() || me.is_root();
    is_mine && file.uid() == folder.uid() && (file.mode() | folder.mode()) & WRITABLE_BY_OTHERS == 0
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ALL: Bound = Bound { files: usize::MAX, bytes: u64::MAX };

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().join("a/b"));
        assert!(folder.open("x").is_none());
        drop(folder.draft().unwrap());
        folder.write("x", b"1").unwrap();
        folder.write("x", b"2").unwrap();
        assert_eq!(fs::read(folder.file("x")).unwrap(), b"2");
        assert!(folder.open("x").is_some());
        assert_eq!(names(&place.path().join("a/b")), ["x"]);
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        folder.write("x", b"1").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for (path, bad, good) in [(folder.file("x"), 0o620, 0o600), (place.path().to_owned(), 0o777, 0o700)] {
            set(&path, bad);
            assert!(folder.open("x").is_none(), "{} {bad:o}", path.display());
            set(&path, good);
        }
        assert!(folder.open("x").is_some());
    }

    #[test]
    fn the_newest_stay_within_the_bounds() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        for (name, age) in [("1.img", 4), ("2.img", 3), ("3.img", 2), ("4.img", 1), ("other", 9)] {
            folder.write(name, &[1; 8192]).unwrap();
            let file = File::options().append(true).open(folder.file(name)).unwrap();
            file.set_modified(long_ago - Duration::from_secs(age)).unwrap();
        }
        mark_used(&folder.open("1.img").unwrap());
        folder.make_room("img", ALL);
        assert_eq!(names(place.path()).len(), 5);
        folder.make_room("img", Bound { files: 3, ..ALL });
        assert_eq!(names(place.path()), ["1.img", "3.img", "4.img", "other"]);
        folder.make_room("img", Bound { bytes: 17_000, ..ALL });
        assert_eq!(names(place.path()), ["1.img", "4.img", "other"]);
        folder.make_room("img", Bound { bytes: 0, ..ALL });
        assert_eq!(names(place.path()), ["1.img", "other"]);
    }

    #[test]
    fn what_was_never_finished_goes_away() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path());
        folder.write(".making-old", b"").unwrap();
        folder.write(".making-new", b"").unwrap();
        let old = File::options().append(true).open(folder.file(".making-old")).unwrap();
        old.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        folder.make_room("img", ALL);
        assert_eq!(names(place.path()), [".making-new"]);
    }

    #[test]
    fn only_one_holds_the_lock() {
        let place = tempfile::tempdir().unwrap();
        let lock = Folder::new(place.path()).lock().unwrap();
        let other = File::open(place.path()).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        other.try_lock().unwrap();
    }

    #[test]
    fn what_changed_just_now_or_will_is_not_settled() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!([96, 97, 98, 101, -1].map(|it| is_settled(it, now)), [true, true, false, false, false]);
    }
}
