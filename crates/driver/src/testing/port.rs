//! The channel for files of a fake guest: a TCP connection that its bash makes to the host, on this machine.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::control::lock;
use crate::vm::{Channel, Port};

/// How long to wait in one go for the guest to connect, or for room.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct FakePort {
    is_there: bool,
    conversation: Mutex<Conversation>,
}

#[derive(Debug, Default)]
struct Conversation {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
}

impl FakePort {
    pub(super) fn new(is_there: bool) -> Self {
        Self { is_there, conversation: Mutex::default() }
    }

    /// The connection, once the guest has made it.
    fn stream(&self) -> io::Result<TcpStream> {
        let mut conversation = lock(&self.conversation);
        if conversation.stream.is_none() {
            let listener = conversation.listener.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            conversation.stream = Some(stream);
        }
        conversation.stream.as_ref().ok_or(io::ErrorKind::BrokenPipe)?.try_clone()
    }

    fn retry<T>(deadline: Instant, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                outcome => return outcome,
            }
        }
    }
}

impl Channel for FakePort {
    fn write(&self, data: &[u8], deadline: Instant) -> io::Result<usize> {
        Self::retry(deadline, || self.stream()?.write(data))
    }

    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        // A guest that closes with something unread resets the connection.
        let gone = |error: io::Error| {
            if error.kind() == io::ErrorKind::ConnectionReset { Ok(0) } else { Err(error) }
        };
        Self::retry(deadline, || self.stream()?.read(buffer)).or_else(gone)
    }
}

impl Port for FakePort {
    fn open(&self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        *lock(&self.conversation) = Conversation { listener: Some(listener), stream: None };
        Ok(())
    }

    fn finish(&self) {
        if let Some(stream) = &lock(&self.conversation).stream {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn close(&self) {
        *lock(&self.conversation) = Conversation::default();
    }

    fn find(&self) -> String {
        let address = lock(&self.conversation).listener.as_ref().and_then(|it| it.local_addr().ok());
        match address {
            Some(address) if self.is_there => format!("port=/dev/tcp/127.0.0.1/{}", address.port()),
            _ => "port=".to_owned(),
        }
    }
}
