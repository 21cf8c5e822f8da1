//! The shares of a machine.

use std::path::{Path, PathBuf};

use super::table::Table;
use super::tree::{Fault, Node};
use crate::{ShareConfig, ValueError};

const KEYS: &[&str] = &["tag", "path", "writable", "cache", "protocol"];

pub(super) fn read(table: &Table<'_>, of: &str, folder: &Path) -> Result<Vec<ShareConfig>, Fault> {
    let items = table.list("shares")?.unwrap_or_default();
    let numbered = items.iter().enumerate();
    let shares = numbered.map(|(index, item)| share(item, &format!("share {} of {of}", index + 1), folder));
    let shares = shares.collect::<Result<Vec<_>, _>>()?;
    ShareConfig::check_all(&shares).map_err(|error| table.wrong("shares", &error.to_string()))?;
    Ok(shares)
}

fn share(node: &Node, of: &str, folder: &Path) -> Result<ShareConfig, Fault> {
    let table = Table::read(node, of, KEYS)?;
    let missing = |key: &str| Fault::new(node.offset, format!("{of} has no `{key}`"));
    let tag = table.text("tag")?.ok_or_else(|| missing("tag"))?;
    ShareConfig::check_tag(tag).map_err(|error| table.wrong("tag", &error.to_string()))?;
    let path = match table.text("path")? {
        Some(word) if word.contains(['$', '"']) => Some(PathBuf::from(word)),
        _ => table.path("path", folder)?,
    };
    Ok(ShareConfig {
        tag: tag.to_owned(),
        path: path.ok_or_else(|| missing("path"))?,
        writable: table.boolean("writable")?.unwrap_or(false),
        cache: named(&table, "cache")?,
        protocol: named(&table, "protocol")?,
    })
}

/// A value that has a name.
fn named<T>(table: &Table<'_>, key: &str) -> Result<T, Fault>
where
    T: std::str::FromStr<Err = ValueError> + Default,
{
    let value = table.text(key)?.map(str::parse).transpose();
    Ok(value.map_err(|error: ValueError| table.wrong(key, &error.to_string()))?.unwrap_or_default())
}
