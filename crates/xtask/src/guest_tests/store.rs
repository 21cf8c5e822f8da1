//! What the test of stores gives to its machines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Two machines with one store in place, one with the same as a disk, and with files and a disk of other processes.
pub(super) const STORES: &[(&str, &str, &str)] = &[
    ("machine1", "", "[machines.machine1.store]\nfolder = \"content\"\nas = \"pmem\"\n"),
    ("machine2", "", "[machines.machine2.store]\nclosure = \"closure\"\nas = \"pmem\"\n"),
    (
        "machine3",
        "",
        "[machines.machine3.store]\nfolder = \"content\"\n\
         [[machines.machine3.vhost-user]]\nkind = \"fs\"\ntag = \"outside\"\nsocket = \"/run/outside.sock\"\n\
         [[machines.machine3.vhost-user]]\nkind = \"blk\"\nsocket = \"/run/outside-disk.sock\"\n",
    ),
];
/// Large enough to be seen in what a guest has cached.
const BIG: usize = 32 << 20;

/// Makes the folder, and a list of two of its three entries.
pub(super) fn make_content(folder: &Path) -> Result<()> {
    let content = folder.join("content");
    let put = |name: &str, bytes: &[u8]| {
        let path = content.join(name);
        let parent = path.parent().unwrap_or(&content);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("Cannot write {}", path.display()))
    };
    let bytes: Vec<u8> = (0..=250).cycle().take(BIG).collect();
    put("big", &bytes)?;
    put("folder/small", b"a small file\n")?;
    put("left-out", b"not in the closure\n")?;
    let list = ["big", "folder"].map(|name| content.join(name).display().to_string()).join("\n");
    fs::write(folder.join("closure"), list).context("Cannot write the list of a closure")
}
