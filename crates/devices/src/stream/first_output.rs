//! Telling, once, that the device's side has begun to write.

use std::fmt;

use super::DeviceEnd;

/// Who is to be told of the first output; nobody any more once it has come.
#[derive(Default)]
pub(super) struct FirstOutput(Vec<Box<dyn FnOnce() + Send>>);

impl FirstOutput {
    /// There was output.
    pub(super) fn came(&mut self) {
        for hook in self.0.drain(..) {
            hook();
        }
    }
}

impl fmt::Debug for FirstOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FirstOutput").field(&self.0.len()).finish()
    }
}

impl DeviceEnd {
    /// Calls `hook` when the first byte is written from here on, also when no host end is left to read it. It is called
    /// with the stream locked: it must be quick and must not use the stream.
    pub fn on_first_output(&self, hook: Box<dyn FnOnce() + Send>) {
        self.shared.lock().first_output.0.push(hook);
    }
}
