//! Images that a machine reads in place, and its store.

use std::path::Path;

use super::table::Table;
use super::tree::{Fault, Node};
use crate::{PmemConfig, StoreConfig, StoreDevice, StoreSource};

const PMEM_KEYS: &[&str] = &["path"];
const STORE_KEYS: &[&str] = &["closure", "folder", "as"];

pub(super) fn pmem(table: &Table<'_>, of: &str, folder: &Path) -> Result<Vec<PmemConfig>, Fault> {
    let items = table.list("pmem")?.unwrap_or_default();
    let pmem = |(index, item): (usize, &Node)| {
        let of = format!("persistent memory {} of {of}", index + 1);
        let path = Table::read(item, &of, PMEM_KEYS)?.path("path", folder)?;
        path.map(|path| PmemConfig { path })
            .ok_or_else(|| Fault::new(item.offset, format!("{of} has no `path`")))
    };
    items.iter().enumerate().map(pmem).collect()
}

pub(super) fn store(table: &Table<'_>, of: &str, folder: &Path) -> Result<Option<StoreConfig>, Fault> {
    let Some(node) = table.get("store") else { return Ok(None) };
    let table = Table::read(node, &format!("the store of {of}"), STORE_KEYS)?;
    let source = match (table.path("closure", folder)?, table.path("folder", folder)?) {
        (Some(path), None) => StoreSource::Closure(path),
        (None, Some(path)) => StoreSource::Folder(path),
        (Some(_), Some(_)) => {
            return Err(table.wrong("folder", "`closure` is given too: keep one of the two"));
        }
        (None, None) => {
            return Err(table.fault("`closure` (a list of paths) or `folder` is missing"));
        }
    };
    let device = table.text("as")?.map(str::parse).transpose();
    let device: Option<StoreDevice> =
        device.map_err(|error: crate::ValueError| table.wrong("as", &error.to_string()))?;
    Ok(Some(StoreConfig { source, device: device.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::NodeConfig;

    fn node(text: &str) -> Result<NodeConfig, String> {
        let text = format!("kernel = 'k'\n{text}");
        NodeConfig::parse("m", Path::new("/t/m.toml"), &text).map_err(|error| error.to_string())
    }

    #[test]
    fn images_and_stores_are_relative_to_the_manifest() {
        let config = node("pmem = [{ path = 'a.img' }, { path = '/b' }]\nstore = { closure = 'c' }").unwrap();
        let paths: Vec<_> = config.pmem.into_iter().map(|it| it.path).collect();
        assert_eq!(paths, [PathBuf::from("/t/a.img"), PathBuf::from("/b")]);
        let source = StoreSource::Closure("/t/c".into());
        assert_eq!(config.store, Some(StoreConfig { source, device: StoreDevice::default() }));
        let config = node("[store]\nfolder = 'f'\nas = 'pmem'").unwrap();
        let source = StoreSource::Folder("/t/f".into());
        assert_eq!(config.store, Some(StoreConfig { source, device: StoreDevice::Pmem }));
        assert_eq!(node("").unwrap().store, None);
    }

    #[test]
    fn what_is_wrong_with_them_is_said() {
        for (text, part) in [
            ("pmem = [{}]", "persistent memory 1 of machine `m` has no `path`"),
            ("pmem = [{ path = 'a', read-only = true }]", "unknown key `read-only`"),
            ("store = {}", "`closure` (a list of paths) or `folder` is missing of the store of machine `m`"),
            ("store = { closure = 'a', folder = 'b' }", "keep one of the two"),
            ("store = { folder = 'b', as = 'share' }", "a store is no `share`: choose disk or pmem"),
            ("store = 'x'", "expected a table of the store of machine `m`"),
        ] {
            let error = node(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
