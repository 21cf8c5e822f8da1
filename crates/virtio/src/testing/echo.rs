//! A small device for this crate's own tests. Queue 0 sends back what it reads. Queue 1 is filled by an event of the
//! device's own, as a network card's receive queue is. Eight bytes of configuration are the driver's to write.

use serde::{Deserialize, Serialize};

use crate::{
    Device, DeviceId, Identity, NotSaveable, QueueFault, RestoreError, Saved, Served, Session, StartError,
    Token,
};

#[derive(Debug, Default)]
pub(crate) struct Echo {
    session: Option<Session>,
    config: [u8; 8],
    /// Answers that queue 1 still owes.
    events: u32,
    refuse_start: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    config: [u8; 8],
    events: u32,
}

/// Announces a change of the configuration.
pub(crate) const CHANGE: Token = Token(1);
/// Makes queue 1 answer once.
pub(crate) const EVENT: Token = Token(0);

impl Echo {
    /// One that does not start.
    pub(crate) fn refusing() -> Self {
        Self { refuse_start: true, ..Self::default() }
    }

    fn echo(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.first_mut() else { return Ok(()) };
        queue.serve(&session.interrupt, |mut chain| {
            let _ = std::io::copy(&mut chain.reader, &mut chain.writer);
            Served::Done(chain)
        })
    }

    fn deliver(&mut self) -> Result<(), QueueFault> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(Some(queue)) = session.queues.get_mut(1) else { return Ok(()) };
        queue.serve(&session.interrupt, |mut chain| {
            if self.events == 0 {
                return Served::PutBack(chain);
            }
            self.events -= 1;
            let _ = chain.writer.write_obj(0x5au8);
            Served::Done(chain)
        })
    }
}

impl Device for Echo {
    fn identity(&self) -> Identity {
        Identity { id: DeviceId::Entropy, features: 0b101, queue_sizes: vec![16, 8] }
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let config = self.config.iter().skip(usize::try_from(offset).unwrap());
        for (byte, value) in data.iter_mut().zip(config) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let config = self.config.iter_mut().skip(usize::try_from(offset).unwrap());
        for (byte, value) in config.zip(data) {
            *byte = *value;
        }
    }

    fn start(&mut self, session: Session) -> Result<(), StartError> {
        self.session = Some(session);
        if self.refuse_start {
            return Err(StartError { device: "echo", reason: "it was told to refuse".into() });
        }
        let outcome = self.echo().and_then(|()| self.deliver());
        outcome.map_err(|fault| StartError { device: "echo", reason: fault.to_string() })
    }

    fn stop(&mut self) -> Option<Session> {
        self.session.take()
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), QueueFault> {
        if queue == 0 { self.echo() } else { self.deliver() }
    }

    fn source_ready(&mut self, token: Token) -> Result<(), QueueFault> {
        if token == CHANGE {
            if let Some(session) = &self.session {
                session.interrupt.config();
            }
            return Ok(());
        }
        self.events += 1;
        self.deliver()
    }

    fn save(&self) -> Result<Saved, NotSaveable> {
        Saved::new("echo", 1, &State { config: self.config, events: self.events })
    }

    fn restore(&mut self, saved: Saved) -> Result<(), RestoreError> {
        let state: State = saved.open("echo", 1)?;
        self.config = state.config;
        self.events = state.events;
        Ok(())
    }
}
