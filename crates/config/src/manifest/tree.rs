//! Text to values that know where they stand, so that every error can name its line. TOML and JSON give the same tree.
//! Knows nothing of what a manifest contains.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Deeper than any manifest; keeps the recursion over hostile text small.
const MAX_DEPTH: usize = 32;

/// Something wrong at a place of the text.
#[derive(Debug)]
pub(super) struct Fault {
    /// Byte offset.
    pub(super) offset: usize,
    /// What is wrong.
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into() }
    }
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) offset: usize,
    pub(super) value: Value,
}

/// What both forms can say.
#[derive(Debug)]
pub(super) enum Value {
    /// JSON only: as if the key were not there (what Nix writes for an option that is not set).
    Null,
    Boolean(bool),
    Integer(i128),
    Text(String),
    Array(Vec<Node>),
    /// In the order of the text; no key twice.
    Table(Vec<Entry>),
    /// Fractions and dates, which no key takes.
    Other(&'static str),
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Of the key.
    pub(super) offset: usize,
    pub(super) node: Node,
}

impl Value {
    /// In words, for errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a truth value",
            Self::Integer(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// The tree of a TOML text.
pub(super) fn from_toml(text: &str) -> Result<Node, Fault> {
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let place =
            text.get(span.clone()).filter(|place| error.message().contains("duplicate") && !place.is_empty());
        let what = place.map_or_else(String::new, |place| format!(" `{}`", place.trim()));
        Fault::new(span.start, format!("{}{what}", error.message()))
    })?;
    let offset = table.span().start;
    Ok(Node { offset, value: toml_table(table.into_inner(), 0)? })
}

fn toml_table(table: DeTable<'_>, depth: usize) -> Result<Value, Fault> {
    let mut entries = Vec::new();
    for (key, value) in table {
        let offset = key.span().start;
        let node = toml_node(value, offset, depth)?;
        entries.push(Entry { key: key.into_inner().into_owned(), offset, node });
    }
    entries.sort_by_key(|entry| entry.offset);
    Ok(Value::Table(entries))
}

fn toml_node(value: Spanned<DeValue<'_>>, key_offset: usize, depth: usize) -> Result<Node, Fault> {
    // A table that only dotted keys or `[a.b]` headers imply stands nowhere itself.
    let offset = value.span().start.max(key_offset);
    if depth >= MAX_DEPTH {
        return Err(Fault::new(offset, "nested too deeply"));
    }
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a huge number"), Value::Integer),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => {
            let nodes = items.into_iter().map(|item| toml_node(item, offset, depth + 1));
            Value::Array(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => toml_table(table, depth + 1)?,
    };
    Ok(Node { offset, value })
}

/// The tree of a JSON text.
pub(super) fn from_json(text: &str) -> Result<Node, Fault> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| json_fault(text, &error))?;
    json_node(text, raw, 0)
}

fn json_node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, Fault> {
    let offset = offset_of(text, raw);
    if depth >= MAX_DEPTH {
        return Err(Fault::new(offset, "nested too deeply"));
    }
    let inner = |error: serde_json::Error| Fault::new(offset, json_message(&error));
    let source = raw.get();
    let value = match source.as_bytes().first() {
        Some(b'{') => {
            let pairs: Pairs<'_> = serde_json::from_str(source).map_err(inner)?;
            Value::Table(json_entries(text, pairs, depth)?)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(source).map_err(inner)?;
            let nodes = items.into_iter().map(|item| json_node(text, item, depth + 1));
            Value::Array(nodes.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(source).map_err(inner)?),
        Some(b't') => Value::Boolean(true),
        Some(b'f') => Value::Boolean(false),
        Some(b'n') => Value::Null,
        _ => match source.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) if source.contains(['.', 'e', 'E']) => Value::Other("a fraction"),
            Err(_) => Value::Other("a huge number"),
        },
    };
    Ok(Node { offset, value })
}

fn json_entries(text: &str, pairs: Pairs<'_>, depth: usize) -> Result<Vec<Entry>, Fault> {
    let mut seen = HashMap::new();
    let mut entries = Vec::new();
    for (raw_key, raw_value) in pairs.0 {
        let offset = offset_of(text, raw_key);
        let key: String =
            serde_json::from_str(raw_key.get()).map_err(|error| Fault::new(offset, json_message(&error)))?;
        if let Some(first) = seen.insert(key.clone(), offset) {
            let (line, _) = position(text, first);
            return Err(Fault::new(offset, format!("duplicate key `{key}`, first on line {line}")));
        }
        entries.push(Entry { key, offset, node: json_node(text, raw_value, depth + 1)? });
    }
    Ok(entries)
}

/// An object's members, duplicates and all.
struct Pairs<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Where a part of `text` stands in it: raw values borrow from the text that they were read from.
fn offset_of(text: &str, part: &RawValue) -> usize {
    part.get().as_ptr().addr().saturating_sub(text.as_ptr().addr())
}

fn json_fault(text: &str, error: &serde_json::Error) -> Fault {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    // serde_json counts the bytes that it has read of the line: the last one is the culprit.
    Fault::new(before.saturating_add(error.column().saturating_sub(1)), json_message(error))
}

/// The library's message without its own "at line 1 column 2".
fn json_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message.get(..end).unwrap_or(&message).to_owned(),
        None => message,
    }
}

/// Line and column (in characters), both from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..text.floor_char_boundary(offset)).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}
