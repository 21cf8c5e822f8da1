//! Failures of the host's storage, which a guest sees as bare I/O errors: what failed and why is told once.

use std::io;
use std::path::Path;

use crate::warnings::Warnings;

/// The most lines of one disk: kinds of operations and of errors are few.
const MOST_TOLD: usize = 16;

/// What was told of a disk.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) warnings: Warnings,
    told: Vec<(&'static str, io::ErrorKind)>,
}

impl Troubles {
    /// Tells of a failure, unless one of its kind was told before.
    pub(super) fn note(&mut self, path: &Path, what: &'static str, error: &io::Error) {
        tracing::debug!(path = %path.display(), what, %error, "a disk request failed");
        let kind = (what, error.kind());
        if self.told.len() < MOST_TOLD && !self.told.contains(&kind) {
            self.told.push(kind);
            let path = path.display();
            self.warnings.tell(&format!(
                "disk {path}: {what} failed, and its guest sees an I/O error: {error} (told once)"
            ));
        }
    }
}
