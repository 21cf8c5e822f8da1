//! Captures of networks in files.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use snowboot_network::{Capture, CaptureLimits, Switch};

use super::now;
use crate::control::lock;
use crate::error::Error;

/// How long a frame may take to the file: whoever looks at a test that runs sees nearly all.
const AT_LEAST_EVERY: Duration = Duration::from_millis(100);

/// What is added to the clock of a network for the time of day.
pub(super) fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(now())
}

/// A file in the format pcapng that gets all frames of a VLAN, from the capture's beginning until it is stopped or dropped. At any
/// moment it can be opened. Clones are the same capture.
#[derive(Clone, Debug)]
pub struct FileCapture(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

#[derive(Debug, Default)]
struct Bell {
    stop: Mutex<Option<bool>>,
    rung: Condvar,
}

impl FileCapture {
    pub(super) fn start(switch: &Switch, network: &str, path: &Path) -> Result<Self, Error> {
        let trouble = |error| {
            let path = path.display();
            Error::setup_because(
                format!("Cannot write the capture {path}: choose a place in a folder that is there"),
                error,
            )
        };
        let file = File::create(path).map_err(trouble)?;
        let capture = switch.capture(CaptureLimits::whole(), epoch()).describe(network);
        let bell = Arc::new(Bell::default());
        let (waker, writer) = (Arc::clone(&bell), Arc::clone(&bell));
        capture.set_waker(Arc::new(move || waker.ring(false)));
        let thread =
            std::thread::Builder::new().name("capture".into()).spawn(move || writer.write(&capture, file));
        let thread = Mutex::new(Some(thread.map_err(trouble)?));
        Ok(Self(Arc::new(Shared { path: path.to_owned(), bell, thread })))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Ends the capture. When this returns, all frames so far are in the file. Nothing happens the second time.
    ///
    /// # Errors
    /// When the file could not be written; it has what came before.
    pub fn stop(&self) -> Result<(), Error> {
        self.0.stop().map_err(|error| {
            Error::setup_because(format!("Cannot write the capture {}", self.0.path.display()), error)
        })
    }
}

impl Shared {
    fn stop(&self) -> io::Result<()> {
        let Some(thread) = lock(&self.thread).take() else { return Ok(()) };
        self.bell.ring(true);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes it panicked")))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Who wants to know calls `stop`.
        drop(self.stop());
    }
}

impl Bell {
    fn ring(&self, stop: bool) {
        let mut news = lock(&self.stop);
        *news = Some(stop || *news == Some(true));
        drop(news);
        self.rung.notify_one();
    }

    /// Writes what comes until it is told to stop.
    fn write(&self, capture: &Capture, mut file: File) -> io::Result<()> {
        loop {
            let guard = lock(&self.stop);
            let waited = self.rung.wait_timeout_while(guard, AT_LEAST_EVERY, |news| news.is_none());
            let mut news = waited.unwrap_or_else(PoisonError::into_inner).0;
            let is_last = news.take() == Some(true);
            drop(news);
            file.write_all(&capture.take())?;
            if is_last {
                return Ok(());
            }
        }
    }
}
