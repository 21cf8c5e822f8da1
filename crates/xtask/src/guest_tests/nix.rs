//! The test that Nix itself runs: it evaluates a test of two guests, makes its manifest and its driver, and runs that one as the
//! builder of a derivation. Then it makes a node's start script, and a driver's side of its own runs that.

use std::fs;

use anyhow::{Context, Result};

use super::{Job, LIMIT, folder_for};
use crate::build::Built;
use crate::demo::lab as in_lab;
use crate::guest::{self, Backdoor, Kernel};

/// Its name.
pub(super) const NAME: &str = "nix";
/// What the lab runs. Nix has a store where no earlier run left anything, and on a file system of the emulated host's own.
const SCRIPT: &str = "\
set -e
nix=/var/tmp/snowboot-nix
mkdir -p $nix
printf 'sandbox = false\\nbuild-users-group =\\nsubstituters =\\n' > $nix/nix.conf
export NIX_CONF_DIR=$nix NIX_STORE_DIR=$nix/store NIX_STATE_DIR=$nix/var NIX_LOG_DIR=$nix/log HOME=$nix
build() {
    nix-build nix/tests/end-to-end.nix --no-out-link --argstr guests \"$folder\" --argstr program \"$program\" \
--argstr interpreter \"$SNOWBOOT_PYTHON\" --attr \"$1\"
}
folder=$1 program=$2
out=$(build test)
cat $out/answer
vm=$(build vms.machine1)
python3 tests/guests/nix_start_script.py \"$vm\"
";

pub(super) fn job(built: &Built) -> Result<Job> {
    let names = ["machine1".to_owned(), "machine2".to_owned()];
    let guests = guest::make(Kernel::Generic, &names, &[], Backdoor::InRoot)?;
    let folder = folder_for(NAME)?;
    let script = folder.join("script");
    fs::write(&script, SCRIPT).with_context(|| format!("Cannot write {}", script.display()))?;
    let mut command = in_lab(LIMIT)?;
    // Nix builds there: on a file system as most machines have it, which the lab's root is not.
    command.env("TMPDIR", "/var/tmp");
    command.arg("bash").arg(script).args([&guests.folder, &built.program]);
    Ok(Job {
        name: NAME,
        command,
        status: 0,
        said: &["the guest was here", "Nix's start script: all is well"],
        log: folder.join("log"),
        state_images: Vec::new(),
        images: None,
    })
}
