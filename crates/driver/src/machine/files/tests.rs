//! Copies to and from a bash of this host in the place of a guest, and what a guest must not be able to do.

use std::ffi::OsString;
use std::io::{Cursor, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::tests::{driver, one};
use crate::{Driver, ErrorKind};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn with(cmdline: &str) -> (Driver, MachineHandle) {
    let (driver, _) = driver(&[("a", cmdline)], 600);
    let machine = driver.machines()[0].clone();
    (driver, machine)
}

/// Names that shells and archives are known to trip over.
fn odd_names() -> Vec<OsString> {
    let mut names: Vec<OsString> =
        ["a b", "it's \"so\"", "new\nline", "-n", "$HOME `id`", "back\\slash", "ä", "*", " ", "\n"]
            .map(Into::into)
            .into();
    names.push(OsString::from_vec(b"not \xff\xfe text".to_vec()));
    names.push("x".repeat(255).into());
    names
}

/// A folder with everything that can be in one.
fn tree(folder: &Path) -> PathBuf {
    let root = folder.join("a tree");
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    for name in odd_names() {
        fs::write(root.join(&name), name.as_bytes()).unwrap();
        fs::create_dir(root.join("sub").join(&name)).unwrap();
        fs::write(root.join("sub").join(&name).join(&name), "within").unwrap();
    }
    fs::write(root.join("program"), "#!/bin/sh\n").unwrap();
    set_mode(&root.join("program"), 0o755);
    set_mode(&root.join("sub/empty"), 0o711);
    set_mode(&root, 0o750);
    symlink("program", root.join("link")).unwrap();
    symlink("sub", root.join("folder-link")).unwrap();
    symlink("nowhere".repeat(20), root.join("dangling")).unwrap();
    root
}

/// The paths below a folder, with kind, mode and content.
fn listing(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else if about.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.push((path.strip_prefix(root).unwrap().to_owned(), mode(&path), content));
        }
    }
    found.sort();
    found
}

#[test]
fn files_and_folders_arrive_as_cp_would_have_them() {
    for cmdline in ["", "no-port"] {
        let (_driver, machine) = with(cmdline);
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path(), folder.path().join("guest"));
        fs::write(here.join("file"), "content").unwrap();
        set_mode(&here.join("file"), 0o751);
        // Into folders that are made, over one that is there, into a folder, through a link.
        let target = there.join("deep/er/copy");
        machine.copy_from_host(&here.join("file"), &target).unwrap();
        assert_eq!((fs::read(&target).unwrap(), mode(&target)), (b"content".to_vec(), 0o751));
        set_mode(&target, 0o600);
        symlink("copy", there.join("deep/er/link")).unwrap();
        fs::write(here.join("file"), "other").unwrap();
        machine.copy_from_host(&here.join("file"), &there.join("deep/er/link")).unwrap();
        assert_eq!((fs::read(&target).unwrap(), mode(&target)), (b"other".to_vec(), 0o600));
        machine.copy_from_host(&here.join("file"), &there.join("deep/")).unwrap();
        assert_eq!(fs::read(there.join("deep/file")).unwrap(), b"other");
        machine.copy_from_host(&here.join("file"), Path::new("/dev/null")).unwrap();
        machine.succeed(&["[ -c /dev/null ]"], None).unwrap();
        // A folder: to a new name, then into what is there now.
        let root = tree(here);
        for copy in ["new", "new/a tree"] {
            machine.copy_from_host(&root, &there.join("new")).unwrap();
            assert_eq!(listing(&root), listing_of_copy(&there.join(copy)));
            assert_eq!(mode(&there.join(copy)), 0o750);
        }
        let left: Vec<_> = fs::read_dir(there.join("deep/er")).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

/// Without what a second copy has put there.
fn listing_of_copy(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = listing(root);
    all.retain(|(path, ..)| !path.starts_with("a tree"));
    all
}

#[test]
fn files_and_folders_come_back_as_they_are() {
    for cmdline in ["", "no-port"] {
        let (_driver, machine) = with(cmdline);
        let folder = tempfile::tempdir().unwrap();
        let (guest, out) = (folder.path(), folder.path().join("out/more"));
        let root = tree(guest);
        let made = machine.copy_from_machine(&root, &out).unwrap();
        assert_eq!(made, out.join("a tree"));
        assert_eq!(listing(&made), listing(&root));
        assert_eq!(mode(&made), 0o750);
        // A folder must be new, and stays as it is; a file is replaced.
        let error = machine.copy_from_machine(&root, &out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostFile);
        assert!(error.to_string().contains("a: cannot write the host's file"), "{error}");
        assert_eq!(listing(&made), listing(&root));
        for name in odd_names() {
            for content in ["one", "two"] {
                fs::write(guest.join(&name), content).unwrap();
                let made = machine.copy_from_machine(&guest.join(&name), &out).unwrap();
                assert_eq!(fs::read_to_string(made).unwrap(), content);
            }
        }
        // Through the link, under its name.
        let made = machine.copy_from_machine(&root.join("link"), &out).unwrap();
        assert_eq!((fs::read(&made).unwrap(), mode(&made)), (b"#!/bin/sh\n".to_vec(), 0o755));
        assert!(!made.is_symlink());
        assert_eq!(fs::read_dir(&out).unwrap().count(), odd_names().len() + 2);
    }
}

#[test]
fn odd_names_are_no_commands() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    for name in odd_names() {
        let source = folder.path().join(&name);
        fs::write(&source, name.as_bytes()).unwrap();
        let target = folder.path().join("to").join(&name).join(&name);
        machine.copy_from_host(&source, &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), name.as_bytes());
        machine.copy_from_host_via_shell(&source, &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), name.as_bytes());
    }
    // Relative paths are those of the guest's shell.
    machine.succeed(&["true"], None).unwrap();
    let error = machine.copy_from_machine(Path::new("-no-such-file"), folder.path()).unwrap_err();
    assert!(error.to_string().contains("./-no-such-file: no such file or folder"), "{error}");
}

#[test]
fn sizes_do_not_matter() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    for size in [0, 1, 48 * 1024, 48 * 1024 + 1, 3_000_001] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        fs::write(&here, &bytes).unwrap();
        machine.copy_from_host(&here, &there).unwrap();
        assert_eq!(fs::read(&there).unwrap(), bytes);
        fs::remove_file(&there).unwrap();
        machine.copy_from_host_via_shell(&here, &there).unwrap();
        assert_eq!(fs::read(&there).unwrap(), bytes);
        let made = machine.copy_from_machine(&there, &folder.path().join("out")).unwrap();
        assert_eq!(fs::read(made).unwrap(), bytes);
    }
    // Sizes that nobody knows before the end.
    machine.copy_from_host(Path::new("/proc/version"), &there).unwrap();
    let version = fs::read("/proc/version").unwrap();
    assert_eq!(fs::read(&there).unwrap(), version);
    let made = machine.copy_from_machine(Path::new("/proc/version"), &folder.path().join("out")).unwrap();
    assert_eq!(fs::read(made).unwrap(), version);
}

#[test]
fn links_that_lead_out_of_a_folder_are_followed() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let (root, other) = (folder.path().join("root"), folder.path().join("other"));
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("x"), "out there").unwrap();
    symlink(&other, root.join("folder")).unwrap();
    symlink(other.join("x"), root.join("file")).unwrap();
    symlink(folder.path(), root.join("sub/circle")).unwrap();
    symlink("../..", other.join("circle")).unwrap();
    let there = folder.path().join("there");
    machine.copy_from_host(&root, &there).unwrap();
    assert_eq!(fs::read(there.join("folder/x")).unwrap(), b"out there");
    assert_eq!(fs::read(there.join("file")).unwrap(), b"out there");
    assert!(there.join("sub/circle").is_symlink() && !there.join("folder").is_symlink());
}

#[test]
fn what_is_missing_is_named() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let (none, out) = (folder.path().join("none"), folder.path().join("out"));
    let error = machine.copy_from_host(&none, Path::new("/tmp/x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostFile);
    let text = error.chain();
    assert!(text.contains("a: cannot read the host's file") && text.contains("none"), "{text}");
    assert!(text.contains("No such file"), "{text}");
    let error = machine.copy_from_host_via_shell(folder.path(), Path::new("/tmp/x")).unwrap_err();
    assert!(error.chain().contains("Is a directory"), "{}", error.chain());
    let error = machine.copy_from_machine(&none, &out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequestedAssertionFailed);
    let text = error.to_string();
    assert!(
        text.contains("a: copy_from_machine(") && text.contains("none: no such file or folder"),
        "{text}"
    );
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    let error = machine.copy_from_machine(Path::new("/tmp/.."), &out).unwrap_err().to_string();
    assert!(error.contains("has no name of its own"), "{error}");
    // A guest that cannot write says so, and goes on.
    fs::write(folder.path().join("big"), vec![b'x'; 5_000_000]).unwrap();
    let error = machine.copy_from_host(&folder.path().join("big"), Path::new("/dev/full")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequestedAssertionFailed);
    let error = machine.copy_from_host(folder.path(), Path::new("/dev/null")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RequestedAssertionFailed);
    assert_eq!(machine.succeed(&["echo on"], None).unwrap(), "on\n");
}

#[test]
fn a_guest_without_tar_copies_files_and_says_why_not_folders() {
    let (_driver, machine) = with("no-tar");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "x").unwrap();
    machine.copy_from_host(&folder.path().join("file"), &folder.path().join("copy")).unwrap();
    machine.copy_from_machine(&folder.path().join("copy"), &folder.path().join("out")).unwrap();
    let there = machine.copy_from_host(&folder.path().join("out"), Path::new("/tmp/there")).unwrap_err();
    let back = machine.copy_from_machine(folder.path(), &folder.path().join("out")).unwrap_err();
    for error in [there, back] {
        assert!(error.to_string().contains("does not have"), "{error}");
    }
}

#[test]
fn what_is_no_file_is_left_out() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    fs::hard_link(root.join("file"), root.join("same")).unwrap();
    machine.succeed(&[&format!("mkfifo {}/pipe", root.display())], None).unwrap();
    let made = machine.copy_from_machine(&root, &folder.path().join("out")).unwrap();
    assert_eq!(listing(&made).len(), 2);
    assert_eq!(fs::read(made.join("same")).unwrap(), b"x");
    let error = machine.copy_from_host(&root, &folder.path().join("back")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostFile);
    assert!(error.chain().contains("it is no file"), "{}", error.chain());
    assert_eq!(machine.succeed(&["echo on"], None).unwrap(), "on\n");
}

/// Interrupts after so many looks.
fn interrupt_after(driver: &Driver, looks: usize) {
    let left = Arc::new(AtomicUsize::new(looks));
    driver.set_interrupt_hook(Some(Arc::new(move || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    })));
}

/// Whether a file without its final name has bytes.
fn has_part(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).unwrap().flatten();
    entries.any(|entry| {
        let is_part = entry.file_name().as_bytes().starts_with(b".snowboot.");
        is_part && entry.metadata().is_ok_and(|about| about.len() > 0)
    })
}

#[test]
fn an_interrupt_ends_a_copy_and_leaves_nothing_behind() {
    let (driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    machine.connect().unwrap();
    interrupt_after(&driver, 6);
    let error = machine.copy_from_machine(Path::new("/dev/zero"), &out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    driver.set_interrupt_hook(None);
    let (big, copy) = (folder.path().join("big"), folder.path().join("copy"));
    fs::File::create(&big).unwrap().set_len(1 << 40).unwrap();
    for target in [Path::new("/dev/null"), copy.as_path()] {
        if target == copy {
            // Right in the middle.
            let folder = folder.path().to_owned();
            driver.set_interrupt_hook(Some(Arc::new(move || has_part(&folder))));
        } else {
            interrupt_after(&driver, 3);
        }
        let error = machine.copy_from_host(&big, target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        driver.set_interrupt_hook(None);
        assert_eq!(machine.succeed(&["echo on"], None).unwrap(), "on\n");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    machine.copy_from_host(Path::new("/proc/version"), &copy).unwrap();
    machine.copy_from_machine(&copy, &out).unwrap();
}

#[test]
fn a_file_of_the_host_that_fails_in_the_middle_is_told() {
    let (_driver, machine) = one();
    // It has a size and cannot be read.
    let error = machine.copy_from_host(Path::new("/proc/self/mem"), Path::new("/tmp/x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostFile);
    assert_eq!(machine.succeed(&["echo on"], None).unwrap(), "on\n");
}

#[test]
fn the_end_of_the_machine_ends_a_copy() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    machine.connect().unwrap();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            machine.crash().unwrap();
        });
        machine.copy_from_machine(Path::new("/dev/zero"), folder.path()).unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::NoShell);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    machine.copy_from_machine(Path::new("/proc/version"), folder.path()).unwrap();
}

#[test]
fn copies_and_commands_of_several_threads_do_not_mix() {
    let (_driver, machine) = one();
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (machine, folder) = (&machine, folder.path());
            scope.spawn(move || {
                let bytes = vec![b'0' + thread; 500_000];
                let (here, there) =
                    (folder.join(format!("here{thread}")), folder.join(format!("there{thread}")));
                fs::write(&here, &bytes).unwrap();
                for _ in 0..3 {
                    machine.copy_from_host(&here, &there).unwrap();
                    let word = machine.succeed(&[&format!("echo {thread}")], None).unwrap();
                    assert_eq!(word, format!("{thread}\n"));
                    let made = machine.copy_from_machine(&there, &folder.join("out")).unwrap();
                    assert!(fs::read(made).unwrap() == bytes);
                }
            });
        }
    });
}

/// An archive that is under the test's control, whatever tar would say of it.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(mut self, kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o6777);
        header.set_size(content.len().try_into().unwrap());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str) -> Self {
        self.add(EntryType::Regular, name.as_bytes(), b"", b"evil")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"")
    }
}

/// Unpacks into `in` of a folder that has a file `outside` and must not change.
fn unpacked(bytes: &[u8]) -> Result<(Vec<String>, tempfile::TempDir), String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("outside"), "safe").unwrap();
    let inside = folder.path().join("in");
    fs::create_dir(&inside).unwrap();
    let result = unpack::folder(&inside, 0o755, &mut Cursor::new(bytes));
    assert_eq!(fs::read(folder.path().join("outside")).unwrap(), b"safe");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    match result {
        Ok(skipped) => Ok((skipped, folder)),
        Err(Trouble::Guest(why)) => Err(why),
        Err(Trouble::Host(trouble)) => Err(format!("{}: {}", trouble.message, trouble.source)),
    }
}

#[test]
fn a_hostile_archive_stays_inside() {
    let new = Archive::default;
    let refused = [
        (new().file("../outside"), "outside of the folder"),
        (new().file("a/../../outside"), "outside of the folder"),
        (new().file("/tmp/outside"), "outside of the folder"),
        (new().link("up", "..").file("up/outside"), "not in a folder"),
        (new().link("up", "..").link("here", "up").file("here/outside"), "not in a folder"),
        (new().link("outside", "../outside").file("outside"), "there is one already"),
        (new().link("outside", "../new").file("outside"), "there is one already"),
        (new().link("d", "..").add(EntryType::Directory, b"d", b"", b""), "there is one already"),
        (new().add(EntryType::Link, b"hard", b"../outside", b""), "hard link"),
        (new().add(EntryType::Link, b"hard", b"outside", b""), "hard link"),
        (new().file("a").file("a/b"), "not in a folder"),
        (new().file("none/b"), "did not come before"),
        (new().file("./."), "no name"),
        (new().link("nowhere", ""), "a link to nowhere"),
        (new().add(EntryType::XHeader, b"x", b"", b"20 path=../outside\n"), "nobody asked"),
        (new().add(EntryType::GNUSparse, b"x", b"", b""), "nobody asked"),
        (new().add(EntryType::GNULongName, b"x", b"", b"../outside\0").file("a"), "outside of the folder"),
        (new().add(EntryType::GNULongName, b"x", b"", &[b'x'; 10_000]), "too long"),
        (new().add(EntryType::GNULongName, b"x", b"", &[b'x'; 300]).file("a"), "File name too long"),
    ];
    for (archive, why) in refused {
        let error = unpacked(&archive.0).unwrap_err();
        assert!(error.contains(why), "{error} instead of {why}");
    }
    let devices = [EntryType::Char, EntryType::Block, EntryType::Fifo];
    let archive = devices.into_iter().fold(new(), |archive, kind| archive.add(kind, b"device", b"", b""));
    let (skipped, folder) = unpacked(&archive.file("a").0).unwrap();
    assert_eq!(skipped.len(), 3);
    // No set-user-id program comes out of a guest.
    assert_eq!(mode(&folder.path().join("in/a")), 0o777);
    let many = (0..100).fold(new(), |archive, _| archive.add(EntryType::Fifo, b"p", b"", b""));
    assert!(unpacked(&many.0).unwrap().0.len() <= 10);
}

#[test]
fn an_archive_that_breaks_off_is_not_taken_for_whole() {
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2000);
    header.set_mode(0o644);
    builder.append_data(&mut header, "x".repeat(200), std::io::repeat(b'x').take(2000)).unwrap();
    let whole = builder.into_inner().unwrap();
    unpacked(&whole).unwrap();
    for end in [1, 511, 600, 1024 + 300, 2048 + 100] {
        unpacked(&whole[..end]).unwrap_err();
    }
}

proptest! {
    #[test]
    fn random_archives_do_no_harm(
        entries in prop::collection::vec((0usize..9, "[a./]{0,6}", "[a./]{0,4}"), 0..12),
        noise in prop::collection::vec((0usize..6000, any::<u8>()), 0..3),
    ) {
        let kinds = [
            EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo,
            EntryType::GNULongName, EntryType::GNULongLink, EntryType::Directory, EntryType::Symlink,
        ];
        let mut archive = entries.iter().fold(Archive::default(), |archive, (kind, name, link)| {
            let content: &[u8] = if *kind == 5 || *kind == 6 { b"a/../../outside" } else { b"" };
            archive.add(kinds[*kind], name.as_bytes(), link.as_bytes(), content)
        }).0;
        for (at, byte) in noise {
            if let Some(it) = archive.get_mut(at) { *it = byte; }
        }
        drop(unpacked(&archive));
    }
}
