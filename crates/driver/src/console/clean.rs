//! Lines of a guest, made fit to be shown and kept.

/// A console line without carriage returns, terminal escape sequences and control characters, so that a guest cannot
/// steer the terminal that it is shown on.
pub(crate) fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut cleaned = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => cleaned.push('\t'),
            c if c.is_control() => {}
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// Skips what follows an ESC: a CSI sequence (`[` ... final byte), an OSC or DCS string up to its terminator, or one
/// character (ECMA-48, 5.3 to 5.6).
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            while chars.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
            chars.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
        }
        Some(']' | 'P' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        Some('(' | ')' | '#' | ' ') => {
            chars.next();
            chars.next();
        }
        Some(c) if !c.is_control() => {
            chars.next();
        }
        _ => {}
    }
}
