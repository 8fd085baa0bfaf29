//! The receiving end of the channel.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use tokio::sync::mpsc;

use super::{
    Event,
    places::{Place, Places},
    text,
};

/// The receiving end, also a [`Stream`]. Dropping it closes the recorder: new requests are answered 503 at once, unless
/// [`Recorder::allow_unrecorded`](super::Recorder::allow_unrecorded) was called.
///
/// See the [module docs](super) for an example.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<Envelope>,
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        allow(dead_code, reason = "only the sinks have a journal")
    )]
    journal: Arc<OnceLock<Arc<dyn Journal>>>,
    places: Arc<Places>,
    /// Sees each event before it is received.
    inspector: Option<Inspector>,
}

/// `Sync`, so that [`Events`] is.
type Inspector = Box<dyn FnMut(&Event) + Send + Sync>;

/// Stores events on the thread that emits them, before they are queued.
pub(super) trait Journal: Send + Sync {
    /// Writes the event; false if it is not written. Must not panic: events are emitted while a panic unwinds, too.
    fn write(&self, event: &Event) -> bool;
}

/// The sending end.
#[derive(Clone)]
pub(super) struct Sender {
    queue: mpsc::UnboundedSender<Envelope>,
    journal: Arc<OnceLock<Arc<dyn Journal>>>,
}

/// An event on its way; the user sees only the event.
struct Envelope {
    /// Boxed, because a channel moves its items half a dozen times.
    event: Box<Event>,
    receipt: Receipt,
}

/// Counts an event as queued until it is dropped.
pub(super) struct Receipt {
    /// The memory of the event.
    bytes: usize,
    /// Whether the consumer's journal has the event.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        allow(dead_code, reason = "only the sinks have a journal")
    )]
    pub(super) is_written: bool,
    places: Arc<Places>,
    /// Travels with the last event of an interception.
    _place: Option<Place>,
}

// === impl Events ===

impl Events {
    /// The two ends of a queue.
    pub(super) fn channel(places: Arc<Places>) -> (Sender, Self) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let journal = Arc::default();
        let events = Self {
            receiver,
            journal: Arc::clone(&journal),
            places,
            inspector: None,
        };
        (Sender { queue, journal }, events)
    }

    /// Lets `journal` write each event that is emitted from here on, before it is queued.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn set_journal(&self, journal: Arc<dyn Journal>) {
        let is_first = self.journal.set(journal).is_ok();
        debug_assert!(is_first, "a consumer has one journal");
    }

    /// Shows each event to `inspector` before it is received, so that a second reader sees what a sink stores. Called
    /// again, it adds one more.
    ///
    /// It runs on the consumer's thread: a slow one delays the consumer, and a panic is the consumer's.
    #[must_use]
    pub fn inspect(mut self, mut inspector: impl FnMut(&Event) + Send + Sync + 'static) -> Self {
        self.inspector = Some(match self.inspector.take() {
            Some(mut first) => Box::new(move |event| {
                first(event);
                inspector(event);
            }),
            None => Box::new(inspector),
        });
        self
    }

    /// How many events are queued, for a metric.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.receiver.len()
    }

    fn show(&mut self, envelope: Envelope) -> Envelope {
        if let Some(inspector) = &mut self.inspector {
            inspector(&envelope.event);
        }
        envelope
    }

    /// The next event; `None` when every recorder and every interception is gone and every event was received.
    ///
    /// Cancel-safe: an event is either returned or still queued.
    pub async fn recv(&mut self) -> Option<Event> {
        let envelope = self.receiver.recv().await?;
        Some(self.show(envelope).open())
    }

    /// The next event if one is queued, whether or not more can come.
    pub fn try_recv(&mut self) -> Option<Event> {
        // Both errors mean that no event is queued; `recv` tells them apart.
        let envelope = self.receiver.try_recv().ok()?;
        Some(self.show(envelope).open())
    }

    /// Like [`recv`](Self::recv), for a hand-written future.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let envelope = ready!(self.receiver.poll_recv(cx));
        Poll::Ready(envelope.map(|envelope| self.show(envelope).open()))
    }

    /// Like [`recv`](Self::recv), for a dedicated thread.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        let envelope = self.receiver.blocking_recv()?;
        Some(self.show(envelope).open())
    }

    /// Like [`recv`](Self::recv), for a consumer that drops the receipt once it has stored the event.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) async fn recv_with_receipt(&mut self) -> Option<(Event, Receipt)> {
        let envelope = self.receiver.recv().await?;
        Some(self.show(envelope).split())
    }

    /// Like [`try_recv`](Self::try_recv), with a receipt.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn try_recv_with_receipt(&mut self) -> Option<(Event, Receipt)> {
        let envelope = self.receiver.try_recv().ok()?;
        Some(self.show(envelope).split())
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll_recv(cx)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Once every sender is gone this is the end of a drain; before that, requests begin to fail or go unrecorded.
        if !self.receiver.is_closed() {
            tracing::warn!("record events dropped: nothing is recorded from here on");
        }
        self.places.close();
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("queued", &self.receiver.len())
            .finish_non_exhaustive()
    }
}

// === impl Sender ===

impl Sender {
    /// `place` travels with the last event of an interception.
    pub(super) fn send(&self, event: Box<Event>, places: &Arc<Places>, place: Option<Place>) {
        let is_written = self.journal.get().is_some_and(|journal| journal.write(&event));
        // Fails only if `Events` was dropped; nobody is left to receive.
        drop(self.queue.send(Envelope::new(event, is_written, places, place)));
    }
}

// === impl Envelope ===

impl Envelope {
    /// Counts the event as queued from here on.
    fn new(mut event: Box<Event>, is_written: bool, places: &Arc<Places>, place: Option<Place>) -> Self {
        let bytes = text::memory(&mut event);
        places.count_queued(bytes);
        Self {
            event,
            receipt: Receipt {
                bytes,
                is_written,
                places: Arc::clone(places),
                _place: place,
            },
        }
    }

    fn open(self) -> Event {
        self.split().0
    }

    fn split(self) -> (Event, Receipt) {
        (*self.event, self.receipt)
    }
}

// === impl Receipt ===

impl Drop for Receipt {
    fn drop(&mut self) {
        self.places.count_received(self.bytes);
    }
}
