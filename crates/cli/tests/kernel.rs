//! `snowboot kernel`: needs no KVM.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{assert_error, folder, path, run_words};

#[test]
fn an_elf_image_is_copied_and_replaces_what_was_there() {
    let files = folder(&[("kernel", b"\x7fELF and so on"), ("vmlinux", b"of yesterday")]);
    let output = path(&files, "vmlinux");
    let ran = run_words(&["kernel", "unpack", &path(&files, "kernel"), &output]);
    assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    assert_eq!(std::fs::read(output).unwrap(), b"\x7fELF and so on");
}

#[test]
fn what_is_no_kernel_leaves_no_file() {
    let files = folder(&[("text", b"no kernel at all")]);
    let unpack = |kernel: &str, output: &str| {
        run_words(&["kernel", "unpack", &path(&files, kernel), &path(&files, output)])
    };
    assert_error(&unpack("text", "out"), &["Cannot read the kernel", "text"]);
    assert_error(&unpack("none", "out"), &["none: there is no such file"]);
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 1);
}

#[test]
fn an_image_that_cannot_be_written_is_named() {
    let files = folder(&[("kernel", b"\x7fELF")]);
    let output = path(&files, "nowhere/vmlinux");
    let ran = run_words(&["kernel", "unpack", &path(&files, "kernel"), &output]);
    assert_error(&ran, &["Cannot write the image", "nowhere/vmlinux"]);
}
