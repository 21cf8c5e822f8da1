//! Words for the user, on the standard error. A standard error that is closed is no reason to fail.

use std::io::Write;

/// Writes one line.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The error and its causes in one line, without those that the line already tells.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.trim_end().replace('\n', " ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        if matches!(cause.downcast_ref(), Some(snowboot_vmm::Error::KvmDevice { .. })) {
            // Its own text puts the cause into words.
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let error =
            anyhow!("no space\nleft").context("Cannot write x").context("Cannot report: Cannot write x");
        assert_eq!(one_line(&error), "Cannot report: Cannot write x: no space left");
    }
}
