//! What a device keeps, as plain data: the same form for every kind of device.
//!
//! A saved state is untrusted input when it is read back. Each device names its state by a kind and a version, and takes
//! nothing else; whoever stores states need not look into them.

use serde::{Deserialize, Serialize};

/// A device's state as plain data. `kind` and `version` are matched explicitly on restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Which state this is, for example `cmos-rtc`.
    pub kind: String,
    /// Version of the body's layout.
    pub version: u16,
    /// The state.
    pub body: serde_json::Value,
}

impl Saved {
    /// Wraps a device's state type.
    ///
    /// # Errors
    /// When the state cannot be expressed as plain data.
    pub fn new(kind: &str, version: u16, state: &impl Serialize) -> Result<Self, NotSaveable> {
        let body = serde_json::to_value(state).map_err(|error| NotSaveable { reason: error.to_string() })?;
        Ok(Self { kind: kind.to_owned(), version, body })
    }

    /// Reads the state back, refusing another kind, another version or a malformed body.
    ///
    /// # Errors
    /// As said.
    pub fn open<T: for<'de> Deserialize<'de>>(self, kind: &str, version: u16) -> Result<T, RestoreError> {
        if self.kind != kind || self.version != version {
            return Err(RestoreError(format!(
                "expected {kind} version {version}, found {} version {}",
                self.kind, self.version
            )));
        }
        serde_json::from_value(self.body).map_err(|error| RestoreError(error.to_string()))
    }
}

/// The device's state cannot be saved now.
#[derive(Debug, thiserror::Error)]
#[error("This device cannot be saved: {reason}")]
pub struct NotSaveable {
    /// Why.
    pub reason: String,
}

/// A saved state does not fit this device.
#[derive(Debug, thiserror::Error)]
#[error("Cannot restore the device: {0}")]
pub struct RestoreError(pub String);
