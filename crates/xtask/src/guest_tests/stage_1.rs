//! A machine whose system is in a store as Nix leaves it, and whose stage 1 finds everything by itself: by `snowboot run`, by
//! `snowboot test`, and twice by `snowboot vm`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Job, LIMIT, folder_for};
use crate::build::Built;
use crate::demo::lab as in_lab;
use crate::guest::nixos;
use crate::host::project_root;

/// Its name.
pub(super) const NAME: &str = "stage-1";
/// The test's script, and the driver's side of `snowboot vm`.
const BY_DRIVER: &str = "tests/guests/stage_1.py";
const BY_START_SCRIPT: &str = "tests/guests/stage_1_vm.py";
/// What the lab runs: `$1` is the program, `$2` the test's folder, `$3` the toplevel, `$4` the other side.
const SCRIPT: &str = "\
set -e
mkdir -p \"$2/xchg\"
\"$1\" run --toplevel \"$3\" --memory 256 --disk ,create=64,filesystem=ext4,label=nixos,serial=root \
--share \"nix-store=$2/store\" --share \"xchg=$2/xchg,writable\" --share \"shared=$2/xchg,writable\" --cmdline test.ends </dev/null
\"$1\" test \"$2/test.json\" -o \"$2\"
python3 \"$4\" \"$1\" \"$2/machine.json\"
";
/// How long it may take, in seconds: the machines of four starts.
const STAGE_1_LIMIT: u32 = 2 * LIMIT;

pub(super) fn job(built: &Built) -> Result<Job> {
    let folder = folder_for(NAME)?;
    let toplevel = nixos::write_store(&folder.join("store"))?;
    let mut machine = description(&folder, &toplevel, "virtiofs");
    let test = serde_json::json!({
        "name": NAME, "script": project_root().join(BY_DRIVER), "global-timeout": LIMIT, "machines": { "machine": machine },
    });
    write(&folder.join("test.json"), &test)?;
    machine = description(&folder, &toplevel, "9p");
    machine["specialisation"] = "ninep".into();
    write(&folder.join("machine.json"), &machine)?;
    let script = folder.join("script");
    fs::write(&script, SCRIPT).with_context(|| format!("Cannot write {}", script.display()))?;
    let mut command = in_lab(STAGE_1_LIMIT)?;
    command.env("TMPDIR", "/var/tmp");
    command.arg("sh").arg(script).args([&built.program, &folder, &toplevel]);
    command.arg(project_root().join(BY_START_SCRIPT));
    Ok(Job {
        name: NAME,
        command,
        status: 0,
        said: &[
            "stage 2: it ends as it was told",
            "subtest: what stage 1 has found",
            "stage 1 by snowboot vm: all is well",
        ],
        log: folder.join("log"),
        state_images: Vec::new(),
        images: None,
    })
}

fn write(file: &Path, value: &serde_json::Value) -> Result<()> {
    fs::write(file, value.to_string()).with_context(|| format!("Cannot write {}", file.display()))
}

/// A machine as the Nix code describes a node, with two networks besides the user's.
fn description(folder: &Path, toplevel: &Path, protocol: &str) -> serde_json::Value {
    serde_json::json!({
        "toplevel": toplevel,
        "number": 7,
        "memory": 256,
        "vlans": [3, 1],
        "user-network": true,
        "disks": [
            { "create-mib": 64, "filesystem": "ext4", "label": "nixos", "serial": "root" },
            { "create-mib": 16, "serial": "the-data" },
        ],
        "shares": [
            { "tag": "nix-store", "path": folder.join("store"), "protocol": protocol, "writable": false },
            { "tag": "shared", "path": "\"${SHARED_DIR:-$TMPDIR/xchg}\"", "protocol": protocol, "writable": true },
            { "tag": "xchg", "path": "\"$TMPDIR\"/xchg", "protocol": protocol, "writable": true },
        ],
    })
}
