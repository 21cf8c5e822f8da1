//! QMP, the machine protocol: JSON messages on a UNIX socket that the machine listens at.

mod commands;
mod framing;
mod server;
mod session;
#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

pub use self::server::{Listener, Server};
pub use self::session::Session;
use crate::control::Power;

/// An event as clients get it.
fn event(power: Power, at: SystemTime) -> Value {
    let (name, data) = match power {
        Power::Shutdown { guest, reason } => ("SHUTDOWN", Some(json!({"guest": guest, "reason": reason}))),
        Power::Reset { guest, reason } => ("RESET", Some(json!({"guest": guest, "reason": reason}))),
        Power::Powerdown => ("POWERDOWN", None),
        Power::Stop => ("STOP", None),
        Power::Resume => ("RESUME", None),
    };
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut event = json!({
        "event": name,
        "timestamp": {"seconds": since.as_secs(), "microseconds": since.subsec_micros()},
    });
    if let (Value::Object(event), Some(data)) = (&mut event, data) {
        event.insert("data".to_owned(), data);
    }
    event
}
