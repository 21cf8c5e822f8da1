//! Values of options: `KIND,KEY=VALUE,KEY...`, with `,,` for a comma.

use std::path::PathBuf;

use snowboot_config::{MemorySize, VcpuCount};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    /// What comes first, without a key.
    pub(super) kind: String,
    pub(super) options: Vec<(String, String)>,
}

impl Value {
    pub(super) fn parse(text: &str) -> Self {
        let mut value = Self::default();
        for (index, part) in split(text).into_iter().enumerate() {
            match part.split_once('=').filter(|(key, _)| index > 0 || is_key(key)) {
                Some((key, of_key)) => value.options.push((key.to_owned(), of_key.to_owned())),
                None if index == 0 => value.kind = part,
                // The short form of switches: `server`, and `nowait` for its opposite.
                None => match part.strip_prefix("no").filter(|rest| !rest.is_empty()) {
                    Some(rest) => value.options.push((rest.to_owned(), "off".to_owned())),
                    None => value.options.push((part, "on".to_owned())),
                },
            }
        }
        value
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let mut found = self.options.iter().filter(|(known, _)| known == key);
        found.next_back().map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("on" | "yes" | "true" | "y"))
    }
}

/// What comes first may have a `=` in a path of its own.
fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The parts between single commas.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if next == ',' && rest.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(next);
        }
    }
    parts
}

/// The path of a socket that the machine listens at.
pub(super) fn server(text: &str) -> Result<PathBuf, String> {
    let (path, value) = socket(text)?;
    if !value.is_on("server") {
        return Err("QMP clients connect to the machine: add `server=on,wait=off`".to_owned());
    }
    if !matches!(value.get("wait"), Some("off" | "no" | "false" | "n")) {
        return Err("the machine does not wait for a client: add `wait=off`".to_owned());
    }
    Ok(path)
}

/// The path of a socket that the machine connects to.
pub(super) fn client(text: &str) -> Result<PathBuf, String> {
    let (path, value) = socket(text)?;
    if value.is_on("server") {
        return Err("the other end has to listen, and the machine connects: leave out `server`".to_owned());
    }
    Ok(path)
}

fn socket(text: &str) -> Result<(PathBuf, Value), String> {
    let value = Value::parse(text);
    let path = value.kind.strip_prefix("unix:").filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| "there are sockets: `unix:PATH`".to_owned())?;
    Ok((PathBuf::from(path), value))
}

/// `512`, `2G` or `size=2G`.
pub(super) fn memory(text: &str) -> Result<MemorySize, String> {
    let value = Value::parse(text);
    let size = value.get("size").unwrap_or(&value.kind);
    if value.options.iter().any(|(key, _)| key != "size") {
        return Err("there is only `size`".to_owned());
    }
    size.parse().map_err(|error| format!("{error}"))
}

/// `4` or `cpus=4`, and how they are said to be grouped, which they are not.
pub(super) fn vcpus(text: &str) -> Result<VcpuCount, String> {
    let value = Value::parse(text);
    let count = value.get("cpus").unwrap_or(&value.kind);
    let count: u8 = count.parse().map_err(|_| format!("`{count}` is not a number of vCPUs"))?;
    VcpuCount::try_from(count).map_err(|error| error.to_string())
}
