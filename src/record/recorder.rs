//! The two ends of the channel, and the credits that bound it.
//!
//! The queue itself is unbounded, so that an event is never waited for, nor lost. What is bounded is the number of
//! interceptions: each holds one credit, which travels beside its last event and is released when that is *received*.
//! One credit is all that an interception ever waits for, so no two of them can wait for each other.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use super::{Event, Fact, Interception};

/// How long a new interception waits for its credit.
const CREDIT_WAIT: Duration = Duration::from_secs(5);

/// The sending end, which the layer gets; clones share the channel.
///
/// See the [module docs](super) for an example.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::UnboundedSender<Envelope>,
    credits: Arc<Semaphore>,
    allow_unrecorded: bool,
}

/// The receiving end. Dropping it closes the recorder: new requests are answered 503 at once, unless
/// [`Recorder::allow_unrecorded`] was called.
///
/// # Examples
///
/// ```
/// use tower_llm_bridge::record::Recorder;
///
/// let (recorder, mut events) = Recorder::channel(8);
/// assert_eq!(events.try_recv(), None);
/// drop(recorder);
/// assert_eq!(events.blocking_recv(), None);
/// ```
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Envelope>,
    credits: Arc<Semaphore>,
}

/// Why an interception was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The consumer is behind, and stayed so for as long as we wait.
    Busy,
    /// The consumer is gone.
    Closed,
}

/// An event on its way; the user sees only the event.
pub(super) struct Envelope {
    /// Boxed, because a channel moves what it carries half a dozen times.
    pub(super) event: Box<Event>,
    /// Travels with the last event of an interception.
    pub(super) credit: Option<OwnedSemaphorePermit>,
}

// === impl Recorder ===

impl Recorder {
    /// Makes a channel that admits `max_interceptions` at a time, counted from the start of each until its last event is
    /// received. 0 counts as 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Recorder;
    ///
    /// let (recorder, events) = Recorder::channel(1024);
    /// # drop((recorder, events));
    /// ```
    #[must_use]
    pub fn channel(max_interceptions: usize) -> (Self, Events) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let credits = Arc::new(Semaphore::new(max_interceptions.clamp(1, Semaphore::MAX_PERMITS)));
        let events = Events {
            receiver,
            credits: Arc::clone(&credits),
        };
        (
            Self {
                sender,
                credits,
                allow_unrecorded: false,
            },
            events,
        )
    }

    /// Lets requests through unrecorded when [`Events`] was dropped. A consumer that is only behind still holds them back.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Recorder;
    ///
    /// let (recorder, events) = Recorder::channel(1024);
    /// let recorder = recorder.allow_unrecorded();
    /// # drop((recorder, events));
    /// ```
    #[must_use]
    pub fn allow_unrecorded(mut self) -> Self {
        self.allow_unrecorded = true;
        self
    }

    /// Admits an interception and records what `started` makes, once it is admitted.
    ///
    /// # Errors
    ///
    /// [`Unavailable::Busy`] when no credit came free in 5 s; [`Unavailable::Closed`] at once when the consumer is gone
    /// or goes, unless the user chose to run on unrecorded.
    pub(crate) async fn begin(&self, started: impl FnOnce() -> Fact) -> Result<Interception, Unavailable> {
        match self.credit().await {
            Ok(credit) => Ok(Interception::begin(self.sender.clone(), credit, started())),
            Err(Unavailable::Closed) if self.allow_unrecorded => Ok(Interception::unrecorded()),
            Err(unavailable) => Err(unavailable),
        }
    }

    async fn credit(&self) -> Result<OwnedSemaphorePermit, Unavailable> {
        // Most find a credit free, and need no timer. This jumps no queue: a released credit goes to a waiter first.
        match Arc::clone(&self.credits).try_acquire_owned() {
            Ok(credit) => return Ok(credit),
            Err(TryAcquireError::Closed) => return Err(Unavailable::Closed),
            Err(TryAcquireError::NoPermits) => {}
        }
        match tokio::time::timeout(CREDIT_WAIT, Arc::clone(&self.credits).acquire_owned()).await {
            Ok(credit) => credit.map_err(|_: AcquireError| Unavailable::Closed),
            Err(_elapsed) => Err(Unavailable::Busy),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("free_credits", &self.credits.available_permits())
            .field("closed", &self.credits.is_closed())
            .field("allow_unrecorded", &self.allow_unrecorded)
            .finish()
    }
}

// === impl Events ===

impl Events {
    /// The next event; `None` when every recorder and every interception is gone and every event was received.
    ///
    /// Cancel-safe: an event is either returned or still queued.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Recorder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (recorder, mut events) = Recorder::channel(1024);
    /// drop(recorder);
    /// assert_eq!(events.recv().await, None);
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<Event> {
        self.receiver.recv().await.map(Envelope::open)
    }

    /// The next event if one is queued, whether or not more can come.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Recorder;
    ///
    /// let (_recorder, mut events) = Recorder::channel(1024);
    /// assert_eq!(events.try_recv(), None);
    /// ```
    pub fn try_recv(&mut self) -> Option<Event> {
        // Both errors mean that nothing is there; `recv` tells them apart.
        self.receiver.try_recv().ok().map(Envelope::open)
    }

    /// Like [`recv`](Self::recv), for a hand-written future or stream.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Recorder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (recorder, mut events) = Recorder::channel(1024);
    /// drop(recorder);
    /// assert_eq!(std::future::poll_fn(|cx| events.poll_recv(cx)).await, None);
    /// # }
    /// ```
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Poll::Ready(ready!(self.receiver.poll_recv(cx)).map(Envelope::open))
    }

    /// Like [`recv`](Self::recv), for a thread of its own.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_llm_bridge::record::Recorder;
    ///
    /// let (recorder, mut events) = Recorder::channel(1024);
    /// drop(recorder);
    /// assert_eq!(events.blocking_recv(), None);
    /// ```
    pub fn blocking_recv(&mut self) -> Option<Event> {
        self.receiver.blocking_recv().map(Envelope::open)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Once every sender is gone this is the end of a drain; before that, requests begin to fail or go unrecorded.
        if !self.receiver.is_closed() {
            tracing::warn!("record events dropped: nothing is recorded from here on");
        }
        // Wakes those who wait for a credit, too.
        self.credits.close();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("queued", &self.receiver.len())
            .finish_non_exhaustive()
    }
}

// === impl Envelope ===

impl Envelope {
    /// Releases the credit.
    fn open(self) -> Event {
        let Self { event, credit } = self;
        drop(credit);
        *event
    }
}
