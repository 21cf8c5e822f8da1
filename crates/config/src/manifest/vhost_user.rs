//! Devices of a machine that other processes serve.

use std::path::Path;

use super::table::Table;
use super::tree::{Fault, Node};
use crate::{VhostUserConfig, VhostUserDevice};

const KEYS: &[&str] = &["kind", "socket", "tag"];

pub(super) fn devices(table: &Table<'_>, of: &str, folder: &Path) -> Result<Vec<VhostUserConfig>, Fault> {
    let items = table.list("vhost-user")?.unwrap_or_default();
    let device = |(index, item): (usize, &Node)| {
        let of = format!("vhost-user device {} of {of}", index + 1);
        let table = Table::read(item, &of, KEYS)?;
        let missing = |key: &str| Fault::new(item.offset, format!("{of} has no `{key}`"));
        let socket = table.path("socket", folder)?.ok_or_else(|| missing("socket"))?;
        let kind = table.text("kind")?.ok_or_else(|| missing("kind"))?;
        let device = VhostUserDevice::new(kind, table.text("tag")?);
        let device = device.map_err(|error| table.wrong("kind", &error.to_string()))?;
        Ok(VhostUserConfig { socket, device })
    };
    items.iter().enumerate().map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeConfig;

    fn devices(text: &str) -> Result<Vec<VhostUserConfig>, String> {
        let text = format!("kernel = 'k'\nvhost-user = [{text}]");
        let node = NodeConfig::parse("m", Path::new("/t/m.toml"), &text);
        node.map(|node| node.vhost_user).map_err(|error| error.to_string())
    }

    #[test]
    fn devices_have_a_kind_and_a_socket() {
        let found =
            devices("{ kind = 'fs', tag = 'a', socket = 's' }, { kind = 'blk', socket = '/b' }").unwrap();
        let expected = [("/t/s", VhostUserDevice::Fs { tag: "a".into() }), ("/b", VhostUserDevice::Blk)];
        let expected = expected.map(|(socket, device)| VhostUserConfig { socket: socket.into(), device });
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_wrong_with_them_is_said() {
        let long = format!("{{ kind = 'fs', socket = 's', tag = '{}' }}", "x".repeat(37));
        for (text, part) in [
            ("{ kind = 'blk' }", "vhost-user device 1 of machine `m` has no `socket`"),
            ("{ socket = 's' }", "has no `kind`"),
            ("{ kind = 'net', socket = 's' }", "there is no vhost-user device `net`: choose fs or blk"),
            ("{ kind = 'fs', socket = 's' }", "needs a `tag`"),
            ("{ kind = 'blk', socket = 's', tag = 't' }", "a disk has no `tag`"),
            (long.as_str(), "a tag has 1 to 36 bytes"),
        ] {
            let error = devices(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
