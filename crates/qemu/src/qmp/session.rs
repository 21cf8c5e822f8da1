//! What one client says and what it is answered, without its socket.

use serde_json::Value;

use super::commands::{Failure, Request};
use super::framing::{Framer, LONGEST, Message};
use crate::control::Control;

/// A client's session, from its greeting on. Performs no input or output.
#[derive(Debug, Default)]
pub struct Session {
    framer: Framer,
    has_begun: bool,
}

impl Session {
    /// One that nothing has been said in.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the client has ended the negotiation of capabilities: only then it is told of events.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Takes a byte of what the client says, and carries out the message that it ends. `send` gets the reply and whether the
    /// session has begun by then (the client expects every event after the reply that says so), and says whether the client
    /// can still be told anything; so does the answer.
    pub fn feed(&mut self, byte: u8, control: &dyn Control, send: impl FnOnce(&Value, bool) -> bool) -> bool {
        let Some(message) = self.framer.feed(byte) else { return true };
        let request = match &message {
            Message::Object(text) => Request::parse(text),
            Message::Garbage => Err(Failure::generic("JSON parse error, expecting an object")),
            Message::TooLong => Err(Failure::generic(format!("A message has at most {LONGEST} bytes"))),
        };
        match request {
            // The answer goes before what comes of it.
            Ok(request) if request.quits() && self.has_begun => {
                let sent = send(&request.acknowledgement(), self.has_begun);
                let _ = request.answer(&mut self.has_begun, control);
                sent
            }
            Ok(request) => {
                let reply = request.answer(&mut self.has_begun, control);
                send(&reply, self.has_begun)
            }
            Err(failure) => send(&failure.reply(None), self.has_begun),
        }
    }
}
