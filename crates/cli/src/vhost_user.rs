//! `--vhost-user fs,socket=PATH,tag=TAG` and `--vhost-user blk,socket=PATH`.

use std::path::PathBuf;

use snowboot_config::{VhostUserConfig, VhostUserDevice};

use crate::disk::split;

/// Reads a device; a comma in the socket's name is written twice.
pub(crate) fn parse(text: &str) -> Result<VhostUserConfig, String> {
    let mut parts = split(text).into_iter();
    let kind = parts.next().unwrap_or_default();
    let (mut socket, mut tag) = (None, None);
    for option in parts {
        match option.split_once('=').unwrap_or((&option, "")) {
            ("socket", path) if !path.is_empty() => socket = Some(PathBuf::from(path)),
            ("tag", text) if !text.is_empty() => tag = Some(text.to_owned()),
            _ => return Err(format!("`{option}` is not an option: there are socket=PATH and tag=TAG")),
        }
    }
    let device = VhostUserDevice::new(&kind, tag.as_deref()).map_err(|error| error.to_string())?;
    let socket = socket.ok_or("name the back end's socket: socket=PATH")?;
    Ok(VhostUserConfig { socket, device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        let fs = parse("fs,tag=a b,socket=/run/a,,b").unwrap();
        assert_eq!(fs.device, VhostUserDevice::Fs { tag: "a b".to_owned() });
        assert_eq!(fs.socket, PathBuf::from("/run/a,b"));
        assert_eq!(parse("blk,socket=s").unwrap().device, VhostUserDevice::Blk);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "choose fs or blk"),
            ("net,socket=s", "choose fs or blk"),
            ("fs,socket=s", "needs a `tag`"),
            ("fs,tag=t", "socket=PATH"),
            ("blk,socket=", "`socket=` is not an option"),
            ("blk,queues=2", "`queues=2` is not an option"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
