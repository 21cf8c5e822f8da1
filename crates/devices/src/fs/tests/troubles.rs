//! What is told of a share whose host fails it.

use std::sync::{Arc, Mutex};

use super::*;
use crate::warnings::Warnings;

const ENOENT: i32 = 2;

#[test]
fn a_folder_that_is_gone_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inside")).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&told);
    let warnings = Warnings::new(move |line| lines.lock().unwrap().push(line.to_owned()));
    let device = device(&folder, true, Cache::Auto).warn(warnings.about("share shared"));
    let mut bench = Bench { driver: Driver::new(device), folder };
    bench.driver.start(0).unwrap();
    bench.ask(INIT, 0, &init(38)).unwrap();
    let open = bench.create("kept");
    assert_eq!(bench.find(ROOT, "missing"), Err(ENOENT));
    assert!(told.lock().unwrap().is_empty(), "that is no trouble");
    fs::remove_dir_all(bench.folder.path().join("inside")).unwrap();
    // Another folder of this name is another folder.
    fs::create_dir(bench.folder.path().join("inside")).unwrap();
    for _ in 0..2 {
        assert_eq!(bench.find(ROOT, "kept"), Err(ENOENT));
        assert_eq!(bench.ask(MKDIR, ROOT, &Body::new().w(0o755).w(0).s("new").0), Err(ENOENT));
    }
    assert_eq!(bench.write(open, 0, b"what is open stays"), Ok(18));
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("share shared: the folder was removed on the host"), "{told:?}");
}
