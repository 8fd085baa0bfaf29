//! The receiving end of the channel.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
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
    places: Arc<Places>,
}

/// An event on its way; the user sees only the event.
pub(super) struct Envelope {
    /// Boxed, because a channel moves its items half a dozen times.
    event: Box<Event>,
    receipt: Receipt,
}

/// Counts an event as queued until it is dropped.
pub(super) struct Receipt {
    /// The memory of the event.
    bytes: usize,
    places: Arc<Places>,
    /// Travels with the last event of an interception.
    _place: Option<Place>,
}

// === impl Events ===

impl Events {
    pub(super) fn new(receiver: mpsc::UnboundedReceiver<Envelope>, places: Arc<Places>) -> Self {
        Self { receiver, places }
    }

    /// The next event; `None` when every recorder and every interception is gone and every event was received.
    ///
    /// Cancel-safe: an event is either returned or still queued.
    pub async fn recv(&mut self) -> Option<Event> {
        self.receiver.recv().await.map(Envelope::open)
    }

    /// The next event if one is queued, whether or not more can come.
    pub fn try_recv(&mut self) -> Option<Event> {
        // Both errors mean that nothing is there; `recv` tells them apart.
        self.receiver.try_recv().ok().map(Envelope::open)
    }

    /// Like [`recv`](Self::recv), for a hand-written future.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Poll::Ready(ready!(self.receiver.poll_recv(cx)).map(Envelope::open))
    }

    /// Like [`recv`](Self::recv), for a thread of its own.
    ///
    /// # Panics
    ///
    /// Within an asynchronous context.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        self.receiver.blocking_recv().map(Envelope::open)
    }

    /// Like [`recv`](Self::recv), for a consumer that says by dropping the receipt that it has the event in safety.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) async fn recv_with_receipt(&mut self) -> Option<(Event, Receipt)> {
        self.receiver.recv().await.map(Envelope::split)
    }

    /// Like [`try_recv`](Self::try_recv), with a receipt.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn try_recv_with_receipt(&mut self) -> Option<(Event, Receipt)> {
        self.receiver.try_recv().ok().map(Envelope::split)
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

// === impl Envelope ===

impl Envelope {
    /// Counts the event as queued from here on.
    pub(super) fn new(event: Box<Event>, places: &Arc<Places>, place: Option<Place>) -> Self {
        let bytes = text::memory(&event);
        places.count_queued(bytes);
        Self {
            event,
            receipt: Receipt {
                bytes,
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
