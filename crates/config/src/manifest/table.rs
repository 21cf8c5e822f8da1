//! Reads a table of known keys: which keys there are, of which types, and what was probably meant by one that is not there.

use std::path::{Path, PathBuf};

use super::tree::{Entry, Fault, Node, Value};

/// What other tools call our keys.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("append", "cmdline"),
    ("backing", "backing-file"),
    ("base", "backing-file"),
    ("containers", "machines"),
    ("cores", "vcpus"),
    ("cpus", "vcpus"),
    ("disk-size", "disks"),
    ("drives", "disks"),
    ("empty-disk-images", "empty-disks"),
    ("file", "path"),
    ("file-system", "filesystem"),
    ("fs-type", "filesystem"),
    ("image", "path"),
    ("kernel-params", "cmdline"),
    ("memory-size", "memory"),
    ("nics", "vlans"),
    ("nodes", "machines"),
    ("readonly", "read-only"),
    ("ro", "read-only"),
    ("overlay", "snapshot"),
    ("shared-directories", "shares"),
    ("size", "create-mib"),
    ("size", "size-mib"),
    ("source", "path"),
    ("timeout", "global-timeout"),
];

/// How alike two keys must be for one to be taken for a slip of the other (Damerau-Levenshtein, 0 to 1).
const ALIKE: f64 = 0.5;

/// A table whose keys are all known.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// As in "of machine `a`"; empty for the manifest itself.
    of: String,
    offset: usize,
    entries: &'a [Entry],
}

impl<'a> Table<'a> {
    /// # Errors
    /// When `node` is no table or has a key that is not in `keys`.
    pub(super) fn read(node: &'a Node, of: &str, keys: &[&str]) -> Result<Self, Fault> {
        let of = if of.is_empty() { String::new() } else { format!(" of {of}") };
        let Value::Table(entries) = &node.value else {
            return Err(Fault::new(
                node.offset,
                format!("expected a table{of}, found {}", node.value.kind()),
            ));
        };
        for entry in entries {
            if !keys.contains(&entry.key.as_str()) {
                let message = format!("unknown key `{}`{of}{}", entry.key, suggestion(&entry.key, keys));
                return Err(Fault::new(entry.offset, message));
            }
        }
        Ok(Self { of, offset: node.offset, entries })
    }

    /// A fault about the table itself.
    pub(super) fn fault(&self, message: &str) -> Fault {
        Fault::new(self.offset, format!("{message}{}", self.of))
    }

    /// A fault about the value of `key`.
    pub(super) fn wrong(&self, key: &str, message: &str) -> Fault {
        Fault::new(self.offset_of(key), format!("`{key}`{}: {message}", self.of))
    }

    /// Where `key` stands; where the table does when it is not there.
    fn offset_of(&self, key: &str) -> usize {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.offset, |entry| entry.offset)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.node.value, Value::Null)).then_some(&entry.node)
    }

    fn mismatch(&self, key: &str, wanted: &str, found: &Node) -> Fault {
        self.wrong(key, &format!("expected {wanted}, found {}", found.value.kind()))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Text(text), .. }) if text.contains('\0') => {
                Err(self.wrong(key, "it contains a NUL character"))
            }
            Some(Node { value: Value::Text(text), .. }) => Ok(Some(text)),
            Some(other) => Err(self.mismatch(key, "a text", other)),
        }
    }

    /// A path, joined to `folder`.
    pub(super) fn path(&self, key: &str, folder: &Path) -> Result<Option<PathBuf>, Fault> {
        match self.text(key)? {
            Some("") => Err(self.wrong(key, "expected a path, found an empty text")),
            path => Ok(path.map(|path| folder.join(path))),
        }
    }

    /// A path or a list of paths, joined to `folder`.
    pub(super) fn paths(&self, key: &str, folder: &Path) -> Result<Vec<PathBuf>, Fault> {
        let Some(Node { value: Value::Array(items), .. }) = self.get(key) else {
            return Ok(self.path(key, folder)?.into_iter().collect());
        };
        let path = |item: &Node| match &item.value {
            Value::Text(text) if !text.is_empty() && !text.contains('\0') => Ok(folder.join(text)),
            Value::Text(_) => Err("expected paths, found a text that is none".to_owned()),
            other => Err(format!("expected paths, found {}", other.kind())),
        };
        items
            .iter()
            .map(|item| path(item).map_err(|why| Fault { offset: item.offset, ..self.wrong(key, &why) }))
            .collect()
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Boolean(value), .. }) => Ok(Some(*value)),
            Some(other) => Err(self.mismatch(key, "true or false", other)),
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Integer(number), .. }) => match u64::try_from(*number) {
                Ok(valid) if (least..=most).contains(&valid) => Ok(Some(valid)),
                _ => Err(self.wrong(key, &format!("{number} is out of range: choose {least} to {most}"))),
            },
            Some(other) => Err(self.mismatch(key, &format!("a whole number from {least} to {most}"), other)),
        }
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Node]>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Array(items), .. }) => Ok(Some(items)),
            Some(other) => Err(self.mismatch(key, "a list", other)),
        }
    }

    /// Keys that the user chose.
    pub(super) fn names(&self, key: &str) -> Result<Option<&'a [Entry]>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Table(entries), .. }) => Ok(Some(entries)),
            Some(other) => Err(self.mismatch(key, "a table", other)),
        }
    }
}

/// The end of a message about an unknown key.
fn suggestion(unknown: &str, keys: &[&str]) -> String {
    let plain = kebab(unknown);
    let same = keys.iter().find(|key| **key == plain).copied();
    let renamed =
        || OTHER_NAMES.iter().find(|(other, key)| *other == plain && keys.contains(key)).map(|pair| pair.1);
    match same.or_else(renamed).or_else(|| nearest(&plain, keys)) {
        Some(key) => format!(": did you mean `{key}`?"),
        None => format!(": the keys here are {}", keys.join(", ")),
    }
}

/// The name that was probably meant by one that is not there.
pub(super) fn nearest<'a>(unknown: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(unknown, name), *name))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// `testScript` and `test_script` as `test-script`.
fn kebab(key: &str) -> String {
    let mut kebab = String::new();
    let mut after_lower = false;
    for character in key.chars().take(64) {
        if character.is_uppercase() && after_lower {
            kebab.push('-');
        }
        after_lower = character.is_lowercase() || character.is_ascii_digit();
        match character {
            '_' | ' ' => kebab.push('-'),
            other => kebab.extend(other.to_lowercase()),
        }
    }
    kebab
}
