//! Telling, once, that the device's side has begun to write.

use std::fmt;

use super::DeviceEnd;

/// Who is told of the first output, until it has come.
#[derive(Default)]
pub(super) struct FirstOutput(Option<Box<dyn FnOnce() + Send>>);

impl FirstOutput {
    /// There was output.
    pub(super) fn came(&mut self) {
        if let Some(hook) = self.0.take() {
            hook();
        }
    }
}

impl fmt::Debug for FirstOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FirstOutput").field(&self.0.is_some()).finish()
    }
}

impl DeviceEnd {
    /// Calls `hook` when the first byte is written from here on, also when no host end is left to read it. It is called
    /// with the stream locked: it must be quick and must not use the stream.
    pub fn on_first_output(&self, hook: Box<dyn FnOnce() + Send>) {
        self.shared.lock().first_output = FirstOutput(Some(hook));
    }
}
