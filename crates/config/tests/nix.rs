//! The manifests that the Nix code makes of NixOS tests are manifests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use snowboot_config::Manifest;

#[test]
fn every_manifest_of_the_nix_code_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nix/tests/expected/manifests");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if let Err(error) = Manifest::parse(&file, &text) {
            panic!("{error}");
        }
    }
}
