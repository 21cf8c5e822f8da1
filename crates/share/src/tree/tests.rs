use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, RenameFlags, renameat_with};

use super::*;
use crate::{Lock, LockKind};

const ROOT: NodeId = NodeId::ROOT;
const FILE: Creation = Creation { mode: 0o644, uid: 0, gid: 0 };
const FOLDER: Creation = Creation { mode: 0o755, uid: 0, gid: 0 };
const WRITE: OpenHow = OpenHow { read: true, write: true, append: false, truncate: false, sync: false };

/// How long a race may take to come about.
const RACE: Duration = Duration::from_secs(120);

struct Bed {
    outside: tempfile::TempDir,
    tree: Tree,
}

impl Bed {
    /// A share `inside` in a folder with a secret beside it.
    fn new() -> Self {
        Self::with(TreeOptions { writable: true })
    }

    fn with(options: TreeOptions) -> Self {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        fs::create_dir(outside.path().join("inside")).unwrap();
        let tree = Tree::open(&outside.path().join("inside"), options).unwrap();
        Self { outside, tree }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.outside.path().join("inside").join(name)
    }

    fn find(&mut self, parent: NodeId, path: &str) -> Result<NodeId> {
        path.split('/').try_fold(parent, |at, part| Ok(self.tree.lookup(at, name(part))?.node))
    }

    /// Makes, moves and removes things in the folder `a`, and reads its `file`.
    fn use_folder_in_steps(&mut self) -> Result<Vec<u8>> {
        let tree = &mut self.tree;
        let folder = tree.lookup(ROOT, name("a"))?.node;
        let _ = tree.make_folder(folder, name("new"), FOLDER);
        let _ = tree.rename((folder, name("new")), (folder, name("newer")), Exchange::Replace);
        let _ = tree.remove_folder(folder, name("newer"));
        // The next step has to find the folder again.
        tree.folders.clear();
        let file = tree.lookup(folder, name("file"))?.node;
        let opened = tree.open_file(file, OpenHow::READ)?;
        let mut content = [0; 16];
        let length = rustix::io::pread(opened.as_fd(), &mut content, 0)?;
        Ok(content[..length].to_vec())
    }

    fn names(&mut self, node: NodeId) -> Vec<String> {
        let mut reader = self.tree.open_folder(node).unwrap();
        let mut names = Vec::new();
        while let Some(entry) = reader.read().unwrap() {
            names.push(String::from_utf8_lossy(entry.name()).into_owned());
        }
        names.sort();
        names
    }
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).unwrap()
}

#[test]
fn what_cannot_be_shared_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Tree::open(path, TreeOptions::default()).unwrap_err().to_string();
    assert!(open(&folder.path().join("none")).contains("check that it is there"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(open(&folder.path().join("file")).contains("is not a folder"));
}

#[test]
fn files_are_made_found_and_forgotten() {
    let mut bed = Bed::new();
    let folder = bed.tree.make_folder(ROOT, name("a"), FOLDER).unwrap();
    assert_eq!(folder.attributes.kind(), FileType::Directory);
    let (file, open) = bed.tree.create(folder.node, name("f"), FILE, WRITE, true).unwrap();
    assert_eq!((file.attributes.mode, file.attributes.uid), (0o100_644, 0));
    assert!(matches!(bed.tree.create(folder.node, name("f"), FILE, WRITE, true), Err(Errno::EXIST)));
    drop(open);
    let again = bed.tree.lookup(folder.node, name("f")).unwrap();
    assert_eq!(again.node, file.node);
    assert_eq!(again.attributes.inode, fs::metadata(bed.path("a/f")).unwrap().ino());
    bed.tree.forget(file.node, 2);
    assert_eq!(bed.tree.attributes(file.node), Err(Errno::STALE));
    assert_eq!(bed.tree.nodes.len(), 2);
    // A folder lives for as long as something is found through it.
    let file = bed.find(folder.node, "f").unwrap();
    bed.tree.forget(folder.node, 1);
    bed.tree.folders.clear();
    assert!(bed.tree.attributes(file).is_ok());
    bed.tree.forget(file, 1);
    assert_eq!(bed.tree.nodes.len(), 1);
}

#[test]
fn permissions_do_not_depend_on_this_process() {
    let mut bed = Bed::new();
    let wide = Creation { mode: 0o666, ..FILE };
    let (file, _) = bed.tree.create(ROOT, name("wide"), wide, WRITE, true).unwrap();
    assert_eq!(file.attributes.mode & 0o7777, 0o666);
    let sticky = bed.tree.make_folder(ROOT, name("sticky"), Creation { mode: 0o1777, ..FOLDER }).unwrap();
    assert_eq!(sticky.attributes.mode & 0o7777, 0o1777);
    let changes = Changes { mode: Some(0), ..Changes::default() };
    assert_eq!(bed.tree.change(file.node, None, &changes).unwrap().mode & 0o7777, 0);
    let changes = Changes { mode: Some(0o640), ..Changes::default() };
    assert_eq!(bed.tree.change(file.node, None, &changes).unwrap().mode & 0o7777, 0o640);
}

#[test]
fn hard_links_are_one_node() {
    let mut bed = Bed::new();
    let (file, _) = bed.tree.create(ROOT, name("one"), FILE, WRITE, true).unwrap();
    let other = bed.tree.link(file.node, ROOT, name("two")).unwrap();
    assert_eq!((other.node, other.attributes.links), (file.node, 2));
    bed.tree.unlink(ROOT, name("two")).unwrap();
    assert_eq!(bed.tree.attributes(file.node).unwrap().links, 1);
    assert_eq!(bed.find(ROOT, "one").unwrap(), file.node);
    bed.tree.unlink(ROOT, name("one")).unwrap();
    assert_eq!(bed.tree.attributes(file.node).unwrap().links, 0);
}

#[test]
fn what_is_removed_can_be_used_until_it_is_forgotten() {
    let mut bed = Bed::new();
    let folder = bed.tree.make_folder(ROOT, name("folder"), FOLDER).unwrap();
    bed.tree.remove_folder(ROOT, name("folder")).unwrap();
    assert!(bed.names(folder.node).iter().all(|name| name.starts_with('.')));
    let (file, open) = bed.tree.create(ROOT, name("file"), FILE, WRITE, true).unwrap();
    drop(open);
    bed.tree.unlink(ROOT, name("file")).unwrap();
    let open = bed.tree.open_file(file.node, WRITE).unwrap();
    bed.tree.change(file.node, Some(&open), &Changes { size: Some(7), ..Changes::default() }).unwrap();
    assert_eq!(bed.tree.attributes(file.node).unwrap().size, 7);
    bed.tree.forget(file.node, 1);
    assert_eq!(bed.tree.attributes(file.node), Err(Errno::STALE));
}

#[test]
fn nameless_files_can_be_given_a_name() {
    let mut bed = Bed::new();
    let (file, _open) = match bed.tree.create_nameless(ROOT, FILE, WRITE) {
        Err(Errno::OPNOTSUPP) => return, // This file system has none.
        made => made.unwrap(),
    };
    assert_eq!(file.attributes.links, 0);
    let named = bed.tree.link(file.node, ROOT, name("named")).unwrap();
    assert_eq!((named.node, named.attributes.links), (file.node, 1));
    assert!(bed.path("named").exists());
}

#[test]
fn renames_move_nodes() {
    let mut bed = Bed::new();
    let folder = bed.tree.make_folder(ROOT, name("a"), FOLDER).unwrap().node;
    let (file, _) = bed.tree.create(folder, name("f"), FILE, WRITE, true).unwrap();
    let (other, _) = bed.tree.create(ROOT, name("g"), FILE, WRITE, true).unwrap();
    bed.tree.rename((ROOT, name("a")), (ROOT, name("b")), Exchange::Replace).unwrap();
    bed.tree.folders.clear();
    assert!(bed.tree.attributes(file.node).is_ok());
    let swap = bed.tree.rename((folder, name("f")), (ROOT, name("g")), Exchange::Swap);
    if swap != Err(Errno::INVAL) {
        swap.unwrap();
        assert_eq!(bed.find(ROOT, "g").unwrap(), file.node);
        assert_eq!(bed.find(folder, "f").unwrap(), other.node);
        assert_eq!(bed.tree.parent(other.node), Ok(folder));
        bed.tree.rename((folder, name("f")), (ROOT, name("g")), Exchange::Swap).unwrap();
    }
    let refused = bed.tree.rename((folder, name("f")), (ROOT, name("g")), Exchange::Refuse);
    assert_eq!(refused, Err(Errno::EXIST));
    bed.tree.rename((folder, name("f")), (ROOT, name("g")), Exchange::Replace).unwrap();
    assert_eq!(bed.tree.attributes(other.node).unwrap().links, 0);
    assert_eq!(bed.find(ROOT, "g").unwrap(), file.node);
}

#[test]
fn nothing_changes_in_a_share_that_is_read_only() {
    let mut bed = Bed::with(TreeOptions::default());
    fs::write(bed.path("f"), "x").unwrap();
    let file = bed.find(ROOT, "f").unwrap();
    let tree = &mut bed.tree;
    assert!(tree.open_file(file, OpenHow::READ).is_ok());
    let outcomes = [
        tree.open_file(file, WRITE).map(drop),
        tree.open_file(file, OpenHow { truncate: true, ..OpenHow::READ }).map(drop),
        tree.create(ROOT, name("n"), FILE, OpenHow::READ, false).map(drop),
        tree.create_nameless(ROOT, FILE, WRITE).map(drop),
        tree.make_folder(ROOT, name("n"), FOLDER).map(drop),
        tree.make_node(ROOT, name("n"), FileType::Fifo, (0, 0), FILE).map(drop),
        tree.make_link(ROOT, name("n"), b"f", FILE).map(drop),
        tree.link(file, ROOT, name("n")).map(drop),
        tree.unlink(ROOT, name("f")),
        tree.remove_folder(ROOT, name("f")),
        tree.rename((ROOT, name("f")), (ROOT, name("n")), Exchange::Replace),
        tree.change(file, None, &Changes { mode: Some(0), ..Changes::default() }).map(drop),
        tree.set_xattr(file, b"user.x", b"1", 0),
        tree.remove_xattr(file, b"user.x"),
    ];
    assert_eq!(outcomes, [Err(Errno::ROFS); 14]);
    assert_eq!(bed.names(ROOT), [".", "..", "f"]);
}

#[test]
fn links_are_read_and_never_followed() {
    let mut bed = Bed::new();
    let secret = bed.outside.path().join("secret");
    symlink(&secret, bed.path("absolute")).unwrap();
    symlink("../secret", bed.path("relative")).unwrap();
    symlink("..", bed.path("up")).unwrap();
    symlink(bed.outside.path(), bed.path("out")).unwrap();
    symlink("/proc/self/root", bed.path("magic")).unwrap();
    for link in ["absolute", "relative", "up", "out", "magic"] {
        let found = bed.tree.lookup(ROOT, name(link)).unwrap();
        assert_eq!(found.attributes.kind(), FileType::Symlink);
        let tree = &mut bed.tree;
        assert_eq!(tree.open_file(found.node, OpenHow::READ).map(drop), Err(Errno::LOOP));
        assert_eq!(tree.open_folder(found.node).map(drop), Err(Errno::NOTDIR));
        assert_eq!(tree.lookup(found.node, name("secret")), Err(Errno::NOTDIR));
        let created = tree.create(ROOT, name(link), FILE, WRITE, false).map(drop);
        assert_eq!(created, Err(Errno::LOOP));
        assert!(tree.make_folder(found.node, name("x"), FOLDER).is_err());
        assert!(tree.change(found.node, None, &Changes { size: Some(0), ..Changes::default() }).is_err());
        assert!(!tree.read_link(found.node).unwrap().is_empty());
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(bed.tree.parent(ROOT), Ok(ROOT));
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let mut bed = Bed::new();
    fs::create_dir_all(bed.path("a/b")).unwrap();
    fs::write(bed.path("a/b/secret"), "harmless").unwrap();
    let folder = bed.find(ROOT, "a/b").unwrap();
    let file = bed.find(folder, "secret").unwrap();
    let swap = |bed: &mut Bed, target: PathBuf| {
        // As if neither folder's descriptor had been kept.
        bed.tree.folders.clear();
        fs::rename(bed.path("a"), bed.path("moved")).unwrap();
        symlink(target, bed.path("a")).unwrap();
    };
    fs::create_dir(bed.outside.path().join("b")).unwrap();
    fs::write(bed.outside.path().join("b/secret"), "secret").unwrap();
    let outside = bed.outside.path().to_owned();
    swap(&mut bed, outside);
    let tree = &mut bed.tree;
    assert_eq!(tree.open_file(file, OpenHow::READ).map(drop), Err(Errno::STALE));
    assert_eq!(tree.lookup(folder, name("secret")), Err(Errno::STALE));
    assert_eq!(tree.attributes(file), Err(Errno::STALE));
    assert_eq!(tree.make_folder(folder, name("x"), FOLDER), Err(Errno::STALE));
    // And another folder in its place is another one.
    fs::remove_file(bed.path("a")).unwrap();
    fs::create_dir_all(bed.path("a/b")).unwrap();
    assert_eq!(bed.tree.lookup(folder, name("secret")), Err(Errno::STALE));
    assert_ne!(bed.find(ROOT, "a/b").unwrap(), folder);
}

/// Does something at the end of a scope, be it by a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Programs on the host that keep changing a folder for a link out of the share while a guest uses it.
#[test]
fn no_race_between_a_folder_and_a_link_leads_out() {
    let mut bed = Bed::new();
    let outside = bed.outside.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    fs::create_dir(bed.path("a")).unwrap();
    fs::write(bed.path("a/file"), "harmless").unwrap();
    symlink("../outside", bed.path("link")).unwrap();
    let (one, other) = (bed.path("a"), bed.path("link"));
    let over = AtomicBool::new(false);
    let (mut reached, mut refused) = (0, 0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _ends_with_this = OnDrop(|| over.store(true, Ordering::Relaxed));
        while reached < 300 || refused < 300 {
            // As if nothing had been seen before.
            bed.tree.reset();
            match bed.use_folder_in_steps() {
                Ok(content) => {
                    assert_eq!(content, b"harmless");
                    reached += 1;
                }
                Err(_) => refused += 1,
            }
            // On a busy host the other thread may be away for long, with the link in place.
            assert!(begin.elapsed() < RACE, "{reached} times there, {refused} times not: no race");
        }
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"secret");
}

#[test]
fn a_folder_that_is_moved_out_leads_nowhere_else() {
    let mut bed = Bed::new();
    fs::create_dir_all(bed.path("a/b")).unwrap();
    let folder = bed.find(ROOT, "a/b").unwrap();
    assert!(bed.names(folder).len() == 2);
    fs::rename(bed.path("a/b"), bed.outside.path().join("b")).unwrap();
    // It is still open, but what is around it is not to be had: `..` is no name, and the parent is the one inside.
    assert_eq!(bed.tree.lookup(folder, name("secret")), Err(Errno::NOENT));
    let parent = bed.tree.parent(folder).unwrap();
    assert_eq!(bed.tree.lookup(parent, name("secret")), Err(Errno::NOENT));
    bed.tree.folders.clear();
    assert_eq!(bed.tree.lookup(folder, name("x")), Err(Errno::STALE));
}

#[test]
fn a_file_in_anothers_place_is_another() {
    let mut bed = Bed::new();
    fs::write(bed.path("f"), "one").unwrap();
    let file = bed.find(ROOT, "f").unwrap();
    fs::remove_file(bed.path("f")).unwrap();
    fs::write(bed.path("f"), "two").unwrap();
    assert_eq!(bed.tree.open_file(file, OpenHow::READ).map(drop), Err(Errno::STALE));
    assert_eq!(bed.tree.attributes(file), Err(Errno::STALE));
    assert_ne!(bed.find(ROOT, "f").unwrap(), file);
    // A pipe is not waited for.
    let (file, _) = bed.tree.create(ROOT, name("g"), FILE, WRITE, true).unwrap();
    fs::remove_file(bed.path("g")).unwrap();
    rustix::fs::mknodat(CWD, bed.path("g"), FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(bed.tree.open_file(file.node, OpenHow::READ).map(drop), Err(Errno::STALE));
}

#[test]
fn deep_trees_are_found_again() {
    let mut bed = Bed::new();
    let mut at = ROOT;
    for _ in 0..300 {
        at = bed.tree.make_folder(at, name("d"), FOLDER).unwrap().node;
    }
    bed.tree.folders.clear();
    assert!(bed.tree.make_folder(at, name("d"), FOLDER).is_ok());
}

#[test]
fn device_files_are_refused() {
    let mut bed = Bed::new();
    for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
        assert_eq!(bed.tree.make_node(ROOT, name("d"), kind, (1, 3), FILE), Err(Errno::PERM));
    }
    let pipe = bed.tree.make_node(ROOT, name("p"), FileType::Fifo, (0, 0), FILE).unwrap();
    assert_eq!(bed.tree.open_file(pipe.node, OpenHow::READ).map(drop), Err(Errno::NXIO));
}

#[test]
fn owners_are_roots_and_stay_so() {
    let mut bed = Bed::new();
    fs::write(bed.path("f"), "").unwrap();
    let file = bed.tree.lookup(ROOT, name("f")).unwrap();
    assert_eq!((file.attributes.uid, file.attributes.gid), (0, 0));
    let to_root = Changes { uid: Some(0), gid: Some(0), ..Changes::default() };
    assert!(bed.tree.change(file.node, None, &to_root).is_ok());
    let to_other = Changes { uid: Some(12345), ..Changes::default() };
    let outcome = bed.tree.change(file.node, None, &to_other);
    if rustix::process::geteuid().is_root() {
        assert_eq!(outcome.unwrap().uid, 12345);
        rustix::fs::chown(bed.path("f"), Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
        assert_eq!(bed.tree.attributes(file.node).unwrap().uid, 0);
        let (made, _) =
            bed.tree.create(ROOT, name("g"), Creation { uid: 7, gid: 8, ..FILE }, WRITE, true).unwrap();
        assert_eq!((made.attributes.uid, made.attributes.gid), (7, 8));
    } else {
        assert_eq!(outcome, Err(Errno::PERM));
        let refused = bed.tree.create(ROOT, name("g"), Creation { uid: 7, ..FILE }, WRITE, true);
        assert_eq!(refused.map(drop), Err(Errno::PERM));
        assert!(!bed.path("g").exists());
    }
}

#[test]
fn loans_are_taken_back() {
    let mut bed = Bed::new();
    fs::write(bed.path("f"), "x").unwrap();
    fs::set_permissions(bed.path("f"), fs::Permissions::from_mode(0o6755)).unwrap();
    let file = bed.find(ROOT, "f").unwrap();
    let changes = Changes { size: Some(0), take_back_loans: true, ..Changes::default() };
    assert_eq!(bed.tree.change(file, None, &changes).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn extended_attributes_are_the_users_alone() {
    let mut bed = Bed::new();
    let (file, _) = bed.tree.create(ROOT, name("f"), FILE, WRITE, true).unwrap();
    let node = file.node;
    assert_eq!(bed.tree.xattr(node, b"security.capability"), Err(Errno::OPNOTSUPP));
    assert_eq!(bed.tree.set_xattr(node, b"trusted.x", b"1", 0), Err(Errno::OPNOTSUPP));
    assert_eq!(bed.tree.set_xattr(node, b"user.a\0b", b"1", 0), Err(Errno::INVAL));
    match bed.tree.set_xattr(node, b"user.a", b"1", 0) {
        Err(Errno::OPNOTSUPP) => return, // This file system has none.
        outcome => outcome.unwrap(),
    }
    assert_eq!(bed.tree.xattr(node, b"user.a").unwrap(), b"1");
    assert_eq!(bed.tree.xattrs(node).unwrap(), b"user.a\0");
    assert_eq!(bed.tree.set_xattr(node, b"user.a", b"2", 1), Err(Errno::EXIST));
    bed.tree.remove_xattr(node, b"user.a").unwrap();
    assert_eq!(bed.tree.xattr(node, b"user.a"), Err(Errno::NODATA));
}

#[test]
fn locks_keep_owners_and_trees_out() {
    let mut bed = Bed::new();
    let (file, _) = bed.tree.create(ROOT, name("f"), FILE, WRITE, true).unwrap();
    let node = file.node;
    let lock = |kind, start, last| Lock { kind, start, last, process: 42 };
    bed.tree.set_lock(node, 1, lock(LockKind::Exclusive, 0, 9)).unwrap();
    bed.tree.set_lock(node, 1, lock(LockKind::Exclusive, 5, 19)).unwrap();
    assert_eq!(bed.tree.set_lock(node, 2, lock(LockKind::Shared, 15, 30)), Err(Errno::AGAIN));
    bed.tree.set_lock(node, 2, lock(LockKind::Shared, 20, u64::MAX)).unwrap();
    let found = bed.tree.find_lock(node, 2, lock(LockKind::Exclusive, 3, 3)).unwrap();
    assert_eq!(found, Some(lock(LockKind::Exclusive, 0, 19)));
    let mut other = Tree::open(&bed.path(""), TreeOptions { writable: true }).unwrap();
    let there = other.lookup(ROOT, name("f")).unwrap().node;
    assert_eq!(other.set_lock(there, 1, lock(LockKind::Exclusive, 0, 0)), Err(Errno::AGAIN));
    bed.tree.set_lock(node, 1, lock(LockKind::None, 0, 4)).unwrap();
    other.set_lock(there, 1, lock(LockKind::Exclusive, 0, 0)).unwrap();
    other.release_locks(there, 1);
    bed.tree.release_locks(node, 1);
    other.set_lock(there, 1, lock(LockKind::Exclusive, 5, 9)).unwrap();
}

#[test]
fn many_nodes_need_no_descriptors() {
    let mut bed = Bed::new();
    for number in 0..3000 {
        fs::write(bed.path(&format!("f{number}")), "").unwrap();
    }
    let before = fs::read_dir("/proc/self/fd").unwrap().count();
    for number in 0..3000 {
        bed.find(ROOT, &format!("f{number}")).unwrap();
    }
    assert_eq!(bed.tree.nodes.len(), 3001);
    // Other tests open a few at the same time.
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() < before + 500);
}

#[test]
fn folders_are_read_from_any_position() {
    let mut bed = Bed::new();
    for number in 0..40 {
        fs::write(bed.path(&format!("f{number}")), "").unwrap();
    }
    let all = bed.names(ROOT);
    let mut reader = bed.tree.open_folder(ROOT).unwrap();
    let (mut names, mut position) = (Vec::new(), 0);
    loop {
        reader.seek(position).unwrap();
        let Some(entry) = reader.read().unwrap() else { break };
        names.push(String::from_utf8_lossy(entry.name()).into_owned());
        position = entry.next();
        if let Some(next) = reader.read().unwrap() {
            reader.put_back(next);
        }
    }
    names.sort();
    assert_eq!(names, all);
}
