//! Images of real folders, by the real program where it is installed: `cargo xtask test` sees to that.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::time::Duration;

use snowboot_cache::SETTLED;

use super::*;

const ONE: &str = "0c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q-one";
const TWO: &str = "1c9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q-two";
const OTHER: &str = "0d9w2a8b1d3f4g5h6i7j8k9l0m1n2p3q-other";

fn store() -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    for name in [ONE, TWO, OTHER] {
        let folder = store.path().join(name);
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/program"), format!("content of {name} ").repeat(1000)).unwrap();
        fs::write(folder.join("small"), name).unwrap();
        symlink("bin/program", folder.join("link")).unwrap();
    }
    store
}

fn closure(store: &Path, names: &[&str]) -> StoreSource {
    let list = store.with_extension(format!("{}.list", names.len()));
    let lines: Vec<_> = names.iter().map(|name| store.join(name).display().to_string()).collect();
    fs::write(&list, lines.join("\n")).unwrap();
    StoreSource::Closure(list)
}

fn holds(image: &Path, text: &str) -> bool {
    fs::read(image).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_closure_is_made_once_whatever_the_order_of_its_paths() {
    let (store, cache) = (store(), tempfile::tempdir().unwrap());
    let get = |names: &[&str]| {
        Images::in_folder(cache.path()).get(&closure(store.path(), names)).unwrap().path().to_owned()
    };
    let image = get(&[ONE, TWO]);
    assert!(holds(&image, &format!("content of {ONE}")) && holds(&image, &format!("content of {TWO}")));
    assert!(!holds(&image, OTHER));
    assert_eq!(get(&[TWO, ONE, ONE]), image);
    assert_eq!(files(cache.path()), 1);
    // The names are enough: what is kept is believed, and not made again.
    fs::write(store.path().join(ONE).join("small"), "changed").unwrap();
    assert_eq!(get(&[ONE, TWO]), image);
    assert_ne!(get(&[ONE]), image);
    assert_eq!(files(cache.path()), 2);
}

#[test]
fn an_image_has_a_label_a_fitting_size_and_always_the_same_bytes() {
    let (store, place) = (store(), tempfile::tempdir().unwrap());
    let source = StoreSource::Folder(store.path().to_owned());
    let paths = ["a", "b"].map(|name| place.path().join(name));
    write_image(&source, &paths[0]).unwrap();
    fs::write(store.path().join(ONE).join("small"), ONE).unwrap();
    write_image(&source, &paths[1]).unwrap();
    let [a, b] = paths.map(|path| fs::read(path).unwrap());
    assert!(a == b, "the images differ");
    assert_eq!(a.len() % (2 << 20), 0);
    assert_eq!(&a[1024 + 64..1024 + 80], b"nix-store\0\0\0\0\0\0\0");
    assert_eq!(&a[1024 + 48..1024 + 52], [0x7b, 0x5f, 0x2d, 0x1e]);
    assert_eq!(files(place.path()), 2);
    let mode = fs::metadata(place.path().join("a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0);
}

#[test]
fn a_folder_that_changes_has_another_image() {
    let store = store();
    let source = Source::read(&StoreSource::Folder(store.path().to_owned())).unwrap();
    let later = SystemTime::now() + 2 * SETTLED;
    let key = || key::of(&source, later).unwrap();
    let first = key();
    assert_eq!(key(), first);
    let small = store.path().join(ONE).join("small");
    fs::write(&small, "as long as before").unwrap();
    let second = key();
    fs::set_permissions(&small, fs::Permissions::from_mode(0o600)).unwrap();
    let third = key();
    fs::rename(&small, store.path().join(ONE).join("smell")).unwrap();
    let fourth = key();
    let mut all = vec![first, second, third, fourth];
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[test]
fn what_was_changed_just_now_is_not_found_again() {
    let store = store();
    let source = Source::read(&StoreSource::Folder(store.path().to_owned())).unwrap();
    let now = SystemTime::now();
    let soon = now + Duration::from_millis(1);
    assert_eq!(key::of(&source, now).unwrap(), key::of(&source, now).unwrap());
    assert_ne!(key::of(&source, now).unwrap(), key::of(&source, soon).unwrap());
}

#[test]
fn machines_of_one_process_have_the_same_image() {
    let (store, cache) = (store(), tempfile::tempdir().unwrap());
    let images = Images::in_folder(cache.path());
    let source = StoreSource::Folder(store.path().to_owned());
    let first = images.get(&source).unwrap();
    fs::write(store.path().join("new"), "").unwrap();
    assert!(Arc::ptr_eq(&first, &images.get(&source).unwrap()));
    fs::remove_file(first.path()).unwrap();
    assert!(!Arc::ptr_eq(&first, &images.get(&source).unwrap()));
}

#[test]
fn without_a_folder_to_keep_it_an_image_goes_away_with_its_last_user() {
    let store = store();
    let images = Images { folder: None, made: Mutex::default() };
    let image = images.get(&StoreSource::Folder(store.path().to_owned())).unwrap();
    let path = image.path().to_owned();
    assert!(holds(&path, ONE));
    drop((images, image));
    assert!(!path.exists());
}

#[test]
fn several_that_want_the_same_at_once_make_it_once() {
    let (store, cache) = (store(), tempfile::tempdir().unwrap());
    let source = closure(store.path(), &[ONE, TWO]);
    let get = || Images::in_folder(cache.path()).get(&source).unwrap().path().to_owned();
    let paths: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(get)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(files(cache.path()), 1);
    let mut magic = [0; 4];
    File::open(&paths[0]).unwrap().read_exact_at(&mut magic, 1024).unwrap();
    assert_eq!(u32::from_le_bytes(magic), 0xe0f5_e1e2);
}

#[test]
fn what_is_wrong_is_said_and_leaves_nothing() {
    let (store, place) = (store(), tempfile::tempdir().unwrap());
    let list = place.path().join("list");
    let error = |source: StoreSource| {
        write_image(&source, &place.path().join("image")).expect_err("an image was made").to_string()
    };
    let of_list = |text: &str| {
        fs::write(&list, text).unwrap();
        error(StoreSource::Closure(list.clone()))
    };
    let one = store.path().join(ONE);
    assert!(of_list("").ends_with("list: it names no path"));
    assert!(of_list("a/b").contains("`a/b` is not a whole path"));
    assert!(of_list("/").contains("is not a whole path"));
    assert!(of_list(&format!("{}x", one.display())).ends_with("x is not there"));
    assert!(of_list(&format!("{}\n/etc/passwd", one.display())).contains("another folder"));
    assert!(error(StoreSource::Closure(place.path().join("none"))).contains("none: No such file"));
    assert!(error(StoreSource::Folder(list.clone())).ends_with("it is not a folder"));
    let missing = place.path().join("no/image");
    let refused = write_image(&StoreSource::Folder(store.path().to_owned()), &missing).unwrap_err();
    assert!(refused.to_string().contains("no/image"), "{refused}");
    assert_eq!(files(place.path()), 1);
}
