//! Which entries of a folder are not to be in an image, as regular expressions for `mkfs.erofs`, which knows no list of what
//! is to be there.
//!
//! An entry that is not wanted is told from those that are by its first letters. In a folder of ten thousand entries with
//! hashes for names two or three of them do, which many entries have in common.

use std::collections::{BTreeMap, BTreeSet};

/// The longest expression. A program's argument has at most 128 KiB (`MAX_ARG_STRLEN` of Linux).
const LONGEST: usize = 64 << 10;

/// POSIX extended regular expressions, one of which matches each name of `all` that is not in `wanted`, and none that is.
/// They match paths that begin with such a name, too.
pub(crate) fn expressions(all: &[Vec<u8>], wanted: &BTreeSet<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut prefixes: BTreeMap<&[u8], BTreeSet<u8>> = BTreeMap::new();
    let mut whole = Vec::new();
    for name in all.iter().filter(|name| !wanted.contains(*name)) {
        match first_difference(name, wanted) {
            Some((prefix, byte)) => {
                prefixes.entry(prefix).or_default().insert(byte);
            }
            None => whole.push(name),
        }
    }
    let mut expressions = Expressions::default();
    for (prefix, next) in prefixes {
        expressions.add(&alternative(prefix, &next));
    }
    for name in whole {
        let mut text = b"^".to_vec();
        name.iter().for_each(|byte| literal(&mut text, *byte));
        text.push(b'$');
        expressions.add(&text);
    }
    expressions.finish()
}

/// The longest beginning of `name` that some wanted name has, too, and the letter behind it. `None` when that is all of it.
fn first_difference<'a>(name: &'a [u8], wanted: &BTreeSet<Vec<u8>>) -> Option<(&'a [u8], u8)> {
    // In a sorted list, those that have the most in common are next to it.
    let before = wanted.range(..name.to_vec()).next_back();
    let after = wanted.range(name.to_vec()..).next();
    let common = |other: &Vec<u8>| other.iter().zip(name).take_while(|(a, b)| a == b).count();
    let length = before.map_or(0, common).max(after.map_or(0, common));
    Some((name.get(..length)?, *name.get(length)?))
}

/// Names that begin with `prefix` and one of `next`.
fn alternative(prefix: &[u8], next: &BTreeSet<u8>) -> Vec<u8> {
    let mut text = b"^".to_vec();
    prefix.iter().for_each(|byte| literal(&mut text, *byte));
    text.push(b'(');
    for (index, byte) in next.iter().enumerate() {
        if index > 0 {
            text.push(b'|');
        }
        literal(&mut text, *byte);
    }
    text.push(b')');
    text
}

fn literal(text: &mut Vec<u8>, byte: u8) {
    if b".[]\\()*+?{}|^$".contains(&byte) {
        text.push(b'\\');
    }
    text.push(byte);
}

#[derive(Default)]
struct Expressions {
    done: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Expressions {
    fn add(&mut self, alternative: &[u8]) {
        if self.last.len().saturating_add(alternative.len()) >= LONGEST {
            self.done.push(std::mem::take(&mut self.last));
        }
        if !self.last.is_empty() {
            self.last.push(b'|');
        }
        self.last.extend_from_slice(alternative);
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.last.is_empty() {
            self.done.push(self.last);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(all: &[&str], wanted: &[&str]) -> Vec<String> {
        let all: Vec<_> = all.iter().map(|name| name.as_bytes().to_vec()).collect();
        let wanted = wanted.iter().map(|name| name.as_bytes().to_vec()).collect();
        expressions(&all, &wanted).into_iter().map(|it| String::from_utf8(it).unwrap()).collect()
    }

    #[test]
    fn entries_with_the_same_beginning_are_told_apart_together() {
        assert_eq!(texts(&["ab", "ac", "ad", "b+c"], &["ab"]), ["^(b)|^a(c|d)"]);
        assert_eq!(texts(&["a.b", "a.b+c", "a.b+"], &["a.b"]), [r"^a\.b(\+)"]);
        assert_eq!(texts(&["a.b", "a.b+c"], &["a.b+c"]), [r"^a\.b$"]);
        assert!(texts(&["x", "y"], &["x", "y"]).is_empty());
    }

    #[test]
    fn no_expression_is_too_long_for_an_argument() {
        let all: Vec<Vec<u8>> = (0..200_000u32).map(|number| format!("{number:x}").into_bytes()).collect();
        let wanted = all.iter().step_by(7).cloned().collect();
        let expressions = expressions(&all, &wanted);
        assert!(expressions.len() > 1);
        assert!(expressions.iter().all(|it| it.len() < 128 << 10));
    }

    proptest! {
        #[test]
        fn what_is_wanted_stays_and_all_else_goes(
            all in proptest::collection::btree_set("[ab.+*\\\\\\[]{1,5}", 1..20),
            pick in any::<u32>(),
        ) {
            let all: Vec<String> = all.into_iter().collect();
            let is_wanted = |index: usize| pick >> (index % 32) & 1 == 1;
            let wanted: Vec<&str> =
                all.iter().enumerate().filter(|(index, _)| is_wanted(*index)).map(|(_, name)| name.as_str()).collect();
            let names: Vec<&str> = all.iter().map(String::as_str).collect();
            let expressions: Vec<regex::Regex> =
                texts(&names, &wanted).iter().map(|text| regex::Regex::new(text).unwrap()).collect();
            for name in names {
                let is_excluded = expressions.iter().any(|it| it.is_match(name));
                prop_assert_eq!(is_excluded, !wanted.contains(&name), "{}", name);
                let inner = format!("{name}/a");
                prop_assert!(!wanted.contains(&name) || !expressions.iter().any(|it| it.is_match(&inner)));
            }
        }
    }
}
