//! A port, as its owner holds it: a network card's only peer.
//!
//! Owns the frame that is being cut for its owner; everything else is in the switch's state. Locks are taken in this
//! order: that frame, then the switch. Wakers are called with neither.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Counters;
use crate::finish::{Finished, Segments, check, finish};
use crate::frame::{Accepts, Frame, HEADER, LONGEST};
use crate::state::{Admission, PortId};
use crate::switch::{Shared, Wakes};
use crate::table::Station;

/// How a port's owner learns that there is something to do: a frame has come into an empty queue, or a frame that was
/// refused may be sent again.
///
/// It is called on the thread of whoever caused that, in the middle of their call to the switch. So it only rings a bell:
/// it must not wait for a lock that is held around calls to the switch. It may be called without need.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// The receiver has no room: keep the frame, and the ones after it, and send it again when woken or at `retry_at`,
/// whichever is first.
///
/// The second is what makes waiting finite: a receiver that never takes a frame causes no wake-up, so somebody has to
/// look at a clock, and the switch has none. By then the frame is either delivered, or counted as lost at a receiver
/// that is not worth waiting for, or, if the receiver has made some progress, refused once more with a later time, as
/// long as there is [`Limits::patience`](crate::Limits::patience) with it.
#[derive(Debug, thiserror::Error)]
#[error("The receiver of this frame has no room for it now")]
pub struct Full {
    /// The frame, unchanged but for hints.
    pub frame: Frame,
    /// When to send it again if no wake-up comes before: a time as it is given to [`Port::send`].
    pub retry_at: Duration,
}

/// One end of the switch. Dropping it detaches it: frames for it are lost, what was learnt behind it is forgotten, and
/// whoever waited for room in it is woken.
///
/// Its methods may be called on several threads, though frames keep their order only if one at a time sends and one at a
/// time receives.
pub struct Port {
    switch: Arc<Shared>,
    id: PortId,
    name: String,
    /// What is left of a frame that is handed out in pieces.
    cutting: Mutex<Option<Segments>>,
}

impl Port {
    pub(crate) fn new(switch: Arc<Shared>, id: PortId, name: &str) -> Self {
        Self { switch, id, name: name.to_owned(), cutting: Mutex::new(None) }
    }

    /// Hands a frame to the switch, at time `now`, which should not go backwards.
    ///
    /// The switch takes every frame, if only to count it as refused, unless its single receiver is ready and full.
    ///
    /// # Errors
    /// [`Full`], with the frame: send it again later. The [`Waker`] is called when there is room.
    pub fn send(&self, now: Duration, frame: Frame) -> Result<(), Full> {
        self.batch(now).send(frame)
    }

    /// Begins to hand in several frames at time `now`. Whoever gets some of them is told once, at the end.
    pub fn batch(&self, now: Duration) -> Batch<'_> {
        Batch { port: self, now, wakes: Wakes::default() }
    }

    /// An empty buffer for a frame of `length` bytes: one that was given to [`Port::recycle`], if it suits.
    #[must_use]
    pub fn buffer(&self, length: usize) -> Vec<u8> {
        self.switch.buffers.take(length)
    }

    /// Takes the bytes of a frame that is through, as a buffer for another one.
    pub fn recycle(&self, bytes: Vec<u8>) {
        self.switch.buffers.give(bytes);
    }

    /// The next frame for the owner, finished as far as [`Port::set_accepts`] asks. It frees room, for which senders may
    /// be woken.
    pub fn receive(&self) -> Option<Frame> {
        let mut wakes = Wakes::default();
        let frame = self.next(&mut wakes);
        wakes.call();
        frame
    }

    /// By which port of the switch the sender of a frame was heard last, at time `now`, as far as that is known. The number only
    /// tells whether two senders are behind the same one, whatever addresses they make up.
    #[must_use]
    pub fn origin(&self, now: Duration, frame: &Frame) -> Option<u64> {
        let (_, sender) = Station::of(&frame.bytes)?;
        self.switch.lock().whence(sender, now).map(|port| port.0)
    }

    /// Whether it is time to call [`Port::receive`]. It may still have nothing, if all that waits cannot be cut as the owner
    /// needs it.
    #[must_use]
    pub fn waiting(&self) -> bool {
        let cutting = self.cutting().as_ref().is_some_and(|segments| !segments.is_done());
        cutting || self.switch.lock().is_waiting(self.id)
    }

    /// Sets who is told of new frames, and of room for a frame that was refused. Look at [`Port::waiting`] afterwards:
    /// the waker is not called for what has come before.
    pub fn set_waker(&self, waker: Waker) {
        let former = self.switch.lock().set_waker(self.id, waker);
        drop(former);
    }

    /// Says whether somebody is taking frames, such as a guest's driver. Senders wait for a ready owner; for one that is
    /// not, frames are queued as far as there is room, and the others are lost. Becoming unready throws away what is
    /// queued.
    pub fn set_ready(&self, ready: bool) {
        let mut wakes = Wakes::default();
        if !ready {
            self.cutting().take();
        }
        self.switch.lock().set_ready(self.id, ready, &mut wakes);
        wakes.call();
    }

    /// Says that nobody takes frames for a while, as when a guest is paused, until [`Port::set_ready`] says otherwise.
    /// Nobody waits for it then. What is queued stays, and more is queued as far as there is room.
    pub fn rest(&self) {
        let mut wakes = Wakes::default();
        self.switch.lock().rest(self.id, &mut wakes);
        wakes.call();
    }

    /// Sets the link. While it is down, all frames from and to the port are lost, and counted; going down throws away
    /// what is queued and forgets what was learnt.
    pub fn set_link(&self, up: bool) {
        let mut wakes = Wakes::default();
        if !up {
            self.cutting().take();
        }
        self.switch.lock().set_link(self.id, up, &mut wakes);
        wakes.call();
    }

    /// Whether the link is up.
    #[must_use]
    pub fn link(&self) -> bool {
        self.switch.lock().link(self.id)
    }

    /// Sets which frames the owner takes unfinished, from the next one that it receives on.
    pub fn set_accepts(&self, accepts: Accepts) {
        self.switch.lock().set_accepts(self.id, accepts);
    }

    /// What has happened here so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.switch.lock().counters_of(self.id)
    }

    /// The name it was attached with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn next(&self, wakes: &mut Wakes) -> Option<Frame> {
        let mut cutting = self.cutting();
        loop {
            if let Some(frame) = cutting.as_mut().and_then(Segments::next) {
                return Some(frame);
            }
            *cutting = None;
            let (frame, accepts) = self.switch.lock().take(self.id, wakes)?;
            // The last of several receivers gets the bytes themselves, the others copy them here.
            match finish(Arc::unwrap_or_clone(frame), accepts) {
                Some(Finished::Whole(frame)) => return Some(frame),
                Some(Finished::Cut(segments)) => {
                    self.switch.lock().note_cut(self.id, Some(segments.packets()));
                    *cutting = Some(segments);
                }
                None => self.switch.lock().note_cut(self.id, None),
            }
        }
    }

    fn cutting(&self) -> MutexGuard<'_, Option<Segments>> {
        self.cutting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frames that are handed in together; see [`Port::batch`]. Keep it no longer than that takes: nobody is woken before its end.
#[must_use]
pub struct Batch<'a> {
    port: &'a Port,
    now: Duration,
    wakes: Wakes,
}

impl Batch<'_> {
    /// As [`Port::send`].
    ///
    /// # Errors
    /// [`Full`], with the frame. End the batch then: the receiver may not know of what it has to take.
    pub fn send(&mut self, frame: Frame) -> Result<(), Full> {
        let admission = admit(frame);
        self.port.switch.lock().send(self.port.id, self.now, admission, &mut self.wakes)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.wakes).call();
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Batch")
            .field("port", self.port)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut wakes = Wakes::default();
        self.switch.lock().detach(self.id, &mut wakes);
        wakes.call();
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Port").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Looks at a frame before the lock is taken.
fn admit(mut frame: Frame) -> Admission {
    let Some((to, from)) = Station::of(&frame.bytes) else { return Admission::BadLength };
    if !(HEADER..=LONGEST).contains(&frame.bytes.len()) {
        return Admission::BadLength;
    }
    if check(&mut frame).is_none() {
        return Admission::Malformed;
    }
    Admission::Frame { frame: Arc::new(frame), to, from }
}
