//! The disks of a machine: `disks`, and `empty-disks` behind them.

use std::path::Path;
use std::str::FromStr;

use super::Manifest;
use super::table::Table;
use super::tree::{Fault, Node, Value};
use crate::{DiskConfig, ValueError};

const DISK_KEYS: &[&str] = &[
    "path",
    "format",
    "read-only",
    "snapshot",
    "memory",
    "backing-file",
    "backing-format",
    "serial",
    "create-mib",
    "filesystem",
    "label",
    "flush",
    "engine",
];
const EMPTY_DISK_KEYS: &[&str] = &["size-mib", "serial", "memory", "filesystem", "label"];

/// Reads all disks of a machine in the order in which its guest sees them.
pub(super) fn disks(table: &Table<'_>, of: &str, folder: &Path) -> Result<Vec<DiskConfig>, Fault> {
    let named = table.list("disks")?.unwrap_or_default().iter().zip(1..);
    let empty = table.list("empty-disks")?.unwrap_or_default().iter().zip(1..);
    let named = named.map(|(node, number): (_, u32)| disk(node, &format!("disk {number} of {of}"), folder));
    let empty =
        empty.map(|(node, number): (_, u32)| empty_disk(node, &format!("empty disk {number} of {of}")));
    named.chain(empty).collect()
}

fn disk(node: &Node, of: &str, folder: &Path) -> Result<DiskConfig, Fault> {
    let table = Table::read(node, of, DISK_KEYS)?;
    let config = DiskConfig {
        path: table.path("path", folder)?,
        format: word(&table, "format")?,
        read_only: table.boolean("read-only")?.unwrap_or(false),
        snapshot: table.boolean("snapshot")?.unwrap_or(false),
        memory: table.boolean("memory")?.unwrap_or(false),
        backing_file: table.path("backing-file", folder)?,
        backing_format: word(&table, "backing-format")?,
        serial: table.text("serial")?.map(str::to_owned),
        create_mib: table.number("create-mib", 1, Manifest::MAX_CREATE_MIB)?,
        filesystem: word(&table, "filesystem")?,
        label: table.text("label")?.map(str::to_owned),
        flush: word(&table, "flush")?,
        engine: word(&table, "engine")?,
    };
    checked(&table, config)
}

/// A number of MiB, or a table with one.
fn empty_disk(node: &Node, of: &str) -> Result<DiskConfig, Fault> {
    if let Value::Integer(mib) = node.value {
        let most = Manifest::MAX_CREATE_MIB;
        let mib = u64::try_from(mib).ok().filter(|mib| (1..=most).contains(mib));
        let wrong =
            || Fault::new(node.offset, format!("the size of {of} is out of range: choose 1 to {most} MiB"));
        return Ok(DiskConfig::temporary(mib.ok_or_else(wrong)?));
    }
    let table = Table::read(node, of, EMPTY_DISK_KEYS)?;
    let Some(mib) = table.number("size-mib", 1, Manifest::MAX_CREATE_MIB)? else {
        return Err(table.fault("`size-mib` is missing"));
    };
    let config = DiskConfig {
        memory: table.boolean("memory")?.unwrap_or(false),
        serial: table.text("serial")?.map(str::to_owned),
        filesystem: word(&table, "filesystem")?,
        label: table.text("label")?.map(str::to_owned),
        ..DiskConfig::temporary(mib)
    };
    checked(&table, config)
}

fn checked(table: &Table<'_>, config: DiskConfig) -> Result<DiskConfig, Fault> {
    match config.check() {
        Ok(()) => Ok(config),
        Err((key, message)) => Err(table.wrong(key, &message)),
    }
}

fn word<T: FromStr<Err = ValueError>>(table: &Table<'_>, key: &str) -> Result<Option<T>, Fault> {
    let word = table.text(key)?.map(str::parse).transpose();
    word.map_err(|error: ValueError| table.wrong(key, &error.to_string()))
}
