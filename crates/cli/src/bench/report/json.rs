//! Everything, for programs and for `--baseline`.

use anyhow::{Context, Result};

use super::super::results::Results;

pub(in super::super) fn text(results: &Results) -> Result<String> {
    let mut text = serde_json::to_string_pretty(results).context("Cannot write the results as JSON")?;
    text.push('\n');
    Ok(text)
}
