//! Shell variables in the paths of shared folders: NixOS gives the sources of its shares as words of a shell script.

use std::ffi::OsString;

/// How deep defaults may be within defaults.
const MOST_NESTED: u32 = 8;

/// The value of `word` as a shell would have it: `$NAME`, `${NAME}` and `${NAME:-DEFAULT}` are replaced, double quotes left
/// out. `variable` gives the values.
///
/// # Errors
/// Says what cannot be understood, or which variable is not set.
pub(crate) fn expand(word: &str, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<OsString, String> {
    expand_within(word, variable, MOST_NESTED)
}

fn expand_within(
    word: &str,
    variable: &dyn Fn(&str) -> Option<OsString>,
    nested: u32,
) -> Result<OsString, String> {
    let mut value = OsString::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '"']) {
        let (before, after) = rest.split_at(at);
        value.push(before);
        rest = if let Some(after) = after.strip_prefix('"') {
            after
        } else if let Some(after) = after.strip_prefix("${") {
            let end = closing(after).ok_or_else(|| format!("`{word}` has a `${{` without a `}}`"))?;
            let (inside, after) = after.split_at(end);
            value.push(braced(inside, variable, nested)?);
            after.strip_prefix('}').unwrap_or(after)
        } else {
            let after = after.strip_prefix('$').unwrap_or(after);
            let end = after.find(|character| !is_name(character)).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            value.push(set(name, variable)?);
            after
        };
    }
    value.push(rest);
    Ok(value)
}

/// Where the brace is that closes the one before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0u32;
    text.char_indices().find_map(|(at, character)| {
        match character {
            '{' => depth = depth.saturating_add(1),
            '}' if depth == 0 => return Some(at),
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        None
    })
}

fn braced(
    inside: &str,
    variable: &dyn Fn(&str) -> Option<OsString>,
    nested: u32,
) -> Result<OsString, String> {
    let Some((name, default)) = inside.split_once(":-") else { return set(inside, variable) };
    let found = variable(check(name)?).filter(|value| !value.is_empty());
    match found {
        Some(value) => Ok(value),
        None if nested == 0 => Err("its defaults are too deep within one another".to_owned()),
        None => expand_within(default, variable, nested.saturating_sub(1)),
    }
}

fn set(name: &str, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<OsString, String> {
    variable(check(name)?).ok_or_else(|| format!("the variable `{name}` is not set"))
}

fn check(name: &str) -> Result<&str, String> {
    let is_first = |character: char| is_name(character) && !character.is_ascii_digit();
    if name.starts_with(is_first) && name.chars().all(is_name) {
        Ok(name)
    } else {
        Err(format!(
            "`${name}` is no variable that is understood here; there are $NAME, ${{NAME}} and ${{NAME:-DEFAULT}}"
        ))
    }
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(name: &str) -> Option<OsString> {
        match name {
            "TMPDIR" => Some("/tmp/m".into()),
            "SHARED_DIR" => Some("/tmp/s".into()),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        }
    }

    #[test]
    fn words_are_what_a_shell_makes_of_them() {
        for (word, value) in [
            ("/plain/path", "/plain/path"),
            ("\"$TMPDIR\"/xchg", "/tmp/m/xchg"),
            ("\"${SHARED_DIR:-$TMPDIR/xchg}\"", "/tmp/s"),
            ("${NONE:-$TMPDIR/xchg}", "/tmp/m/xchg"),
            ("${EMPTY:-${NONE:-a}b}c", "abc"),
            ("$EMPTY$TMPDIR.x", "/tmp/m.x"),
            ("ü${TMPDIR}ü", "ü/tmp/mü"),
        ] {
            assert_eq!(expand(word, &variable).unwrap(), value, "{word}");
        }
        for (word, why) in [
            ("$NONE", "`NONE` is not set"),
            ("${NONE}/x", "`NONE` is not set"),
            ("${TMPDIR", "without a `}`"),
            ("$", "no variable"),
            ("$(pwd)", "no variable"),
            ("$1", "no variable"),
            ("${TMPDIR#x}", "no variable"),
        ] {
            let error = expand(word, &variable).unwrap_err();
            assert!(error.contains(why), "{word}: {error}");
        }
        let deep = format!("{}{}", "${A:-".repeat(20), "}".repeat(20));
        assert!(expand(&deep, &variable).unwrap_err().contains("too deep"));
    }

    proptest! {
        #[test]
        fn any_word_has_a_value_or_an_error(word in "[${}:\\-\"A-Z/a-z ]{0,40}") {
            let _ = expand(&word, &variable);
        }
    }
}
