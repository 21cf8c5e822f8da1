//! The sockets of QMP. Each client has two threads: one reads and carries out, one writes, so that a client that reads
//! nothing holds up nobody.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::commands::greeting;
use super::event;
use super::session::Session;
use crate::control::{Control, Power};

/// Clients at once. QEMU serves one; whoever has more connects them by hand.
const MOST_CLIENTS: usize = 8;
/// Messages that wait for a client. One that lets more gather does not read.
const MOST_WAITING: usize = 256;
/// How long the end of the program waits for clients to take their last messages.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// After this message there are none: the client's connection is closed.
const LAST: &[u8] = &[];

/// Listens, and tells all clients of events. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    clients: Vec<Client>,
    next: u64,
    /// Those whose last words are not written yet.
    writing: usize,
    /// No client is taken any more.
    closed: bool,
}

struct Client {
    number: u64,
    /// Whether it wants events: it has begun its session.
    has_begun: bool,
    outbox: SyncSender<Vec<u8>>,
    stream: UnixStream,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("clients", &self.shared.lock().clients.len()).finish()
    }
}

/// A socket that listens and is served later.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Without any socket yet.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Listens at `path`, where clients can connect from now on; [`Server::serve`] answers them. A socket that nobody listens at
    /// any more is replaced.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn listen(path: &Path) -> io::Result<Listener> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            other => other,
        }?;
        Ok(Listener { listener, path: path.to_owned() })
    }

    /// Answers the clients of `listener` on threads of its own.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn serve(&self, listener: Listener, control: Arc<dyn Control>) -> io::Result<()> {
        let server = self.clone();
        thread::Builder::new().name("qmp".to_owned()).spawn(move || server.accept(&listener, &control))?;
        Ok(())
    }

    /// Tells all clients whose session has begun what happened.
    pub fn tell(&self, power: Power) {
        let message = line(&event(power, SystemTime::now()));
        let state = self.shared.lock();
        for client in state.clients.iter().filter(|client| client.has_begun) {
            client.send(message.clone());
        }
    }

    /// Takes no more clients, and waits a moment until those that are there have been written what waits for them.
    pub fn finish(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        let mut state = self.shared.lock();
        state.closed = true;
        for client in state.clients.drain(..) {
            client.send(LAST.to_vec());
        }
        while state.writing > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.shared.lock().clients.len()
    }

    fn accept(&self, listener: &Listener, control: &Arc<dyn Control>) {
        for stream in listener.listener.incoming() {
            let served = stream.and_then(|stream| self.welcome(stream, control));
            if let Err(error) = served {
                tracing::warn!("a client of {} cannot be served: {error}", listener.path.display());
                // Such as: no descriptors are left. Not to be asked again at once.
                thread::sleep(LAST_WORDS);
            }
        }
    }

    fn welcome(&self, stream: UnixStream, control: &Arc<dyn Control>) -> io::Result<()> {
        let (outbox, messages) = mpsc::sync_channel(MOST_WAITING);
        let (reader, writer) = (stream.try_clone()?, stream.try_clone()?);
        let number = {
            let mut state = self.shared.lock();
            if state.closed || state.clients.len() >= MOST_CLIENTS {
                // Its end is closed: it is told at once.
                return Ok(());
            }
            let number = state.next;
            state.next = number.wrapping_add(1);
            state.clients.push(Client { number, has_begun: false, outbox: outbox.clone(), stream });
            state.writing = state.writing.saturating_add(1);
            number
        };
        let _ = outbox.send(line(&greeting()));
        let written = self.shared.clone();
        let spawned = thread::Builder::new().name("qmp writer".to_owned()).spawn(move || {
            write(&messages, writer);
            let mut state = written.lock();
            state.writing = state.writing.saturating_sub(1);
            drop(state);
            written.changed.notify_all();
        });
        if let Err(error) = spawned {
            let mut state = self.shared.lock();
            state.writing = state.writing.saturating_sub(1);
            state.clients.retain(|client| client.number != number);
            return Err(error);
        }
        let (server, control) = (self.clone(), Arc::clone(control));
        let spawned = thread::Builder::new().name("qmp reader".to_owned()).spawn(move || {
            Reader { server: &server, number, outbox: &outbox, control: &*control }.read(reader);
            server.forget(number);
        });
        spawned.map(drop).inspect_err(|_| self.forget(number))
    }

    fn forget(&self, number: u64) {
        self.shared.lock().clients.retain(|client| client.number != number);
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Never waits.
    fn send(&self, message: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.outbox.try_send(message) {
            tracing::warn!("a QMP client reads nothing; it is cut off");
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Who reads what one client says.
struct Reader<'a> {
    server: &'a Server,
    number: u64,
    outbox: &'a SyncSender<Vec<u8>>,
    control: &'a dyn Control,
}

impl Reader<'_> {
    fn read(&self, mut stream: UnixStream) {
        let mut session = Session::new();
        let mut buffer = [0; 4096];
        loop {
            let length = match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            for byte in buffer.iter().take(length) {
                let had_begun = session.has_begun();
                let send = |reply: &Value, has_begun| match has_begun && !had_begun {
                    true => self.begin(reply),
                    false => self.outbox.send(line(reply)).is_ok(),
                };
                if !session.feed(*byte, self.control, send) {
                    return;
                }
            }
        }
    }

    /// Events follow the reply: no event comes before it, and none that happens after it is left out.
    fn begin(&self, reply: &Value) -> bool {
        let mut state = self.server.shared.lock();
        let own = state.clients.iter_mut().find(|client| client.number == self.number);
        let Some(client) = own else { return false };
        client.has_begun = true;
        client.send(line(reply));
        true
    }
}

fn line(message: &Value) -> Vec<u8> {
    format!("{message}\r\n").into_bytes()
}

/// Writes until the client is gone, or [`LAST`] comes.
fn write(messages: &Receiver<Vec<u8>>, mut stream: UnixStream) {
    for message in messages {
        if message == LAST || stream.write_all(&message).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Whether a socket's file is there without anybody listening.
fn is_left_behind(path: &Path) -> bool {
    matches!(UnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}
