//! Looking for something in console lines that come bit by bit.
//!
//! A line is looked at by itself when it comes, and the lines joined without line ends, as upstream joins them, at
//! intervals: what one line holds is found at once, what spans lines a moment later, and the work stays in proportion to
//! what the guest writes.

use std::time::Instant;

use crate::control::TICK;

/// Bytes of joined lines that are kept; what spans more than this is not console text.
const KEPT: usize = 1 << 20;

/// A search under way.
pub(crate) struct Search<F> {
    found: F,
    /// Joined lines without a match, up to the bound.
    text: String,
    /// Lines after them that were looked at by themselves only.
    fresh: Vec<String>,
    fresh_bytes: usize,
    joined: Option<Instant>,
}

impl<F: FnMut(&str) -> bool> Search<F> {
    pub(crate) fn new(found: F) -> Self {
        Self { found, text: String::new(), fresh: Vec::new(), fresh_bytes: 0, joined: None }
    }

    /// Looks at lines. When what is searched for is there: the lines after the one in which it ends.
    pub(crate) fn look(&mut self, lines: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
        let mut lines = lines.into_iter();
        while let Some(line) = lines.next() {
            let is_hit = (self.found)(&line);
            if is_hit {
                // A match across the lines before would have come first.
                let mut rest = self.look_at_all();
                if let Some(rest) = &mut rest {
                    rest.push(line);
                }
                return Some(rest.into_iter().flatten().chain(lines).collect());
            }
            self.fresh_bytes = self.fresh_bytes.saturating_add(line.len());
            self.fresh.push(line);
            if self.fresh_bytes > KEPT
                && let Some(mut rest) = self.look_at_all()
            {
                rest.extend(lines);
                return Some(rest);
            }
        }
        if self.due().is_some_and(|due| due <= Instant::now()) { self.look_at_all() } else { None }
    }

    /// Looks at a prompt by itself, and joined to the lines before it.
    pub(crate) fn look_at_prompt(&mut self, prompt: &str) -> bool {
        if (self.found)(prompt) {
            return true;
        }
        let joined: String = [self.text.as_str()]
            .into_iter()
            .chain(self.fresh.iter().map(String::as_str))
            .chain([prompt])
            .collect();
        (self.found)(&joined)
    }

    /// When the joined lines want to be looked at, if there are new ones.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.fresh.is_empty() {
            return None;
        }
        Some(self.joined.map_or_else(Instant::now, |joined| joined + TICK))
    }

    /// Looks at the joined lines now. When there is a match: the lines after the one in which it ends.
    pub(crate) fn look_at_all(&mut self) -> Option<Vec<String>> {
        if self.fresh.is_empty() {
            return None;
        }
        let mut text = std::mem::take(&mut self.text);
        let mut fresh = std::mem::take(&mut self.fresh);
        self.fresh_bytes = 0;
        let ends: Vec<usize> = fresh
            .iter()
            .map(|line| {
                text.push_str(line);
                text.len()
            })
            .collect();
        let is_hit = (self.found)(&text);
        self.joined = Some(Instant::now());
        if !is_hit {
            keep_end(&mut text, KEPT);
            self.text = text;
            return None;
        }
        // The end of the first match, among ever longer texts.
        let before = ends.partition_point(|end| !(self.found)(text.get(..*end).unwrap_or_default()));
        Some(fresh.split_off(before.saturating_add(1).min(fresh.len())))
    }
}

fn keep_end(text: &mut String, most: usize) {
    if text.len() > most {
        let start = text.ceil_char_boundary(text.len() - most);
        text.drain(..start);
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn search(pattern: &str) -> Search<impl FnMut(&str) -> bool> {
        let regex = Regex::new(pattern).unwrap();
        Search::new(move |text: &str| regex.is_match(text))
    }

    fn lines(text: &str) -> Vec<String> {
        text.split(',').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_match_ends_in_its_line_and_gives_back_the_rest() {
        assert_eq!(search("b").look(lines("a,b,c,b")), Some(lines("c,b")));
        assert_eq!(search("a$").look(lines("a,b")), Some(lines("b")));
        assert_eq!(search("x").look(lines("a,b")), None);
        // Joined without line ends.
        assert_eq!(search("b.*d").look(lines("a,b,c,d,e,f")), Some(lines("e,f")));
        // The match across the first two comes before that in the third.
        assert_eq!(search("ab|c").look(lines("a,b,c,d")), Some(lines("c,d")));
    }

    #[test]
    fn what_spans_batches_is_found_when_it_is_due() {
        let mut search = search("one.*two");
        assert_eq!(search.look(lines("zero,one")), None);
        assert_eq!(search.due(), None);
        assert_eq!(search.look(lines("x,two,three")), None);
        assert!(search.due().is_some());
        assert_eq!(search.look_at_all(), Some(lines("three")));
    }

    #[test]
    fn work_grows_with_the_text_and_memory_does_not() {
        let mut seen = 0;
        let mut search = Search::new(|text: &str| {
            seen += text.len();
            false
        });
        let line = "x".repeat(100);
        for _ in 0..1000 {
            assert_eq!(search.look(vec![line.clone(); 100]), None);
            assert!(search.text.len() <= KEPT && search.fresh_bytes <= KEPT);
        }
        // 10 MB of text: each line once, and joined ones in pieces of 1 MiB or once per tick.
        assert!(seen < 200_000_000, "{seen}");
    }
}
